"""A training step of volume rendering: the two ways to fit, compiled or not, and what the host adds to the networks."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from autoint.runs import build, trainers
from autoint.runs.config import FITS, RunConfig
from autoint.scenes.data.batches import Batch, Pixels
from autoint.scenes.data.procedural import procedural
from benchmarks.measure import DEVICE, Tables, fastest

SAMPLES = 128


def configured(**options: Any) -> RunConfig:
    """Return the configuration of a run on the embedded scene at the default widths, with some options."""
    shared = {"task": "volrend", "scene": "procedural", "samples": SAMPLES, "val_images": 1, "image_size": 64}
    return RunConfig.from_plain({**shared, **options})


@functools.cache
def batch_of(rays: int, image_size: int = 64) -> tuple[Batch, Any]:
    """Return rays of the embedded scene that meet its hull, and the hull."""
    task = build.task(configured(batch_size=rays, image_size=image_size, trainer={"max_steps": 1}))
    assert task.data is not None
    volume: Any = task.module.volume
    return Pixels(procedural("", "train", image_size), volume.hit, rays, 0)(0).to(DEVICE), volume.occupancy


def step_of(batch: Batch, hull: Any, **options: Any) -> Callable[[], None]:
    """Return a whole training step: edges, section means, compositing, loss, backward and Adam."""
    volume: Any = build.task(configured(**options), with_data=False).module.volume
    volume.occupancy.load_state_dict(hull.state_dict())
    volume.to(DEVICE)
    adam = torch.optim.Adam(volume.parameters(), fused=True)

    def step() -> None:
        adam.zero_grad()
        edges = volume.edges(batch.rays)
        background = torch.ones(3, device=DEVICE)
        draw = lambda _, *shape: torch.rand(shape, device=DEVICE)  # noqa: E731
        renderings, _ = volume.renderings(batch.rays, edges, background, draw, 1.0)
        (renderings[0].rgb - batch.rgba[:, :3]).square().mean().backward()
        adam.step()

    return step


def fits(rays: int, rounds: int, sections: tuple[int, ...] = (8, 16, 32), **options: Any) -> dict[str, float]:
    """Return the time of a step with fit=grad_net over that with fit=integral_net, for the same rays."""
    batch, hull = batch_of(rays, options.get("image_size", 64))
    out = {}
    for n in sections:
        steps = {fit: step_of(batch, hull, fit=fit, sections=n, **options) for fit in ("integral_net", "grad_net")}
        times = fastest(steps, rounds)
        out[f"N = {n}"] = times["grad_net"] / times["integral_net"]
    return out


def compilation(fits: tuple[str, ...], rays: int, rounds: int, sections: int = 32, **options: Any) -> dict[str, float]:
    """Return the time of an eager step over that of a compiled one."""
    batch, hull = batch_of(rays)
    out = {}
    for fit in fits:
        common = {"fit": fit, "sections": sections, **options}
        steps = {str(compile): step_of(batch, hull, compile=compile, **common) for compile in (False, True)}
        times = fastest(steps, rounds)
        out[fit] = times["False"] / times["True"]
    return out


class _Clock(pl.Callback):
    """Notes how long each step takes, and how much of it is spent in the volume and in the backward pass."""

    def __init__(self, volume: Any) -> None:
        self.inside, self.steps, self.last = 0.0, [], 0.0
        self.start = 0.0
        for name in ("edges", "renderings"):
            setattr(volume, name, self._timed(getattr(volume, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            start = time.perf_counter()
            out = function(*inputs)
            self.inside += time.perf_counter() - start
            return out

        return call

    def on_before_backward(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_after_backward(self, *_: Any) -> None:
        self.inside += time.perf_counter() - self.start

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self.steps.append((now - self.last, self.inside))
        self.last, self.inside = now, 0.0


def host(rays: int, count: int, **options: Any) -> dict[str, float]:
    """Return the share of a step of ``train.py`` that is neither network nor renderer nor their backward pass.

    That is drawing rays, Lightning's loop, logging, the schedule and Adam; on a CPU, where nothing runs beside.
    """
    trainer = {"max_steps": count, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 0}
    config = configured(batch_size=rays, val_every=count, save_every=10**6, trainer=trainer, **options)
    task = build.task(config)
    with tempfile.TemporaryDirectory() as folder:
        runner: Any = trainers.trainer(config, Path(folder))
        runner.callbacks.insert(0, clock := _Clock(task.module.volume))
        runner.fit(task.module, task.data)
    steps = sorted((whole - inside) / whole for whole, inside in clock.steps[2:-1])
    return {f"{rays} rays": steps[len(steps) // 2]}


def run(quick: bool) -> Tables:
    """Measure."""
    rays, rounds = (128, 3) if quick else (512, 7)
    return {
        "step with grad_net / integral_net": fits(rays, rounds),
        "eager / compiled step, N = 32": compilation(("grad_net",) if quick else FITS, rays, 2 * rounds),
        "share of a step outside of network and renderer": host(4096, 8 if quick else 20, sections=32),
    }


def quoted(tables: Tables) -> str:
    """Return what docs/benchmarks.md says of it."""
    first, compiled, host = (list(table.values()) for table in tables.values())
    return (
        f"A step of volume rendering at the same 512 rays, with `fit=grad_net` and {SAMPLES} samples over\n"
        f"`fit=integral_net` (`python -m benchmarks steps`): {first[0]:.1f} times longer at N = 8, {first[1]:.1f} at "
        f"N = 16 and {first[2]:.1f} at N = 32.\n`compile=true` makes it {compiled[0]:.2f} times faster with "
        f"`fit=integral_net`, {compiled[1]:.2f} times with `fit=grad_net`, after a minute at the\nstart. Of a step of "
        f"4,096 rays {host[0]:.1%} are spent outside of network and renderer.\n"
    )
