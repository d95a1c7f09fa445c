"""Blender scenes as in NeRF-synthetic: ``transforms_{train,val,test}.json`` beside folders of RGBA images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from autoint.data.views import Views, evenly
from autoint.rays import Intrinsics
from autoint.registry import DATASETS

SOURCE = "the NeRF-synthetic archive (nerf_synthetic.zip) linked from the NeRF project page, https://www.matthewtancik.com/nerf"


@DATASETS.register("blender")
def blender(
    data_dir: str,
    split: str,
    image_size: int | None,
    at_most: int | None = None,
    *,
    path: str = "",
    near: float = 2.0,
    far: float = 6.0,
) -> Views:
    """Load one split of a Blender scene.

    Args:
        data_dir: the folder that holds data sets.
        split: ``train``, ``val`` or ``test``.
        image_size: longer side in pixels, by area averaging of premultiplied colour; None keeps the files' size.
        at_most: how many views to read, evenly spaced; None reads all.
        path: the scene's folder, absolute or relative to ``data_dir``.
        near, far: range of the ray parameter (NeRF uses 2 and 6).

    Raises:
        ValueError: naming the file or key, what was found and the mend.
    """
    if not 0 <= near < far:
        raise ValueError(f"scene.near={near}, scene.far={far}: need 0 <= near < far")
    folder = find_scene(data_dir, path)
    file = folder / f"transforms_{split}.json"
    transforms = _read_json(file)
    frames = transforms.get("frames")
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"{file}: split '{split}' is empty: 'frames' must list at least one image")
    fov = transforms.get("camera_angle_x")
    if not isinstance(fov, (int, float)) or not 0 < fov < math.pi:
        raise ValueError(f"{file}: camera_angle_x={fov!r} must be an angle in radians between 0 and π")
    images, poses, names = [], [], []
    first: tuple[Path, tuple[int, int]] | None = None
    for i in evenly(len(frames), at_most):
        frame = frames[i]
        image_file = _image_file(folder, frame, file, i)
        image, size = read_rgba(image_file, image_size)
        if first is None:
            first = image_file, size
        elif size != first[1]:
            raise ValueError(
                f"{image_file}: image is {size[0]}x{size[1]}, but {first[0].name} is {first[1][0]}x{first[1][1]}; "
                "all images of a scene must have one size"
            )
        images.append(image)
        poses.append(_pose(frame, file, i))
        names.append(image_file.stem)
    stack = torch.stack(images)
    intrinsics = Intrinsics.from_fov(float(fov), stack.shape[2], stack.shape[1])
    return Views(stack, torch.stack(poses), intrinsics, near, far, tuple(names))


def find_scene(data_dir: str, path: str) -> Path:
    """Return the scene's folder, or say where it was looked for and how to get the data."""
    if not path:
        raise ValueError("scene.path is empty: give the scene's folder, as in scene=blender scene.path=FOLDER")
    folder = Path(data_dir) / path
    if folder.is_dir():
        return folder
    siblings = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
    there = f" (there: {', '.join(siblings[:8])})" if siblings else ""
    raise ValueError(
        f"scene folder not found: {folder}{there}; get {SOURCE}, unpack it, and set "
        f"data_dir=FOLDER so that FOLDER/{path} exists"
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file}: file not found; a Blender scene has transforms_train.json, _val.json and _test.json")
    try:
        transforms = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}:{error.colno}: malformed JSON: {error.msg}; mend the file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: malformed JSON: not UTF-8 text at byte {error.start}; mend the file") from error
    if not isinstance(transforms, dict):
        raise ValueError(f"{file}: malformed JSON: expected an object with 'camera_angle_x' and 'frames'")
    return transforms


def _image_file(folder: Path, frame: Any, file: Path, index: int) -> Path:
    name = frame.get("file_path") if isinstance(frame, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f"{file}: frames[{index}].file_path={name!r} must be the path of an image")
    image = folder / name
    if not image.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{file}: frames[{index}].file_path={name!r} leaves the scene folder; use a path inside it")
    # NeRF-synthetic leaves out the suffix; 'r_0.5' has a dot and still no suffix.
    for candidate in (image, image.with_name(image.name + ".png")):
        if candidate.is_file():
            return candidate
    raise ValueError(f"{file}: frames[{index}].file_path={name!r}: image {image}[.png] not found; restore the file")


def _pose(frame: dict[str, Any], file: Path, index: int) -> Tensor:
    where = f"{file}: frames[{index}].transform_matrix"
    try:
        pose = torch.tensor(frame["transform_matrix"], dtype=torch.float32)
    except KeyError as error:
        raise ValueError(f"{where} is missing; give a 4x4 camera-to-world matrix") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is not a matrix of numbers; give a 4x4 camera-to-world matrix") from error
    if pose.shape == (3, 4):
        pose = torch.cat([pose, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
    if pose.shape != (4, 4):
        raise ValueError(f"{where} has shape {tuple(pose.shape)}; give a 4x4 camera-to-world matrix")
    if not pose.isfinite().all():
        raise ValueError(f"{where} holds NaN or infinity; give a 4x4 camera-to-world matrix of finite numbers")
    rotation = pose[:3, :3]
    gap = float((rotation @ rotation.T - torch.eye(3)).abs().max())
    if gap > 1e-2 or torch.det(rotation) < 0:
        det = float(torch.det(rotation))
        raise ValueError(f"{where}: not a rotation (|RRᵀ−I| up to {gap:.2g}, det {det:.2g}); remove scale, mirroring")
    return pose


def read_rgba(file: Path, image_size: int | None) -> tuple[Tensor, tuple[int, int]]:
    """Read an image as premultiplied RGBA (H, W, 4) in [0, 1], reduced to ``image_size``, and its (width, height)."""
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            size = image.size
            rgba = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: not a readable PNG or JPEG image ({error}); restore the file") from error
    rgba = rgba * np.concatenate([rgba[..., 3:].repeat(3, axis=-1), np.ones_like(rgba[..., 3:])], axis=-1)
    return torch.from_numpy(reduced(rgba, image_size)), size


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
