"""Evaluation of tomography: sinograms on their unseen angles, images where the object is known, tables and pictures."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from autoint.files.whole_files import write_json, write_whole
from autoint.reports import metrics, pictures
from autoint.reports.tables import markdown
from autoint.runs.config import RunConfig
from autoint.tomography import classics
from autoint.tomography.classics import Filled, filtered_back_projection, pixel_lattice
from autoint.tomography.data.sinograms import Scan
from autoint.tomography.models import LatticeObject, LineNetwork
from autoint.tomography.projector import resampled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
COLUMNS = {
    "phantom": ("phantom", ""),
    "views": ("views", ""),
    "method": ("method", ""),
    "psnr": ("sinogram PSNR, unseen", ".2f"),
    "explained": ("measured views explained", ".1%"),
    "image_psnr": ("image PSNR", ".2f"),
    "image_ssim": ("SSIM", ".4f"),
    "fbp_psnr": ("PSNR of FBP", ".2f"),
    "seconds": ("seconds to fill in", ".2f"),
    "run": ("run", ""),
}
CLASSICS = tuple(classics.METHODS)
PANEL, MOST_ROWS, DPI = 240, 1200, 90  # pixels of a sinogram's picture: a row for each view, within these bounds
UNSEEN = "#6b8fb5"  # a colour that is no grey
SAME = 1e-6  # of half a turn, and of the radius
NOTHING = 0.5  # a fit that leaves more than this share of the measured views has explained nothing


def write(
    fields: Sequence[LatticeObject | LineNetwork], scan: Scan, seen: np.ndarray, folder: Path, which: Sequence[str]
) -> list[dict[str, Any]]:
    """Fill the sinogram by the trained fields and by the classics in ``which``; return a row for each method.

    Writes into ``folder``: the sinograms as numbers, the paper's Figure 3 of them, the images, the slice as numbers.
    """
    rows, filled = [], {}
    fills: dict[str, Callable[[], Filled]] = {
        f"AutoInt {field.label}": functools.partial(ours, field, scan) for field in fields
    }
    fills |= {name: functools.partial(classics.METHODS[name], scan, seen) for name in which}
    with tqdm(fills.items(), desc="methods", leave=False, disable=None) as methods:
        for name, fill in methods:
            methods.set_postfix_str(name)
            start = time.perf_counter()
            filled[name] = fill()
            seconds = time.perf_counter() - start
            rows.append({"method": name, **errors(filled[name], scan, seen), "seconds": seconds})
    for row, field in zip(rows, fields, strict=False):
        lines = scan.rho, scan.theta[seen]
        views = field.integrals(*lines) if isinstance(field, LatticeObject) else field.sinogram(*lines, scan.gamma)
        row["explained"] = explained(views, scan.values[seen], row["method"])
    folder.mkdir(parents=True, exist_ok=True)
    sinograms = {name: result.sinogram for name, result in filled.items() if result.sinogram is not None}
    write_arrays(folder / "sinograms.npz", scan, seen, sinograms)
    write_json(folder / "errors.json", [{k: None if v != v else v for k, v in row.items()} for row in rows])
    pictures.write_figure(folder / "sinograms.png", sinogram_figure(scan, seen, sinograms), dpi=90)
    pictures.write_figure(folder / "images.png", images_figure(scan, filled), dpi=90)
    if fields:
        write_slice(folder, slice_of(next(iter(filled.values())), scan))
    return rows


def slice_of(filled: Filled, scan: Scan) -> np.ndarray:
    """Return a method's image in the scan's :attr:`~Scan.pixel_units`, float32, rows from the top.

    Of a method without an image, the filtered back-projection of its sinogram.
    """
    image = filled.image
    if image is None:
        assert filled.sinogram is not None
        image = filtered_back_projection(filled.sinogram, scan.theta, scan)
    return (image * scan.pixel_units[0]).astype(np.float32)


def write_numbers(file: Path, values: np.ndarray) -> None:
    """Write an array as ``.npy``."""
    stream = BytesIO()
    np.save(stream, values)
    write_whole(file, stream.getvalue())


def write_slice(folder: Path, image: np.ndarray) -> None:
    """Write a slice as numbers: ``slice.npy`` and ``slice.tif``."""
    write_numbers(folder / "slice.npy", image)
    stream = BytesIO()
    Image.fromarray(image).save(stream, "TIFF")
    write_whole(folder / "slice.tif", stream.getvalue())


def ours(field: LatticeObject | LineNetwork, scan: Scan) -> Filled:
    """Return what a trained field makes of the scan."""
    if isinstance(field, LineNetwork):
        return Filled(field.sinogram(scan.rho, scan.theta, scan.gamma), None)  # it knows lines, not an object
    return Filled(field.sinogram(scan.rho, scan.theta), image_of(field, scan))


def image_of(found: LatticeObject, scan: Scan) -> np.ndarray:
    """Return an object on the lattice of one detector pixel.

    Where held-out views found no object that tells more than interpolation does, the filtered back-projection of that.
    """
    if found.values.any():
        return resampled(found.absorption(), found.lattice, pixel_lattice(scan))
    theta = scan.turn(len(scan.rho))
    return filtered_back_projection(found.sinogram(scan.rho, theta), theta, scan)


def errors(filled: Filled, scan: Scan, seen: np.ndarray) -> dict[str, float]:
    """Return the PSNR of the sinogram on unmeasured lines, and of the images, NaN where there is nothing to compare."""
    unseen = unmeasured(scan, seen)
    row = dict.fromkeys(("psnr", "explained", "image_psnr", "image_ssim", "fbp_psnr"), math.nan)
    if filled.sinogram is not None:
        row["explained"] = _share(filled.sinogram[seen], scan.values[seen])
    if filled.sinogram is not None and unseen.any():
        row["psnr"] = psnr(filled.sinogram[unseen], scan.truth[unseen], float(scan.truth.max()))
    truth = true_image(scan)
    if truth is not None:
        if filled.image is not None:
            row["image_psnr"] = psnr(filled.image, truth, float(truth.max()))
            scaled = [
                torch.as_tensor(v / truth.max()).float()[..., None].expand(-1, -1, 3) for v in (filled.image, truth)
            ]
            row["image_ssim"] = float(metrics.ssim(*scaled))
        if filled.sinogram is not None:
            row["fbp_psnr"] = psnr(
                filtered_back_projection(filled.sinogram, scan.theta, scan), truth, float(truth.max())
            )
    return row


def unmeasured(scan: Scan, seen: np.ndarray) -> np.ndarray:
    """Return which lines no measured view has, (A, P): half a turn away, parallel rays are on the same ones."""
    out = np.ones(scan.truth.shape, bool)
    mirrored = (-scan.rho > scan.rho[0] - SAME) & (-scan.rho < scan.rho[-1] + SAME)
    for angle in scan.theta[seen]:
        turns = np.abs(scan.theta - angle) / math.pi
        out[(turns < SAME) | (np.abs(turns - 2) < SAME)] = False
        if scan.fan is None:
            out[np.ix_(np.abs(turns - 1) < SAME, mirrored)] = False
    return out


def _share(views: np.ndarray, measured: np.ndarray) -> float:
    return 1 - float(np.square(measured - views).sum() / np.square(measured).sum())


def explained(views: np.ndarray, measured: np.ndarray, name: str) -> float:
    """Return 1 − Σ(s − ours)²/Σs² at the measured views s; warn of a fit that says no more of them than their mean.

    Of an object these are its line integrals alone, without the remainder that is interpolated and added.
    """
    share, residual = _share(views, measured), float(np.square(measured - views).sum())
    changes = float(np.square(measured - measured.mean(0)).sum())  # what a view that is always the same leaves
    same = 0.01 * float(np.square(measured).sum()) < changes < residual
    if share < NOTHING or same:
        log.warning(
            "%s explains %.1f %% of the measured views%s: what it fills in rests on interpolation at best; check the "
            "angles and phantom.center, that rows are views, and the length of the training",
            name,
            100 * share,
            ", no more than their mean does" if same else "",
        )
    return share


def psnr(values: np.ndarray, truth: np.ndarray, peak: float) -> float:
    """Return 10·log₁₀(peak² / mean squared error) in dB."""
    error = float(np.square(values - truth).mean())
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf


def true_image(scan: Scan) -> np.ndarray | None:
    """Return the object on the lattice of one detector pixel, if it is known."""
    if scan.image is None:
        return None
    half, size = pixel_lattice(scan).half, len(scan.image)
    image = np.zeros((2 * half + 1,) * 2)
    corner = half - size // 2
    image[corner : corner + size, corner : corner + size] = scan.image
    return image


def write_arrays(file: Path, scan: Scan, seen: np.ndarray, sinograms: dict[str, np.ndarray]) -> None:
    """Write the sinograms as ``.npz``, with their angles (radians), lines and the measured views' numbers."""
    stream = BytesIO()
    named = {name.removeprefix("AutoInt ").lower(): values for name, values in sinograms.items()}
    arrays: dict[str, Any] = {"sinogram": scan.truth, "theta": scan.theta, "rho": scan.rho, "seen": seen, **named}
    np.savez_compressed(stream, **arrays)
    write_whole(file, stream.getvalue())


def sinogram_figure(scan: Scan, seen: np.ndarray, sinograms: dict[str, np.ndarray]) -> Figure:
    """Draw the paper's Figure 3: the sinograms side by side, their errors, and the scan line through the centre."""
    from matplotlib.figure import Figure

    measured = f"the {len(seen)} measured"
    panels = {"all views": scan.truth, measured: measured_rows(scan.values, seen), **sinograms}
    tall = picture_rows(len(scan.theta)) / DPI + 0.5  # with its title and axis
    figure = Figure(figsize=(2.6 * len(panels), 2 * tall + 2.9), layout="constrained")
    grid = figure.add_gridspec(3, len(panels), height_ratios=(tall, tall, 2.9))
    extent = (scan.rho[0], scan.rho[-1], math.degrees(scan.theta[-1]), math.degrees(scan.theta[0]))
    # Beyond one row for each view, "antialiased" takes their mean where "nearest" would leave some out.
    look: dict[str, Any] = {
        "aspect": "auto",
        "extent": extent,
        "interpolation": "nearest" if len(scan.theta) <= MOST_ROWS else "antialiased",
    }
    high, worst = float(scan.truth.max()), 0.05 * float(scan.truth.max())
    for number, (name, values) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[0, number])
        axes.set_facecolor(UNSEEN)
        axes.imshow(values, cmap="gray", vmin=0, vmax=high, **look)
        axes.set(title=name, xlabel="ρ", ylabel="θ / degrees" if number == 0 else "")
        if name in sinograms:
            axes = figure.add_subplot(grid[1, number])
            shown = axes.imshow(values - scan.truth, cmap="RdBu", vmin=-worst, vmax=worst, **look)
            unseen = unmeasured(scan, seen)
            axes.set(
                title=f"error, {psnr(values[unseen], scan.truth[unseen], high):.1f} dB unseen"
                if unseen.any()
                else "error",
                xlabel="ρ",
            )
            figure.colorbar(shown, ax=axes)
    axes, middle = figure.add_subplot(grid[2, :]), int(np.abs(scan.rho).argmin())
    degrees = np.degrees(scan.theta)
    axes.plot(degrees, scan.truth[:, middle], color="black", lw=2.5, label="all views")
    for name, values in sinograms.items():
        axes.plot(degrees, values[:, middle], lw=1.2, label=name)
    axes.plot(degrees[seen], scan.values[seen, middle], "o", color="black", label="measured")
    axes.set(title=f"scan line through the centre, ρ = {scan.rho[middle]:.3f}", xlabel="θ / degrees", ylabel="s")
    axes.legend(fontsize=8, ncols=2)
    axes.grid(alpha=0.3)
    return figure


def picture_rows(count: int) -> int:
    """Return how many pixels high the picture of a sinogram of this many views is."""
    return min(max(PANEL, count), MOST_ROWS)


def measured_rows(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return a picture of the measured views alone, NaN between them: (rows, P), every one a band that can be seen.

    A band is 3/5 of the way to the next measured view high, about the place that its view has among all; of more views
    than a picture can show with gaps, it reaches as far as the next band.
    """
    count = len(values)
    if len(seen) == count:
        return values
    rows = max(picture_rows(count), count)
    places = (seen + 0.5) * (rows / count)
    half = 0.3 * float(np.diff(places).min()) if len(seen) <= rows / 5 else math.inf
    away = np.abs((np.arange(rows) + 0.5)[:, None] - places)
    near = away.argmin(1)
    inside = away.min(1) <= half
    inside[np.clip(places.astype(int), 0, rows - 1)] = True
    return np.where(inside[:, None], values[seen[near]], np.nan)


def images_figure(scan: Scan, filled: dict[str, Filled]) -> Figure:
    """Draw the images: the object, each method's, and filtered back-projections of filled sinograms below."""
    from matplotlib.figure import Figure

    truth, (scale, unit) = true_image(scan), scan.pixel_units
    full = filtered_back_projection(scan.truth, scan.theta, scan)
    top = {"object" if truth is not None else "FBP of all views": full if truth is None else truth}
    top |= {name: f.image for name, f in filled.items() if f.image is not None}
    bottom = {"FBP of all views": full} | {
        f"FBP of {name}": filtered_back_projection(f.sinogram, scan.theta, scan)
        for name, f in filled.items()
        if f.sinogram is not None and name.startswith("AutoInt")
    }
    high = scale * float(np.percentile(next(iter(top.values())), 99.9))
    columns = max(len(top), len(bottom))
    figure = Figure(figsize=(2.5 * columns + 0.8, 5.6), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for row, images in zip(axes, (top, bottom), strict=True):
        for place in row:
            place.axis("off")
        for place, (name, image) in zip(row, images.items(), strict=False):
            shown = place.imshow(scale * image, cmap="gray", vmin=0, vmax=high)
            known = "" if truth is None or image is truth else f", {psnr(image, truth, float(truth.max())):.1f} dB"
            place.set_title(f"{name}{known}", fontsize=9)
    figure.colorbar(shown, ax=axes, label=unit, shrink=0.8, extend="both")
    return figure


def phantom_name(run: RunConfig) -> str:
    """Return what a run's phantom or scan is called."""
    phantom = run.options["phantom"]
    return Path(phantom["path"]).stem if phantom.get("path") else str(phantom["name"])


def table(name: str, views: int, rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table for people."""
    columns = {key: head for key, head in COLUMNS.items() if key != "run"}
    return markdown([{"phantom": name, "views": views, **row} for row in rows], columns, {})
