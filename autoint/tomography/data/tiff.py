"""Pictures of numbers: the pages of a TIFF file, and what ImageJ says of them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

log = logging.getLogger(__name__)
MOST_PAGES = 20000
GREY = ("L", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")
REDUCED = 1  # bit of TIFF's NewSubfileType: this page is another one's small copy
STRAIGHT_LINE, NO_FUNCTION = 0, 20  # ImageJ's cf: what its calibration is
SAID = re.compile(r"^(images|cf|c0|c1)=([-+]?\d{1,18}(?:\.\d{0,18})?(?:[eE][-+]?\d{1,2})?)\s*$", re.MULTILINE)


def read_pages(file: Path, check_size: Callable[[tuple[int, ...]], None]) -> np.ndarray:
    """Return all pages of a picture, but for small copies of others: (A, P), or a stack of them.

    ``check_size`` is asked of each shape before it is read; ``ValueError`` names the page and the mend.
    """
    with (
        warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        Image.open(file, formats=("TIFF",)) as image,
    ):
        pages: list[np.ndarray] = []
        for number in range(MOST_PAGES + 1):
            try:
                image.seek(number)
            except EOFError:
                break
            tags = image.tag_v2  # type: ignore[attr-defined]
            if number and tags.get(254, 0) & REDUCED:
                continue
            if image.mode not in GREY:
                raise ValueError(
                    f"{file}: page {number} has colours or a palette (Pillow's mode {image.mode}); save grey values"
                )
            if tags.get(262) == 0 and image.mode != "L":  # those of 8 bits Pillow turns
                raise ValueError(
                    f"{file}: page {number} says that zero is white (PhotometricInterpretation 0), which some programs "
                    "mean for the screen alone; save it with zero for black, or as .npy"
                )
            shape = (image.height, image.width)
            if pages and shape != pages[0].shape:
                raise ValueError(
                    f"{file}: page {number} has {shape[0]}×{shape[1]} pixels and page 0 has {pages[0].shape[0]}×"
                    f"{pages[0].shape[1]}; save pages of one size, or the sinogram alone"
                )
            check_size((len(pages) + 1, *shape))
            pages.append(np.asarray(image))
            if number == 0:
                described = str(tags.get(270, ""))
        else:
            raise ValueError(f"{file}: more than {MOST_PAGES} pages; cut it")
    return _as_described(file, described, pages)


def _as_described(file: Path, description: str, pages: list[np.ndarray]) -> np.ndarray:
    """Return the pages as the numbers that ImageJ says they mean; refuse fewer than it says: large stacks are one."""
    said = {key: float(value) for key, value in SAID.findall(description)}
    values = np.stack(pages) if len(pages) > 1 else pages[0]
    if not description.startswith("ImageJ="):
        return values
    if said.get("images", 1) > len(pages):
        raise ValueError(
            f"{file}: ImageJ's stack of {said['images']:.0f} images, of which {len(pages)} can be read; save it as "
            ".npy or as a TIFF with a page for each"
        )
    if values.dtype.kind != "u" or said.get("cf", NO_FUNCTION) == NO_FUNCTION:
        return values
    if said["cf"] != STRAIGHT_LINE or not said.keys() >= {"c0", "c1"}:
        raise ValueError(
            f"{file}: calibrated by ImageJ's function {said['cf']:g}; a straight line ({STRAIGHT_LINE}) alone is read: "
            "save it as 32-bit, or as .npy"
        )
    log.info("%s: values are %g + %g × what is stored, by ImageJ's calibration", file, said["c0"], said["c1"])
    return np.float32(said["c0"]) + np.float32(said["c1"]) * values.astype(np.float32)  # signed 16 bits, too
