"""A stack of slices: priors and axis are found on a few of them, and each slice is written when it is found."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import math
import multiprocessing
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from autoint.files.reading import is_number, read_json
from autoint.files.whole_files import new_part, write_json, write_whole
from autoint.registry import COMMANDS, PHANTOMS, at_least_one
from autoint.reports import pictures
from autoint.runs.command_line.from_python import composed
from autoint.runs.progress import Once, telling, tracked
from autoint.tomography.classics import Filled, pixel_lattice
from autoint.tomography.data import arrays
from autoint.tomography.data.exchange import read_exchange
from autoint.tomography.data.sinograms import Scan, seen_views
from autoint.tomography.evaluation import image_of, slice_of
from autoint.tomography.models import LatticeObject
from autoint.tomography.search import Search, Trial, least_error, trials_of
from autoint.tomography.sparse_gradient import Prior

log = logging.getLogger(__name__)
PILOTS = 3
"""Slices that the prior and the axis of rotation are found on."""
RECIPE = "volume.json"


@dataclass(frozen=True)
class Recipe:
    """How every slice of a volume is found.

    Attributes:
        phantom: the scan, and its options but for the slice.
        along: what chooses a slice: row or slice.
        data_dir: where relative paths begin.
        subsample: every so manieth view is used.
        counted: whether lines are weighed by the light that they let through.
        passes: of the fit of a slice.
        asked: spacing, exponent, strength and patches, as far as they were given.
        slices: numbers of the first, and of the one after the last.
        prior: spacing in pixels, exponent, strength and deviation that were found.
        center: pixel of the axis at slice 0, and how far it moves from one slice to the next.
        size: pixels of each side of a slice.
        file: of the scan, and of its angles: how large it is and when it was written.
    """

    phantom: dict[str, Any]
    along: str
    data_dir: str
    subsample: int
    counted: bool
    passes: int
    asked: tuple[float | None, float | None, float | None, float | None]
    slices: tuple[int, int]
    prior: tuple[float, ...] | None = None
    center: tuple[float, float] | None = None
    size: int = 0
    file: tuple[str, ...] = ()

    def scan(self, number: int) -> Scan:
        """Return the views of a slice that are used, with its axis if that is known."""
        scan: Scan = PHANTOMS.build({**self.phantom, self.along: number}, self.data_dir, None, None)
        seen = seen_views(len(scan.theta), None, self.subsample)
        scan = replace(scan, values=scan.values[seen], theta=scan.theta[seen])
        if scan.center is None and self.center is not None:
            scan = replace(scan, center=self.center[0] + self.center[1] * number)
        return scan

    def search(self, scan: Scan, trials: list[Trial]) -> Search:
        """Return what finds the object of a slice."""
        found = LatticeObject(scan.values, scan.theta, scan.rho, counted=self.counted, gamma=scan.gamma)
        return Search(found, trials, self.passes)

    def image(self, number: int) -> np.ndarray:
        """Find a slice, (size, size) in float32, the axis in its middle."""
        assert self.prior is not None
        scan, (spacing, *prior) = self.scan(number), self.prior
        search = self.search(scan, [(spacing / scan.radius, Prior(*prior))])
        for step in range(search.steps):
            search.advance(step)
        image = slice_of(Filled(None, image_of(search.object, scan)), scan)
        less = (len(image) - self.size) // 2  # the axis may be nearer to the detector's middle than in other slices
        return np.pad(image, max(0, -less))[max(0, less) : max(0, less) + self.size, max(0, less) :][:, : self.size]


def prepared(recipe: Recipe) -> Recipe:
    """Return the recipe with the prior, the axis and the size that a few of the slices have shown."""
    first, after = recipe.slices
    numbers = np.unique(np.linspace(first, after - 1, PILOTS + 2)[1:-1].round().astype(int)).tolist()
    scans = [scan.centred(np.arange(len(scan.theta))) for scan in map(recipe.scan, numbers)]
    centers = [float(scan.center or 0) for scan in scans]
    slope, start = np.polyfit(numbers, centers, 1) if len(numbers) > 1 else (0.0, centers[0])
    log.info("axis of rotation in slices %s: pixels %s", numbers, ", ".join(f"{c:.2f}" for c in centers))
    ends = [replace(scans[0], center=float(start + slope * n)) for n in (first, after - 1)]
    radius = scans[0].radius  # of the others it differs as the axis moves, and may lie beyond a bound for trials
    trials = [trial for trial in trials_of(*recipe.asked, radius) if math.isfinite(trial[1].strength)]
    chosen = trials[0]
    if len(trials) > 1 and len(scans[0].theta) > 3:
        errors = []
        for scan in tracked(scans, "prior", "slice"):
            search = recipe.search(scan, [(h * radius / scan.radius, prior) for h, prior in trials])
            for step in range(search.steps - recipe.passes):
                search.advance(step)
            scores = search.scores.numpy()
            errors.append(np.log(np.where(np.isfinite(scores), scores, scores[np.isfinite(scores)].max())))
        _, chosen = least_error(list(zip(np.exp(np.mean(errors, axis=0)).tolist(), trials, strict=True)))
    spacing, prior = chosen[0] * radius, chosen[1]
    log.info(
        "prior of all slices: spacing %.3g pixels, exponent %g, strength %g, patches %g",
        spacing,
        prior.exponent,
        prior.strength,
        prior.deviation,
    )
    size = max(2 * pixel_lattice(scan).half + 1 for scan in ends)
    return replace(
        recipe,
        prior=(spacing, prior.exponent, prior.strength, prior.deviation),
        center=(float(start), float(slope)),
        size=size,
    )


def slice_file(folder: Path, number: int) -> Path:
    """Return where a slice is written."""
    return folder / "slices" / f"slice_{number:05d}.tif"


def _find(recipe: Recipe, folder: Path, number: int) -> int:
    """Find a slice and write it."""
    torch.set_num_threads(1)
    if recipe.phantom["name"] == "sinogram":
        arrays.contents(Path(recipe.data_dir) / recipe.phantom["path"], keep=True)
    stream = BytesIO()
    Image.fromarray(recipe.image(number)).save(stream, "TIFF")
    write_whole(slice_file(folder, number), stream.getvalue())
    return number


def volume(recipe: Recipe, folder: Path, output: str = "tiff", workers: int = 1) -> Path:
    """Find all slices of a volume, those that are in ``folder`` already left out, and write them as one file.

    Slices are found one by one in each of the processes, so that memory holds the stack that they are read from (of a
    file in the Data Exchange layout a slice of it) and one slice for each, however many there are. Stopped, the same
    call goes on.

    Args:
        recipe: how.
        folder: for the slices as they are found, ``volume.tif``, ``.h5`` or ``.npz``, and ``cuts.png``.
        output: tiff, hdf5 or npz.
        workers: processes.

    Returns:
        The file of the volume, (slices, n, n) in float32.
    """
    at_least_one(workers=workers)
    (folder / "slices").mkdir(parents=True, exist_ok=True)
    with Once() as once:
        recipe = _resumed(recipe, folder)
        numbers = range(*recipe.slices)
        missing = [number for number in numbers if not slice_file(folder, number).is_file()]
        if len(missing) < len(numbers):
            log.info("%s: %d of %d slices are there already", folder, len(numbers) - len(missing), len(numbers))
        find, processes = functools.partial(_find, recipe, folder), min(workers, len(missing))
        with contextlib.ExitStack() as stack:
            results: Iterator[int] = map(find, missing)
            if processes > 1:  # which begin anew: a copy of one that has threads may never wake up
                recipe.scan(missing[0])  # what reading tells is told here, not by each of them
                pool = multiprocessing.get_context("spawn").Pool(processes, Once.__enter__, (Once(once.told),))
                results = stack.enter_context(pool).imap_unordered(find, missing)
            for _ in tracked(missing, folder.name, "slice"):
                next(results)
        return _joined(recipe, folder, output)  # with the processes ended, and their memory free


def _resumed(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe that the folder's slices have, if it is the one that is asked for; or find and note it."""
    file, asked = folder / RECIPE, json.loads(json.dumps(asdict(recipe)))
    if file.is_file():
        mend = "remove the folder, or give another by --to"
        found = {"file": asked["file"], **read_json(file, mend)}  # older ones have none
        if lacking := ", ".join(key for key in asked if key not in found):
            raise ValueError(f"{file}: damaged ({lacking} missing); {mend}")
        same = {key: found[key] for key in asked if key not in ("prior", "center", "size", "slices")}
        other = [key for key, value in same.items() if value != asked[key]]
        if other:
            raise ValueError(
                f"{folder}: holds slices of another {other[0]}, {same[other[0]]} instead of {asked[other[0]]}; give "
                "another folder by --to"
            )
        known = {key: found[key] for key in ("prior", "center", "size")}
        if wrong := _not_of(recipe, **known):
            raise ValueError(f"{file}: damaged ({wrong} is {found[wrong]!r:.80}); {mend}")
        return replace(recipe, **known)
    recipe = prepared(recipe)
    write_json(file, asdict(recipe))
    return recipe


def _not_of(recipe: Recipe, prior: Any, center: Any, size: Any) -> str:
    """Return which of what a folder has noted cannot have been found for the scan, or nothing."""
    scan = recipe.scan(recipe.slices[0])
    pixels = scan.values.shape[1] * (1 + 2 * scan.padding)
    for key, value, count in (("prior", prior, 4), ("center", center, 2)):
        if not isinstance(value, list) or len(value) != count or not all(map(is_number, value)):
            return key
    spacing, exponent, strength, deviation = prior
    if not (0.2 <= spacing <= pixels and 0 < exponent <= 2 and 0 <= deviation <= 1 and strength >= 0):
        return "prior"
    if not all(-pixels <= center[0] + center[1] * n <= 2 * pixels for n in recipe.slices):
        return "center"
    return "" if is_number(size) and isinstance(size, int) and 0 < size <= 4 * pixels + 3 else "size"


def _joined(recipe: Recipe, folder: Path, output: str) -> Path:
    """Write the slices as one file, and the picture of three cuts through them."""
    numbers, size = range(*recipe.slices), recipe.size
    unit = recipe.scan(numbers[0]).pixel_units[1]
    middle, cuts = len(numbers) // 2, np.empty((2, len(numbers), size), np.float32)
    kept: dict[str, np.ndarray] = {}

    def slices() -> Iterator[np.ndarray]:
        for place, number in enumerate(numbers):
            try:
                with warnings.catch_warnings(action="error"), Image.open(slice_file(folder, number)) as picture:
                    image = np.asarray(picture)
            except (OSError, SyntaxError, ValueError, UserWarning) as error:
                raise ValueError(f"{slice_file(folder, number)}: damaged ({error}); remove it, and go on") from error
            if image.shape != (size, size) or image.dtype != np.float32:
                raise ValueError(f"{slice_file(folder, number)}: {image.shape} of {image.dtype}; remove it, and go on")
            cuts[0, place], cuts[1, place] = image[size // 2], image[:, size // 2]
            if place == middle:
                kept["slice"] = image
            yield image

    suffix, write = WRITERS[output]
    file, part = folder / f"volume{suffix}", new_part(folder, ".volume-")
    try:
        with part.open("w+b") as stream:  # TIFF and HDF5 read what they have written
            write(stream, slices(), (len(numbers), size, size), unit)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    _draw(folder / "cuts.png", {f"slice {numbers[middle]}": kept["slice"], "row": cuts[0], "column": cuts[1]}, unit)
    return file


def _write_tiff(stream: IO[bytes], slices: Iterator[np.ndarray], shape: tuple[int, ...], unit: str) -> None:
    pages = map(Image.fromarray, slices)
    next(pages).save(stream, "TIFF", save_all=True, append_images=pages, big_tiff=4 * math.prod(shape) > 2**31)


def _write_hdf5(stream: IO[bytes], slices: Iterator[np.ndarray], shape: tuple[int, ...], unit: str) -> None:
    import h5py

    with h5py.File(stream, "w") as file:
        out = file.create_dataset("volume", shape, np.float32, chunks=(1, *shape[1:]))
        out.attrs["unit"] = unit
        for number, image in enumerate(slices):
            out[number] = image


def _write_npz(stream: IO[bytes], slices: Iterator[np.ndarray], shape: tuple[int, ...], unit: str) -> None:
    with zipfile.ZipFile(stream, "w") as archive, archive.open("volume.npy", "w", force_zip64=True) as entry:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(entry, header)
        for image in slices:
            entry.write(np.ascontiguousarray(image, "<f4").tobytes())


WRITERS: dict[str, tuple[str, Callable[[IO[bytes], Iterator[np.ndarray], tuple[int, ...], str], None]]] = {
    "tiff": (".tif", _write_tiff),
    "hdf5": (".h5", _write_hdf5),
    "npz": (".npz", _write_npz),
}


def _draw(file: Path, cuts: dict[str, np.ndarray], unit: str) -> None:
    """Draw the middle slice, and the cuts along its middle row and column through all slices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    panels, high = figure.subplots(1, 3), float(np.percentile(next(iter(cuts.values())), 99.9))
    for axes, (name, image) in zip(panels, cuts.items(), strict=True):
        shown = axes.imshow(image, cmap="gray", vmin=0, vmax=high, interpolation="nearest")
        axes.set(title=name if name.startswith("slice") else f"middle {name} of every slice", xticks=[], yticks=[])
        axes.set(ylabel="" if name.startswith("slice") else "slices")
    figure.colorbar(shown, ax=panels, label=unit, shrink=0.8, extend="both")
    pictures.write_figure(file, figure, dpi=100)


def _dated(file: Path) -> str:
    """Return how large a file is and when it was written; nothing if it is none."""
    found = file.stat() if file.is_file() else None
    return "" if found is None else f"{found.st_size} bytes of {datetime.fromtimestamp(found.st_mtime, UTC)}"


def slices_of(text: str, count: int) -> tuple[int, int]:
    """Return the first number and the one after the last of FIRST:AFTER, of which either may be left out."""
    first, colon, after = text.partition(":")
    try:
        bounds = int(first or 0), int(after or count) if colon else int(first) + 1
    except ValueError:
        bounds = (0, 0)
    if not 0 <= bounds[0] < bounds[1] <= count:
        raise ValueError(f"--slices {text}: give FIRST:AFTER with 0 <= FIRST < AFTER <= {count}, such as 0:{count}")
    return bounds


def _count(phantom: dict[str, Any], data_dir: str, along: str) -> int:
    """Return how many slices a scan has."""
    file = Path(data_dir) / str(phantom.get("path") or "")
    if not file.is_file():
        raise ValueError(f"{file}: no such file; give phantom.path=FILE, relative to data_dir={data_dir} or absolute")
    if phantom["name"] == "scan":
        return read_exchange(file, 0).rows
    shape = arrays.contents(file).values.shape
    if len(shape) != 3:
        raise ValueError(f"{file}: {'×'.join(map(str, shape))} numbers, one sinogram; a volume is a stack of them")
    return shape[1 if along == "row" else 0]


@COMMANDS.register("volume")
def main(arguments: list[str]) -> None:
    """Every slice of a scan, as one volume: autoint volume phantom=scan phantom.path=FILE."""
    parser = argparse.ArgumentParser(prog="autoint volume", description=(main.__doc__ or "").partition(":")[0])
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="as for train: phantom=scan phantom.path=FILE")
    parser.add_argument("--slices", default=":", metavar="FIRST:AFTER", help="which of them; all by default")
    parser.add_argument("--along", choices=("row", "slice"), help="of a detector (scan), or of a stack of sinograms")
    parser.add_argument("--to", type=Path, default=Path("outputs/volume"), metavar="FOLDER", help="(outputs/volume)")
    parser.add_argument("--output", choices=tuple(WRITERS), default="tiff", help="the format of the volume (tiff)")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a slice of its own (1)")
    given = parser.parse_intermixed_args(arguments)
    for word in given.words:
        if "=" not in word:
            raise ValueError(f"'{word}': not an argument of volume; give KEY=VALUE as for train, such as phantom=scan")
    config, _ = composed(["task=ct", *given.words])
    o, phantom = config.options, dict(config.options["phantom"])
    if phantom["name"] not in ("scan", "sinogram"):
        raise ValueError(f"phantom={phantom['name']}: has one slice; volumes are of phantom=scan or phantom=sinogram")
    along = given.along or ("row" if phantom["name"] == "scan" else "slice")
    if phantom.get("source") is not None:
        raise ValueError("phantom.source: rays of a fan leave the slice in all rows but one: a cone; give no source")
    recipe = Recipe(
        {key: value for key, value in phantom.items() if key not in ("row", "slice")},
        along,
        config.data_dir,
        o["subsample"] or 1,
        bool(o["counted"]),
        o["passes"],
        (o["spacing"], o["exponent"], o["strength"], o["patches"]),
        slices_of(given.slices, _count(phantom, config.data_dir, along)),
        file=tuple(_dated(Path(config.data_dir) / name) for name in (phantom["path"], phantom.get("angles") or "")),
    )
    with telling(log):
        file = volume(recipe, given.to, given.output, given.workers)
    print(f"{file}\ncuts: {given.to / 'cuts.png'}\nslices: {given.to / 'slices'}")
