"""Evaluation: checkpoints in, tables and pictures out. Renders by differences of the integral network only."""

from __future__ import annotations

import csv
import functools
import logging
import math
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from autoint import build, metrics, pictures
from autoint.config import RunConfig
from autoint.data.loading import WholeImages
from autoint.registry import at_least_one, checked, fields_of, one_of
from autoint.tasks.volrend import VolumeRendering, load_views
from autoint.training import write_json

log = logging.getLogger(__name__)
COLUMNS = {
    "scene": "scene",
    "sections": "sections",
    "fit": "fit",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "seconds_per_frame": "s/frame",
    "evaluations_per_ray": "Φ/ray",
    "images": "images",
    "run": "run",
}
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "seconds_per_frame": 3}


@dataclass
class EvaluateConfig:
    """What to evaluate, and how; ``conf/evaluate.yaml`` says what each key means."""

    runs: str = "outputs"
    data_dir: str | None = None
    split: str = "test"
    max_images: int | None = None
    chunk_size: int = 16384
    lpips: str = "vgg"
    lpips_weights: str | None = None
    device: str = "auto"

    @staticmethod
    def from_hydra(composed: DictConfig) -> EvaluateConfig:
        """Check what Hydra composed; ``ValueError`` names the key, the value and what is allowed."""
        plain: Any = OmegaConf.to_container(composed, resolve=True)
        config = EvaluateConfig(**checked(fields_of(EvaluateConfig), plain, ""))
        devices, splits = ("auto", "cpu", "cuda"), ("train", "val", "test")
        for key, values in (("split", splits), ("lpips", tuple(metrics.BACKBONES)), ("device", devices)):
            one_of(key, getattr(config, key), values)
        at_least_one(max_images=config.max_images, chunk_size=config.chunk_size)
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda: this machine or this build of torch has no CUDA device; use device=cpu")
        return config


def find_checkpoints(runs: str) -> list[Path]:
    """Return the checkpoints named by ``runs``: a file, a run's folder, or a folder of runs at any depth."""
    place = Path(runs)
    if place.is_file():
        return [place]
    found = sorted(place.rglob("checkpoints/last.ckpt")) if place.is_dir() else []
    if not found:
        what = "no checkpoints/last.ckpt below it" if place.is_dir() else "no such file or folder"
        raise ValueError(f"runs={runs}: {what}; give a checkpoint, a run's folder or a folder of runs")
    return found


@functools.cache
def _lpips(net: str, weights: str | None) -> torch.nn.Module | None:
    """The LPIPS metric, or None after one line that says why there is none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # torch's download has no time limit of its own
    try:
        return metrics.load_lpips(net, weights)
    except (ImportError, OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / metrics.BACKBONES[net]
        log.warning(
            "LPIPS is n/a: %s; put torchvision's %s at %s, or give it by lpips_weights=FILE",
            str(error).splitlines()[0],
            cache.name,
            cache,
        )
        return None
    finally:
        socket.setdefaulttimeout(before)


def evaluate_runs(config: EvaluateConfig, out_dir: Path) -> list[dict[str, Any]]:
    """Evaluate every run, print the table, and write it with per-image values and pictures into ``out_dir``."""
    files = find_checkpoints(config.runs)
    restored = [build.restored(f, **({"data_dir": config.data_dir} if config.data_dir else {})) for f in files]
    rows, per_image = [], []
    for number, (file, (run, module)) in enumerate(zip(files, restored, strict=True)):
        assert isinstance(module, VolumeRendering)
        folder = out_dir / "images" / f"{number:02d}_{_scene(run)}_{run.options['sections']}"
        values = evaluate_run(config, run, module, folder)
        keys = ("psnr", "ssim", "lpips", "seconds_per_frame")
        row: dict[str, Any] = {"scene": _scene(run), "sections": run.options["sections"], "fit": run.fit}
        row |= {key: sum(v[key] for v in values) / len(values) for key in keys}
        row |= {"evaluations_per_ray": run.options["sections"] + 1, "images": len(values), "run": _name(file)}
        rows.append(row)
        per_image += [{"run": _name(file), **v} for v in values]
    table = markdown(rows, config.lpips)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "table.md").write_text(table, encoding="utf-8")
    _write_csv(out_dir / "table.csv", rows)
    _write_csv(out_dir / "per_image.csv", per_image)
    write_json(out_dir / "result.json", {"split": config.split, "rows": _finite(rows), "per_image": _finite(per_image)})
    print(table)
    print(f"table:    {out_dir / 'table.md'}\npictures: {out_dir / 'images'}")
    return rows


def _name(checkpoint: Path) -> str:
    """A run's folder, for its last checkpoint, or the checkpoint's own path."""
    return str(checkpoint.parent.parent if checkpoint.name == "last.ckpt" else checkpoint)


def _scene(run: RunConfig) -> str:
    scene = run.options["scene"]
    return Path(scene["path"]).name if scene.get("path") else scene["name"]


@torch.inference_mode()
def evaluate_run(config: EvaluateConfig, run: RunConfig, module: VolumeRendering, folder: Path) -> list[dict[str, Any]]:
    """Render the views of one run; return one dict of values per image, and write the pictures into ``folder``."""
    available = "cuda" if torch.cuda.is_available() else "cpu"
    module = module.to(available if config.device == "auto" else config.device)
    volume = module.volume
    views = load_views(run, config.split, config.max_images)
    images = WholeImages(views, (volume.lower.cpu(), volume.upper.cpu()))
    metric = _lpips(config.lpips, config.lpips_weights)
    background, values, seen = module.canvas(), [], 0.0
    for item in tqdm(range(len(images)), desc=_scene(run), unit="image"):
        batch = images[item].to(module.device)
        start = time.perf_counter()
        rgb, depth, acc = volume.view(batch.rays, background, config.chunk_size)
        rgb_cpu = rgb.cpu()  # waits for the device, so that the time is that of the whole frame
        seconds = time.perf_counter() - start
        truth = metrics.over(batch.rgba, background).cpu()
        assert batch.shape is not None
        image, target = rgb_cpu.reshape(*batch.shape, 3), truth.reshape(*batch.shape, 3)
        name, seen = views.names[item], max(seen, float(acc.max()))
        values.append(
            {
                "image": name,
                "psnr": float(metrics.psnr(image, target)),
                "ssim": float(metrics.ssim(image, target)),
                "lpips": float(metrics.lpips(metric, image, target)) if metric else math.nan,
                "seconds_per_frame": seconds,
            }
        )
        pictures.write(folder / "renders" / f"{name}.png", image)
        pictures.write_row(folder / f"{name}.png", batch.shape, [truth, rgb_cpu], depth.cpu(), acc.cpu())
    if seen < 1e-3:
        log.warning("%s: nothing but background was rendered; the training has collapsed", _scene(run))
    return values


def markdown(rows: list[dict[str, Any]], backbone: str) -> str:
    """Return the table in Markdown, padded so that it reads well in a terminal too."""
    heads = [f"LPIPS-{backbone}" if key == "lpips" else head for key, head in COLUMNS.items()]
    cells = [[_cell(key, row[key]) for key in COLUMNS] for row in rows]
    widths = [max(len(line[k]) for line in [heads, *cells]) for k in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *cells]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _cell(key: str, value: Any) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.{DIGITS.get(key, 3)}f}"
    return str(value)


def _finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON knows no NaN: a value that could not be had is null."""
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(_finite(rows))
