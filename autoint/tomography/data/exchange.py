"""HDF5 files in the Data Exchange layout, NeXus' NXtomo or MATLAB's 7.3, read by a process of its own.

A damaged file can make the HDF5 library loop for ever, take all memory, or end its process, which a training shall not.
This file is also the program of that process, and therefore imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

log = logging.getLogger(__name__)
LARGEST = 2**28
"""Bytes of one slice or sinogram, in float64."""
CHUNK = 2**28
"""Bytes that the library unpacks at once, to read any part of them."""
ROOM = 3 * LARGEST + 2 * CHUNK
"""Bytes of memory that the reading process may take beside its libraries."""
LINKS = 16
"""Links within the file that follow each other."""
PATIENCE = 15.0
"""Seconds that reading any file may take."""
SLOWEST = 4e6
"""Bytes per second that reading must reach beyond that."""
THETA = (
    "exchange/theta",
    "process/acquisition/rotation/theta",
    "measurement/sample/experimenter/theta",
    "exchange/angles",
)
"""Where the angles may be, of which the first that is there counts."""
GROUPS = 1000
"""Groups of a NeXus file that are looked into."""
PROJECTION, FLAT, DARK, UNUSED = 0, 1, 2, 3
"""What NeXus' image_key says of a frame; image_key_control is negative for those that only align the sample."""


class Slice(NamedTuple):
    """One detector row of a scan: its frames (A, P), those without object and without light, and the angles.

    Attributes:
        data, white, dark: counts.
        theta: the angles, (A,).
        rows: of the detector.
        unit: of the angles, where the file says it.
    """

    data: np.ndarray
    white: np.ndarray
    dark: np.ndarray
    theta: np.ndarray
    rows: int
    unit: str | None


def read_exchange(file: Path, row: int) -> Slice:
    """Return one detector row of a scan; ``ValueError`` if the file is damaged, or has neither layout."""
    arrays = _by_a_process(file, str(row))
    rows = int(arrays["rows"])
    if rows > 1:
        log.info("%s: row %d of %d, by phantom.row", file, row, rows)
    if not len(arrays["data_dark"]):
        log.warning("%s: no dark frames; the detector counts as dark without light", file)
        arrays["data_dark"] = np.zeros_like(arrays["data_white"][:1])
    said = {"deg": "degrees", "rad": "radians"}.get(str(arrays["unit"])[:3].lower())
    return Slice(arrays["data"], arrays["data_white"], arrays["data_dark"], arrays["theta"], rows, said)


def read_matlab(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of numbers in a file of MATLAB's format 7.3 by their names, with MATLAB's order of axes."""
    return _by_a_process(file, "matlab")


def _by_a_process(file: Path, what: str) -> dict[str, np.ndarray]:
    size = file.stat().st_size
    on_disk = 512 * getattr(file.stat(), "st_blocks", 0) or size  # of a file with holes less than it seems
    seconds = PATIENCE + min(size, on_disk) / SLOWEST
    # -P: the folder of this file is no place to import from.
    command = [sys.executable, "-P", __file__, str(file), what]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
        ended = f"ended with status {done.returncode}"
    except subprocess.TimeoutExpired:
        done, ended = None, f"was not done after {seconds:.0f} s"
    if done and done.returncode == 2:
        raise ValueError(done.stderr.decode(errors="replace").strip())
    if not done or done.returncode:
        raise ValueError(f"{file}: not a readable HDF5 file (the HDF5 library {ended}); restore the file")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        return dict(arrays)


def _read(file: str, what: str) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(file, "r") as contents:
            if what == "matlab":
                return _matlab(file, contents)
            nexus = None if _followed(contents, "exchange", file) is not None else _nexus(contents)
            return _exchange(file, contents, int(what)) if nexus is None else _tomo(file, nexus, int(what))
    except Exception as error:  # HDF5 raises many kinds on damaged files
        if isinstance(error, ValueError) and str(error).startswith((file, "phantom.")):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file}: not a readable HDF5 file ({reason:.100}); restore the file") from error


def _exchange(file: str, contents: Any, row: int) -> dict[str, np.ndarray]:
    """Read the Data Exchange layout, whose dark frames may be missing and whose angles may be in several places."""
    there = [name for name in THETA if _followed(contents, name, f"{file}[{name}]") is not None]
    angles = _dataset(file, contents, (there or THETA)[0])
    out = {"theta": _bounded(f"{file}[{angles.name.lstrip('/')}]", angles, ...), "unit": _unit(angles)}
    names = ["data", "data_white", "data_dark"]
    if _followed(contents, "exchange/data_dark", f"{file}[exchange/data_dark]") is None:
        names.remove("data_dark")
    found = {name: _dataset(file, contents, f"exchange/{name}") for name in names}
    for name, dataset in found.items():
        out[name] = _row(f"{file}[exchange/{name}]", dataset, row)
    slices = [out[name] for name in found]
    if not all(a.size for a in slices) or len({a.shape[1] for a in slices}) > 1:
        shapes = ", ".join(str(a.shape) for a in slices)
        raise ValueError(
            f"{file}: data, data_white and data_dark have (frames, columns) {shapes}; they need frames, and the same "
            "columns"
        )
    out.setdefault("data_dark", np.empty((0, out["data"].shape[1])))
    return out | {"rows": np.array(found["data"].shape[1])}


def _row(where: str, dataset: Any, row: int) -> np.ndarray:
    """Read a detector row of all frames."""
    if dataset.ndim != 3:
        raise ValueError(f"{where}: shape {dataset.shape}; expected (frames, rows, columns)")
    if not 0 <= row < dataset.shape[1]:
        raise ValueError(f"phantom.row={row}: {where} has rows 0 to {dataset.shape[1] - 1}")
    return _bounded(where, dataset, (slice(None), row))


def _unit(dataset: Any) -> np.ndarray:
    """Return the unit that a dataset says of itself, or nothing."""
    said = dataset.attrs.get("units", "")
    return np.array(said.decode(errors="replace") if isinstance(said, bytes) else str(said))


def _nexus(contents: Any) -> Any:
    """Return the group of NeXus' NXtomo whose frames have an image_key and angles, or None."""
    import h5py

    groups = [contents]
    for group in groups:
        names = [name for name in list(group)[:GROUPS] if isinstance(group.get(name, getlink=True), h5py.HardLink)]
        if _followed(group, "instrument/detector/image_key", group.name) is not None:
            return group
        inner = (group[name] for name in names if isinstance(group[name], h5py.Group))
        groups += [g for g in inner if g.name.count("/") <= 3][: max(0, GROUPS - len(groups))]
    return None


def _tomo(file: str, group: Any, row: int) -> dict[str, np.ndarray]:
    """Read an NXtomo: projections, flat and dark frames in one dataset, told apart by the image_key."""
    detector = group.name.strip("/") + "/instrument/detector"
    frames = _dataset(file, group.file, f"{detector}/data")
    angles = _dataset(file, group.file, group.name.strip("/") + "/sample/rotation_angle")
    key = _bounded(file, _dataset(file, group.file, f"{detector}/image_key"), ...)
    theta, where = _bounded(file, angles, ...), f"{file}[{detector}/data]"
    if not len(key) == len(theta) == len(frames):
        raise ValueError(
            f"{where}: {len(frames)} frames, {len(key)} image keys, {len(theta)} angles; one of each is needed"
        )
    control = f"{detector}/image_key_control"
    if _followed(group.file, control, f"{file}[{control}]") is not None:
        told = _bounded(file, _dataset(file, group.file, control), ...)
        if told.shape != key.shape:
            raise ValueError(f"{file}[{control}]: {told.size} numbers of {len(key)} frames; one of each is needed")
        key[told < 0] = UNUSED
    values = _row(where, frames, row)
    if not ((key == PROJECTION).any() and (key == FLAT).any()):
        raise ValueError(f"{where}: image_key names no projections (0) or no flat frames (1); both are needed")
    parts = {
        name: values[key == kind] for name, kind in (("data", PROJECTION), ("data_white", FLAT), ("data_dark", DARK))
    }
    return parts | {"theta": theta[key == PROJECTION], "unit": _unit(angles), "rows": np.array(frames.shape[1])}


def _matlab(file: str, contents: Any) -> dict[str, np.ndarray]:
    """Read the arrays of numbers at the root, whose axes MATLAB counts the other way round."""
    import h5py

    out, total = {}, 0
    for name in list(contents)[:GROUPS]:
        if not isinstance(contents.get(name, getlink=True), h5py.HardLink) or not isinstance(
            contents[name], h5py.Dataset
        ):
            continue
        if contents[name].dtype.kind in "iuf" and contents[name].ndim >= 2:
            dataset = _dataset(file, contents, name)
            total += dataset.size * 8
            if total > LARGEST:
                raise ValueError(f"{file}: arrays of more than {LARGEST} bytes; save the sinogram and its angles alone")
            out[name] = _bounded(f"{file}[{name}]", dataset, ...).T
    return out


def _dataset(file: str, contents: Any, path: str) -> Any:
    """Return a dataset of real numbers that the file itself holds."""
    import h5py

    where = f"{file}[{path}]"
    found = _followed(contents, path, where)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(
            f"{file}: no dataset {path}; the Data Exchange layout has exchange/data, data_white, data_dark and theta"
        )
    if found.dtype.kind not in "iuf":
        raise ValueError(f"{where}: holds {found.dtype}, not real numbers; give integers or floats")
    if found.external or found.is_virtual:
        raise ValueError(f"{where}: its values lie in other files; give a file that holds them itself")
    return found


def _followed(contents: Any, path: str, where: str, links: int = 0) -> Any:
    """Return what a path leads to inside the file, or None; a link out of it is refused before anything is opened."""
    import h5py

    if links > LINKS:
        raise ValueError(f"{where}: links that lead to each other; restore the file")
    here = contents
    names = [name for name in path.split("/") if name not in ("", ".")]
    for number, name in enumerate(names):
        link = here.get(name, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.SoftLink):
            begin = "" if link.path.startswith("/") else here.name
            rest = "/".join([begin, link.path, *names[number + 1 :]])
            return _followed(contents, rest, where, links + 1)
        if not isinstance(link, h5py.HardLink):
            other = f" '{link.filename}'" if isinstance(link, h5py.ExternalLink) else ""
            raise ValueError(f"{where}: a link to another file{other}; give a file that holds the values itself")
        here = here[name]
    return here


def _bounded(where: str, dataset: Any, part: Any) -> np.ndarray:
    """Read a part of a dataset, if it is of a size that a scan can have."""
    size = dataset.size if part is ... else dataset.shape[0] * dataset.shape[2]
    if size * 8 > LARGEST:
        raise ValueError(f"{where}: {size} numbers are more than the {LARGEST // 8} that fit; cut the scan")
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk > CHUNK:
        raise ValueError(f"{where}: in chunks of {chunk} bytes; at most {CHUNK} are unpacked at once: store it anew")
    if part is ...:
        return np.asarray(dataset[part], dtype=float)
    out = np.empty((dataset.shape[0], dataset.shape[2]))
    step = max(1, (dataset.chunks or (1,))[0])  # whole chunks, each unpacked once
    for first in range(0, len(out), step):
        out[first : first + step] = dataset[first : first + step, part[1]]
    return out


def _main() -> int:
    with contextlib.suppress(ImportError, OSError, ValueError):  # where there are such limits
        import resource

        import h5py  # noqa: F401 (before the limit, so that it is not its own)

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    stream = io.BytesIO()
    try:
        arrays: Any = _read(sys.argv[1], sys.argv[2])
        np.savez(stream, **arrays)
    except ValueError as error:
        sys.stderr.buffer.write(str(error).encode(errors="replace"))
        return 2
    sys.stdout.buffer.write(stream.getbuffer())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
