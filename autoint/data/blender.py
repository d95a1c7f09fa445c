"""Blender scenes as in NeRF-synthetic: ``transforms_{train,val,test}.json`` beside folders of RGBA images."""

from __future__ import annotations

import torch

from autoint.data import reading
from autoint.data.views import Views, evenly
from autoint.rays import Intrinsics
from autoint.registry import DATASETS

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
    folder = reading.find_scene(data_dir, path, "blender", SOURCE)
    file = folder / f"transforms_{split}.json"
    transforms = reading.read_json(file, NEEDS)
    frames = reading.frames_of(transforms, file)
    fov = reading.angle(transforms.get("camera_angle_x"), f"{file}: camera_angle_x")
    files, poses = [], []
    for i in evenly(len(frames), at_most):
        where = f"{file}: frames[{i}]"
        name = frames[i].get("file_path")
        image, exists = reading.image_file(folder, name, where)
        if not exists:
            raise ValueError(f"{where}.file_path={name!r}: image {image}[.png] not found; restore the file")
        files.append(image)
        poses.append(reading.pose_of(frames[i], where))
    images, size = reading.read_images(files, image_size)
    intrinsics = Intrinsics.from_fov(fov, *size).resized(images.shape[2], images.shape[1])
    return Views(images, torch.stack(poses), intrinsics, near, far, tuple(f.stem for f in files))
