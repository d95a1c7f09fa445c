"""What the viewer shows: pictures of a run from any camera, coarse while it moves and fine at rest; no server here."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoint.registry import PLACEMENTS
from autoint.reports import charts, pictures
from autoint.runs.config import RunConfig
from autoint.scenes.ray_panel import ray_profile
from autoint.scenes.rays import Intrinsics, Rays
from autoint.scenes.scene import Camera
from autoint.scenes.task import VolumeRendering
from autoint.scenes.volume import AbstractSections

SHOWN = ("colour", "depth", "opacity", "normals")
PLACED = ("uniform", "occupied", "proposal")
"""Placements that have learned nothing of their own, and that any run can be rendered with."""
BLOCK = 4096
"""Rays of a thread between two looks at whether the camera has moved on, at least."""
SMALLEST, LARGEST = 24, 1024
MOVING = 0.08
"""Seconds that a picture may take while the camera moves."""
FLIP = torch.tensor([1.0, -1.0, -1.0])
"""Between a browser's axes, y down and looking along +z, and ours."""


def camera_of(wxyz: Sequence[float], position: Sequence[float], fov: float, aspect: float, size: int) -> Camera | None:
    """Return the camera that a browser tells of, with images ``size`` pixels on the longer side; None for nonsense.

    Args:
        wxyz: the rotation, camera-to-world, as a quaternion; +z ahead and +y down.
        position: in the scene's units.
        fov: vertical field of view, in radians.
        aspect: width over height.
        size: of the longer side.
    """
    numbers = [*map(float, wxyz), *map(float, position), float(fov), float(aspect)]
    if len(numbers) != 9 or not all(map(math.isfinite, numbers)):
        return None
    w, x, y, z = numbers[:4]
    length = math.sqrt(w * w + x * x + y * y + z * z)
    if length < 1e-6 or not 1e-3 < fov < 3.1 or not 0.05 < aspect < 20 or max(map(abs, numbers[4:7])) > 1e6:
        return None
    w, x, y, z = (value / length for value in (w, x, y, z))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor(rows) * FLIP
    pose[:3, 3] = torch.tensor(numbers[4:7])
    size = min(max(int(size), SMALLEST), LARGEST)
    width, height = (size, max(1, round(size / aspect))) if aspect >= 1 else (max(1, round(size * aspect)), size)
    focal = 0.5 * height / math.tan(0.5 * fov)
    return Camera(pose, Intrinsics(torch.tensor([[focal, focal, width / 2, height / 2]]), width, height))


@dataclass(frozen=True)
class Look:
    """How a run is shown: what of it, and of how many sections, placed how; None as it was trained."""

    shown: str = "colour"
    sections: int | None = None
    placement: str | None = None


class Painter:
    """Paints a run, one picture at a time.

    Args:
        module: its trained model.
        config: what it was trained by.
    """

    def __init__(self, module: VolumeRendering, config: RunConfig) -> None:
        self.module, self.config, self._lock = module, config, threading.Lock()
        self._coarse = 96.0

    @property
    def has_sections(self) -> bool:
        """Whether the number of sections may be chosen: whether nothing was learned that belongs to theirs."""
        volume = self.module.volume
        return isinstance(volume, AbstractSections) and not any(True for _ in volume.placement.parameters())

    def replace(self, module: VolumeRendering) -> None:
        """Paint with other weights from now on."""
        with self._lock:
            self.module = module

    def coarse(self) -> int:
        """Return the size of a picture while the camera moves."""
        return round(self._coarse)

    def took(self, size: int, seconds: float) -> None:
        """Learn from how long a picture of this size has taken how large the next one may be."""
        fitting = size * math.sqrt(MOVING / max(seconds, 1e-4))
        self._coarse = min(max(0.5 * self._coarse + 0.5 * fitting, SMALLEST), 400)

    @torch.inference_mode()
    def picture(self, camera: Camera, look: Look, moved: Callable[[], bool] = lambda: False) -> np.ndarray | None:
        """Return the picture (H, W, 3) of uint8, or None where the camera has ``moved`` on before it was done."""
        rays, shape = camera.rays().to(self.module.device), (camera.intrinsics.height, camera.intrinsics.width)
        parts = []
        with self._lock, self._set(look):
            module = self.module
            threads = torch.get_num_threads() if rays.near.device.type == "cpu" else 1
            block = max(BLOCK * threads, module.volume.at_once(rays.near.device))
            for start in range(0, len(rays), block):
                if moved():
                    return None
                parts.append(module.volume.view(rays[start : start + block], module.canvas(), block))
        rgb, depth, acc = (torch.cat(part).cpu().view(*shape, *part[0].shape[1:]) for part in zip(*parts, strict=True))
        if look.shown == "depth":
            rgb = pictures.depth_image(torch.where(acc > 0, depth, 0), acc)
        elif look.shown == "opacity":
            rgb = pictures.grey_image(acc)
        elif look.shown == "normals":
            rgb = normals(rays, depth, acc)
        return pictures.to_bytes(rgb).numpy()

    @torch.inference_mode()
    def ray(self, origin: Sequence[float], direction: Sequence[float], look: Look) -> str | None:
        """Return the drawing of one ray from inside, as SVG; None where it misses the scene or the model has none."""
        device = self.module.device
        numbers = torch.tensor([[*origin], [*direction]], dtype=torch.float32, device=device)
        length = float(numbers[1].norm())
        if not bool(numbers.isfinite().all()) or length < 1e-9:
            return None
        ends = torch.tensor([[0.0], [math.inf]], device=device)
        ray = Rays(numbers[:1], numbers[1:] / length, *ends)
        with self._lock, self._set(look):
            volume = self.module.volume
            if not isinstance(volume, AbstractSections) or not bool(volume.hit(ray)[0]):
                return None
            profile = ray_profile(volume, ray, self.module.canvas())
        return charts.ray(
            **{key: value.tolist() for key, value in vars(profile).items() if key != "rgb"}, size=(420, 260)
        )

    @contextlib.contextmanager
    def _set(self, look: Look) -> Iterator[None]:
        """Let the volume have as many sections, placed so, for as long as this lasts."""
        volume = self.module.volume
        if not isinstance(volume, AbstractSections) or not self.has_sections:
            yield
            return
        before, count = volume.placement, volume.placement.sections
        try:
            if look.placement in PLACED:
                volume.placement = PLACEMENTS.build(look.placement, count, volume.occupancy).to(self.module.device)
            if look.sections is not None:
                volume.placement.sections = min(max(int(look.sections), 1), 256)
            yield
        finally:
            volume.placement = before
            volume.placement.sections = count


def normals(rays: Rays, depth: Tensor, acc: Tensor) -> Tensor:
    """Return what the depths (H, W) of rays (H·W,) say of the surface: its normals as colours (H, W, 3), white outside.

    n = ∂p/∂row × ∂p/∂column of the points p = o + depth·d, towards the camera; a component −1…1 is the colour 0…1.
    """
    height, width = depth.shape
    if min(height, width) < 2:
        return torch.ones(height, width, 3)
    away = torch.where(depth.isfinite(), depth, 0)
    points = rays.to(torch.device("cpu")).at(away.flatten()).view(height, width, 3)
    down, across = (torch.gradient(points, dim=axis)[0] for axis in (0, 1))
    normal = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1)
    facing = (normal * rays.directions.cpu().view(height, width, 3)).sum(-1, keepdim=True)
    normal = torch.where(facing > 0, -normal, normal)
    return torch.lerp(torch.ones(3), 0.5 + 0.5 * normal, acc[..., None].clamp(0, 1))
