"""HDF5 files in the Data Exchange layout, read by a process of its own.

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
from typing import Any

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


def read_exchange(file: Path, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return data (A, P), white and dark (frames, P) of one detector row, and the angles; ``ValueError`` if damaged."""
    seconds = PATIENCE + file.stat().st_size / SLOWEST
    # -P: the folder of this file is no place to import from.
    command = [sys.executable, "-P", __file__, str(file), str(row)]
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
        if arrays["rows"] > 1:
            log.info("%s: row %d of %d, by phantom.row", file, row, arrays["rows"])
        return arrays["data"], arrays["data_white"], arrays["data_dark"], arrays["theta"]


def _read(file: str, row: int) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(file, "r") as contents:
            found = {name: _dataset(file, contents, name) for name in ("data", "data_white", "data_dark", "theta")}
            out = {"theta": _bounded(f"{file}[exchange/theta]", found.pop("theta"), ...)}
            rows = found["data"].shape[1] if found["data"].ndim == 3 else 0
            for name, dataset in found.items():
                where = f"{file}[exchange/{name}]"
                if dataset.ndim != 3:
                    raise ValueError(f"{where}: shape {dataset.shape}; expected (frames, rows, columns)")
                if not 0 <= row < dataset.shape[1]:
                    raise ValueError(f"phantom.row={row}: {where} has rows 0 to {dataset.shape[1] - 1}")
                out[name] = _bounded(where, dataset, (slice(None), row))
    except Exception as error:  # HDF5 raises many kinds on damaged files
        if isinstance(error, ValueError) and str(error).startswith((file, "phantom.")):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file}: not a readable HDF5 file ({reason:.100}); restore the file") from error
    slices = [out[name] for name in found]
    if not all(a.size for a in slices) or len({a.shape[1] for a in slices}) > 1:
        shapes = ", ".join(str(a.shape) for a in slices)
        raise ValueError(
            f"{file}: data, data_white and data_dark have (frames, columns) {shapes}; they need frames, and the same "
            "columns"
        )
    return out | {"rows": np.array(rows)}


def _dataset(file: str, contents: Any, name: str) -> Any:
    """Return a dataset of real numbers that the file itself holds."""
    import h5py

    where = f"{file}[exchange/{name}]"
    found = _followed(contents, f"exchange/{name}", where)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(
            f"{file}: no dataset exchange/{name}; the Data Exchange layout has data, data_white, data_dark and theta"
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
        arrays: Any = _read(sys.argv[1], int(sys.argv[2]))
        np.savez(stream, **arrays)
    except ValueError as error:
        sys.stderr.buffer.write(str(error).encode(errors="replace"))
        return 2
    sys.stdout.buffer.write(stream.getbuffer())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
