"""The frames of transforms files, Blender's and captures' alike: cameras, images, masks and the files of splits."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoint.files import reading
from autoint.scenes.data import masks
from autoint.scenes.data.views import of_other_shape
from autoint.scenes.rays import Intrinsics

CAMERAS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
DISTORTION = ("k1", "k2", "k3", "p1", "p2")
PARAMS = ("k1", "k2", "k3", "k4", "p1", "p2")
"""The order of nerfstudio's ``distortion_params``."""
UNDISTORT, AXES = "undistort the images beforehand", "write poses with +x right, +y up, looking along −z"
UNSUPPORTED = {
    **dict.fromkeys(("k4", "k5", "k6", "is_fisheye", "ftheta_p0", "rolling_shutter"), UNDISTORT),
    **dict.fromkeys(("from_mitsuba", "normal_mts_args", "from_na"), AXES),
    "k": "call the radial distortion k1",
}
"""What changes the rays, and cannot be honoured, with the mend."""
UNHEEDED = ("white_transparent", "black_transparent", "fix_premult")
"""What changes the images for instant-ngp alone."""
FOCAL = {axis: (f"fl_{axis}", f"camera_angle_{axis}") for axis in "xy"}
Frame = dict[str, Any]


def frames_of(file: Path, needs: str) -> list[Frame]:
    """Return a file's frames: each with what stands at the top of the file, and ``where`` to find it in errors."""
    top = reading.read_json(file, needs)
    shared = {key: value for key, value in top.items() if key != "frames"}
    frames = reading.frames_of(top, file)
    out = [{**_top_for(frame, shared), **frame, "where": f"{file}: frames[{i}]"} for i, frame in enumerate(frames)]
    for frame in out:
        model = frame.get("camera_model", "OPENCV")
        if model not in CAMERAS:
            raise ValueError(
                f"{frame['where']}: camera_model={model!r:.80} is not supported (available: {', '.join(CAMERAS)}); "
                "undistort the images to a pinhole camera"
            )
        _name_params(frame)
        for key, mend in UNSUPPORTED.items():
            value = frame.get(key)
            if any(value) if isinstance(value, list) else value:
                raise ValueError(f"{frame['where']}: {key}={value!r:.80} is not supported; {mend}")
    for key in UNHEEDED:
        if shared.get(key):
            reading.warn(f"{file}: {key}={shared[key]!r:.80} is not heeded; give the images the alpha that is meant")
    return out


def _name_params(frame: Frame) -> None:
    """Give a frame's distortion_params their names."""
    params = frame.get("distortion_params")
    if params is None:
        return
    where = f"{frame['where']}: distortion_params={params!r:.80}"
    if not isinstance(params, list) or len(params) != len(PARAMS) or not all(map(reading.is_number, params)):
        raise ValueError(f"{where} must be {len(PARAMS)} finite numbers, {', '.join(PARAMS)}")
    for key, value in zip(PARAMS, params, strict=True):
        if frame.get(key, value) != value:
            raise ValueError(f"{where} and {key}={frame[key]!r:.80} disagree; remove one of them")
        frame[key] = value


def _top_for(frame: Frame, shared: Frame) -> Frame:
    """What stands at the top of a file for a frame: nothing of focal length and lens that it has in another form."""
    own = {axis for axis, keys in FOCAL.items() if any(frame.get(key) is not None for key in keys)}
    gone = {key for axis in ("xy" if "x" in own else own) for key in FOCAL[axis]}  # without a y, pixels are square
    gone |= {"distortion_params"} if any(key in frame for key in PARAMS) else set()
    gone |= {*PARAMS} if "distortion_params" in frame else set()
    return {key: value for key, value in shared.items() if key not in gone}


def split_file(folder: Path, split: str) -> Path:
    """Return the file of a split; val and test stand for each other where one of them is missing, which is said."""
    file = folder / f"transforms_{split}.json"
    other = {"val": "test", "test": "val"}.get(split)
    if file.is_file() or other is None or not (there := folder / f"transforms_{other}.json").is_file():
        return file
    reading.warn(f"{file}: not there; {there.name} stands for it")
    return there


def number(frame: Frame, key: str, default: float | None = None, positive: bool = False) -> float:
    """Return a number of a frame, or refuse what is none."""
    value = frame.get(key, default)
    if not reading.is_number(value) or (positive and value <= 0):
        kind = "positive " if positive else ""
        raise ValueError(f"{frame['where']}: {key}={value!r:.80} must be a {kind}finite number")
    return float(value)


def intrinsics_of(frames: Sequence[Frame], size: tuple[int, int]) -> Intrinsics:
    """Return the cameras of images of ``size`` (width, height), one for each frame, or one where all are the same."""
    pinhole, distortion = [], []
    for frame in frames:
        width, height = (number(frame, key, side, True) for key, side in zip("wh", size, strict=True))
        if of_other_shape((width, height), size):
            found = f"w={width:g}, h={height:g}, but its image is {size[0]}x{size[1]}"
            raise ValueError(f"{frame['where']}: {found}; give the size of the image, or of what it was reduced from")
        fx = _focal(frame, "x", width)
        if fx is None:
            angle = f"camera_angle_x={frame.get('camera_angle_x')!r:.80} must be an angle in radians"
            raise ValueError(f"{frame['where']}: neither fl_x nor camera_angle_x is given; give one of them ({angle})")
        fy = _focal(frame, "y", height) or fx
        center = number(frame, "cx", width / 2), number(frame, "cy", height / 2)
        for axis, at, side, key in zip("xy", center, (width, height), "wh", strict=True):
            if key not in frame and not 0 <= at <= side:
                found = f"c{axis}={at:g} lies outside of its image of {size[0]}x{size[1]}, and {key} is not given"
                raise ValueError(f"{frame['where']}: {found}; give w and h, the size that cx, cy and fl_x are for")
        factors = size[0] / width, size[1] / height
        pinhole.append([fx * factors[0], fy * factors[1], center[0] * factors[0], center[1] * factors[1]])
        distortion.append([number(frame, key, 0.0) for key in DISTORTION])
    if all(k == pinhole[0] for k in pinhole) and all(d == distortion[0] for d in distortion):
        pinhole, distortion = pinhole[:1], distortion[:1]
    lens = torch.tensor(distortion) if any(any(d) for d in distortion) else None
    return Intrinsics(torch.tensor(pinhole), *size, lens)


def _focal(frame: Frame, axis: str, side: float) -> float | None:
    if frame.get(f"fl_{axis}") is not None:
        return number(frame, f"fl_{axis}", positive=True)
    key = f"camera_angle_{axis}"
    if frame.get(key) is None:
        return None
    return 0.5 * side / math.tan(0.5 * reading.angle(frame[key], f"{frame['where']}: {key}"))


def mask_of(frames: Sequence[Frame], folder: Path, size: tuple[int, int], image_size: int | None) -> Tensor | None:
    """Return which pixels of the frames' images count, by ``mask_path`` and by files; see :func:`masks.read`."""
    named = [
        None
        if frame.get("mask_path") is None
        else reading.image_file(folder, frame["mask_path"], frame["where"], "mask_path")
        for frame in frames
    ]
    return masks.read([frame["image"] for frame in frames], named, size, image_size)


def warn_of_shared_images(frames: Sequence[Frame], train: Sequence[Frame]) -> None:
    """Tell of images of a split's file that the file of the training views names too, with other poses."""
    seen, told = set(map(_image_of, train)), {str(frame.get("transform_matrix")) for frame in train}
    shared = [f for f in frames if _image_of(f) in seen and str(f.get("transform_matrix")) not in told]
    if shared:
        more = f", and {len(shared) - 1} more," if len(shared) > 1 else ""
        found = f"file_path={shared[0].get('file_path')!r:.80}{more} is the image of views that train"
        reading.warn(f"{shared[0]['where']}: {found} and of views that are tested; check the file")


def _image_of(frame: Frame) -> str:
    """A frame's image as it is compared: the suffix may be left out."""
    name = plain(str(frame.get("file_path")))
    return next((name.removesuffix(suffix) for suffix in reading.SUFFIXES if name.endswith(suffix)), name)


def plain(name: str) -> str:
    """Return an image's path as it is compared: with slashes, and without ``./``."""
    return posixpath.normpath(name.replace("\\", "/"))
