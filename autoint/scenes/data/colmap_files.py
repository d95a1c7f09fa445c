"""COLMAP's sparse models, ``*.bin`` and ``*.txt`` of any origin, read without COLMAP.

The format is that of COLMAP's documentation, "Output Format". Nothing in a file is believed: counts are compared with
what is there before anything is made of them.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from autoint.files import reading

T = TypeVar("T")
Points = tuple[np.ndarray, np.ndarray, list[np.ndarray]]
"""Places (P, 3), errors (P,), and the images that see each."""
NEEDS = "a COLMAP model has cameras, images and points3D, all .bin or all .txt, in sparse/0"
PLACES = ("sparse/0", "sparse", "colmap/sparse/0", ".")
MAX_BYTES, MAX_TEXT, MAX_LINE, MAX_IMAGES = 2**30, 2**28, 2**22, 20_000
MODELS: dict[str, tuple[int, tuple[str, ...]]] = {
    "SIMPLE_PINHOLE": (0, ("f", "cx", "cy")),
    "PINHOLE": (1, ("fx", "fy", "cx", "cy")),
    "SIMPLE_RADIAL": (2, ("f", "cx", "cy", "k1")),
    "RADIAL": (3, ("f", "cx", "cy", "k1", "k2")),
    "OPENCV": (4, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
    "FULL_OPENCV": (6, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
}
"""The cameras that rays go through, with their numbers and parameters; of the last, k4 to k6 have to be 0."""
OTHERS = {
    "OPENCV_FISHEYE": (5, 8),
    "FOV": (7, 5),
    "SIMPLE_RADIAL_FISHEYE": (8, 4),
    "RADIAL_FISHEYE": (9, 5),
    "THIN_PRISM_FISHEYE": (10, 12),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, 16),
}
"""Cameras that no ray goes through, with their numbers and how many parameters they have."""


@dataclass(frozen=True)
class Lens:
    """A camera of a model: the size of its images, fx, fy, cx, cy, and k1, k2, k3, p1, p2."""

    width: int
    height: int
    pinhole: tuple[float, ...]
    distortion: tuple[float, ...]


@dataclass(frozen=True)
class Placed:
    """An image of a model: number, name, camera, and its pose, camera-to-world, (4, 4) in OpenGL's convention."""

    number: int
    name: str
    camera: int
    pose: Tensor


@dataclass(frozen=True)
class SparseModel:
    """What COLMAP has found.

    Attributes:
        cameras: by their numbers.
        images: sorted by name.
        points: (P, 3).
        errors: of reprojection, in pixels, (P,).
        seen_by: the numbers of the images that see each point, P arrays.
    """

    cameras: dict[int, Lens]
    images: list[Placed]
    points: Tensor
    errors: Tensor
    seen_by: list[np.ndarray]


def find_model(folder: Path) -> Path | None:
    """Return the folder of the model that belongs to a scene's folder, or None."""
    for place in PLACES:
        if any((folder / place / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            _warn_of_larger(folder / place)
            return folder / place
    return None


def _warn_of_larger(place: Path) -> None:
    """Tell of a larger model beside ``sparse/0``: COLMAP numbers those that do not meet as it finds them."""
    if place.name != "0":
        return
    size = {file.parent: file.stat().st_size for s in ("bin", "txt") for file in place.parent.glob(f"*/images.{s}")}
    largest = max(size, key=lambda other: size[other], default=place)
    if size.get(place, 0) < size.get(largest, 0):
        found = f"its images file has {size[largest]} bytes, that of {place} {size.get(place, 0)}"
        reading.warn(f"{largest}: {found}, which is read; exchange the two folders' names to take the larger model")


def read_model(folder: Path) -> SparseModel:
    """Return the model in a folder; ``ValueError`` names the file, what was found, and the mend."""
    suffix = "bin" if (folder / "cameras.bin").is_file() else "txt"
    read = (_cameras_bin, _images_bin, _points_bin) if suffix == "bin" else (_cameras_txt, _images_txt, _points_txt)
    files = [folder / f"{name}.{suffix}" for name in ("cameras", "images", "points3D")]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: file not found; {NEEDS}")
        if file.stat().st_size > (most := MAX_BYTES if suffix == "bin" else MAX_TEXT):
            other = "" if suffix == "bin" else ", or convert the model to .bin"
            raise ValueError(f"{file}: {file.stat().st_size} bytes, more than {most}; leave images out{other}")
    cameras, (places, misses, seen_by) = dict(_checked(files[0], read[0])), next(_checked(files[2], read[2]))
    images = sorted(_checked(files[1], read[1]), key=lambda image: image.name)
    if not images:
        raise ValueError(f"{files[1]}: no image has a pose; run the reconstruction again")
    for image in images:
        if image.camera not in cameras:
            raise ValueError(f"{files[1]}: {image.name} is of camera {image.camera}, which {files[0].name} has not")
    points = torch.tensor(places, dtype=torch.float64).reshape(-1, 3)
    errors = torch.tensor(misses, dtype=torch.float64)
    if not bool(points.isfinite().all()):
        raise ValueError(f"{files[2]}: NaN or infinity in a point; run the reconstruction again")
    return SparseModel(cameras, images, points, errors, seen_by)


def _checked(file: Path, read: Callable[[Path], Iterator[T]]) -> Iterator[T]:
    """Yield what a reader finds in a file, with whatever a damaged one leads to as a ``ValueError`` that names it."""
    try:
        yield from read(file)
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{file}: damaged or cut off ({error}); {NEEDS}") from error


class _Bytes:
    """The content of a binary file, read front to back."""

    def __init__(self, file: Path) -> None:
        self.file, self.content, self.at = file, file.read_bytes(), 0

    def next(self, form: str) -> tuple[Any, ...]:
        """The next values, by :mod:`struct`."""
        values = struct.unpack_from(f"<{form}", self.content, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def count(self, each: int) -> int:
        """The next count, of things of at least ``each`` bytes: there must be room for them in the file."""
        (count,) = self.next("Q")
        left = len(self.content) - self.at
        if count * each > left:
            raise ValueError(f"{self.file}: {count} entries do not fit into the {left} bytes that follow; restore it")
        return int(count)

    def name(self) -> str:
        """The next text, which a zero ends."""
        end = self.content.find(b"\0", self.at, self.at + 4096)
        if end < 0:
            raise ValueError(f"{self.file}: a name without an end at byte {self.at}; restore the file")
        text = self.content[self.at : end].decode()
        self.at = end + 1
        return text

    def array(self, dtype: str, count: int) -> np.ndarray:
        """The next ``count`` numbers."""
        values = np.frombuffer(self.content, dtype, count, self.at)
        self.at += values.nbytes
        return values


def _cameras_bin(file: Path) -> Iterator[tuple[int, Lens]]:
    data = _Bytes(file)
    names = {number: name for name, (number, _) in {**MODELS, **OTHERS}.items()}
    for _ in range(data.count(24)):
        number, model, width, height = data.next("iiQQ")
        name = names.get(model)
        if name is None:
            raise ValueError(f"{file}: camera {number} is of model {model}, which is unknown; {_known()}")
        count = len(MODELS[name][1]) if name in MODELS else OTHERS[name][1]
        yield number, _lens(file, number, name, width, height, data.next(f"{count}d"))


def _images_bin(file: Path) -> Iterator[Placed]:
    data = _Bytes(file)
    for _ in range(_few(file, data.count(72))):
        number, *pose, camera = data.next("i7di")
        name = data.name()
        yield _placed(file, number, pose, camera, name)
        seen = data.count(24)  # where it sees which point
        data.at += 24 * seen


def _points_bin(file: Path) -> Iterator[Points]:
    data, seen, starts = _Bytes(file), [], array("q")
    length = struct.Struct("<Q").unpack_from
    for _ in range(data.count(51)):
        starts.append(data.at)
        (count,) = length(data.content, data.at + 43)
        data.at += 51
        if 8 * count > len(data.content) - data.at:
            raise ValueError(f"{file}: {count} images of a point do not fit into what follows; restore it")
        seen.append(data.array("<i4", 2 * count)[::2])
    rows = np.frombuffer(data.content, np.uint8)[np.array(starts, np.int64)[:, None] + np.r_[8:32, 35:43]]
    numbers = rows.view("<f8").reshape(-1, 4)
    yield numbers[:, :3], numbers[:, 3], seen


def _lines(file: Path) -> Iterator[list[str]]:
    """The words of every line that is no comment; an image's second line may be empty, and counts."""
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), ""), 1):
            if len(line) > MAX_LINE:
                raise ValueError(f"{file}: line {number} has more than {MAX_LINE} characters; restore it")
            if not line.startswith("#"):
                yield line.split()


def _numbers(file: Path, words: list[str], what: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{file}: {what} has {' '.join(words)!r:.80} where numbers belong; restore it") from error


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _whole(file: Path, values: Sequence[float], what: str) -> list[int]:
    if not all(map(math.isfinite, values)):
        raise ValueError(
            f"{file}: {what} has {' '.join(map(str, values))!r:.80} where whole numbers belong; restore it"
        )
    return [int(value) for value in values]


def _cameras_txt(file: Path) -> Iterator[tuple[int, Lens]]:
    for words in filter(None, _lines(file)):
        number, width, height = _whole(file, _numbers(file, [words[0], words[2], words[3]], "a camera"), "a camera")
        yield number, _lens(file, number, words[1], width, height, tuple(_numbers(file, words[4:], f"camera {number}")))


def _images_txt(file: Path) -> Iterator[Placed]:
    lines = [*_lines(file), []]
    for words, seen in zip(lines[: 2 * (_few(file, len(lines) // 2) + 1) : 2], lines[1::2], strict=False):
        if seen and (len(seen) % 3 or not _is_number(seen[-1])):
            raise ValueError(
                f"{file}: a line that ends in {seen[-1]!r:.80} stands where the points belong that the image before it "
                "sees; each image has two lines, of which the second may be empty: put one in after each"
            )
        if words:
            values = _numbers(file, words[:9], "an image")
            number, camera = _whole(file, [values[0], values[8]], "an image")
            yield _placed(file, number, values[1:8], camera, " ".join(words[9:]))


def _points_txt(file: Path) -> Iterator[Points]:
    numbers, seen = array("d"), []
    for words in filter(None, _lines(file)):
        values = _numbers(file, words, "a point")
        numbers.extend((*values[1:4], values[7]))
        seen.append(np.array(_whole(file, values[8::2], "a point"), dtype=np.int64))
    rows = np.array(numbers).reshape(-1, 4)
    yield rows[:, :3], rows[:, 3], seen


def _few(file: Path, count: int) -> int:
    if count > MAX_IMAGES:
        raise ValueError(f"{file}: {count} images; a scene has at most {MAX_IMAGES}: leave some out")
    return count


def _known() -> str:
    return f"rays go through {', '.join(MODELS)}: undistort the images (colmap image_undistorter), or map them with one"


def _lens(file: Path, number: int, model: str, width: int, height: int, values: tuple[float, ...]) -> Lens:
    """A camera by its parameters; one that no ray goes through is refused by name."""
    if model not in MODELS:
        raise ValueError(f"{file}: camera {number} is of model {model!r:.40}, which is not supported; {_known()}")
    keys = MODELS[model][1]
    found = dict(zip(keys, values, strict=False))
    if len(values) != len(keys) or not all(map(math.isfinite, values)) or min(width, height) < 1:
        raise ValueError(f"{file}: camera {number}, {model} of {width}x{height}: {values} must be {', '.join(keys)}")
    if any(found.get(key) for key in ("k4", "k5", "k6")):
        raise ValueError(f"{file}: camera {number} has k4, k5 or k6 other than 0, which is not supported; {_known()}")
    focal = found.get("f", 0.0)
    pinhole = found.get("fx", focal), found.get("fy", focal), found["cx"], found["cy"]
    if min(pinhole[:2]) <= 0:
        raise ValueError(f"{file}: camera {number} has the focal lengths {pinhole[:2]}; they must be positive")
    return Lens(width, height, pinhole, tuple(found.get(key, 0.0) for key in ("k1", "k2", "k3", "p1", "p2")))


def _placed(file: Path, number: int, pose: list[float], camera: int, name: str) -> Placed:
    """An image by its pose, world-to-camera, as a quaternion w, x, y, z and a translation, in OpenCV's convention."""
    values = torch.tensor(pose, dtype=torch.float64)
    length = float(values[:4].norm())
    if not bool(values.isfinite().all()) or not 0.9 < length < 1.1:
        raise ValueError(f"{file}: image {number} ({name!r:.80}): {pose[:4]} is no rotation; restore the file")
    w, x, y, z = (values[:4] / length).tolist()
    turn = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    out = torch.eye(4, dtype=torch.float64)
    out[:3, :3] = turn.T * torch.tensor([1.0, -1.0, -1.0])  # y down and looking along +z, to y up and along −z
    out[:3, 3] = -turn.T @ values[4:]
    return Placed(number, name, camera, out)
