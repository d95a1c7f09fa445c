"""What all posed-image data sets read: scene folders, JSON, poses and images, with errors that name the place."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned; 1 is upright."""


def find_scene(data_dir: str, path: str, name: str, source: str) -> Path:
    """Return the scene's folder, or say where it was looked for and how to get the data."""
    if not path:
        raise ValueError(f"scene.path is empty: give the scene's folder, as in scene={name} scene.path=FOLDER")
    folder = Path(data_dir) / path
    if folder.is_dir():
        return folder
    siblings = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
    there = f" (there: {', '.join(siblings[:8])})" if siblings else ""
    raise ValueError(
        f"scene folder not found: {folder}{there}; get {source}, unpack it, and set "
        f"data_dir=FOLDER so that FOLDER/{path} exists"
    )


def check_range(near: float, far: float) -> None:
    """Refuse a range of the ray parameter that is empty or begins behind the camera."""
    if not 0 <= near < far:
        raise ValueError(f"scene.near={near}, scene.far={far}: need 0 <= near < far")


def read_json(file: Path, needs: str) -> dict[str, Any]:
    """Return the object in a JSON file; ``needs`` says what a scene's folder should hold."""
    if not file.is_file():
        raise ValueError(f"{file}: file not found; {needs}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
        if twice:
            raise ValueError(f"{file}: the key '{twice[0]}' stands twice in one object; remove one of them")
        return dict(pairs)

    try:
        contents = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}:{error.colno}: malformed JSON: {error.msg}; mend the file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: malformed JSON: not UTF-8 text at byte {error.start}; mend the file") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{file}: malformed JSON: expected an object with 'frames'")
    return contents


def frames_of(transforms: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """Return the frames of a transforms file: at least one, each an object."""
    frames = transforms.get("frames")
    if not isinstance(frames, list) or not frames:
        split = file.stem.removeprefix("transforms_")
        raise ValueError(f"{file}: split '{split}' is empty: 'frames' must list at least one image")
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise ValueError(f"{file}: frames[{i}]={frame!r} must be an object with file_path and transform_matrix")
    return frames


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value from JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def angle(value: Any, where: str) -> float:
    """Return a field of view, checked to be in radians."""
    if not is_number(value) or not 0 < value < math.pi:
        raise ValueError(f"{where}={value!r} must be an angle in radians between 0 and π")
    return float(value)


def image_file(folder: Path, name: Any, where: str) -> tuple[Path, bool]:
    """Return the image that ``name`` stands for, with or without a suffix, and whether it exists."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}.file_path={name!r} must be the path of an image")
    image = folder / name.replace("\\", "/")
    if "\0" in name or not image.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where}.file_path={name!r} leaves the scene folder; use a path inside it")
    # NeRF-synthetic leaves out the suffix; 'r_0.5' has a dot and still no suffix.
    for candidate in (image, *(image.with_name(image.name + suffix) for suffix in SUFFIXES)):
        if candidate.is_file():
            return candidate, True
    return image, False


def pose_of(frame: dict[str, Any], where: str) -> Tensor:
    """Return a frame's camera-to-world matrix (4, 4)."""
    where = f"{where}.transform_matrix"
    try:
        pose = torch.tensor(frame["transform_matrix"], dtype=torch.float32)
    except KeyError as error:
        raise ValueError(f"{where} is missing; give a 4x4 camera-to-world matrix") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is not a matrix of numbers; give a 4x4 camera-to-world matrix") from error
    if pose.shape == (3, 4):
        pose = torch.cat([pose, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
    check_pose(pose, where)
    return pose


def check_pose(pose: Tensor, where: str) -> None:
    """Refuse what is no rigid camera-to-world matrix (4, 4)."""
    if pose.shape != (4, 4):
        raise ValueError(f"{where} has shape {tuple(pose.shape)}; give a 4x4 camera-to-world matrix")
    if not pose.isfinite().all():
        raise ValueError(f"{where} holds NaN or infinity; give a 4x4 camera-to-world matrix of finite numbers")
    rotation = pose[:3, :3]
    gap = float((rotation @ rotation.T - torch.eye(3)).abs().max())
    if gap > 1e-2 or torch.det(rotation) < 0:
        det = float(torch.det(rotation))
        raise ValueError(f"{where}: not a rotation (|RRᵀ−I| up to {gap:.2g}, det {det:.2g}); remove scale, mirroring")
    if float((pose[3] - torch.tensor([0.0, 0.0, 0.0, 1.0])).abs().max()) > 1e-6:
        raise ValueError(f"{where}: its last row is {pose[3].tolist()}; it must be 0, 0, 0, 1")


def images_in(folder: Path) -> list[Path]:
    """Return a folder's images, sorted by name; at least one."""
    files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise ValueError(f"{folder}: no PNG or JPEG images there; restore the folder")
    return files


def read_images(files: Sequence[Path], image_size: int | None) -> tuple[Tensor, tuple[int, int]]:
    """Read images of one size as premultiplied RGBA (V, H, W, 4), reduced to ``image_size``, and (width, height)."""
    images: list[Tensor] = []
    first = (0, 0)
    for file in files:
        image, size = read_rgba(file, image_size)
        first = size if not images else first
        if size != first:
            raise ValueError(
                f"{file}: image is {size[0]}x{size[1]}, but {files[0].name} is {first[0]}x{first[1]}; "
                "all images of a scene must have one size"
            )
        images.append(image)
    return torch.stack(images), first


def read_rgba(file: Path, image_size: int | None) -> tuple[Tensor, tuple[int, int]]:
    """Read an image as premultiplied RGBA (H, W, 4) in [0, 1], reduced to ``image_size``, and its (width, height).

    PNG or JPEG; grey, palette, CMYK and pictures without alpha are expanded. 16-bit grey keeps its 16 bits, 16-bit
    colour is decoded to its high byte. A picture that EXIF says is to be turned, or that would unpack to more than
    Pillow's limit of 89 million pixels, is refused before it is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=("PNG", "JPEG"))
        with image:
            size, turn = image.size, image.getexif().get(ORIENTATION, 1)
            if turn not in (0, 1):
                raise ValueError(
                    f"{file}: EXIF orientation {turn} says that the picture is to be turned, but cameras refer to the "
                    "pixels as they are stored: remove the tag if the cameras were found so, or turn the pixels"
                )
            if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
                grey = np.asarray(image).astype(np.float32)[..., None] / 65535
                rgba = np.concatenate([grey, grey, grey, np.ones_like(grey)], axis=-1)
            else:
                rgba = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: too large an image ({error}); reduce it") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{file}: not a readable PNG or JPEG image ({error}); restore the file") from error
    rgba[..., :3] *= rgba[..., 3:]
    return torch.from_numpy(reduced(rgba, image_size)), size


def image_size_of(file: Path) -> tuple[int, int]:
    """Return an image's (width, height) from its header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                return image.size
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: not a readable PNG or JPEG image ({error}); restore the file") from error


def reduced(image: np.ndarray, image_size: int | None) -> np.ndarray:
    """Return ``image`` (H, W, C) with its longer side reduced to ``image_size`` by area averaging."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if image_size is None or image_size == longer:
        return image
    if image_size > longer:
        raise ValueError(f"image_size={image_size} is larger than the images ({width}x{height}); at most {longer}")
    target = max(1, round(width * image_size / longer)), max(1, round(height * image_size / longer))
    channels = [Image.fromarray(channel).resize(target, Image.Resampling.BOX) for channel in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(c, dtype=np.float32) for c in channels], axis=-1)
