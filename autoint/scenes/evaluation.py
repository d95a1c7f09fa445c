"""Evaluation of volume rendering: the views of a split rendered, measured and written as pictures."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from autoint.files.machine import flops, peak_memory
from autoint.files.whole_files import write_whole
from autoint.registry import EVALUATIONS, at_least_one, one_of
from autoint.reports import metrics, pictures
from autoint.runs.config import RunConfig
from autoint.runs.interrupted import PartialEvaluation
from autoint.runs.progress import tracked
from autoint.scenes import ray_panel
from autoint.scenes.camera_paths import PATHS
from autoint.scenes.data.batches import WholeImages
from autoint.scenes.data.views import Views
from autoint.scenes.rays import Rays, distances
from autoint.scenes.volume import AbstractSections, AbstractVolume

if TYPE_CHECKING:
    from autoint.runs.evaluation import EvaluateConfig

log = logging.getLogger(__name__)
COLUMNS = {
    "scene": ("scene", ""),
    "model": ("model", ""),
    "sections": ("sections", ""),
    "fit": ("fit", ""),
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "lpips": ("LPIPS-{lpips}", ".4f"),
    "seconds_per_frame": ("s/frame", ".3f"),
    "frames_per_second": ("frames/s", ".2f"),
    "rays_per_second": ("rays/s", ".2e"),
    "look_ups_per_ray": ("points/ray", ""),
    "evaluations_per_ray": ("networks/ray", ""),
    "colors_per_ray": ("colours/ray", ""),
    "share_of_peak": ("of peak", ".1%"),
    "memory": ("memory/MB", ".1f"),
    "images": ("images", ""),
    "run": ("run", ""),
}


@EVALUATIONS.register("volrend")
@dataclass(frozen=True, kw_only=True)
class Looking:
    """How scenes are looked at, beside their views; ``ValueError`` names the key, the value and what is allowed.

    Attributes:
        video: a camera path, orbit (a turn around the scene) or spiral (a loop before the mean camera), or none; of
            cameras on one side both are the spiral, and of those around the scene a spiral is before one of them; or a
            file, FILE.json, with a path as nerfstudio's viewer saves it.
        video_frames: of the whole path.
        video_fps: frames per second.
        ray: [row, column] of the first view, or auto (its largest error): a panel that shows this ray; or none.
        depth: maps of numbers, npz or tiff, a file for each view: the distance from the camera along each pixel's ray,
            NaN where more is seen of the background than of the scene; or none.
    """

    video: str = "none"
    video_frames: int = 60
    video_fps: int = 20
    ray: Any = "none"
    depth: str = "none"

    def __post_init__(self) -> None:
        if not self.video.endswith(".json"):
            one_of("video", self.video, ("none", *PATHS))
        one_of("depth", self.depth, ("none", "npz", "tiff"))
        at_least_one(video_frames=self.video_frames, video_fps=self.video_fps)
        pair = isinstance(self.ray, list) and [type(x) for x in self.ray] == [int, int]
        if not pair and self.ray not in ("none", "auto"):
            raise ValueError(f"ray={self.ray} must be none, auto (the largest error of the first view) or [row,column]")


def scene_name(run: RunConfig) -> str:
    """Return what a run's scene is called."""
    scene = run.options["scene"]
    return Path(scene["path"]).name if scene.get("path") else scene["name"]


@torch.inference_mode()
def evaluate(
    volume: AbstractVolume,
    background: torch.Tensor,
    views: Views,
    config: EvaluateConfig,
    name: str,
    folder: Path,
    run: RunConfig,
) -> list[dict[str, Any]]:
    """Render ``views``; return one dict of values per image, and write the pictures into ``folder``.

    Images that an interrupted evaluation has done in the same folder are not done again.
    """
    images = WholeImages(views)
    metric = metrics.lpips_metric(config.lpips, config.lpips_weights)
    values, seen, looking = [], 0.0, config.of("volrend")
    ray = looking.ray
    way = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("runs", "data_dir")}
    settings = {"run": run.to_plain(), "way": way, "lpips": metric is not None, "ssim": metrics.SSIM_WINDOW}
    unfinished = PartialEvaluation(folder, volume, settings)
    if unfinished.done:
        log.info("%s: %d of %d images were done before", name, len(unfinished.done), len(images))
    for item in tracked(range(len(images)), name, "image"):
        batch, view = images[item].to(background.device), views.names[item]
        counted = batch.rgba if batch.valid is None else torch.cat([batch.rgba, batch.valid[:, None].float()], dim=-1)
        if known := unfinished.found(view, counted):
            values.append(known["values"])
            seen = max(seen, known["acc"])
            continue
        rgb_cpu, depth, acc, seconds = _rendered(volume, batch.rays, background, config.chunk_size, f"{name}, {view}")
        truth = metrics.over(batch.rgba, background).cpu()
        assert batch.shape is not None
        image, target = rgb_cpu.reshape(*batch.shape, 3), truth.reshape(*batch.shape, 3)
        seen = max(seen, float(acc.max()))
        valid = None if batch.valid is None else batch.valid.cpu()
        values.append({"image": view, **_measured(metric, image, target, valid), "seconds_per_frame": seconds})
        pictures.write(folder / "renders" / f"{view}.png", image)
        pictures.write_view(folder / f"{view}.png", batch.shape, truth, rgb_cpu, depth, acc, batch.valid)
        if looking.depth != "none":
            away = distances(batch.rays, depth, views.poses[item, :3, 3], views.device)
            write_depth(folder / "depth" / f"{view}.{looking.depth}", batch.shape, away, acc)
        if item == 0 and isinstance(volume, AbstractSections):
            error = pictures.root_mean_square(rgb_cpu, truth)
            error = error if valid is None else torch.where(valid, error, 0)
            place = "auto" if ray == "none" else ray
            row, column = ray_panel.pixel_of(place, batch.shape, error, volume.hit(batch.rays))
            pixel = row * batch.shape[1] + column
            profile = ray_panel.ray_profile(volume, batch.rays[pixel : pixel + 1], background)
            file = folder / f"ray_{view}_{row}_{column}.svg"
            ray_panel.draw_ray(file, profile)
            if ray != "none":
                ray_panel.write_ray(file.with_suffix(".png"), f"{name}, {view}", (row, column), target, image, profile)
        unfinished.note(view, counted, {"values": values[-1], "acc": float(acc.max())})
    if ray != "none" and not isinstance(volume, AbstractSections):
        log.warning("%s: ray=%s shows the sections of a ray, which this model has not", name, ray)
    if seen < 1e-3:
        log.warning("%s: nothing but background was rendered; the training has collapsed", name)
    return values


def write_depth(file: Path, shape: tuple[int, int], depth: torch.Tensor, acc: torch.Tensor) -> None:
    """Write depth and opacity (H·W,) of a view as an ``.npz`` of both, or the depth alone as a ``.tiff`` of floats."""
    known, opacity = (v.float().cpu().reshape(shape).numpy() for v in (torch.where(acc >= 0.5, depth, math.nan), acc))
    stream = BytesIO()
    if file.suffix == ".npz":
        np.savez_compressed(stream, depth=known, opacity=opacity)
    else:
        Image.fromarray(known).save(stream, "TIFF")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, stream.getvalue())


def _measured(
    metric: torch.nn.Module | None, image: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor | None
) -> dict[str, float]:
    """Return PSNR, SSIM and LPIPS of an image (H, W, 3) on the pixels that are ``valid`` (H·W,)."""
    shown = None if valid is None else valid.view(image.shape[:2])
    return {
        "psnr": float(metrics.psnr(image, truth, shown)),
        "ssim": float(metrics.ssim(image, truth, shown)),
        "lpips": float(metrics.lpips(metric, image, truth, shown)) if metric else math.nan,
    }


def mean_of(values: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a value over the images that have it; NaN where none has."""
    there = [value[key] for value in values if not math.isnan(value[key])]
    return sum(there) / len(there) if there else math.nan


def _rendered(
    volume: AbstractVolume, rays: Rays, background: torch.Tensor, chunk_size: int, name: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Return rgb (R, 3) on the CPU, depth and acc (R,), and the seconds taken; ``ValueError`` unless rgb is finite."""
    start = time.perf_counter()
    rgb, depth, acc = volume.view(rays, background, chunk_size)
    rgb_cpu = rgb.cpu()  # waits for the device, so that the time is that of the whole frame
    seconds = time.perf_counter() - start
    if broken := int((~rgb_cpu.isfinite().all(-1)).sum()):
        mend = "evaluate an earlier checkpoint, or train with a lower optimizer.lr"
        raise ValueError(f"{name}: {broken} of {len(rgb)} rendered pixels are not finite; {mend}")
    return rgb_cpu, depth, acc, seconds


@torch.inference_mode()
def rendering_work(volume: AbstractVolume, background: torch.Tensor, views: Views, chunk_size: int) -> int:
    """Return the floating-point operations that the networks take while the first view is rendered."""
    rays = WholeImages(views)[0].rays.to(background.device)
    return flops(lambda: volume.view(rays, background, chunk_size))


@torch.inference_mode()
def rendering_memory(volume: AbstractVolume, background: torch.Tensor, views: Views, chunk_size: int) -> float:
    """Return the most memory that tensors take while the first view is rendered on one thread, in megabytes.

    The network's own is not counted.
    """
    rays = WholeImages(views)[0].rays.to(background.device)
    return peak_memory(lambda: volume.view(rays, background, chunk_size), background.device) / 1e6
