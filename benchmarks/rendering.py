"""Seconds per frame of integral networks against NeRF at the same widths, and the memory of rendering.

``python -m benchmarks.rendering`` prints the ratios and writes ``outputs/benchmarks/rendering.json``. Where no empty
rays are skipped, speed does not depend on the weights; ``runs=outputs/lego_8,outputs/lego_nerf data_dir=DATA`` times
trained runs on a test view.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from autoint import build
from autoint.config import RunConfig
from autoint.memory import peak_memory
from autoint.occupancy import visual_hull
from autoint.rays import Rays
from autoint.tasks.volrend import load_views
from benchmarks.measure import DEVICE, medians, over, report

METHODS: dict[str, dict[str, Any]] = {
    "nerf": {"model": "nerf"},
    **{f"N={n}": {"sections": n, "placement": "uniform"} for n in (8, 16, 32)},
    **{f"N={n}, occupied": {"sections": n, "placement": "occupied"} for n in (8, 16, 32)},
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


def trained(runs: list[str], data_dir: str) -> tuple[dict[str, Any], Any]:
    """Return the volumes of runs by the names of their folders, and the rays of a test view."""
    volumes: dict[str, Any] = {}
    for run in runs:
        config, module = build.restored(Path(run) / "checkpoints" / "last.ckpt", data_dir=data_dir)
        volumes[Path(run).name] = module.volume.to(DEVICE)
    return volumes, load_views(config, "test", 1).rays_of(0).to(DEVICE)


def measure(volumes: dict[str, Any], rays: Rays, rounds: int = 7) -> dict[str, dict[str, float]]:
    """Return seconds per frame, how many times faster than the slowest each is, and its peak memory, by method."""
    background = torch.ones(3, device=DEVICE)
    frames = {name: lambda v=volume: v.view(rays, background, 16384) for name, volume in volumes.items()}
    with torch.inference_mode():
        seconds = medians(frames, rounds)
        memory = {name: peak_memory(frame, DEVICE) / 1e6 for name, frame in frames.items()}
    slowest = max(seconds, key=lambda name: seconds[name])
    ratios = {name: 1 / value for name, value in over(seconds, slowest).items()}
    return {"seconds per frame": seconds, f"times faster than {slowest}": ratios, "memory in MB": memory}


def main() -> None:
    """Measure, print and write."""
    known = OmegaConf.create(
        {
            "runs": "",
            "data_dir": "data",
            "image_size": 100,
            "hidden_features": 64,
            "num_layers": 4,
            "scene": "procedural",
        }
    )
    OmegaConf.set_struct(known, True)
    options = OmegaConf.merge(known, OmegaConf.from_cli())
    if options.runs:
        volumes, rays = trained(options.runs.split(","), options.data_dir)
    else:
        volumes, rays = untrained(options.image_size, options.hidden_features, options.num_layers, options.scene)
    report("rendering", measure(volumes, rays))


if __name__ == "__main__":
    main()
