"""Masks of images: pixels that neither train nor count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autoint.files import reading
from autoint.files.images import MASK, image_size_of, read_rgba, reduced

MEANING = f"black ignores in a mask_path or masks/NAME.png.png, any other colour in a {MASK}*.png"


def read(
    images: Sequence[Path], named: Sequence[Path | None], size: tuple[int, int], image_size: int | None
) -> Tensor | None:
    """Return which pixels of images count, (V, H, W) of bool, or None where no image has a mask.

    A file that is ``named`` for an image (nerfstudio's mask_path, COLMAP's masks) ignores what is black in it, and one
    beside the image, ``dynamic_mask_NAME.png`` (instant-ngp's), whatever is not. Transparent is black, and so is what
    is less than half bright in a JPEG. A pixel of a reduced image counts where all pixels that it is made of do.

    Args:
        images: the images' files.
        named: the mask that is named for each of them, if any.
        size: (width, height) of the images, which masks must have too.
        image_size: what the images' longer side is reduced to.

    Raises:
        ValueError: for masks that are missing, of another size, or that leave no pixel of any image.
    """
    beside = [image.with_name(f"{MASK}{image.stem}.png") for image in images]
    dynamic = [file if file.is_file() else None for file in beside]
    reading.gathered(lambda file: reading.check_links(file, file.parent), [file for file in dynamic if file])
    files = [file for file in [*named, *dynamic] if file is not None]
    if not files:
        return None
    _check(files, size)
    pairs = zip(named, dynamic, strict=True)
    mask = torch.stack([_counting(*pair, size, image_size) for pair in pairs])
    nothing = [image.name for image, one in zip(images, mask, strict=True) if not one.any()]
    if len(nothing) == len(images):
        raise ValueError(f"{files[0]}: no pixel is left of any of {len(images)} images ({MEANING}); mend the masks")
    if nothing:
        shown = ", ".join(nothing[:8]) + (", …" if len(nothing) > 8 else "")
        reading.warn(f"{files[0].parent}: masks leave nothing of {len(nothing)} of {len(images)} images: {shown}")
    return mask


def _check(files: Sequence[Path], size: tuple[int, int]) -> None:
    """Refuse masks that are missing or of another size than the images, in one line that counts and names them."""
    gone = [file for file in files if not file.is_file()]
    if gone:
        raise ValueError(
            f"{gone[0]}: mask not found{reading.alike(gone[0])}; the masks of {len(gone)} images are missing: restore "
            "them, or remove mask_path from the frames"
        )
    sizes = {file: image_size_of(file) for file in files}
    wrong = [file for file in files if sizes[file] != size]
    if wrong:
        found = "{}x{}".format(*sizes[wrong[0]])
        raise ValueError(
            f"{wrong[0]}: the mask is {found}, but its image {size[0]}x{size[1]}, as in {len(wrong)} of {len(files)} "
            "masks; a mask has the size of its image"
        )


def _counting(named: Path | None, dynamic: Path | None, size: tuple[int, int], image_size: int | None) -> Tensor:
    """Which pixels of one image count, (H, W) of bool."""
    counts = torch.ones(size[1], size[0], dtype=torch.bool)
    if named is not None:
        floor = 0.5 if named.suffix.lower() in (".jpg", ".jpeg") else 0.0  # a JPEG's black is not quite black
        counts = read_rgba(named, None)[0][..., :3].amax(-1) > floor
    if dynamic is not None:
        counts = counts & (read_rgba(dynamic, None)[0][..., :3].amax(-1) == 0)
    whole = reduced(counts[..., None].float().numpy(), image_size)[..., 0]
    return torch.from_numpy(whole > 1 - 1e-5)
