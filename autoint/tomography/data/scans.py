"""Measured scans: HDF5 files in the Data Exchange layout, and sinograms in arrays and pictures."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoint.registry import PHANTOMS, one_of
from autoint.tomography.data import arrays, mending
from autoint.tomography.data.exchange import read_exchange
from autoint.tomography.data.fans import Fan
from autoint.tomography.data.sinograms import Scan

log = logging.getLogger(__name__)
UNITS = ("degrees", "radians")
DARKEST = 20.0
"""−log of the transmission that no detector measures: of 10⁸ photons not one is left."""
TINY = 1e-20
"""Of values, and one over it: the squares of others are none that float32 has."""


@PHANTOMS.register("scan")
def scan(
    data_dir: str,
    rho: int | None,
    theta: int | None,
    *,
    path: str = "",
    row: int = 0,
    center: float | None = None,
    unit: str | None = None,
    pixel_size: float | None = None,
    rings: int | None = None,
    spikes: float | None = None,
    source: float | None = None,
    axis: float | None = None,
    curved: bool = False,
    padding: float = 0.0,
) -> Scan:
    """One slice of a scan in the Data Exchange layout, ``exchange/{data, data_white, data_dark, theta}``, or an NXtomo.

    s = −log((data − dark) / (white − dark)), white and dark being means over their frames.

    Args:
        data_dir: where a relative path begins.
        rho, theta: are the scan's own; give neither.
        path: of the HDF5 file.
        row: of the detector, the slice.
        center: pixel of the axis of rotation; None finds it.
        unit: of the angles; None takes what the file says, or degrees.
        pixel_size: of the detector; the slice is written per this unit of length, and per pixel if None.
        rings: columns of a median over sorted columns, 21 or so, which removes stripes; None leaves them.
        spikes: share of the largest values, 0.1 or so, by which bad pixels are off the median; None repairs none.
        source: of a fan: its distance from the detector, in pixels or in the unit of pixel_size; None: parallel rays.
        axis: of rotation: its distance from a fan's source likewise; None: pixels are of the size at the axis.
        curved: whether the fan's detector is an arc about the source.
        padding: how far the object reaches beyond what the detector sees, as a share of that.
    """
    file = _file(data_dir, path, "scan", rho, theta)
    read = read_exchange(file, row)
    if None not in (unit, read.unit) and unit != read.unit:
        raise ValueError(f"phantom.unit={unit}: {file} says {read.unit} of its angles; leave phantom.unit out")
    values = mending.absorption(file, read.data, read.white, read.dark)
    check_level("row", row, read.rows, source)
    unit = unit or read.unit or "degrees"
    found = measured(str(file), values, read.theta, center, unit, pixel_size, rings, spikes)
    return seen_by(found, source, axis, curved, padding)


@PHANTOMS.register("sinogram")
def sinogram(
    data_dir: str,
    rho: int | None,
    theta: int | None,
    *,
    path: str = "",
    angles: str | None = None,
    center: float | None = None,
    unit: str | None = None,
    slice: int | None = None,
    row: int | None = None,
    transpose: bool | None = None,
    pixel_size: float | None = None,
    rings: int | None = None,
    spikes: float | None = None,
    source: float | None = None,
    axis: float | None = None,
    curved: bool = False,
    padding: float = 0.0,
) -> Scan:
    """A sinogram, one row per view: ``.npy``, ``.npz`` (``sinogram`` and ``theta``) or ``.tif``; or one of a stack.

    Args:
        data_dir: where relative paths begin.
        rho, theta: are the sinogram's own; give neither.
        path: of the file.
        angles: file of the angles, or name of an array in the ``.npz``; None takes the ``.npz``'s, or else spreads them
            over half a turn.
        center: pixel of the axis of rotation; None finds it.
        unit: of the angles; None takes what the array's name says, or degrees.
        slice: number of the sinogram, where the file is a stack of sinograms.
        row: of the detector, where the file is a stack of views.
        transpose: whether the file has one column per view; None takes rows, unless they cannot be views.
        pixel_size: of the detector; the slice is written per this unit of length, and per pixel if None.
        rings: columns of a median over sorted columns, 21 or so, which removes stripes; None leaves them.
        spikes: share of the largest values, 0.1 or so, by which bad pixels are off the median; None repairs none.
        source: of a fan: its distance from the detector, in pixels or in the unit of pixel_size; None: parallel rays.
        axis: of rotation: its distance from a fan's source likewise; None: pixels are of the size at the axis.
        curved: whether the fan's detector is an arc about the source.
        padding: how far the object reaches beyond what the detector sees, as a share of that.
    """
    file = _file(data_dir, path, "sinogram", rho, theta)
    found = arrays.contents(file)
    degrees, said = None, None
    if angles is not None and angles not in found.others:
        degrees, said = arrays.read_angles(_file(data_dir, angles, "sinogram", None, None))
        arrays.angles_of(file, found, (), angles)
    elif name := arrays.angles_of(file, found, _sizes(found.values, transpose), angles):
        degrees, said = found.angles(name), arrays.unit_of(name)
    if unit is not None and said not in (None, unit):
        raise ValueError(
            f"phantom.unit={unit}: the array of the angles says {said} by its name; leave phantom.unit out"
        )
    unit = unit or said or "degrees"
    values = arrays.slice_of(file, found, slice, row, None if degrees is None else np.size(degrees))
    if min(values.shape) < 2:
        raise ValueError(
            f"{file}: the sinogram has shape {values.shape}; expected (angles, detector pixels), each at least 2"
        )
    count = None if degrees is None else np.size(degrees)
    values = rows_are_views(str(file), values.astype(float), count, transpose)
    if degrees is None:
        log.warning(
            "%s: no angles in it or by phantom.angles=FILE; its %d views count as evenly spread over 180 degrees, "
            "without the last",
            file,
            len(values),
        )
        degrees = np.arange(len(values)) * (180.0 if unit == "degrees" else math.pi) / len(values)
    check_sinogram(str(file), values)
    if row is not None and found.values.ndim == 3:
        check_level("row", row, found.values.shape[1], source)
    scan = measured(str(file), values, degrees, center, unit, pixel_size, rings, spikes)
    return seen_by(scan, source, axis, curved, padding)


def check_level(key: str, row: int, rows: int, source: float | None) -> None:
    """Refuse a row that a source does not stand level with: its rays are a cone's, and leave the slice."""
    if source is not None and rows > 2 and abs(row - (rows - 1) / 2) > 0.5:
        raise ValueError(
            f"phantom.{key}={row}, phantom.source={source:g}: of a cone beam on {rows} rows only the middle one, "
            f"{rows // 2}, sees a slice; cone beams are not reconstructed"
        )


def seen_by(
    scan: Scan, source: float | None, axis: float | None, curved: bool, padding: float, key: str = "phantom."
) -> Scan:
    """Return the scan as what a fan's rays have measured, if there is a source, of an object that is padded.

    Args:
        scan: the views and their angles.
        source, axis: distances from the source to the detector and to the axis, in pixels or the unit of length.
        curved: whether the detector is an arc about the source.
        padding: of the disc, as a share of its radius.
        key: how keys begin in errors.
    """
    if not 0 <= padding <= 2:
        raise ValueError(f"{key}padding={padding}: share of the detector's reach; give 0 to 2")
    if source is None:
        if axis is not None or curved:
            raise ValueError(f"{key}axis={axis}, {key}curved={curved}: of a fan beam; give {key}source, too")
        return replace(scan, padding=padding)
    if axis is not None and not 0 < axis <= source:
        raise ValueError(f"{key}axis={axis}: must be positive, and at most {key}source={source:g}")
    pixel, size = (
        scan.pixel_size or 1.0,
        None if scan.pixel_size is None else scan.pixel_size * (axis or source) / source,
    )
    middle, last = scan.values.shape[1] / 2, scan.values.shape[1] - 1
    farther = middle if scan.center is None else max(scan.center, last - scan.center)
    found = replace(scan, fan=Fan(source / pixel, curved).checked(farther), padding=padding, pixel_size=size)
    if scan.center is not None and found.radius >= source / pixel:
        raise ValueError(f"{key}padding={padding}: the object would reach to the source; give less")
    return found


def check_sinogram(source: str, values: np.ndarray) -> None:
    """Refuse what is no −log of a transmission; warn of what looks like the transmission itself."""
    mending.check_numbers(source, values)
    low, high = float(values.min()), float(values.max())
    if not high > 0 or low == high:
        raise ValueError(
            f"{source}: all values lie in [{low:g}, {high:g}]: nothing to reconstruct; give −log of the transmission"
        )
    if not TINY < high < 1 / TINY:
        raise ValueError(f"{source}: the largest value is {high:.3g}; give −log of the transmission, of the order of 1")
    if low < -0.1 * high:
        raise ValueError(
            f"{source}: values go down to {low:.3g} (largest {high:.3g}); give −log of the transmission, not counts"
        )
    if mending.looks_like_transmission(values):
        log.warning(
            "%s: the values are largest at both ends of the detector, as the light's are that passes beside an object; "
            "give −log of the transmission",
            source,
        )
    elif high > DARKEST and np.percentile(values, 1) > 0:  # those of images in pixels are zero beside the object
        log.warning(
            "%s: values up to %.4g and hardly a zero; of −log of the transmission a detector measures %g at most: if "
            "these are counts, give −log of their share of the light",
            source,
            high,
            DARKEST,
        )


def _sizes(values: np.ndarray, transpose: bool | None) -> tuple[int, ...]:
    """Return how many views an array may have, the likeliest first."""
    if values.ndim == 2:
        rows, columns = values.shape
        return {None: (rows, columns), False: (rows,), True: (columns,)}[transpose]
    return tuple(dict.fromkeys((*values.shape[1:2], *values.shape[:1], *values.shape[2:])))


def rows_are_views(source: str, values: np.ndarray, angles: int | None, transpose: bool | None) -> np.ndarray:
    """Return the sinogram with a row for each view; refuse one that has columns for them unless told what it has."""
    rows, columns = values.shape
    if transpose is None:
        why = ""
        if angles is not None and rows != columns == angles:
            why = f"{rows} views but {angles} angles; it may be transposed, with a column for each view"
        elif (angles is None or rows == columns) and mending.looks_transposed(values):
            why = "it looks transposed: its columns, not its rows, have all the same total, as views of an object have"
        if why:
            raise ValueError(f"{source}: {why}; give phantom.transpose=true, or false to take its rows for views")
    return values.T.copy() if transpose else values


def measured(
    source: str,
    values: np.ndarray,
    angles: np.ndarray,
    center: float | None,
    unit: str,
    pixel_size: float | None = None,
    rings: int | None = None,
    spikes: float | None = None,
) -> Scan:
    """Return the scan of these views (A, P) at these angles, in order; repeated angles are averaged and told of."""
    one_of("phantom.unit", unit, UNITS)
    if pixel_size is not None and not 0 < pixel_size < math.inf:
        raise ValueError(f"phantom.pixel_size={pixel_size}: the length of a detector pixel must be positive")
    count, pixels = values.shape
    angles = _checked_angles(source, np.asarray(angles, float).ravel(), (count, pixels), unit)
    live = mending.live_views(source, values)
    values, angles, count = mending.mended(source, values[live]), angles[live], len(live)
    values = values if spikes is None else mending.without_spikes(source, values, spikes)
    values = values if rings is None else mending.without_rings(source, values, rings)
    theta = np.deg2rad(angles) if unit == "degrees" else angles
    if (np.diff(theta) < 0).any():
        log.warning("%s: the angles are not in order; the views were sorted by angle", source)
    order = np.argsort(theta, kind="stable")
    theta, values = theta[order], values[order]
    fresh = np.flatnonzero(np.diff(theta, prepend=-np.inf) > 1e-9)
    if len(fresh) < count:
        log.warning("%s: %d repeated angles; their views were averaged", source, count - len(fresh))
        values = np.add.reduceat(values, fresh) / np.diff(fresh, append=count)[:, None]
    if center is not None and not 0 < center < pixels - 1:
        raise ValueError(f"phantom.center={center}: must lie on the detector, between 0 and {pixels - 1}")
    return Scan(values, theta[fresh], center, pixel_size=pixel_size)


def _checked_angles(source: str, angles: np.ndarray, shape: tuple[int, int], unit: str) -> np.ndarray:
    """Return the angles themselves; ``ValueError`` where they are not those of so many views."""
    count, pixels = shape
    if len(angles) != count:
        turned = "; the views may be transposed" if len(angles) == pixels else ""
        raise ValueError(f"{source}: {count} views but {len(angles)} angles; give one angle per view{turned}")
    if count < 2:
        raise ValueError(f"{source}: {count} view; at least 2 are needed")
    span = checked_span(source, angles, unit)
    if not span:
        raise ValueError(f"{source}: all {count} views have the same angle, {angles[0]:g}; give one angle per view")
    if span > (360 if unit == "degrees" else 2 * math.pi) * (1 + 1e-6):
        mend = "set phantom.unit=degrees, or mend the angles" if unit == "radians" else "give one turn at most"
        raise ValueError(f"{source}: the angles span {span:.4g} {unit}, more than one turn; {mend}")
    return angles


def checked_span(source: str, angles: np.ndarray, unit: str) -> float:
    """Return how far apart angles are; ``ValueError`` where they are no numbers, or look like those of another unit."""
    if not np.isfinite(angles).all():
        raise ValueError(
            f"{source}: angle {int(np.flatnonzero(~np.isfinite(angles))[0])} is not a finite number; mend the angles"
        )
    span = float(np.ptp(angles))
    if unit == "degrees" and 0 < span <= 2 * math.pi + 1e-6:
        raise ValueError(
            f"{source}: the angles span {span:.4g} degrees, which looks like radians; set phantom.unit=radians, or "
            "mend the angles"
        )
    return span


def _file(data_dir: str, path: str, name: str, rho: int | None, theta: int | None) -> Path:
    """Return the file, or say what is missing."""
    if rho is not None or theta is not None:
        raise ValueError(
            f"rho={rho}, theta={theta}: phantom={name} is measured and has its own pixels and angles; leave them out"
        )
    if not path:
        raise ValueError(f"phantom.path is empty: give the file, as in phantom={name} phantom.path=FILE")
    file = Path(data_dir) / path
    if not file.is_file():
        raise ValueError(f"{file}: no such file; set phantom.path, relative to data_dir={data_dir} or absolute")
    return file
