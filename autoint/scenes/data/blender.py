"""Blender scenes as in NeRF-synthetic: ``transforms_{train,val,test}.json`` beside folders of RGBA images."""

from __future__ import annotations

from pathlib import Path

from autoint.files import reading
from autoint.files.images import read_images
from autoint.registry import DATASETS
from autoint.scenes.data import download
from autoint.scenes.data.frames import Frame, frames_of, intrinsics_of, mask_of, split_file, warn_of_shared_images
from autoint.scenes.data.poses import poses_of, warn_of_twins
from autoint.scenes.data.views import Views, check_lens, evenly, names_of

SOURCE = "the NeRF-synthetic archive (nerf_synthetic.zip) linked from the NeRF project page, https://www.matthewtancik.com/nerf"
NEEDS = "a Blender scene has transforms_train.json and _val.json or _test.json, of which one may stand for the other"


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

    Of ``transforms_val.json`` and ``transforms_test.json`` one may stand for the other. Beside ``camera_angle_x`` the
    files may say of their cameras whatever those of ``scene=transforms`` may, and name masks.

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
    folder = reading.find_scene(data_dir, path, "blender", download.source(path, SOURCE), "nerf_synthetic")
    file = split_file(folder, split)
    frames = frames_of(file, NEEDS)
    poses = poses_of(frames, file)
    train = folder / "transforms_train.json"
    if split != "train" and train.is_file():
        seen = reading.frames_of(reading.read_json(train, NEEDS), train)
        warn_of_twins(poses, [frame["where"] for frame in frames], poses_of(seen, train), train.name)
        warn_of_shared_images(frames, seen)
    chosen = evenly(len(frames), at_most)
    frames = [frames[i] for i in chosen]
    files = reading.gathered(lambda frame: _image(folder, frame), frames)
    images, size = read_images(files, image_size)
    intrinsics = intrinsics_of(frames, size)
    check_lens(intrinsics, str(file))
    intrinsics, names = intrinsics.resized(images.shape[2], images.shape[1]), names_of(files)
    mask = mask_of(frames, folder, size, image_size)
    views = Views(images, poses[chosen], intrinsics, near, far, names, mask=mask)
    if bool((views.alpha == 1).all()):
        found = f"none of {len(files)} images has transparency"
        reading.warn(f"{file}: {found}; their background is a part of the scene")
    return views


def _image(folder: Path, frame: Frame) -> Path:
    """Return the image of a frame, which is noted in it as ``image``."""
    where = frame["where"]
    image = frame["image"] = reading.image_file(folder, frame.get("file_path"), where)
    if not image.is_file():
        found = f"{where}.file_path={frame['file_path']!r:.80}: image {image}[.png] not found"
        raise ValueError(f"{found}{reading.alike(image)}; restore the file")
    return image
