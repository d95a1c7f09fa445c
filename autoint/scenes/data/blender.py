"""Blender scenes as in NeRF-synthetic: ``transforms_{train,val,test}.json`` beside folders of RGBA images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from autoint.files import reading
from autoint.files.images import read_images
from autoint.registry import DATASETS
from autoint.scenes.data import download
from autoint.scenes.data.poses import poses_of, warn_of_twins
from autoint.scenes.data.views import Views, evenly
from autoint.scenes.rays import Intrinsics

log = logging.getLogger(__name__)
SOURCE = "the NeRF-synthetic archive (nerf_synthetic.zip) linked from the NeRF project page, https://www.matthewtancik.com/nerf"
NEEDS = "a Blender scene has transforms_train.json, _val.json and _test.json"


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
    reading.check_range(near, far)
    folder = reading.find_scene(data_dir, path, "blender", SOURCE, download.hint)
    file = folder / f"transforms_{split}.json"
    transforms = reading.read_json(file, NEEDS)
    frames = reading.frames_of(transforms, file)
    fov = reading.angle(transforms.get("camera_angle_x"), f"{file}: camera_angle_x")
    poses = poses_of(frames, file)
    train = folder / "transforms_train.json"
    if split != "train" and train.is_file():
        seen = poses_of(reading.frames_of(reading.read_json(train, NEEDS), train), train)
        warn_of_twins(poses, [f"{file}: frames[{i}]" for i in range(len(frames))], seen, train.name)
    chosen = evenly(len(frames), at_most)
    files = reading.gathered(lambda i: _image(folder, frames[i], f"{file}: frames[{i}]"), chosen)
    images, size = read_images(files, image_size)
    if bool((images[..., 3] == 1).all()):
        log.warning("%s: none of %d images has transparency; their background is a part of the scene", file, len(files))
    intrinsics = Intrinsics.from_fov(fov, *size).resized(images.shape[2], images.shape[1])
    return Views(images, poses[chosen], intrinsics, near, far, tuple(f.stem for f in files))


def _image(folder: Path, frame: dict[str, Any], where: str) -> Path:
    image = reading.image_file(folder, frame.get("file_path"), where)
    if not image.is_file():
        found = f"{where}.file_path={frame['file_path']!r}: image {image}[.png] not found"
        raise ValueError(f"{found}{reading.alike(image)}; restore the file")
    return image
