"""What data sets of untrusted origin are read by: folders, paths, JSON and arrays, with errors that name the place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np

from autoint.registry import nearest

T = TypeVar("T")
U = TypeVar("U")
SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
SHOWN = 20
"""How many findings are listed."""
MAX_JSON = 2**28


def gathered(check: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Return ``check`` of every item; what is wrong with several is told in one ``ValueError``, a line each."""
    out, wrong = [], []
    for item in items:
        try:
            out.append(check(item))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        more = [f"… and {len(wrong) - SHOWN} more like these"] if len(wrong) > SHOWN else []
        raise ValueError("\n".join([*wrong[:SHOWN], *more]))
    return out


def find_scene(data_dir: str, path: str, name: str, source: str, hint: Callable[[str], str] = lambda scene: "") -> Path:
    """Return the scene's folder, or say where it was looked for and how to get the data.

    Args:
        data_dir: the folder of data sets.
        path: the scene's folder in it, or any other.
        name: of the data set's kind.
        source: where such scenes are to be had.
        hint: a quicker way to get a scene of this name, ending in ``or ``; empty where there is none.
    """
    if not path:
        raise ValueError(f"scene.path is empty: give the scene's folder, as in scene={name} scene.path=FOLDER")
    folder = Path(data_dir) / path
    if folder.is_dir():
        return folder
    siblings = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
    there = f" (there: {', '.join(siblings[:8])})" if siblings else ""
    raise ValueError(
        f"scene folder not found: {folder}{nearest(folder.name, siblings)}{there}; {hint(folder.name)}get {source}, "
        "unpack it, and set "
        f"data_dir=FOLDER so that FOLDER/{path} exists"
    )


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
        contents = _parsed(file.read_text(encoding="utf-8"), file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}:{error.colno}: malformed JSON: {error.msg}; mend the file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: malformed JSON: not UTF-8 text at byte {error.start}; mend the file") from error
    except RecursionError as error:
        raise ValueError(f"{file}: malformed JSON: nested too deeply; mend the file") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{file}: malformed JSON: expected an object with 'frames'")
    return contents


def _parsed(text: str, file: Path) -> Any:
    """Return what a JSON text says; Python's parser would take NaN, infinity, and the last of several equal keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise ValueError(f"{file}: the key {twice!r:.80} stands twice in one object; remove one of them")
        return dict(pairs)

    def no_number(literal: str) -> float:
        found = re.search(rf"(?<=[\s:,\[]){literal}(?=[\s,\]}}]|$)", text)
        before = text[: found.start()] if found else ""
        place = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise ValueError(f"{file}:{place}: NaN or infinity ({literal}), which are no JSON; restore the number")

    def integer(digits: str) -> int | float:  # Python refuses thousands of digits, and tensors more than 19
        return int(digits) if len(digits) < 16 else float(digits)

    return json.loads(text, object_pairs_hook=unique, parse_constant=no_number, parse_int=integer)


def frames_of(transforms: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """Return the frames of a transforms file: at least one, each an object."""
    frames = transforms.get("frames")
    if not isinstance(frames, list) or not frames:
        split = file.stem.removeprefix("transforms_")
        raise ValueError(f"{file}: split '{split}' is empty: 'frames' must list at least one image")
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


def image_file(folder: Path, name: Any, where: str) -> Path:
    """Return the image that ``name`` stands for, with or without a suffix; be it there or not."""
    where = f"{where}.file_path={name!r:.80}"
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where} must be the path of an image")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name):
        raise ValueError(f"{where} is a URL or names a drive; use a path inside the scene folder")
    if len(name) > 1024 or "\0" in name:
        raise ValueError(f"{where} is no path of an image ({len(name)} characters); use a path inside the scene folder")
    image = folder / name.replace("\\", "/")
    # NeRF-synthetic leaves out the suffix; 'r_0.5' has a dot and still no suffix.
    candidates = (image, *(image.with_name(image.name + suffix) for suffix in SUFFIXES if image.name))
    for candidate in candidates:
        if not inside(candidate, folder):
            raise ValueError(f"{where} leaves the scene folder; use a path inside it")
        if candidate.is_file():
            return candidate
    return image


def alike(file: Path) -> str:
    """Return ``; did you mean 'x'?`` for a file with nearly the same name beside one that is not there."""
    names = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
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
    array: np.ndarray = np.load(file, allow_pickle=False)
    return array
