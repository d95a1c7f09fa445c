"""Camera paths through a scene: from the poses of its images alone, or in nerfstudio's JSON, read and written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from autoint.files import reading
from autoint.files.whole_files import write_json
from autoint.scenes.data.poses import rigid
from autoint.scenes.data.views import Views
from autoint.scenes.rays import Intrinsics

TURNED = 0.3
"""By so much another side of a camera has to be nearer to the common up than its own, of 1, to be taken for it."""


def look_at(positions: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Return camera-to-world poses (F, 4, 4), in OpenGL's convention, at positions (F, 3) looking at ``target``."""
    back = normalize(positions - target, dim=-1)
    right = normalize(torch.linalg.cross(up.expand_as(back), back), dim=-1)
    poses = torch.eye(4, dtype=positions.dtype).repeat(len(positions), 1, 1)
    poses[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, positions], dim=-1)
    return poses


def up_axis(poses: Tensor) -> Tensor:
    """Return the scene's up (3,): what the cameras' horizontal axes are perpendicular to, if they turn; else mean up.

    Cameras that look down from all sides have no common up of their own, but nobody tilts a camera sideways, other than
    by a quarter turn, which is taken back.
    """
    clockwise = torch.stack([poses[:, :3, 1], poses[:, :3, 0], -poses[:, :3, 1], -poses[:, :3, 0]], dim=1)
    mean_up, every = normalize(poses[:, :3, 1].mean(0), dim=0), torch.arange(len(poses))
    for _ in range(3):  # each is held so that its up is the side that is nearest to that of all
        along = clockwise @ mean_up
        held = torch.where(along.amax(1) > along[:, 0] + TURNED, along.argmax(1), 0)
        right = clockwise[every, (held + 1) % 4]
        mean_up = normalize(clockwise[every, held].mean(0), dim=0)
    spread, axes = torch.linalg.eigh(right.T @ right / len(right))
    if spread[1] < 10 * spread[0] + 0.02:  # all of them point the same way, or cameras are held at all angles
        return mean_up
    return axes[:, 0] * torch.sign(axes[:, 0] @ mean_up + 1e-12)


def centre(poses: Tensor) -> Tensor:
    """Return the point (3,) closest to all optical axes; cameras that look elsewhere count for little.

    The weights make the sum of distances least, and not that of their squares. The mean position takes part with very
    little weight, which decides where the axes are parallel.
    """
    origins, forward = poses[:, :3, 3], -poses[:, :3, 2]
    across = torch.eye(3, dtype=poses.dtype) - forward[:, :, None] * forward[:, None, :]
    weights, prior = torch.ones_like(origins[:, 0]), 1e-6 * torch.eye(3, dtype=poses.dtype)
    out = origins.mean(0)
    for _ in range(20):
        matrix = (weights[:, None, None] * across).sum(0) + prior
        moment = (weights[:, None, None] * across @ origins[:, :, None]).sum(0)[:, 0] + prior @ origins.mean(0)
        out = torch.linalg.solve(matrix, moment)
        distance = ((across @ (out - origins)[:, :, None])[..., 0]).norm(dim=-1)
        weights = 1 / (distance + 1e-3 * (out - origins).norm(dim=-1).mean() + 1e-9)
        weights = weights / weights.mean()
    return out


def surrounds(poses: Tensor) -> bool:
    """Whether the cameras look inwards from more than one side, so that one may walk around what they see."""
    up, out = up_axis(poses), poses[:, :3, 3] - centre(poses)
    inwards = (out * poses[:, :3, 2]).sum(-1) > 0
    azimuth = normalize(out - (out @ up)[:, None] * up, dim=-1)
    return bool(inwards.float().mean() > 0.5) and float(azimuth.mean(0).norm()) < 0.8


def orbit(views: Views, frames: int) -> Tensor:
    """Return one turn (F, 4, 4) around the centre, at the cameras' mean distance and elevation.

    Where an orbit would leave what was photographed, because all cameras stand on one side, it is a spiral instead.
    """
    poses = views.poses.double()
    if not surrounds(poses):
        return spiral(views, frames)
    up, middle = up_axis(poses), centre(poses)
    out = poses[:, :3, 3] - middle
    distance = out.norm(dim=-1)
    elevation = torch.asin((out @ up / distance).clamp(-1, 1)).mean()
    first = out[0] - (out[0] @ up) * up
    ahead = normalize(first if float(first.norm()) > 1e-6 * float(distance[0]) else poses[0, :3, 0], dim=0)
    turn = 2 * math.pi * torch.arange(frames, dtype=poses.dtype)[:, None] / frames
    level = turn.cos() * ahead + turn.sin() * torch.linalg.cross(up, ahead)
    positions = middle + distance.mean() * (elevation.cos() * level + elevation.sin() * up)
    return look_at(positions, middle, up).float()


def spiral(views: Views, frames: int) -> Tensor:
    """Return a loop (F, 4, 4) before the mean camera, within the cameras' spread, looking at what they look at.

    The mean of cameras that stand around the scene is inside of it: there the loop is before one of them, the first
    that looks at the centre, at their median distance.
    """
    poses = views.poses.double()
    if surrounds(poses):
        middle = centre(poses)
        out = poses[:, :3, 3] - middle
        directly = (normalize(out, dim=-1) * poses[:, :3, 2]).sum(-1)
        first = int((directly > directly.max() - 0.01).nonzero()[0])
        focus = float(out.norm(dim=-1).median())
        back, up = normalize(out[first], dim=0), poses[first, :3, 1]
        position = middle + focus * back
        radius = 0.2 * focus * torch.tensor([1.0, 1.0, 0.5], dtype=poses.dtype)
    else:
        position, back = poses[:, :3, 3].mean(0), normalize(poses[:, :3, 2].mean(0), dim=0)
        up, radius = poses[:, :3, 1].mean(0), None
        focus = float((position - centre(poses)) @ back)
    mean = look_at(position[None], position - back, up)[0, :3, :3]
    if radius is None:
        radius = ((poses[:, :3, 3] - position) @ mean).abs().quantile(0.8, dim=0)
        # Parallel axes meet nowhere: then something far away is looked at. The range of t is no help, as it may be that
        # of normalised device coordinates.
        spread = float(radius.norm())
        if focus < 2 * spread or focus <= 0:
            focus = 10 * spread or 1.0
    turn = 2 * math.pi * torch.arange(frames, dtype=poses.dtype) / frames
    loop = torch.stack([turn.cos(), turn.sin(), 0.5 * (2 * turn).sin()], dim=-1)
    return look_at(position + (loop * radius) @ mean.T, position - focus * back, mean[:, 1]).float()


PATHS: dict[str, Callable[[Views, int], Tensor]] = {"orbit": orbit, "spiral": spiral}
NEEDS = "a camera path has render_width, render_height and camera_path, as nerfstudio's viewer saves it"
LARGEST = 8192
"""Pixels of a side of the frames that a file may ask for."""


def read_path(file: Path) -> tuple[Tensor, Intrinsics, float | None]:
    """Return the poses (F, 4, 4), the cameras and the frames per second, or None, of a path in nerfstudio's JSON.

    There a frame has ``camera_to_world``, 16 numbers row by row in OpenGL's convention, and ``fov``, vertical and in
    degrees: the focal length is height/2 / tan(fov/2), and pixels are square whatever ``aspect`` says.
    """
    told = reading.read_json(file, NEEDS)
    frames = told.get("camera_path")
    width, height = (told.get(f"render_{side}") for side in ("width", "height"))
    for side, pixels in (("width", width), ("height", height)):
        if not isinstance(pixels, int) or isinstance(pixels, bool) or not 1 <= pixels <= LARGEST:
            raise ValueError(
                f"{file}: render_{side}={pixels!r:.80} must be a number of pixels up to {LARGEST}; {NEEDS}"
            )
    if not isinstance(frames, list) or not 1 <= len(frames) <= reading.MAX_FRAMES:
        raise ValueError(f"{file}: camera_path must list 1 to {reading.MAX_FRAMES} frames; {NEEDS}")
    if told.get("camera_type", "perspective") != "perspective":
        raise ValueError(f"{file}: camera_type={told['camera_type']!r:.80} is not supported; use perspective")
    if told.get("crop"):
        reading.warn(f"{file}: crop={told['crop']!r:.80} is not heeded: all of the scene is shown")
    assert isinstance(width, int)
    assert isinstance(height, int)
    found = reading.gathered(lambda i: _frame(frames[i], f"{file}: camera_path[{i}]", height), range(len(frames)))
    poses = rigid([pose for pose, _ in found], [f"{file}: camera_path[{i}]" for i in range(len(frames))]).float()
    pinhole = torch.tensor([[focal, focal, width / 2, height / 2] for _, focal in found])
    fps = told.get("fps")
    return poses, Intrinsics(pinhole, width, height), float(fps) if reading.is_number(fps) and fps > 0 else None


def _frame(frame: Any, where: str, height: int) -> tuple[Tensor, float]:
    """The pose and the focal length of a frame."""
    matrix, fov = (frame.get(key) if isinstance(frame, dict) else None for key in ("camera_to_world", "fov"))
    if not isinstance(matrix, list) or len(matrix) != 16 or not all(map(reading.is_number, matrix)):
        raise ValueError(f"{where}.camera_to_world must be 16 finite numbers, row by row; {NEEDS}")
    if not reading.is_number(fov) or not 0 < fov < 180:
        raise ValueError(f"{where}.fov={fov!r:.80} must be a vertical angle in degrees between 0 and 180")
    return torch.tensor(matrix, dtype=torch.float64).view(4, 4), 0.5 * height / math.tan(0.5 * math.radians(fov))


def write_path(file: Path, poses: Tensor, intrinsics: Intrinsics, fps: float) -> Path:
    """Write poses (F, 4, 4) and their cameras as nerfstudio's JSON, which :func:`read_path` reads; return ``file``.

    Its cameras have square pixels, the principal point in the middle and no lens: what else they have is told of.
    """
    k = intrinsics
    middle = k.pinhole.new_tensor([k.width / 2, k.height / 2])
    off = [
        name
        for name, wrong in (
            ("fx", (k.pinhole[:, 0] - k.pinhole[:, 1]).abs() > 1e-3 * k.pinhole[:, 1]),
            ("cx and cy", (k.pinhole[:, 2:] - middle).abs() > 1e-3 * k.width),
            ("the lens", torch.zeros(1) if k.distortion is None else k.distortion),
        )
        if bool(wrong.any())
    ]
    if off:
        reading.warn(f"{file}: {', '.join(off)} of the cameras have no place in nerfstudio's paths; left out")
    frames = []
    for view, pose in enumerate(poses):
        focal = float(intrinsics[view].pinhole[0, 1])
        fov = 2 * math.degrees(math.atan(0.5 * intrinsics.height / focal))
        matrix = pose.double().flatten().tolist()
        frames.append({"camera_to_world": matrix, "fov": fov, "aspect": intrinsics.width / intrinsics.height})
    sizes = {"render_height": intrinsics.height, "render_width": intrinsics.width}
    told = {"camera_type": "perspective", **sizes, "fps": fps, "seconds": len(frames) / fps, "is_cycle": False}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**told, "smoothness_value": 0, "crop": None, "camera_path": frames})
    return file
