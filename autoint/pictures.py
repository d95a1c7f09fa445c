"""Pictures for people: images side by side with depth and opacity."""

from __future__ import annotations

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
