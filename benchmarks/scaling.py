"""How time grows: of a frame with pixels, N and the images of a scene, of a step with width and processes."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
import torch.multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel

from autoint.runs import build
from autoint.scenes.data.batches import Pixels
from autoint.scenes.data.procedural import procedural
from autoint.scenes.rays import Rays
from benchmarks.measure import DEVICE, Tables, fastest, linearity
from benchmarks.steps import configured


def bundle(rays: int) -> Rays:
    """Return rays through the centre of the box [−1, 1]³, from all sides."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=g), dim=-1)
    return Rays(-2 * directions, directions, torch.full((rays,), 1.0), torch.full((rays,), 3.0)).to(DEVICE)


def volume_of(**options: Any) -> Any:
    """Return an untrained volume in that box."""
    volume: Any = build.task(configured(**options), with_data=False).module.volume
    volume.occupancy.lower.fill_(-1)
    volume.occupancy.upper.fill_(1)
    return volume.to(DEVICE)


def frames(pixels: list[int], sections: list[int], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return seconds per frame by its pixels, at N = 16, and by N + 1, in the middle of the sizes."""
    background, middle = torch.ones(3, device=DEVICE), bundle(pixels[len(pixels) // 2])
    volume, others = volume_of(sections=16), {n: volume_of(sections=n) for n in sections}
    by_pixels = {str(p): lambda rays=bundle(p): volume.view(rays, background, 16384) for p in pixels}
    by_sections = {str(n + 1): lambda v=v: v.view(middle, background, 16384) for n, v in others.items()}
    with torch.inference_mode():
        return fastest(by_pixels, rounds), fastest(by_sections, rounds)


def images(counts: list[int], rounds: int) -> dict[str, float]:
    """Return the seconds of a batch of 512 rays and of a frame of 24×24, by how many images the scene has."""
    background, actions = torch.ones(3, device=DEVICE), {}
    for count in counts:
        views = procedural("", "train", 24, count)
        volume = volume_of(sections=16)
        pixels, rays = Pixels(views, volume.hit, 512, 0), views.rays_of(0).to(DEVICE)

        def draw_and_render(pixels: Pixels = pixels, rays: Rays = rays, volume: Any = volume) -> None:
            pixels(0)
            volume.view(rays, background, 16384)

        actions[str(count)] = draw_and_render
    with torch.inference_mode():
        return fastest(actions, rounds)


def widths(sizes: list[int], rays: int, rounds: int) -> dict[str, float]:
    """Return the milliseconds of forward and backward pass, at N = 16, by the width of 4 layers."""
    batch, background, actions = bundle(rays), torch.ones(3, device=DEVICE), {}
    for width in sizes:
        volume = volume_of(sections=16, network={"hidden_features": width, "num_layers": 4})
        edges = volume.edges(batch)
        actions[str(width)] = lambda v=volume, e=edges: v.render(batch, e, background).rgb.mean().backward()
    return {name: 1e3 * seconds for name, seconds in fastest(actions, rounds).items()}


def _worker(rank: int, world: int, rays: int, steps: int, port: int, results: Any) -> None:
    """Take ``steps`` steps over this process's share of ``rays``; tell the least seconds of one."""
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    volume, batch = volume_of(sections=16).cpu(), bundle(rays)[rank::world].to(torch.device("cpu"))

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.volume = volume

        def forward(self) -> torch.Tensor:
            return volume.render(batch, volume.edges(batch), torch.ones(3)).rgb.square().mean()

    loss: torch.nn.Module = DistributedDataParallel(Loss())
    adam = torch.optim.Adam(volume.parameters(), fused=True)
    seconds = []
    for _ in range(steps):
        torch.distributed.barrier()
        start = time.perf_counter()
        adam.zero_grad()
        loss().backward()
        adam.step()
        torch.distributed.barrier()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        results.put(min(seconds))
    torch.distributed.destroy_process_group()


def shared(worlds: list[int], rays: int, steps: int) -> dict[str, float]:
    """Return how many times faster a step of the same rays is, by the number of processes with one thread each."""
    out = {}
    for world in worlds:
        results = processes.get_context("spawn").SimpleQueue()
        port = 29500 + os.getpid() % 1000 + world
        processes.spawn(_worker, (world, rays, steps, port, results), nprocs=world)
        out[str(world)] = results.get()
    return {world: out[str(worlds[0])] / seconds for world, seconds in out.items()}


def run(quick: bool) -> Tables:
    """Measure."""
    sizes = [16, 24, 32, 40, 48] if quick else [32, 48, 64, 80, 96]
    rounds = 3 if quick else 10
    by_pixels, by_sections = frames([size * size for size in sizes], [4, 8, 16, 32, 64], rounds)
    by_images = images([4, 16, 64], rounds)
    return {
        "seconds per frame by pixels": by_pixels,
        "seconds per frame by N + 1": by_sections,
        "seconds of a batch and a frame by images": by_images,
        "milliseconds of a step by width": widths([32, 64, 128, 256], 256, rounds),
        "times faster by processes": shared([1, 2], 1024, rounds),
        "R² of a straight line, and growth": {
            "by pixels": linearity(by_pixels),
            "by N + 1": linearity(by_sections),
            "64 images / 4": by_images["64"] / by_images["4"],
        },
    }


def quoted(tables: Tables) -> str:
    """Return what docs/benchmarks.md says of it."""
    pixels, sections, images = list(tables.values())[-1].values()
    faster = list(list(tables.values())[-2].values())[-1]
    return (
        f"The time of a frame is a straight line in its pixels (R² = {pixels:.4f}) and in N + 1 (R² = {sections:.4f}), "
        f"whatever the number of\nimages in the scene (16 times as many: {images:.2f} times as long). Two processes "
        f"with one core each take a step {faster:.2f} times\nfaster than one (`python -m benchmarks scaling`).\n"
    )
