"""Sinograms and angles in arrays and pictures: what a file holds, and what of it is meant."""

from __future__ import annotations

import functools
import logging
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoint.files.reading import check_npz, read_npy, read_table
from autoint.registry import unknown
from autoint.tomography.data.exchange import read_matlab
from autoint.tomography.data.tiff import read_pages

log = logging.getLogger(__name__)
MOST = 2**25
"""Numbers of one sinogram, which becomes eight bytes a number, several times over."""
LARGEST = 2**30
"""Bytes of all that is read from a file."""
SINOGRAMS = ("sinogram", "sinograms", "sino")
ANGLES = re.compile(r"theta|angle|degree|radian|(^|_)(ang|phi|deg|rad)s?($|_)")
NUMBERS = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
COMPRESSED, IS_COMPLEX, OF_NUMBERS = 15, 0x800, range(6, 16)  # of MATLAB's elements and arrays
HEAD = 2**12
"""Bytes of an array of MATLAB's, unpacked, in which its shape and name are."""


@dataclass
class Contents:
    """What a file holds: an array, perhaps of several slices, and those of its other arrays that may be angles.

    Attributes:
        values: (A, P), or a stack: (slices, A, P) or (A, rows, P).
        others: {name: shape} of the arrays beside it.
        read: reads one of these.
        stack: what the first axis of a stack is called.
    """

    values: np.ndarray
    others: dict[str, tuple[int, ...]] = field(default_factory=dict)
    read: Callable[[str], np.ndarray] | None = None
    stack: str = "pages"

    def others_of(self, size: int) -> list[str]:
        """Return the names of arrays with one number for each of ``size`` views."""
        return [name for name, shape in self.others.items() if math.prod(shape) == size == max(shape, default=1)]

    def angles(self, name: str) -> np.ndarray:
        """Return one of the other arrays."""
        assert self.read is not None
        return self.read(name)


_kept: dict[tuple[Path, int], Contents] = {}


def contents(file: Path, keep: bool = False) -> Contents:
    """Return what a file holds; ``ValueError`` names the file and what is wrong with it.

    With ``keep`` it stays in memory until another file is kept: a stack of which one slice after the other is read.
    """
    key = file, file.stat().st_mtime_ns if file.is_file() else 0
    if key in _kept:
        return _kept[key]
    found = _contents(file)
    if keep:
        _kept.clear()
        _kept[key] = found
    return found


def _contents(file: Path) -> Contents:
    if file.suffix.lower() not in READERS:
        raise ValueError(f"{file}: suffix '{file.suffix}' is unknown (available: {', '.join(READERS)})")
    try:
        found = READERS[file.suffix.lower()](file)
    except Exception as error:  # numpy, zipfile and Pillow raise many kinds on damaged files
        if isinstance(error, ValueError) and str(error).startswith(str(file)):
            raise  # it names its place already
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise ValueError(f"{file}: cannot be read ({reason}); save a plain array of numbers") from error
    return found


def slice_of(file: Path, stack: Contents, number: int | None, row: int | None, views: int | None) -> np.ndarray:
    """Return the sinogram (A, P) of a file: its only one, or the one of a stack that is asked for.

    Args:
        file: for errors.
        stack: what it holds.
        number: of the sinogram, in a stack of sinograms.
        row: of the detector, in a stack of views.
        views: how many angles there are, if that is known.
    """
    values = stack.values
    if number is not None and row is not None:
        raise ValueError(f"phantom.slice={number}, phantom.row={row}: give one, for sinograms or for views in a stack")
    if values.ndim == 3 and len(values) == 1 and not row:
        values, number = values[0], None if number == 0 else number
    elif values.ndim == 3 and values.shape[1] == 1 and not number:
        values, row = values[:, 0], None if row == 0 else row
    if values.ndim == 2 and (number or row or 0) == 0:
        return values
    if values.ndim != 3:
        key, asked = ("slice", number) if number is not None else ("row", row)
        if values.ndim == 2:
            raise ValueError(f"phantom.{key}={asked}: {file} holds one sinogram; leave it out")
        raise ValueError(f"{file}: the sinogram has shape {values.shape}; expected (angles, detector pixels)")
    pages, rows, _ = values.shape
    asked = number if number is not None else row
    if asked is None:
        choices = {
            "slice": f"phantom.slice=0 to {pages - 1} if each is a sinogram",
            "row": f"phantom.row=0 to {rows - 1} if each is a view",
        }
        if views in (pages, rows) and pages != rows:
            del choices["slice" if views == pages else "row"]
        raise ValueError(
            f"{file}: {pages} {stack.stack} of {'×'.join(map(str, values.shape[1:]))} numbers; one slice is "
            f"reconstructed: give {', '.join(choices.values())}"
        )
    key, count = ("slice", pages) if number is not None else ("row", rows)
    if not 0 <= asked < count:
        raise ValueError(f"phantom.{key}={asked}: {file} has {key}s 0 to {count - 1}")
    log.info("%s: %s %d of %d", file, key, asked, count)
    return values[asked] if key == "slice" else values[:, asked]


def angles_of(file: Path, found: Contents, sizes: tuple[int, ...], asked: str | None) -> str | None:
    """Return the name of the array that holds the angles, or None; what else there is, is told of.

    Args:
        file: for errors.
        found: what it holds.
        sizes: how many views there may be, the likeliest first.
        asked: the name that ``phantom.angles`` gives.
    """
    if asked is not None:
        chosen: str | None = asked
    else:
        fitting = [name for size in sizes[:1] for name in found.others_of(size)]
        lists = [name for name, shape in found.others.items() if math.prod(shape) == max(shape, default=0) > 1]
        named = [name for size in sizes for name in found.others_of(size) if is_of_angles(name)]
        named = named or [name for name in lists if is_of_angles(name)]
        named = ["theta"] if "theta" in named else named
        if len(named) > 1 or (fitting and not named):
            what = "could all be the angles" if len(named) > 1 else "could be the angles, of which none has the name"
            raise ValueError(
                f"{file}: {', '.join(named or fitting)} {what}; give phantom.angles={(named or fitting)[0]}, the array "
                "or a file that holds them"
            )
        chosen = named[0] if named else None
    unused = [name for name in found.others if name != chosen]
    if unused:
        log.warning("%s: not used: %s", file, ", ".join(unused))
    return chosen


def is_of_angles(name: str) -> bool:
    """Return whether an array of this name holds angles."""
    return bool(ANGLES.search(re.sub(r"[^a-z]+", "_", name.lower())))


def unit_of(name: str) -> str | None:
    """Return the unit that an array's name says, if it does."""
    parts = re.search(r"(deg|rad)(s|ree|rees|ian|ians)?$|^(deg|rad)", re.sub(r"[^a-z]+", "_", name.lower()).strip("_"))
    return None if parts is None else {"deg": "degrees", "rad": "radians"}[parts[1] or parts[3]]


def read_angles(file: Path) -> tuple[np.ndarray, str | None]:
    """Return the angles in a file of their own, and their unit if the array's name says it."""
    if file.suffix.lower() != ".npz":
        return contents(file).values, None
    shapes, read = _npz(file)
    named = [name for name in shapes if is_of_angles(name)] if len(shapes) > 1 else list(shapes)
    if len(named) != 1:
        raise ValueError(f"{file}: one array of angles is wanted (found: {', '.join(shapes) or 'none'}); save it alone")
    return read(named[0]), unit_of(named[0])


def check_kind(file: Path, name: str, dtype: np.dtype) -> None:
    """Refuse what is not real numbers."""
    if dtype.kind not in "iuf":
        raise ValueError(f"{file}: '{name}' holds {dtype}, not real numbers; save integers or floats")


def _check_size(file: Path, shape: tuple[int, ...], width: int) -> None:
    """Refuse a sinogram, or a stack of them, that no memory is meant to hold."""
    if math.prod(shape[-2:]) > MOST or math.prod(shape) * width > LARGEST:
        raise ValueError(
            f"{file}: {'×'.join(map(str, shape))} numbers; a sinogram may have {MOST}, a stack {LARGEST} bytes; cut it"
        )


def _npz(file: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray]]:
    """Return the shapes of an archive's arrays by what their headers say, and what reads one of them."""
    shapes, kinds = {}, {}
    check_npz(file)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.namelist():
            with archive.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(stream)
            shapes[entry.removesuffix(".npy")], kinds[entry.removesuffix(".npy")] = shape, dtype

    def read(name: str) -> np.ndarray:
        if name not in shapes:
            raise ValueError(f"{file}: {unknown('phantom.angles', name, shapes)}")
        check_kind(file, name, kinds[name])
        _check_size(file, shapes[name], kinds[name].itemsize)
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])

    return shapes, read


def _read_npz(file: Path) -> Contents:
    shapes, read = _npz(file)
    named = [name for name in shapes if name.lower() in SINOGRAMS]
    if len(named) != 1:
        found = ", ".join(shapes) or "none"
        raise ValueError(
            f"{file}: no array 'sinogram' in it, or several (found: {found:.500}); save it under that name"
        )
    return Contents(read(named[0]), {k: v for k, v in shapes.items() if k != named[0]}, read, "arrays")


def _read_mat(file: Path) -> Contents:
    """Read plain arrays of numbers in MATLAB's formats; of those before 7.3 sizes are known before they are read."""
    from scipy.io import loadmat, whosmat

    unlike = _unlike(file)
    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(file)}
    except NotImplementedError:  # 7.3 is HDF5
        arrays = read_matlab(file)
        return _named(file, {name: a.shape for name, a in arrays.items()}, dict.fromkeys(arrays, "numbers"), arrays.get)
    kinds = {name: kind for name, (_, kind) in found.items()}
    shapes = {name: shape for name, (shape, kind) in found.items() if kind in NUMBERS}

    def read(name: str) -> np.ndarray:
        if name in unlike:
            raise ValueError(f"{file}: '{name}' {unlike[name]}")
        _check_size(file, shapes[name], 8)
        values = np.asarray(loadmat(file, variable_names=[name])[name])
        check_kind(file, name, values.dtype)
        return values

    return _named(file, shapes, kinds, read)


def _unlike(file: Path) -> dict[str, str]:
    """Return what is wrong with compressed arrays by their names: a megabyte may unpack to gigabytes.

    The layout is that of MathWorks' "MAT-File Format": a matrix has elements for flags, shape, name and numbers, each
    of which begins with its kind and its length, in one word where four bytes are enough for what follows.
    """
    found: dict[str, str] = {}
    with file.open("rb") as stream:
        order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(stream.read(128)[124:])
        while order and len(tag := stream.read(8)) == 8:
            kind, count = struct.unpack(f"{order}II", tag)
            after = stream.tell() + count
            if kind == COMPRESSED:
                head = zlib.decompressobj().decompress(stream.read(min(count, HEAD)), HEAD)
                (flags,) = struct.unpack_from(f"{order}I", head, 16)
                if flags & 0xFF in OF_NUMBERS:
                    parts, at = [], 24
                    for _ in range(3):
                        first, length = struct.unpack_from(f"{order}II", head, at)
                        begin, length = (at + 4, first >> 16) if first >> 16 else (at + 8, length)
                        parts.append((begin, length))
                        at = at + 8 if first >> 16 else begin + length + -length % 8
                    shape = struct.unpack_from(f"{order}{parts[0][1] // 4}i", head, parts[0][0])
                    name = head[parts[1][0] : sum(parts[1])].decode("latin-1")
                    if flags & IS_COMPLEX:
                        found[name] = "holds complex numbers; save integers or floats"
                    elif parts[2][1] > 8 * math.prod(shape):
                        found[name] = f"unpacks to {parts[2][1]} bytes, more than its shape {shape} has; restore it"
            if not count:
                break
            stream.seek(after)
    return found


def _named(
    file: Path, shapes: dict[str, tuple[int, ...]], kinds: dict[str, str], load: Callable[[str], Any]
) -> Contents:
    """Return the array that is called a sinogram, with the others beside it."""
    named = [name for name in shapes if name.lower() in SINOGRAMS]
    if len(named) != 1:
        listed = " ".join(", ".join(f"{name} ({kind})" for name, kind in kinds.items()).split())[:500] or "none"
        raise ValueError(f"{file}: no array 'sinogram' in it, or several (found: {listed}); save it under that name")

    def read(name: str) -> np.ndarray:
        if name not in shapes:
            raise ValueError(f"{file}: {unknown('phantom.angles', name, shapes)}")
        return np.asarray(load(name))

    return Contents(read(named[0]), {k: v for k, v in shapes.items() if k != named[0]}, read, "arrays")


def _read_npy(file: Path) -> Contents:
    values = read_npy(file, "give the sinogram's file")
    _check_size(file, values.shape, 1)
    return Contents(values, stack="arrays")


def _read_text(file: Path) -> Contents:
    return Contents(np.squeeze(read_table(file, "," if file.suffix.lower() == ".csv" else None)))


def _read_tif(file: Path) -> Contents:
    return Contents(read_pages(file, functools.partial(_check_size, file, width=4)))


READERS: dict[str, Callable[[Path], Contents]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".mat": _read_mat,
    ".tif": _read_tif,
    ".tiff": _read_tif,
    ".txt": _read_text,
    ".csv": _read_text,
}
