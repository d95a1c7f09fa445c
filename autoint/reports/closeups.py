"""Pictures that compare renderings: whole views with close-ups of where the detail is, and quality against sections."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from autoint.files.whole_files import write_whole
from autoint.reports.pictures import caption, picture, write_figure

WIDTH, GAP, LINE = 220, 6, 18
COLORS = ((0, 150, 60), (220, 40, 40))
Corner = tuple[int, int]


@dataclass(frozen=True)
class Cell:
    """A rendering (H, W, 3) in [0, 1] and what is written under it."""

    note: str
    image: Tensor


@dataclass(frozen=True)
class Row:
    """A view: its name, the truth (H, W, 3) in [0, 1], and its renderings, None where there is none."""

    name: str
    truth: Tensor
    cells: list[Cell | None]


def detailed(image: Tensor, size: int) -> tuple[Corner, Corner]:
    """Return the upper left corners (row, column) of the two squares of ``size`` pixels with the steepest changes.

    The second is the best of those that do not overlap the first, where the image has room for one.
    """
    grey = image.mean(-1)
    change = torch.zeros_like(grey)
    change[:-1] += grey.diff(dim=0).abs()
    change[:, :-1] += grey.diff(dim=1).abs()
    # The root keeps one hard outline from outdoing a region full of texture.
    score = F.avg_pool2d(change.sqrt()[None, None], size, stride=1)[0, 0]
    first = divmod(int(score.argmax()), score.shape[1])
    apart = torch.ones_like(score, dtype=torch.bool)
    apart[max(0, first[0] - size + 1) : first[0] + size, max(0, first[1] - size + 1) : first[1] + size] = False
    second = divmod(int(torch.where(apart, score, -1).argmax()), score.shape[1]) if bool(apart.any()) else first
    return first, second


def write_closeups(file: Path, heads: list[str], rows: list[Row]) -> Path:
    """Write views as rows and methods as columns, the truth first, each with its two close-ups below, as a PNG.

    The boxes in the views say by their colour where the close-ups come from.
    """
    blocks = [_block(row) for row in rows]
    width = max(block.width for block in blocks)
    sheet = Image.new("RGB", (width, LINE + sum(block.height + GAP for block in blocks)), "white")
    for place, head in enumerate(["truth", *heads]):
        caption(sheet, head, place * (WIDTH + GAP), LINE // 2, WIDTH, size=13)
    y = LINE
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height + GAP
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = BytesIO()
    sheet.save(stream, format="PNG")
    return write_whole(file, stream.getvalue())


def _block(row: Row) -> Image.Image:
    """Return a row of the picture: the views, their close-ups, and a line of notes."""
    height, width = row.truth.shape[:2]
    size = max(2, min(height, width) // 5)
    corners = detailed(row.truth, size)
    tall, small = round(WIDTH * height / width), (WIDTH - GAP) // 2
    sheet = Image.new("RGB", ((WIDTH + GAP) * (1 + len(row.cells)) - GAP, tall + GAP + small + LINE), "white")
    for place, cell in enumerate([Cell(row.name, row.truth), *row.cells]):
        x = place * (WIDTH + GAP)
        if cell is None:
            caption(sheet, "–", x, tall // 2, WIDTH)
            continue
        whole = picture(cell.image)
        way = Image.Resampling.LANCZOS if width > WIDTH else Image.Resampling.NEAREST
        sheet.paste(whole.resize((WIDTH, tall), way), (x, 0))
        for k, (color, (top, left)) in enumerate(zip(COLORS, corners, strict=True)):
            crop = whole.crop((left, top, left + size, top + size)).resize((small, small), Image.Resampling.NEAREST)
            at = x + k * (small + GAP), tall + GAP
            sheet.paste(crop, at)
            draw, scale = ImageDraw.Draw(sheet), WIDTH / width
            draw.rectangle((*at, at[0] + small - 1, at[1] + small - 1), outline=color, width=3)
            box = (x + left * scale, top * scale, x + (left + size) * scale - 1, (top + size) * scale - 1)
            draw.rectangle(box, outline=color, width=2)
        caption(sheet, cell.note, x, tall + GAP + small + LINE // 2, WIDTH, size=12)
    return sheet


def write_quality(file: Path, title: str, curves: dict[str, dict[int, float]]) -> Path:
    """Plot PSNR in dB against the number of sections, {name: {sections: PSNR}}, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    counts = sorted({n for curve in curves.values() for n in curve})
    for name, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), "o-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.set(title=title, xlabel="sections N", ylabel="PSNR (dB)")
    axes.grid(alpha=0.3)
    axes.legend()
    return write_figure(file, figure, dpi=120)
