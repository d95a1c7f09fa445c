"""Seconds per frame of integral networks against NeRF at the same widths, and the memory of rendering.

Where no empty rays are skipped, speed does not depend on the weights. ``python -m benchmarks.rendering
runs=outputs/lego_8,outputs/lego_nerf data_dir=DATA`` times trained runs and baked trees on a test view instead, with
``image_size=200`` in another size, and ``image_size=800 hidden_features=256 num_layers=8`` volumes of another size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from omegaconf import OmegaConf

from autoint.files.machine import flops, peak_flops, peak_memory
from autoint.runs import build, checkpoints, restoring
from autoint.runs.config import RunConfig
from autoint.runs.evaluation import find_checkpoints
from autoint.scenes.occupancy import visual_hull
from autoint.scenes.rays import Rays
from autoint.scenes.task import load_views
from autoint.scenes.volume import AT_ONCE
from benchmarks.measure import DEVICE, Tables, fastest, over, report

METHODS: dict[str, dict[str, Any]] = {
    "nerf": {"model": "nerf"},
    **{f"N={n}": {"sections": n, "placement": "uniform"} for n in (8, 16, 32)},
    **{f"N={n}, occupied": {"sections": n, "placement": "occupied"} for n in (8, 16, 32)},
    **{f"N={n}, object": {"sections": n, "model": "object", "encoding": "grid"} for n in (8, 16, 32)},
    **{f"N={n}, potential": {"sections": n, "model": "potential", "encoding": "grid"} for n in (8, 16, 32)},
}


def untrained(image_size: int, hidden_features: int, num_layers: int, scene: str) -> tuple[dict[str, Any], Any]:
    """Return a volume per method, in the hull of one scene, and the rays of a test view."""
    shared = {
        "task": "volrend",
        "scene": scene,
        "image_size": image_size,
        "network": {"hidden_features": hidden_features, "num_layers": num_layers},
    }
    config = RunConfig.from_plain(shared)
    hull, volumes = visual_hull(load_views(config, "train")), {}
    for name, choice in METHODS.items():
        volume: Any = build.task(RunConfig.from_plain({**shared, **choice}), with_data=False).module.volume
        volume.occupancy.load_state_dict(hull.state_dict())
        volumes[name] = volume.to(DEVICE)
    return volumes, load_views(config, "test", 1).rays_of(0).to(DEVICE)


def trained(runs: list[str], data_dir: str, image_size: int | None) -> tuple[dict[str, Any], Any]:
    """Return the volumes of runs by their names, and the rays of a test view, of another size if that is given."""
    volumes: dict[str, Any] = {}
    for file in find_checkpoints(runs):
        config, module = restoring.restored(file, data_dir=data_dir)
        folder = file.parent if file.name == checkpoints.WEIGHTS else file.parent.parent
        volumes["/".join(folder.parts[-2:])] = module.volume.to(DEVICE)
    views = load_views(config, "test", 1)
    if image_size is not None:
        camera = views.intrinsics
        height = round(camera.height * image_size / camera.width)
        views = dataclasses.replace(views, intrinsics=camera.resized(image_size, height))
    return volumes, views.rays_of(0).to(DEVICE)


def measure(volumes: dict[str, Any], rays: Rays, rounds: int = 7) -> dict[str, dict[str, float]]:
    """Return, by method: seconds per frame, the times that is faster than NeRF or the slowest, and what else.

    The share of the peak is that of the products with the networks' weights in what the device does in a product of
    large matrices.
    """
    background = torch.ones(3, device=DEVICE)
    frames = {name: lambda v=volume: v.view(rays, background, 16384) for name, volume in volumes.items()}
    with torch.inference_mode():
        seconds, peak = fastest(frames, rounds), peak_flops(DEVICE)
        memory = {name: peak_memory(frame, DEVICE) / 1e6 for name, frame in frames.items()}
    work = {name: flops(frame) for name, frame in frames.items()}
    slowest = "nerf" if "nerf" in seconds else max(seconds, key=lambda name: seconds[name])
    ratios = {name: 1 / value for name, value in over(seconds, slowest).items()}
    return {
        "seconds per frame": seconds,
        f"times faster than {slowest}": ratios,
        "million rays per second": {name: len(rays) / value / 1e6 for name, value in seconds.items()},
        "share of the device's peak": {name: work[name] / value / peak for name, value in seconds.items()},
        "memory in MB": memory,
    }


def chunks(volume: Any, rays: Rays, rounds: int) -> dict[str, float]:
    """Return the time of a frame by the numbers of a layer that are computed at once, over that of the default."""
    background, kind = torch.ones(3, device=DEVICE), DEVICE.type == "cpu"
    default = AT_ONCE[kind]

    def frame(numbers: int) -> None:
        AT_ONCE[kind] = numbers
        volume.view(rays, background, 2**30)
        AT_ONCE[kind] = default

    sizes = {f"2^{k}": 2**k for k in range(default.bit_length() - 5, default.bit_length() + 4, 2)}
    with torch.inference_mode():
        seconds = fastest({name: lambda n=n: frame(n) for name, n in {**sizes, "default": default}.items()}, rounds)
    return over(seconds, "default")


def run(quick: bool) -> Tables:
    """Measure."""
    volumes, rays = untrained(32 if quick else 100, 64, 4, "procedural")
    rounds = 3 if quick else 7
    many = rays[torch.arange(10000, device=DEVICE) % len(rays)]
    return {
        **measure(volumes, rays, rounds),
        "time by numbers at once / default, N = 16": chunks(volumes["N=16, object"], many, rounds),
    }


def quoted(tables: Tables) -> str:
    """Return what docs/benchmarks.md says of it."""
    faster = tables["times faster than nerf"]
    return (
        "A frame at 100×100 in the embedded scene's hull against NeRF's with 64 coarse and 128 fine samples, at the\n"
        "same widths (4 layers of 64), in one run of `python -m benchmarks rendering`: "
        f"{faster['N=8']:.1f} times faster at N = 8,\n"
        f"{faster['N=16']:.1f} at N = 16 and {faster['N=32']:.1f} at N = 32; {faster['N=8, object']:.1f}, "
        f"{faster['N=16, object']:.1f} and {faster['N=32, object']:.1f} times with `model=section_means`; "
        f"{faster['N=8, potential']:.1f},\n{faster['N=16, potential']:.1f} and {faster['N=32, potential']:.1f} with "
        "`model=potential`.\n"
    )


def main() -> None:
    """Measure, print and write."""
    known = OmegaConf.create(
        {
            "runs": "",
            "data_dir": "data",
            "image_size": None,
            "hidden_features": 64,
            "num_layers": 4,
            "scene": "procedural",
        }
    )
    OmegaConf.set_struct(known, True)
    options = OmegaConf.merge(known, OmegaConf.from_cli())
    if options.runs:
        volumes, rays = trained(options.runs.split(","), options.data_dir, options.image_size)
    else:
        volumes, rays = untrained(options.image_size or 100, options.hidden_features, options.num_layers, options.scene)
    report("rendering", measure(volumes, rays))


if __name__ == "__main__":
    main()
