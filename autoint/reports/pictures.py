"""Pictures for people: one row of captioned panels per view, curves, and what they are made of."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as iio
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from autoint.files.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION, GAP = 16, 4
SMALLEST = 128
LARGEST_ERROR = 0.25
SHEET = (205, 205, 205)  # between panels, whose own ground is often white or black


def to_bytes(image: Tensor) -> Tensor:
    """Return an image in [0, 1] as uint8."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def seen_range(depth: Tensor, acc: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest depth of what is more opaque than not, or of everything if nothing is."""
    seen = acc > 0.5
    return (depth[seen].min(), depth[seen].max()) if seen.any() else (depth.min(), depth.max())


def depth_image(depth: Tensor, acc: Tensor) -> Tensor:
    """Return depth (H, W) as a grey picture (H, W, 3), near bright and far dark, fading to white where nothing is."""
    low, high = seen_range(depth, acc)
    grey = 0.1 + 0.8 * (high - depth) / (high - low).clamp_min(1e-6)
    return grey_image(acc * grey.clamp(0, 1) + (1 - acc))


def grey_image(values: Tensor) -> Tensor:
    """Return values (H, W) in [0, 1] as a grey picture (H, W, 3)."""
    return values[..., None].expand(*values.shape, 3)


def root_mean_square(image: Tensor, truth: Tensor) -> Tensor:
    """Return the error of every pixel over its channels: images (…, 3) → (…)."""
    return (image.clamp(0, 1) - truth).square().mean(-1).sqrt()


def error_image(error: Tensor) -> Tensor:
    """Return errors (H, W) as a picture (H, W, 3), from 0 in black to ``LARGEST_ERROR`` or more in pale yellow."""
    return scale_image(error / LARGEST_ERROR, "inferno")


def scale_image(values: Tensor, name: str) -> Tensor:
    """Return values (H, W) as a picture (H, W, 3) in matplotlib's scale of colours of this name, from 0 to 1."""
    from matplotlib import colormaps

    colors = torch.from_numpy(colormaps[name](range(256))[:, :3]).float()
    return colors[(values * 255).round().clamp(0, 255).long()]


def write(file: Path, image: Tensor) -> None:
    """Write an image (H, W, 3) in [0, 1] as a PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(file, to_bytes(image).numpy())


def enlargement(width: int, smallest: int = SMALLEST) -> int:
    """Return the whole number of times by which a picture must grow to be ``smallest`` pixels wide."""
    return max(1, math.ceil(smallest / width))


def picture(image: Tensor, times: int = 1) -> Image.Image:
    """Return an image (H, W, 3) in [0, 1] for drawing, every pixel ``times`` as large."""
    drawn = Image.fromarray(to_bytes(image).contiguous().numpy())
    return drawn.resize((drawn.width * times, drawn.height * times), Image.Resampling.NEAREST)


def caption(sheet: Image.Image, text: str, x: int, y: int, width: int, size: int = 11) -> None:
    """Write one line of text centred over ``width`` pixels from (x, y), the middle of the line being at ``y``."""
    font = ImageFont.load_default(size)
    while size > 6 and font.getlength(text) > width:
        size -= 1
        font = ImageFont.load_default(size)
    ImageDraw.Draw(sheet).text((x + width / 2, y), text, fill="black", font=font, anchor="mm")


def row_of(panels: dict[str, Tensor]) -> Image.Image:
    """Return images (H, W, 3) side by side, each under its name; small ones are enlarged."""
    height, width = next(iter(panels.values())).shape[:2]
    times = enlargement(width)
    sheet = Image.new("RGB", ((width * times + GAP) * len(panels) - GAP, height * times + CAPTION), SHEET)
    for place, (name, image) in enumerate(panels.items()):
        x = place * (width * times + GAP)
        sheet.paste(picture(image, times), (x, CAPTION))
        caption(sheet, name, x, CAPTION // 2, width * times)
    sheet.info["panels"] = json.dumps({"names": list(panels), "size": [width, height], "times": times})
    return sheet


def panels_of(sheet: Image.Image) -> dict[str, Image.Image]:
    """Return the panels of a picture that :func:`row_of` has drawn, as large as they were, or none of any other."""
    try:
        kept = json.loads(sheet.info["panels"])
        (width, height), times, names = kept["size"], kept["times"], list(map(str, kept["names"]))
        wide, high = len(names) * (width * times + GAP) - GAP, CAPTION + height * times
        fits = all(type(n) is int and n > 0 for n in (width, height, times)) and wide <= sheet.width
    except (KeyError, TypeError, ValueError, RecursionError):  # of a picture that somebody else has drawn
        return {}
    panels = {}
    for place, name in enumerate(names if fits and high <= sheet.height else ()):
        x = place * (width * times + GAP)
        panel = sheet.crop((x, CAPTION, x + width * times, CAPTION + height * times))
        panels[name] = panel.resize((width, height), Image.Resampling.NEAREST)
    return panels


def write_view(
    file: Path,
    shape: tuple[int, int],
    truth: Tensor,
    rgb: Tensor,
    depth: Tensor,
    acc: Tensor,
    valid: Tensor | None = None,
) -> None:
    """Write a view as truth, rendering, error, depth and opacity side by side, as a PNG.

    Args:
        file: where to.
        shape: height and width.
        truth, rgb: the pixels, (H·W, 3) in [0, 1].
        depth, acc: depth and opacity, (H·W,).
        valid: which pixels count, (H·W,); the others are grey in the truth, and without an error. None for all.
    """
    error = root_mean_square(rgb, truth)
    if valid is not None:
        truth, error = torch.where(valid[:, None], truth, 0.5), torch.where(valid, error, 0)
    truth, rgb, depth, acc, error = (x.cpu().reshape(*shape, *x.shape[1:]) for x in (truth, rgb, depth, acc, error))
    low, high = seen_range(depth, acc)
    panels = {
        "truth": truth,
        "rendering": rgb,
        f"error, 0 to {LARGEST_ERROR}": error_image(error),
        f"depth, {float(low):.2f} to {float(high):.2f}": depth_image(depth, acc),
        "opacity, 0 to 1": scale_image(acc, "viridis"),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet, said, stream = row_of(panels), PngInfo(), BytesIO()
    said.add_text("panels", sheet.info["panels"])
    sheet.save(stream, "PNG", pnginfo=said)
    write_whole(file, stream.getvalue())


def write_curves(file: Path, x: Tensor, curves: dict[str, Tensor], label: str, formula: str) -> None:
    """Plot f with Ψ, the exact integral with Φ, (P, C) each, and both errors, logarithmic; f is ``formula``."""
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
    shown = formula.replace("$", r"\$")
    titles = (shown if len(shown) <= 60 else f"{shown[:60]}…", "integral", "absolute errors")
    for axes, title in zip((left, middle, right), titles, strict=True):
        handles, names = axes.get_legend_handles_labels()
        once = dict(zip(names, handles, strict=True))
        axes.legend(once.values(), once.keys(), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        axes.set(title=title, xlabel=label)
        axes.grid(alpha=0.3)
    write_figure(file, figure, dpi=120)


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points (seconds, quality) that no other is faster than and at least as good, by time."""
    front, best = [], -math.inf
    for name, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            front.append(name)
            best = quality
    return front


def write_pareto(file: Path, points: dict[str, tuple[float, float]]) -> Path:
    """Plot PSNR in dB against seconds per frame, {run: (seconds, PSNR)}, with a line through the best, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*(points[name] for name in pareto(points)), strict=True), "-", color="0.7", zorder=0)
    for name, (seconds, psnr) in points.items():
        axes.plot(seconds, psnr, "o")
        axes.annotate(name, (seconds, psnr), xytext=(5, 3), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", xlabel="seconds per frame", ylabel="PSNR (dB)")
    axes.margins(x=0.2)  # for the names
    axes.grid(alpha=0.3)
    return write_figure(file, figure, dpi=120)


def write_figure(file: Path, figure: Figure, dpi: int) -> Path:
    """Write a figure as a PNG, whole or not at all; return ``file``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = BytesIO()
    figure.savefig(stream, dpi=dpi, format="png")
    return write_whole(file, stream.getvalue())
