"""Pictures for people: images side by side with depth and opacity."""

from __future__ import annotations

import math
from pathlib import Path

import imageio.v3 as iio
import torch
from torch import Tensor


def to_bytes(image: Tensor) -> Tensor:
    """Return an image in [0, 1] as uint8."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def depth_image(depth: Tensor, acc: Tensor) -> Tensor:
    """Return depth (H, W) as a grey picture (H, W, 3), near bright and far dark, fading to white where nothing is."""
    seen = acc > 0.5
    low, high = (depth[seen].min(), depth[seen].max()) if seen.any() else (depth.min(), depth.max())
    grey = 0.1 + 0.8 * (high - depth) / (high - low).clamp_min(1e-6)
    grey = acc * grey.clamp(0, 1) + (1 - acc)
    return grey[..., None].expand(*grey.shape, 3)


def write(file: Path, image: Tensor) -> None:
    """Write an image (H, W, 3) in [0, 1] as a PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(file, to_bytes(image).numpy())


def write_row(file: Path, shape: tuple[int, int], images: list[Tensor], depth: Tensor, acc: Tensor) -> None:
    """Write images (H·W, 3) side by side, and depth after them, as a PNG."""
    panels = [image.reshape(*shape, 3) for image in images]
    panels.append(depth_image(depth.reshape(shape), acc.reshape(shape)))
    write(file, torch.cat(panels, dim=1))


def write_curves(file: Path, x: Tensor, curves: dict[str, Tensor], label: str) -> None:
    """Plot f with Ψ, the exact integral with Φ, (P, C) each, and both errors on a logarithmic scale."""
    from matplotlib.figure import Figure

    t, y = x.cpu().numpy(), {name: values.cpu().numpy() for name, values in curves.items()}
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(t, y["f"], color="black", lw=2, label="function f")
    left.plot(t[::5], y["Ψ"][::5], ".", color="tab:red", label="grad network Ψ")
    middle.plot(t, y["exact"], color="black", lw=2, label="exact integral from the lower corner")
    middle.plot(t[::5], y["Φ"][::5], ".", color="tab:blue", label="integral network, Φ(x) − Φ(lower)")
    for name, truth, color in (("Ψ", "f", "tab:red"), ("Φ", "exact", "tab:blue")):
        error = abs(y[name] - y[truth])
        error[error == 0] = math.nan  # which has no logarithm
        right.semilogy(t, error, color=color, lw=1, label=f"error of {name}")
    titles = ("integrand", "integral", "absolute errors")
    for axes, title in zip((left, middle, right), titles, strict=True):
        handles, names = axes.get_legend_handles_labels()
        once = dict(zip(names, handles, strict=True))
        axes.legend(once.values(), once.keys(), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        axes.set(title=title, xlabel=label)
        axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
