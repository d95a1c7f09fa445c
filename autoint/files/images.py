"""Pictures: PNG and JPEG files of untrusted origin become premultiplied RGBA."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoint.files import reading
from autoint.files.machine import installed_memory

T = TypeVar("T")
FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 2**26
MAX_DECODED = 2**36
"""Pixels of all images of a scene together, before they are reduced."""
BAND = 2**22
"""Pixels of a large picture that are worked on at once."""
MASK = "dynamic_mask_"
"""Begins the name of the mask of an image, which stands beside it (instant-ngp)."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned; 1 is upright."""
BEGINNINGS = {
    b"\x89PNG": "a damaged PNG",
    b"\xff\xd8": "a damaged JPEG",
    b"%!PS": "EPS",
    b"8BPS": "PSD",
    b"SIMPLE": "FITS",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
    b"PK\3\4": "a zip archive",
    b"<": "a web page",
    b"version https://git-lfs": "a pointer of git-lfs, whose file was not fetched",
}


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder of a scene, sorted by name and without their masks; at least one."""
    files = sorted(p for p in folder.iterdir() if p.suffix in reading.SUFFIXES) if folder.is_dir() else []
    files = [file for file in files if not file.name.startswith(MASK)]
    if not files:
        raise ValueError(f"{folder}: no PNG or JPEG images there; restore the folder")
    reading.gathered(lambda file: reading.check_links(file, folder.parent), files)
    return files


def read_images(files: Sequence[Path], image_size: int | None) -> tuple[Tensor, tuple[int, int]]:
    """Read images of one size as premultiplied RGBA (V, H, W, 4), reduced to ``image_size``, and (width, height).

    All headers are read before anything is decoded, and what is wrong with several files is told at once.
    """
    first: list[tuple[int, int]] = []

    def check(file: Path) -> None:
        width, height = image_size_of(file)
        first.append((width, height))
        if first[0] != (width, height):
            raise ValueError(
                f"{file}: image is {width}x{height}, but {files[0].name} is {first[0][0]}x{first[0][1]}; "
                "all images of a scene must have one size"
            )

    reading.gathered(check, files)
    twice = [file for file, count in Counter(files).items() if count > 1]
    if twice:
        views = [i for i, file in enumerate(files) if file == twice[0]]
        shown = f"{str(views[: reading.SHOWN])[:-1]}{', …' if len(views) > reading.SHOWN else ''}]"
        reading.warn(f"{twice[0]} is the image of {len(views)} views ({shown}); check the file that names it")
    width, height = _reduced_size(first[0], image_size)
    decoded, size = len(files) * first[0][0] * first[0][1], f"{first[0][0]}x{first[0][1]}"
    if decoded > MAX_DECODED:
        raise ValueError(
            f"{files[0].parent}: {len(files)} images of {size} have {decoded} pixels in all; at most {MAX_DECODED} are "
            "decoded: reduce them, or leave some out"
        )
    needed, there = len(files) * width * height * 16, installed_memory()
    if needed > there:
        raise ValueError(
            f"{files[0].parent}: {len(files)} images of {width}x{height} take {needed / 2**30:.1f} GiB, and this "
            f"machine has {there / 2**30:.1f} GiB of memory; reduce them by image_size"
        )
    images = torch.empty(len(files), height, width, 4)

    def fill(view: int) -> None:
        images[view] = read_rgba(files[view], image_size)[0]

    reading.gathered(fill, range(len(files)))
    return images, first[0]


def read_rgba(file: Path, image_size: int | None) -> tuple[Tensor, tuple[int, int]]:
    """Read an image as premultiplied RGBA (H, W, 4) in [0, 1], reduced to ``image_size``, and its (width, height).

    PNG or JPEG; grey, palette, CMYK and pictures without alpha are expanded. 16-bit grey keeps its 16 bits, 16-bit
    colour is decoded to its high byte. A picture of more than 2²⁶ pixels is refused before it is decoded, and one that
    EXIF says is to be turned.
    """
    size = image_size_of(file)
    target = _reduced_size(size, image_size)
    rgba, turn = _opened(file, lambda image: (_reduced(image, target), image.getexif().get(ORIENTATION, 1)))
    if turn not in (0, 1):
        raise ValueError(
            f"{file}: EXIF orientation {turn} says that the picture is to be turned, but cameras refer to the "
            "pixels as they are stored: remove the tag if the cameras were found so, or turn the pixels"
        )
    return torch.from_numpy(rgba), size


def image_size_of(file: Path) -> tuple[int, int]:
    """Return an image's (width, height) from its header, which is all that is read."""
    width, height = _opened(file, lambda image: image.size)
    if width * height > MAX_PIXELS:
        raise ValueError(f"{file}: too large an image ({width}x{height}; at most {MAX_PIXELS} pixels); reduce it")
    return width, height


def _opened(file: Path, action: Callable[[Image.Image], T]) -> T:
    """Return ``action`` of an image, with whatever Pillow raises as a ``ValueError`` that names the file."""
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise ValueError(f"{file}: no file, but a folder, a pipe or a device; give the image itself")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit of pixels lies above ours
            with Image.open(file, formats=FORMATS) as image:
                return action(image)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{file}: too large an image ({error}); reduce it") from error
    except FileNotFoundError as error:
        raise ValueError(f"{file}: file not found; restore it") from error
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise ValueError(f"{file}: not a readable PNG or JPEG image ({_content(file)}); restore the file") from error


def _content(file: Path) -> str:
    """Say what a file that is no readable image seems to be."""
    try:
        with file.open("rb") as stream:
            start = stream.read(32)
    except OSError as error:
        return str(error.strerror)
    kind = next((name for beginning, name in BEGINNINGS.items() if start.lstrip().startswith(beginning)), None)
    return kind or (f"it begins with {start[:8]!r}" if start else "the file is empty")


def _reduced(image: Image.Image, target: tuple[int, int]) -> np.ndarray:
    """Return an image as premultiplied RGBA, area-averaged to ``target`` (width, height); a large one band by band.

    Bands are reduced in width alone, and then all of them in height, which is how Pillow itself goes about it: the
    values are the same to the last bit.
    """
    width, height = image.size
    rows = max(1, BAND // width)
    if rows >= height:
        return _resized(_premultiplied(image), target)
    narrow = np.empty((height, target[0], 4), np.float32)
    for top in range(0, height, rows):
        band = _premultiplied(image.crop((0, top, width, min(top + rows, height))))
        narrow[top : top + rows] = _resized(band, (target[0], len(band)))
    return _resized(narrow, target)


def _premultiplied(image: Image.Image) -> np.ndarray:
    clear = image.info.get("transparency")  # the value, or the colour, that is transparent
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        value = np.asarray(image).astype(np.float32)[..., None]
        alpha = np.ones_like(value) if clear is None else (value != clear).astype(np.float32)
        grey = value / 65535 * alpha
        return np.concatenate([grey, grey, grey, alpha], axis=-1)
    if isinstance(clear, tuple) and max(clear) > 255:  # of 16-bit colour, of which the high byte is decoded
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    rgba = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


class AtMost(int):
    """A size that larger images are reduced to; smaller ones stay as they are."""


def _reduced_size(size: tuple[int, int], image_size: int | None) -> tuple[int, int]:
    """Return the (width, height) to which an image is reduced so that its longer side is ``image_size``."""
    width, height = size
    longer = max(size)
    if image_size is None or image_size == longer or (image_size > longer and isinstance(image_size, AtMost)):
        return size
    if image_size > longer:
        raise ValueError(f"image_size={image_size} is larger than the images ({width}x{height}); at most {longer}")
    return max(1, round(width * image_size / longer)), max(1, round(height * image_size / longer))


def reduced(image: np.ndarray, image_size: int | None) -> np.ndarray:
    """Return ``image`` (H, W, C) with its longer side reduced to ``image_size`` by area averaging."""
    return _resized(image, _reduced_size((image.shape[1], image.shape[0]), image_size))


def _resized(image: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Return ``image`` (H, W, C) as (width, height) by area averaging."""
    if target == (image.shape[1], image.shape[0]):
        return image
    channels = [Image.fromarray(channel).resize(target, Image.Resampling.BOX) for channel in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(c, dtype=np.float32) for c in channels], axis=-1)
