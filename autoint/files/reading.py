"""What data sets of untrusted origin are read by: folders, paths, JSON and arrays, with errors that name the place."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np

from autoint.registry import nearest

log = logging.getLogger(__name__)
T = TypeVar("T")
U = TypeVar("U")
SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
OTHER_PHOTOS = (".heic", ".heif", ".avif", ".webp", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".tif", ".tiff")
"""What else cameras save, in small letters; it is not read."""
SHOWN = 20
"""How many findings are listed."""
MOST_FINDINGS = 100
"""After so many, the rest is not looked at."""
MAX_JSON, MAX_GROUPS, MAX_VALUES = 2**25, 10**6, 4 * 10**6
"""Bytes of a JSON file, its lists and objects, and its values: each takes far more memory than the bytes it is of."""
MAX_FRAMES, LONGEST_NAME = 20_000, 245
"""Bytes of an image's name, of which file systems have 255: a suffix, and that of its mask, may follow."""
MAX_NUMBERS = 2**25
"""Numbers of an array, of which several copies in float64 are made."""
MAX_TEXT, MAX_ROW = 2**30, 2**22
"""Bytes of a table in text, and characters of one of its rows."""


class StrangeLinkError(ValueError):
    """A link that leads out of a folder and belongs to somebody else."""


class FindingsError(ValueError):
    """What is wrong with several things, a line each: no other message has more lines than one."""


@functools.cache
def warn(text: str) -> None:
    """Warn of something once in a run, however often its files are read; ``warn.cache_clear()`` begins a run."""
    log.warning("%s", text)


def gathered(check: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Return ``check`` of every item; what is wrong with several is told in one :class:`FindingsError`.

    Links that are refused are told in one line, however many.
    """
    out, found, links = [], [], []
    for item in items:
        try:
            out.append(check(item))
        except StrangeLinkError as error:
            links.append(str(error))
        except ValueError as error:
            found.append(str(error))
            if len(found) == MOST_FINDINGS:
                break
    wrong, links = list(dict.fromkeys(found)), list(dict.fromkeys(links))
    if links:
        wrong.append(f"{links[0]}; {len(links) - 1} more links do so" if len(links) > 1 else links[0])
    if wrong:
        least = "at least " if len(wrong) == MOST_FINDINGS else ""
        more = [f"… and {least}{len(wrong) - SHOWN} more like these"] if len(wrong) > SHOWN else []
        raise FindingsError("\n".join(escaped(line) for line in [*wrong[:SHOWN], *more]))
    return out


def find_scene(data_dir: str, path: str, name: str, source: str = "", archive: str = "") -> Path:
    """Return the scene's folder, or say where it was looked for and how to get the data.

    Args:
        data_dir: the folder of data sets.
        path: the scene's folder in it, or any other.
        name: of the data set's kind.
        source: how to get the public scenes of this kind, in the imperative.
        archive: the folder below ``data_dir`` in which these scenes are; elsewhere ``source`` means nothing.
    """
    if not path:
        raise ValueError(f"scene.path is empty: give the scene's folder, as in scene={name} scene.path=FOLDER")
    folder = scene_folder(data_dir, path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"scene.path={path}: {folder} is a file; give the folder of the scene")
    siblings = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
    there = f" (there: {', '.join(siblings[:8])})" if siblings else ""
    found = f"scene folder not found: {folder}{nearest(folder.name, siblings)}{there}"
    if archive and Path(path).parts[:-1] == (archive,):
        raise ValueError(f"{found}; {source}, unpack it, and set data_dir=FOLDER so that FOLDER/{path} exists")
    here = at_home(path)
    if here.is_dir():
        raise ValueError(f"{found}; did you mean scene.path={here.absolute()}?")
    below = "" if here.is_absolute() else f", or one below data_dir={data_dir}"
    raise ValueError(f"{found}; scene.path={path} does not exist: give the scene's folder by its whole path{below}")


def scene_folder(data_dir: str, path: str) -> Path:
    """Return a scene's folder: below the folder of data sets, unless its path is absolute; ``~`` is one's home."""
    return at_home(data_dir) / at_home(path)


def at_home(path: str | Path) -> Path:
    """Return a path with ``~`` written out where it is somebody's home; a folder may be called ``~a``, too."""
    return Path(os.path.expanduser(path))


def check_range(near: float, far: float) -> None:
    """Refuse a range of the ray parameter that is empty, endless or begins behind the camera."""
    if not 0 <= near < far < math.inf:
        swap = "; swap them?" if 0 <= far < near else ""
        raise ValueError(f"scene.near={near}, scene.far={far}: need 0 <= near < far, both finite{swap}")


def read_json(file: Path, needs: str) -> dict[str, Any]:
    """Return the object in a JSON file; ``needs`` says what a scene's folder should hold."""
    if not file.is_file():
        others = sorted(p.name for p in file.parent.glob("*.json")) if file.parent.is_dir() else []
        there = f" (there: {', '.join(others[:8])})" if others else ""
        raise ValueError(f"{file}: file not found{there}; {needs}")
    if file.stat().st_size > MAX_JSON:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, more than {MAX_JSON}; {needs}")
    try:
        contents = _parsed(_text_of(file), file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}:{error.colno}: malformed JSON: {error.msg}; mend the file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: malformed JSON: not UTF-8 text at byte {error.start}; mend the file") from error
    except RecursionError as error:
        raise ValueError(f"{file}: malformed JSON: nested too deeply; mend the file") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{file}: malformed JSON: expected an object with 'frames'")
    return contents


def remembered(file: Path) -> Any:
    """Return what a run has noted in a small JSON file, or None where there is none or it is damaged: it helps only."""
    try:
        small = file.is_file() and file.stat().st_size <= MAX_JSON
        return json.loads(_text_of(file), parse_int=_integer) if small else None
    except (OSError, ValueError, RecursionError):
        return None


def _text_of(file: Path) -> str:
    raw = file.read_bytes()
    if raw.count(b"[") + raw.count(b"{") > MAX_GROUPS or raw.count(b",") > MAX_VALUES:
        raise ValueError(f"{file}: more than {MAX_GROUPS} lists and objects, or {MAX_VALUES} values; leave some out")
    return raw.decode()


def _parsed(text: str, file: Path) -> Any:
    """Return what a JSON text says; Python's parser would take NaN, infinity, and the last of several equal keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{file}: the key {key!r:.80} stands twice in one object; remove one of them")
            found[key] = value
        return found

    def no_number(literal: str) -> float:
        found = re.search(rf"(?<=[\s:,\[]){literal}(?=[\s,\]}}]|$)", text)
        before = text[: found.start()] if found else ""
        place = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise ValueError(f"{file}:{place}: NaN or infinity ({literal}), which are no JSON; restore the number")

    return json.loads(text, object_pairs_hook=unique, parse_constant=no_number, parse_int=_integer)


def _integer(digits: str) -> int | float:
    """Return an integer; Python refuses thousands of digits, and tensors more than 19."""
    return int(digits) if len(digits) < 16 else float(digits)


def frames_of(transforms: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """Return the frames of a transforms file: at least one, each an object."""
    frames = transforms.get("frames")
    if not isinstance(frames, list) or not frames:
        split = file.stem.removeprefix("transforms_")
        raise ValueError(f"{file}: split '{split}' is empty: 'frames' must list at least one image")
    if len(frames) > MAX_FRAMES:
        raise ValueError(f"{file}: {len(frames)} frames; a scene has at most {MAX_FRAMES}: leave some out")
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise ValueError(f"{file}: frames[{i}]={frame!r:.80} must be an object with file_path and transform_matrix")
    return frames


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value from JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def angle(value: Any, where: str) -> float:
    """Return a field of view, checked to be in radians."""
    if not is_number(value) or not 0 < value < math.pi:
        degrees = is_number(value) and math.pi <= value < 180
        hint = f"; it looks like degrees, which would be {math.radians(value):.4g}" if degrees else ""
        raise ValueError(f"{where}={value!r:.80} must be an angle in radians between 0 and π{hint}")
    return float(value)


def inside(file: Path, folder: Path) -> bool:
    """Return whether a path, with all links followed, stays inside a folder."""
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a link to itself, a name of thousands of characters, or with a NUL
        return False


def check_links(file: Path, folder: Path) -> None:
    """Refuse a path below ``folder`` that leaves it by a link of another user.

    The links of the user, and of the machine's administrator, are followed: a data set may lie on several disks.
    Somebody else's could show what only the user may read.
    """
    place = folder
    for part in file.relative_to(folder).parts:
        place = place / part
        if place.is_symlink() and not trusted(place) and not inside(place, folder):
            raise StrangeLinkError(
                f"{place}: another user's link, which leaves the scene folder for {os.readlink(place)!r:.200}; put the "
                "images themselves there, or a link of your own"
            )


def trusted(link: Path) -> bool:
    """Return whether a link belongs to the user who runs this, or to the machine's administrator."""
    return not hasattr(os, "geteuid") or link.lstat().st_uid in (0, os.geteuid())


CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What moves a terminal's cursor, colours it, or turns a text round."""


def escaped(text: str) -> str:
    """Return a text that is one line and moves no cursor, whatever names in a stranger's files are in it."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def image_file(folder: Path, name: Any, where: str, key: str = "file_path") -> Path:
    """Return the image that ``name`` stands for, with or without a suffix; be it there or not."""
    where = f"{where}.{key}={name!r:.80}"
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where} must be the path of an image")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name):
        raise ValueError(f"{where} is a URL or names a drive; use a path inside the scene folder")
    longest = max(len(part.encode("utf-8", "surrogatepass")) for part in re.split(r"[/\\]", name))
    if len(name) > 1024 or longest > LONGEST_NAME or CONTROL.search(name):
        raise ValueError(f"{where} is no path of an image ({len(name)} characters); use a path inside the scene folder")
    # Without "..", which behind a link would lead elsewhere than it says.
    place = Path(os.path.abspath(folder / name.replace("\\", "/")))
    bases = (Path(os.path.abspath(folder)), folder.resolve())
    base = next((base for base in bases if place.is_relative_to(base) and place != base), None)
    if base is None:
        raise ValueError(f"{where} leaves the scene folder; use a path inside it")
    image = folder / place.relative_to(base)
    # NeRF-synthetic leaves out the suffix; 'r_0.5' has a dot and still no suffix.
    candidates = (image, *(image.with_name(image.name + suffix) for suffix in SUFFIXES))
    for candidate in candidates:
        check_links(candidate, folder)
        if candidate.is_file():
            return candidate
    return next((candidate for candidate in candidates if candidate.is_symlink()), image)


def alike(file: Path) -> str:
    """Return ``; did you mean 'x'?`` for a file with nearly the same name beside one that is not there."""
    if file.exists():
        return f"; it is a {'folder' if file.is_dir() else 'pipe or a device'}, no file"
    if file.is_symlink():
        return f"; it is a link to {os.readlink(file)!r:.200}, where no file is"
    names = [p.name for p in itertools.islice(file.parent.iterdir(), 1000)] if file.parent.is_dir() else []
    folded = [name for name in names if file.name.casefold() in (name.casefold(), name.casefold().rpartition(".")[0])]
    return f"; did you mean '{folded[0]}'?" if folded else nearest(file.name, names)


def read_npy(file: Path, needs: str) -> np.ndarray:
    """Return the real numbers in a .npy file, whose header is compared with the file's size before they are read."""
    if not file.is_file():
        raise ValueError(f"{file}: file not found; {needs}")
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(stream)
            start = stream.tell()
    except Exception as error:  # numpy raises what its parser of Python literals does
        reason = str(error).split("\n", 1)[0][:100]
        raise ValueError(f"{file}: not a readable .npy array ({reason}); restore it") from error
    if dtype.kind not in "fiu":
        what = "pickled objects, which could run code" if dtype.hasobject else f"{dtype}"
        raise ValueError(f"{file}: holds {what}, not real numbers; save integers or floats")
    wanted, there = math.prod(shape) * dtype.itemsize, file.stat().st_size - start
    if wanted != there or min(shape, default=0) < 0:
        raise ValueError(f"{file}: shape {shape} of {dtype} takes {wanted} bytes, but {there} are there; restore it")
    check_numbers(str(file), math.prod(shape))
    array: np.ndarray = np.load(file, allow_pickle=False)
    return array


def read_table(file: Path, delimiter: str | None = None) -> np.ndarray:
    """Return the rows of numbers in a text, (rows, columns), if they are not too many; errors name no file."""
    if file.stat().st_size > MAX_TEXT:
        raise ValueError(f"{file.stat().st_size} bytes are more than {MAX_TEXT}")
    lines = 0
    with file.open("rb") as stream:
        while piece := stream.read(MAX_ROW):
            ends = max(piece.count(b"\n"), piece.count(b"\r"))
            if not ends and len(piece) == MAX_ROW:
                raise ValueError(f"a row has more than {MAX_ROW} characters")
            lines += ends
    with file.open(encoding="utf-8-sig", errors="replace") as text, warnings.catch_warnings():
        rows = (row.partition("#")[0].strip() for row in itertools.islice(text, 1000))
        columns = len(next(filter(None, rows), "").split(delimiter)) or 1
        if lines * columns > MAX_NUMBERS:
            raise ValueError(f"{lines} rows of {columns} numbers are more than {MAX_NUMBERS}")
        text.seek(0)
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        table = np.loadtxt(text, ndmin=2, delimiter=delimiter)
    if not table.size:
        raise ValueError("there are no numbers in it")
    return table


def check_numbers(where: str, count: int) -> None:
    """Refuse an array of more numbers than are worked with; ``where`` names it."""
    if count > MAX_NUMBERS:
        raise ValueError(f"{where}: {count} numbers are more than the {MAX_NUMBERS} that fit; cut it")


def check_npz(file: Path) -> None:
    """Refuse a ``.npz`` file whose arrays, by their own headers and all together, are larger than is worked with.

    Nothing but the headers is unpacked: a few megabytes of zeros unpack to gigabytes.
    """
    total = 0
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            total += math.prod(shape)
            if dtype.itemsize * math.prod(shape) > entry.file_size:
                raise ValueError(f"{file}: '{entry.filename}' has less than its shape {shape} says; restore it")
            check_numbers(f"{file}[{entry.filename}]", max(total, entry.file_size // 8))
