"""Captures described by one ``transforms.json``, as instant-ngp, nerfstudio and COLMAP's exporters write it."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoint.files import reading
from autoint.files.images import read_images
from autoint.registry import DATASETS, one_of
from autoint.scenes.data import download
from autoint.scenes.data.poses import poses_of, warn_of_twins
from autoint.scenes.data.views import Views, check_lens, evenly, held_out
from autoint.scenes.rays import Intrinsics

log = logging.getLogger(__name__)
SOURCE = "your own capture's folder, as ns-process-data or instant-ngp's colmap2nerf.py writes it"
NEEDS = "a capture has transforms.json, or transforms_train.json and _test.json"
CAMERAS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
DISTORTION = ("k1", "k2", "k3", "p1", "p2")
UNSUPPORTED = ("k4", "is_fisheye", "ftheta_p0", "rolling_shutter")
BOUNDS = ("auto", "aabb_scale", "frustum")
Frame = dict[str, Any]


@DATASETS.register("transforms")
def transforms(
    data_dir: str,
    split: str,
    image_size: int | None,
    at_most: int | None = None,
    *,
    path: str = "",
    hold_every: int = 8,
    missing: str = "refuse",
    bounds: str = "auto",
    radius: float = 1.0,
    near: float | None = None,
    far: float | None = None,
) -> Views:
    """Load one split of a capture.

    The folder has ``transforms_train.json``, ``_val.json`` and ``_test.json``, of which val and test may stand for
    each other, or one ``transforms.json``, whose frames, sorted by their path, are split here, unless it names those of
    every split (``train_filenames``, …). Intrinsics stand at the top or in a frame, and lens distortion is taken out of
    the rays.

    Args:
        data_dir: the folder that holds data sets.
        split: ``train``, ``val`` or ``test``.
        image_size: longer side in pixels, by area averaging of premultiplied colour; None keeps the files' size.
        at_most: how many views to read, evenly spaced; None reads all.
        path: the capture's folder, absolute or relative to ``data_dir``.
        hold_every: of one transforms.json, every so manyth view, from the first, is val and test.
        missing: frames whose image is missing: ``refuse`` or ``skip``.
        bounds: where the scene is. ``auto``: a cube around the point nearest to all optical axes, with ``radius`` times
            the largest distance of a camera as half its side; where images have transparency, the visual hull.
            ``aabb_scale``: instant-ngp's cube, from the file. ``frustum``: all that is between ``near`` and ``far``.
        radius: see ``bounds=auto``.
        near, far: range of the ray parameter; None takes what the cube leaves, from 1/20 of the largest distance.

    Raises:
        ValueError: naming the file or key, what was found and the mend.
    """
    one_of("scene.bounds", bounds, BOUNDS)
    one_of("scene.missing", missing, ("refuse", "skip"))
    if radius <= 0:
        raise ValueError(f"scene.radius={radius} must be greater than 0")
    folder = reading.find_scene(data_dir, path, "transforms", SOURCE, download.hint)
    single = folder / "transforms.json"
    train = folder / "transforms_train.json"
    file, reference = (single, single) if not train.is_file() else (_split_file(folder, split), train)
    frames = _present(file, missing)
    kept = _kept(frames, hold_every, split) if file == single else list(range(len(frames)))
    everything = frames if file == reference else _frames(reference)
    cameras = poses_of(everything, reference)
    own = cameras if everything is frames else poses_of(frames, file)
    if own is not cameras:
        warn_of_twins(own, [frame["where"] for frame in frames], cameras, reference.name)
    chosen = [frames[kept[i]] for i in evenly(len(kept), at_most)]
    images, size = read_images([frame["image"] for frame in chosen], image_size)
    poses = own[[kept[i] for i in evenly(len(kept), at_most)]]
    intrinsics = _intrinsics(chosen, size)
    check_lens(intrinsics, str(file))
    intrinsics = intrinsics.resized(images.shape[2], images.shape[1])
    if bounds == "frustum":
        box = None
        if near is None or far is None:
            raise ValueError(
                f"scene.bounds=frustum needs scene.near and scene.far, which are {near} and {far}; set both"
            )
    else:
        cube = _cube(cameras, everything[0], bounds, radius, reference)
        near, far, box = _within(cube, cameras, near, far)
    reading.check_range(near, far)
    names = tuple(frame["image"].stem for frame in chosen)
    views = Views(images, poses, intrinsics, near, far, names, box)
    if bounds == "frustum":
        box = views.frustum_box(5)
    elif bounds == "auto" and bool((images[..., 3] < 0.5).any()):
        box = None
    return Views(images, poses, intrinsics, near, far, names, box)


def _within(
    cube: tuple[Tensor, float, float], poses: Tensor, near: float | None, far: float | None
) -> tuple[float, float, tuple[Tensor, Tensor]]:
    """Near and far, from what the cube leaves where they are None, and the cube's corners."""
    center, half, reach = cube
    distance = (poses[:, :3, 3] - center).norm(dim=-1)
    near = max(0.05 * reach, float(distance.min()) - 3**0.5 * half) if near is None else near
    far = float(distance.max()) + 3**0.5 * half if far is None else far
    return near, far, (center - half, center + half)


def _kept(frames: list[Frame], every: int, split: str) -> list[int]:
    """Which frames of one transforms.json are in a split: those it names (nerfstudio), or by ``every``."""
    named = frames[0].get(f"{split}_filenames")
    if named is None:
        return held_out(len(frames), every, split)
    paths = {str(name).removeprefix("./") for name in named} if isinstance(named, list) else set()
    kept = [i for i, frame in enumerate(frames) if frame["file_path"].removeprefix("./") in paths]
    if not kept:
        raise ValueError(
            f"{frames[0]['where']}: {split}_filenames={named!r:.80} names none of the images; mend or remove it"
        )
    return kept


def _split_file(folder: Path, split: str) -> Path:
    """The file of a split; val and test stand for each other where one of them is missing."""
    others = {"train": ["train"], "val": ["val", "test"], "test": ["test", "val"]}[split]
    for other in others:
        if (file := folder / f"transforms_{other}.json").is_file():
            return file
    return folder / f"transforms_{split}.json"


def _frames(file: Path) -> list[Frame]:
    """The frames of a file, sorted by path: each with what stands at the top, and ``where`` to find it in errors."""
    top = reading.read_json(file, NEEDS)
    frames = reading.frames_of(top, file)
    shared = {key: value for key, value in top.items() if key != "frames"}
    out = [{**shared, **frame, "where": f"{file}: frames[{i}]"} for i, frame in enumerate(frames)]
    for frame in out:
        model = frame.get("camera_model", "OPENCV")
        if model not in CAMERAS:
            raise ValueError(
                f"{frame['where']}: camera_model={model!r} is not supported (available: {', '.join(CAMERAS)}); "
                "undistort the images to a pinhole camera"
            )
        for key in UNSUPPORTED:
            value = frame.get(key)
            if any(value) if isinstance(value, list) else value:
                raise ValueError(f"{frame['where']}: {key}={value!r} is not supported; undistort the images beforehand")
    return sorted(out, key=lambda frame: str(frame.get("file_path")))


def _present(file: Path, missing: str) -> list[Frame]:
    """The frames of a file whose ``image`` is there; the others are refused or skipped, as told, and named."""
    present: list[Frame] = []
    gone: list[Frame] = []
    frames = _frames(file)
    for frame in frames:
        frame["image"] = reading.image_file(file.parent, frame.get("file_path"), frame["where"])
        (present if frame["image"].is_file() else gone).append(frame)
    if gone:
        named = ", ".join(str(frame["file_path"]) for frame in gone[:8]) + (", …" if len(gone) > 8 else "")
        found = f"{file}: {len(gone)} of {len(frames)} images are missing: {named}"
        if missing == "refuse":
            raise ValueError(f"{found}; restore them, or leave these frames out by scene.missing=skip")
        if not present:
            raise ValueError(f"{found}; nothing is left; restore them")
        log.warning("%s; skipped", found)
    return present


def _number(frame: Frame, key: str, default: float | None = None, positive: bool = False) -> float:
    value = frame.get(key, default)
    if not reading.is_number(value) or (positive and value <= 0):
        raise ValueError(f"{frame['where']}: {key}={value!r} must be a {'positive ' if positive else ''}finite number")
    return float(value)


def _intrinsics(frames: list[Frame], size: tuple[int, int]) -> Intrinsics:
    """The cameras of images of ``size`` (width, height), one for each frame, or one where all are the same."""
    pinhole, distortion = [], []
    for frame in frames:
        width, height = (_number(frame, key, side, True) for key, side in zip("wh", size, strict=True))
        if abs(width * size[1] - height * size[0]) > 0.01 * width * size[1]:
            found = f"w={width:g}, h={height:g}, but its image is {size[0]}x{size[1]}"
            raise ValueError(f"{frame['where']}: {found}; give the size of the image, or of what it was reduced from")
        fx = _focal(frame, "x", width)
        if fx is None:
            raise ValueError(f"{frame['where']}: neither fl_x nor camera_angle_x is given; give one of them")
        fy = _focal(frame, "y", height) or fx
        center = _number(frame, "cx", width / 2), _number(frame, "cy", height / 2)
        factors = size[0] / width, size[1] / height
        pinhole.append([fx * factors[0], fy * factors[1], center[0] * factors[0], center[1] * factors[1]])
        distortion.append([_number(frame, key, 0.0) for key in DISTORTION])
    if all(k == pinhole[0] for k in pinhole) and all(d == distortion[0] for d in distortion):
        pinhole, distortion = pinhole[:1], distortion[:1]
    lens = torch.tensor(distortion) if any(any(d) for d in distortion) else None
    return Intrinsics(torch.tensor(pinhole), *size, lens)


def _focal(frame: Frame, axis: str, side: float) -> float | None:
    if frame.get(f"fl_{axis}") is not None:
        return _number(frame, f"fl_{axis}", positive=True)
    key = f"camera_angle_{axis}"
    if frame.get(key) is None:
        return None
    return 0.5 * side / math.tan(0.5 * reading.angle(frame[key], f"{frame['where']}: {key}"))


def _cube(poses: Tensor, top: Frame, bounds: str, radius: float, file: Path) -> tuple[Tensor, float, float]:
    """Centre and half the side of the scene's cube, and the largest distance of a camera from its centre."""
    if bounds == "aabb_scale":
        # instant-ngp puts x at scale·x + offset, and its cube has the centre ½ and the side aabb_scale.
        if top.get("aabb_scale") is None:
            raise ValueError(f"{file}: aabb_scale=None, which scene.bounds=aabb_scale needs; use scene.bounds=auto")
        scale = _number(top, "scale", 0.33, True)
        half = 0.5 * _number(top, "aabb_scale", positive=True) / scale
        offset = top.get("offset", [0.5, 0.5, 0.5])
        if not isinstance(offset, list) or len(offset) != 3 or not all(map(reading.is_number, offset)):
            raise ValueError(f"{file}: offset={offset!r} must be three numbers")
        center = (0.5 - torch.tensor(offset, dtype=torch.float32)) / scale
    else:
        center = nearest_point(poses, file)
        half = radius * float((poses[:, :3, 3] - center).norm(dim=-1).max())
    return center, half, float((poses[:, :3, 3] - center).norm(dim=-1).max())


def nearest_point(poses: Tensor, file: Path) -> Tensor:
    """Return the point (3,) nearest to the optical axes of poses (V, 4, 4), by least squares."""
    d, o = poses[:, :3, 2].double(), poses[:, :3, 3].double()
    across = torch.eye(3, dtype=torch.float64) - d[:, :, None] * d[:, None, :]  # what is orthogonal to an axis
    matrix = across.mean(0)
    if float(torch.linalg.eigvalsh(matrix)[0]) < 1e-3:
        raise ValueError(
            f"{file}: the optical axes are parallel, so the cameras do not tell where the scene is; set "
            "scene.bounds=frustum scene.near=… scene.far=…, or scene.bounds=aabb_scale"
        )
    return torch.linalg.solve(matrix, (across @ o[:, :, None]).mean(0))[:, 0].float()
