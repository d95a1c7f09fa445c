"""Measured scans: HDF5 files in the Data Exchange layout, and sinograms in arrays and pictures."""

from __future__ import annotations

import logging
import math
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from autoint.files.reading import read_npy
from autoint.registry import PHANTOMS, one_of
from autoint.tomography.data.exchange import LARGEST, read_exchange
from autoint.tomography.data.sinograms import Scan

log = logging.getLogger(__name__)
UNITS = ("degrees", "radians")
MOST_DEAD = 0.1  # share of detector columns that may be mended


@PHANTOMS.register("scan")
def scan(
    data_dir: str,
    rho: int | None,
    theta: int | None,
    *,
    path: str = "",
    row: int = 0,
    center: float | None = None,
    unit: str = "degrees",
) -> Scan:
    """One slice of a scan in the Data Exchange layout: ``exchange/{data, data_white, data_dark, theta}``.

    s = −log((data − dark) / (white − dark)), white and dark being means over their frames.

    Args:
        data_dir: where a relative path begins.
        rho, theta: are the scan's own; give neither.
        path: of the HDF5 file.
        row: of the detector, the slice.
        center: pixel of the axis of rotation; None finds it.
        unit: of the angles.
    """
    file = _file(data_dir, path, "scan", rho, theta)
    data, white, dark, angles = read_exchange(file, row)
    values = absorption(file, data, white, dark)
    return measured(str(file), values, angles, center, unit)


@PHANTOMS.register("sinogram")
def sinogram(
    data_dir: str,
    rho: int | None,
    theta: int | None,
    *,
    path: str = "",
    angles: str | None = None,
    center: float | None = None,
    unit: str = "degrees",
) -> Scan:
    """A sinogram, one row per view: ``.npy``, ``.npz`` (``sinogram`` and ``theta``) or ``.tif``.

    Args:
        data_dir: where relative paths begin.
        rho, theta: are the sinogram's own; give neither.
        path: of the file.
        angles: file of the angles, ``.npy`` or text; None takes the ``.npz``'s, or else spreads them over half a turn.
        center: pixel of the axis of rotation; None finds it.
        unit: of the angles.
    """
    file = _file(data_dir, path, "sinogram", rho, theta)
    arrays = _read_arrays(file)
    values = arrays["sinogram"]
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(
            f"{file}: the sinogram has shape {values.shape}; expected (angles, detector pixels), each at least 2"
        )
    _check_numbers(str(file), values)
    if angles is not None:
        arrays["theta"] = next(iter(_read_arrays(_file(data_dir, angles, "sinogram", None, None)).values()))
    if "theta" not in arrays:
        log.info("%s: no angles in it or by phantom.angles=FILE; %d views over 180 degrees", file, len(values))
        arrays["theta"] = np.arange(len(values)) * (180.0 if unit == "degrees" else math.pi) / len(values)
    low, high = float(values.min()), float(values.max())
    if not high > 0 or low == high:
        raise ValueError(
            f"{file}: all values lie in [{low:g}, {high:g}]: nothing to reconstruct; give −log of the transmission"
        )
    if low < -0.1 * high:
        raise ValueError(
            f"{file}: values go down to {low:.3g} (largest {high:.3g}); give −log of the transmission, not counts"
        )
    return measured(str(file), _mended(str(file), values.astype(float)), arrays["theta"], center, unit)


def measured(source: str, values: np.ndarray, angles: np.ndarray, center: float | None, unit: str) -> Scan:
    """Return the scan of these views (A, P) at these angles, in order; repeated angles are averaged and told of."""
    one_of("phantom.unit", unit, UNITS)
    count, pixels = values.shape
    angles = np.asarray(angles, float).ravel()
    if len(angles) != count:
        turned = "; the sinogram may be transposed" if len(angles) == pixels else ""
        raise ValueError(f"{source}: {count} views but {len(angles)} angles; give one angle per view{turned}")
    if not np.isfinite(angles).all():
        raise ValueError(
            f"{source}: angle {int(np.flatnonzero(~np.isfinite(angles))[0])} is not a finite number; mend the angles"
        )
    if count < 2:
        raise ValueError(f"{source}: {count} view; at least 2 are needed")
    span = float(np.ptp(angles))
    if unit == "degrees" and span <= 2 * math.pi + 1e-6:
        raise ValueError(
            f"{source}: the angles span {span:.4g} degrees, which looks like radians; set phantom.unit=radians, or "
            "mend the angles"
        )
    if span > (360 if unit == "degrees" else 2 * math.pi) * (1 + 1e-6):
        mend = "set phantom.unit=degrees, or mend the angles" if unit == "radians" else "give one turn at most"
        raise ValueError(f"{source}: the angles span {span:.4g} {unit}, more than one turn; {mend}")
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
    return Scan(values, theta[fresh], center)


def absorption(file: Path, data: np.ndarray, white: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Return −log of the flat-field corrected transmission, (A, P); dead columns and blocked pixels are mended."""
    for name, counts in (("data", data), ("data_white", white), ("data_dark", dark)):
        _check_numbers(f"{file}[exchange/{name}]", counts)
        if counts.min() < 0:
            place = np.unravel_index(int(counts.argmin()), counts.shape)
            raise ValueError(
                f"{file}[exchange/{name}]: negative counts, {counts.min():g} at {tuple(map(int, place))}; "
                "give raw counts"
            )
    flat = white.mean(0) - dark.mean(0)
    if not (flat > 0).any():
        raise ValueError(
            f"{file}: white ≤ dark in every detector column; check exchange/data_white and exchange/data_dark"
        )
    transmission = (data - dark.mean(0)) / np.where(flat > 0, flat, np.nan)
    blocked = transmission <= 0
    if blocked.mean() > 0.2 or not (transmission > 0).any():
        raise ValueError(
            f"{file}: no light in {blocked.mean():.0%} of the pixels (data − dark ≤ 0); check data, data_white "
            "and data_dark"
        )
    if blocked.any():
        least = transmission[transmission > 0].min()
        log.warning(
            "%s: %d pixels without light count as having the least that was seen, %.2g", file, blocked.sum(), least
        )
        transmission = np.where(blocked, least, transmission)
    return _mended(str(file), -np.log(transmission))


def _mended(source: str, values: np.ndarray) -> np.ndarray:
    """Return the views with dead detector columns (NaN, or one value in all views) interpolated from the others."""
    dead = np.isnan(values).any(0) | ((np.ptp(values, axis=0) == 0) & (values[0] != 0))
    zero = np.ptp(values, axis=0) == 0  # nothing at a column between columns that see something
    seen = np.flatnonzero(~zero)
    if len(seen):
        dead[seen[0] : seen[-1]] |= zero[seen[0] : seen[-1]]
    if not dead.any():
        return values
    if dead.mean() > MOST_DEAD:
        raise ValueError(
            f"{source}: {dead.sum()} of {len(dead)} detector columns are dead (constant, or white ≤ dark); "
            f"at most {MOST_DEAD:.0%} can be interpolated"
        )
    columns = np.flatnonzero(dead)
    shown = ", ".join(map(str, columns[:8])) + (", …" if len(columns) > 8 else "")
    log.warning("%s: dead detector columns %s were interpolated from their neighbours", source, shown)
    alive = np.flatnonzero(~dead)
    return np.stack([np.interp(np.arange(len(dead)), alive, view[alive]) for view in values])


def _check_numbers(source: str, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        place = tuple(map(int, np.unravel_index(int(bad.argmax()), bad.shape)))
        raise ValueError(
            f"{source}: {int(bad.sum())} values are NaN or infinite, the first at {place}; mend the measurement"
        )


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


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file; a lone one, of .npy, .tif or text, is called ``sinogram``."""
    if file.suffix.lower() not in READERS:
        raise ValueError(f"{file}: suffix '{file.suffix}' is unknown (available: {', '.join(READERS)})")
    try:
        arrays = READERS[file.suffix.lower()](file)
    except Exception as error:  # numpy, zipfile and Pillow raise many kinds on damaged files
        if isinstance(error, ValueError) and str(error).startswith(str(file)):
            raise  # it names its place already
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise ValueError(f"{file}: cannot be read ({reason}); save a plain array of numbers") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{file}: '{name}' holds {array.dtype}, not real numbers; save integers or floats")
    return arrays


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST:
        raise ValueError(f"{file}: {size} bytes unpacked are more than {LARGEST}; cut the sinogram")
    with np.load(file, allow_pickle=False) as contents:
        names = contents.files
        arrays = {name: np.asarray(contents[name]) for name in names if name in ("sinogram", "theta")}
    if "sinogram" not in arrays:
        found = ", ".join(names) or "none"
        raise ValueError(f"{file}: no array 'sinogram' in it (found: {found}); save it under that name")
    return arrays


def _read_npy(file: Path) -> dict[str, np.ndarray]:
    return {"sinogram": read_npy(file, "give the sinogram's file")}


def _read_tif(file: Path) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(file, formats=("TIFF",))
    with image:
        return {"sinogram": np.asarray(image)}


def _read_text(file: Path) -> dict[str, np.ndarray]:
    return {"sinogram": np.loadtxt(file, delimiter="," if file.suffix == ".csv" else None)}


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".tif": _read_tif,
    ".tiff": _read_tif,
    ".txt": _read_text,
    ".csv": _read_text,
}
