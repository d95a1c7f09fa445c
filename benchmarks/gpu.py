"""Everything that is asked of an accelerator, in an order of falling value: ``python -m benchmarks gpu``.

Every row has a budget in seconds, and ``gpu.json`` and ``gpu.md`` are written after every number, so that nothing is
lost when the time ends. ``--pretend`` goes the same way in tiny sizes, on any device, to see that it works.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from autoint.files.machine import keep_freed, peak_flops, peak_memory
from autoint.files.whole_files import write_json, write_whole
from autoint.integrals.definite import integrate
from autoint.registry import ENCODINGS, GRAD_NETS
from autoint.reports import metrics
from autoint.runs import build, restoring, trainers
from autoint.runs.command_line import recipe
from autoint.runs.command_line.cli import VERSION, store_groups
from autoint.runs.config import RunConfig
from autoint.scenes.baking import tree_of
from autoint.scenes.task import load_views
from benchmarks import grad_networks, rendering
from benchmarks.measure import DEVICE, FOLDER, environment, fastest
from benchmarks.steps import batch_of, configured, step_of

ROOT = Path(__file__).parent.parent
MODELS = {"autoint": {"model": "autoint"}, "object": {"model": "section_means", "encoding": "grid"}}
Note = Callable[[str, float], None]
"""``note(what, number)``: keep a number of this row; it ends the row whose time is over."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is: by default as the issues ask, ``PRETEND`` to see that it works."""

    width: int = 256
    layers: int = 8
    rays: tuple[int, ...] = (4096, 65536)
    sections: tuple[int, ...] = (8, 16, 32)
    image: int = 800
    pixels: int = 64
    points: int = 65536
    cells: int | None = None
    peak: int = 8192
    compared: int = 1024
    steps: int = 50
    rounds: int = 5
    scene: tuple[str, ...] = ("scene=lego", "scale=gpu", "max_image_size=400", "val_every=1000000")
    seconds: float = 240.0
    every: float = 60.0
    views: int = 20
    data_dir: str = "data"
    folder: Path = FOLDER

    @property
    def network(self) -> dict[str, Any]:
        """The networks' size, as a run's configuration has it."""
        return {"network": {"hidden_features": self.width, "num_layers": self.layers}}


PRETEND: dict[str, Any] = {
    "width": 8,
    "layers": 2,
    "rays": (16,),
    "sections": (8,),
    "image": 8,
    "pixels": 16,
    "points": 16,
    "cells": 8,
    "peak": 64,
    "compared": 16,
    "steps": 3,
    "rounds": 1,
    "scene": ("scene=procedural", "scale=tiny", "image_size=16", "trainer.accelerator=auto"),
    "seconds": 0.8,
    "every": 0.4,
    "views": 2,
}


def agreement(sizes: Sizes, note: Note) -> None:
    """Note how far the device is from the CPU: losses, renders, integrals, grad networks; and TF32 and bf16 from it."""
    batch, hull = batch_of(sizes.compared, sizes.pixels)
    for name, options in {**MODELS, "nerf": {"model": "nerf"}}.items():
        task = build.task(configured(**sizes.network, **options, sections=16), with_data=False)
        volume: Any = task.module.volume
        volume.occupancy.load_state_dict(hull.state_dict())
        twin = copy.deepcopy(volume).to(DEVICE)
        ours, theirs = (losses(v, batch, sizes.steps) for v in (volume, twin))
        note(f"{name}: loss of {sizes.steps} steps, largest relative difference", relative(theirs, ours))
        rays, canvas = batch.rays.to(torch.device("cpu")), torch.ones(3)
        exact = twin.cpu().view(rays, canvas, 1024)[0]  # of the same weights
        twin.to(DEVICE)

        def far(twin: Any = twin, rays: Any = rays, exact: Tensor = exact) -> float:
            shown = twin.view(rays.to(DEVICE), torch.ones(3, device=DEVICE), 1024)[0].cpu()
            return float((shown - exact).abs().max())

        note(f"{name}: rendered colours, largest difference", far())
        with tf32():
            note(f"{name}: rendered colours in TF32, largest difference", far())
        with torch.autocast(DEVICE.type, torch.bfloat16):
            note(f"{name}: rendered colours in bf16, largest difference", far())
    x, d = (2 * torch.rand(2, sizes.compared, 3, generator=torch.Generator().manual_seed(0)) - 1).unbind(0)
    net = network("volume rendering", sizes)
    for name in GRAD_NETS.names():
        values = [grad_values(copy.deepcopy(net).to(device), name, x, d) for device in ("cpu", DEVICE)]
        note(f"grad network {name}, relative difference", relative(values[1], values[0]))
    net = network("1-D", sizes)
    areas = [integrate(net.to(k), x[:, :1].to(k), d[:, :1].to(k)).detach().cpu() for k in ("cpu", DEVICE)]
    note("integrals, relative difference", relative(areas[1], areas[0]))


def network(shape: str, sizes: Sizes) -> Any:
    """Return an integral network on the CPU."""
    return grad_networks.evaluations(grad_networks.SHAPES[shape], 1, sizes.width, sizes.layers, compiled=False)[1].cpu()


def losses(volume: Any, batch: Any, count: int) -> Tensor:
    """Return the losses of ``count`` training steps, with random numbers that are the same on every device."""
    device = volume.occupancy.lower.device
    batch, g = batch.to(device), torch.Generator().manual_seed(0)
    adam, out = torch.optim.Adam(volume.parameters(), fused=True), []
    for _ in range(count):
        adam.zero_grad()
        draw = lambda _, *shape: torch.rand(shape, generator=g).to(device)  # noqa: E731
        canvas = torch.ones(3, device=device)
        shown, _ = volume.renderings(batch.rays, volume.edges(batch.rays), canvas, draw, 1.0)
        loss = (shown[-1].rgb - batch.rgba[:, :3]).square().mean()
        loss.backward()
        adam.step()
        out.append(loss.detach().cpu())
    return torch.stack(out)


def grad_values(net: Any, builder: str, x: Tensor, directions: Tensor) -> Tensor:
    """Return Ψ of ``net`` by one builder, on the network's device, as a tensor on the CPU."""
    device = next(net.parameters()).device
    psi = grad_networks.grad_net(net, builder=builder)
    return psi(x.to(device), torch.nn.functional.normalize(directions, dim=-1).to(device)).detach().cpu()


def relative(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, over the largest number."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


class tf32:  # noqa: N801
    """While it lasts, products of float32 matrices are of TF32, where the device has it."""

    def __enter__(self) -> None:
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")

    def __exit__(self, *_: object) -> None:
        torch.set_float32_matmul_precision(self.before)


def steps(sizes: Sizes, note: Note, compiled: bool) -> None:
    """Note milliseconds and peak memory of a training step."""
    for rays in sizes.rays:
        batch, hull = batch_of(rays, sizes.pixels)
        for name, options in MODELS.items():
            n = max(sizes.sections)
            step = step_of(batch, hull, **sizes.network, **options, sections=n, compile=compiled)
            label = f"{name}, N = {n}, {rays} rays"
            note(f"{label}: ms", 1e3 * fastest({"step": step}, sizes.rounds)["step"])
            with tf32():
                note(f"{label}, TF32: ms", 1e3 * fastest({"step": step}, sizes.rounds)["step"])
            note(f"{label}: peak memory in MB", peak_memory(step, DEVICE) / 1e6)


def look_ups(sizes: Sizes, note: Note) -> None:
    """Note milliseconds of means over sections on fine grids, there and back, by compiled loops and by torch alone."""
    n = max(sizes.sections)
    for rays in sizes.rays:
        grid = ENCODINGS.build({"name": "grid", "resolutions": [64, 128], "entries": 2**19}, 3).to(DEVICE)
        a, b = (2 * torch.rand(2, n * rays, 3, device=DEVICE) - 1).unbind(0)
        step = lambda: grid.mean(a, b).square().mean().backward()  # noqa: E731
        for how, chosen in (("compiled", grid._kernel), ("torch", lambda x, table: None)):
            with mock.patch.object(grid, "_kernel", chosen):
                note(f"N = {n}, {rays} rays, {how}: ms", 1e3 * fastest({"step": step}, sizes.rounds)["step"])


def frames(sizes: Sizes, note: Note) -> None:
    """Note milliseconds of a frame, its share of the measured peak, and its peak memory."""
    volumes, rays = rendering.untrained(sizes.image, sizes.width, sizes.layers, "procedural")
    canvas = torch.ones(3, device=DEVICE)
    note("peak in TFLOP/s", peak_flops(DEVICE, sizes.peak) / 1e12)
    names = [f"N={n}{kind}" for n in sizes.sections for kind in (", occupied", ", object")]
    for name in [*(n for n in names if n in volumes), "nerf"]:
        show = lambda v=volumes[name]: v.view(rays, canvas, 2**20)  # noqa: E731
        with torch.inference_mode():
            seconds = fastest({"frame": show}, sizes.rounds)["frame"]
            note(f"{name}: ms", 1e3 * seconds)
            with tf32():
                note(f"{name}, TF32: ms", 1e3 * fastest({"frame": show}, sizes.rounds)["frame"])
            note(f"{name}: peak memory in MB", peak_memory(show, DEVICE) / 1e6)
        share = rendering.flops(show) / seconds / peak_flops(DEVICE, sizes.peak)
        note(f"{name}: share of the peak", share)


def lego(sizes: Sizes, note: Note, sections: int) -> None:
    """Note the PSNR over test views, now and then while a scene trains, and what its step and its frame take."""
    chosen = ["model=section_means", f"sections={sections}", f"trainer.max_time={sizes.seconds}"]
    config = composed(*sizes.scene, *chosen, f"data_dir={sizes.data_dir}")
    torch.manual_seed(config.seed)
    task = build.task(config)
    trainer: Any = trainers.trainer(config, sizes.folder / f"lego_{sections}")
    trainer.callbacks.insert(0, Watched(load_views(config, "test", sizes.views), sizes.every, note))
    with tf32():
        trainer.fit(task.module, task.data)
    note("steps", trainer.global_step)
    note("ms per step", 1e3 * trainer.callbacks[0].training / max(1, trainer.global_step))


def tree(sizes: Sizes, note: Note) -> None:
    """Note what baking the scene that was trained costs, and the tree's frames per second."""
    run = sizes.folder / "lego_32" / "checkpoints" / "last.ckpt"
    config, module = restoring.restored(run, data_dir=sizes.data_dir)
    views: Any = load_views(config, "test", sizes.views)
    start = time.perf_counter()
    baked = tree_of(module.volume.to(DEVICE), sizes.cells, 100.0, 2, 16).to(DEVICE)
    note("seconds to bake", time.perf_counter() - start)
    note("size in MB", 4e-6 * sum(p.numel() for p in baked.parameters()))
    canvas, psnr = torch.ones(3, device=DEVICE), []
    for view in range(len(views)):
        rgb = baked.view(views.rays_of(view).to(DEVICE), canvas, 2**20)[0]
        psnr.append(metrics.psnr(rgb, metrics.over(views.images[view].reshape(-1, 4).to(DEVICE), canvas)))
    note("PSNR", float(torch.stack(psnr).mean()))
    large = dataclasses.replace(views, intrinsics=views.intrinsics.resized(sizes.image, sizes.image))
    rays = large.rays_of(0).to(DEVICE)
    show = torch.inference_mode()(lambda: baked.view(rays, canvas, 2**20))
    note(f"frames per second at {sizes.image} pixels", 1 / fastest({"frame": show}, sizes.rounds)["frame"])
    note("peak memory in MB", peak_memory(show, DEVICE) / 1e6)


class Watched(pl.Callback):
    """Renders test views every so many seconds of a training, which do not count, and at its end."""

    def __init__(self, views: Any, every: float, note: Note) -> None:
        self.views, self.every, self.note = views, every, note
        self.training, self.looked, self.since = 0.0, 0.0, time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if self.training + time.perf_counter() - self.since >= self.looked + self.every:
            self.look(module)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.look(module)

    def look(self, module: Any) -> None:
        """Note the mean PSNR of the views, and the frame's milliseconds."""
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        self.training += start - self.since
        self.looked, psnr, canvas = self.training, [], module.canvas()
        for view in range(len(self.views)):
            rgb = module.volume.view(self.views.rays_of(view).to(canvas.device), canvas, 2**20)[0]
            truth = metrics.over(self.views.images[view].reshape(-1, 4).to(canvas.device), canvas)
            psnr.append(metrics.psnr(rgb, truth))
        self.note(f"PSNR after {self.training:.0f} s", float(torch.stack(psnr).mean()))
        self.note("ms per frame", 1e3 * (time.perf_counter() - start) / len(self.views))
        self.since = time.perf_counter()


def composed(*overrides: str) -> RunConfig:
    """Return the configuration that ``train.py`` would have for these words."""
    recipe.install()
    store_groups()
    with initialize_config_dir(str(ROOT / "conf"), **VERSION):
        return RunConfig.from_hydra(compose("config", list(overrides)))


def grad_nets(sizes: Sizes, note: Note, compiled: bool) -> None:
    """Note the cost of grad networks over that of the plain network, at many points."""
    for name, shape in grad_networks.SHAPES.items():
        ratios = grad_networks.measure(shape, sizes.points, sizes.width, sizes.layers, compiled, sizes.rounds)
        for title, numbers in ratios.items():
            for builder, ratio in numbers.items():
                note(f"{name}, {builder}: {title}", ratio)


@dataclass(frozen=True)
class Row:
    """One thing to measure, and the seconds that it may take."""

    seconds: float
    measure: Callable[[Sizes, Note], None]


ROWS = {
    "agreement with the CPU": Row(60, agreement),
    "training step": Row(30, lambda sizes, note: steps(sizes, note, compiled=False)),
    "grids' look-ups": Row(15, look_ups),
    "frame": Row(60, frames),
    "Lego, N = 32": Row(270, lambda sizes, note: lego(sizes, note, 32)),
    "Lego, N = 8": Row(270, lambda sizes, note: lego(sizes, note, 8)),
    "tree": Row(45, tree),
    "grad networks": Row(30, lambda sizes, note: grad_nets(sizes, note, compiled=False)),
    "compiled training step": Row(120, lambda sizes, note: steps(sizes, note, compiled=True)),
    "compiled grad networks": Row(120, lambda sizes, note: grad_nets(sizes, note, compiled=True)),
}


class OverError(Exception):
    """A row's time is over."""


@dataclass
class Report:
    """The numbers so far, on the disk after every one."""

    folder: Path
    contents: dict[str, Any] = field(default_factory=lambda: {"environment": environment(), "rows": {}})

    def run(self, name: str, row: Row, sizes: Sizes, until: float) -> None:
        """Measure one row, up to its own end or ``until``; what goes wrong costs this row alone."""
        start = time.perf_counter()
        found = self.contents["rows"][name] = {"numbers": {}, "ended": "running"}
        end = min(start + row.seconds, until)

        def note(what: str, number: float) -> None:
            found["numbers"][what] = number
            print(f"  {what}: {number:.4g}", flush=True)
            self.write()
            if time.perf_counter() > end:
                raise OverError

        try:
            row.measure(sizes, note)
            found["ended"] = "whole"
        except OverError:
            found["ended"] = "cut: its time was over"
        except Exception as error:  # an accelerator's errors are of many kinds, and the other rows have their worth
            found["ended"] = " ".join(f"failed: {type(error).__name__}: {error}".split())[:300]
        if DEVICE.type == "cuda":
            found["largest memory in MB"] = torch.cuda.max_memory_allocated() / 1e6
            torch.cuda.empty_cache()
        found["seconds"] = time.perf_counter() - start
        print(f"{name}: {found['ended']}, {found['seconds']:.0f} s\n", flush=True)
        self.write()

    def write(self) -> None:
        """Write ``gpu.json`` and ``gpu.md``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "gpu.json", self.contents)
        lines = ["| row | what | number |", "|---|---|---|"]
        for name, row in self.contents["rows"].items():
            lines += [f"| {name} | {what} | {number:.4g} |" for what, number in row["numbers"].items()]
            lines += [] if row["ended"] == "whole" else [f"| {name} | {row['ended']} | |"]
        text = "\n".join([f"On {self.contents['environment']['device']}.", "", *lines, ""])
        write_whole(self.folder / "gpu.md", text.encode())


def arguments_of(arguments: list[str]) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything together")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of gpu.json and gpu.md")
    parser.add_argument("--data", default="data", help="data_dir of the scene")
    parser.add_argument("--only", metavar="ROW", action="append", choices=list(ROWS), help="this row; may be repeated")
    parser.add_argument("--pretend", action="store_true", help="tiny sizes, on whatever device there is")
    given = parser.parse_args(arguments)
    given.parser = parser
    return given


def main(arguments: list[str]) -> None:
    """Measure what time allows."""
    given = arguments_of(arguments)
    scene = Path(given.data) / "nerf_synthetic" / "lego"
    if not given.pretend and DEVICE.type != "cuda":
        given.parser.error("there is no GPU that torch can use; --pretend goes the same way in tiny sizes")
    if not given.pretend and not scene.is_dir():
        given.parser.error(
            f"{scene} is missing; fetch it by autoint download lego, or name the data's folder by --data"
        )
    sizes = Sizes(data_dir=given.data, folder=given.out, **(PRETEND if given.pretend else {}))
    keep_freed()
    until = time.perf_counter() + 60 * given.minutes
    report = Report(given.out)
    for name in given.only or ROWS:
        if time.perf_counter() < until:
            report.run(name, ROWS[name], sizes, until)
        else:
            report.contents["rows"][name] = {"numbers": {}, "ended": "left out: no time was left"}
            report.write()
    print(json.dumps({name: row["ended"] for name, row in report.contents["rows"].items()}, indent=1))
    print(f"written to {given.out / 'gpu.json'} and gpu.md")
