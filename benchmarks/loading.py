"""Drawing batches: rays from posed images, against rays kept in memory and against a DataLoader over them."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from autoint.scenes.data.batches import Pixels
from autoint.scenes.data.procedural import procedural
from benchmarks.measure import DEVICE, Tables, fastest

OURS = "from poses, as train.py does"


def measure(rays: int, image_size: int, images: int, rounds: int) -> Tables:
    """Return the time of drawing a batch in three ways, over ours, and the batches per second of ours."""
    views = procedural("", "train", image_size, images)
    pixels = Pixels(views, lambda r: torch.ones(len(r), dtype=torch.bool), rays, 0)
    steps = iter(range(10**9))
    kept = pixels.at(pixels.index)
    flat = [x.to(DEVICE) for x in (kept.rays.origins, kept.rays.directions, kept.rays.near, kept.rays.far, kept.rgba)]
    order = torch.randperm(len(kept.rgba), device=DEVICE)

    def indexed() -> list[torch.Tensor]:
        start = next(steps) * rays % (len(order) - rays)
        return [x[order[start : start + rays]] for x in flat]

    endless = iter(DataLoader(TensorDataset(*flat), batch_size=rays, shuffle=True))

    def loader() -> None:
        nonlocal endless
        if next(endless, None) is None:
            endless = iter(DataLoader(TensorDataset(*flat), batch_size=rays, shuffle=True))
            next(endless)

    ways = {OURS: lambda: pixels(next(steps)), "rays kept in memory": indexed, "DataLoader over them": loader}
    seconds = fastest(ways, rounds)
    bytes_of = {OURS: views.images, "rays kept in memory": torch.cat([x.flatten() for x in flat])}
    return {
        "time of a batch / ours": {name: value / seconds[OURS] for name, value in seconds.items()},
        "million rays per second": {name: rays / value / 1e6 for name, value in seconds.items()},
        "memory in MB": {name: x.numel() * x.element_size() / 1e6 for name, x in bytes_of.items()},
    }


def run(quick: bool) -> Tables:
    """Measure."""
    return measure(4096, 64, 10 if quick else 60, 5 if quick else 30)
