"""A scene and a camera, for those who write Python: what to train on, and from where to look."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoint.files.reading import at_home
from autoint.scenes.camera_paths import look_at
from autoint.scenes.data.views import Views
from autoint.scenes.rays import DeviceCoordinates, Intrinsics, Rays, rays_from_camera


@dataclass(frozen=True)
class Camera:
    """From where to look: a pose and a pinhole, with or without the distortion of a lens.

    Attributes:
        pose: camera-to-world, (4, 4) or (3, 4), in OpenGL's convention: +x right, +y up, looking along −z.
        intrinsics: one camera.
        near, far: range of the ray parameter, in the scene's units; what lies outside of it is not seen.
        device: the normalised device coordinates that the scene is in; None for the world's.

    Examples:
        >>> camera = Camera.looking_at((0, 0, 0), position=(0, -4, 1), fov=0.55, width=80, height=60)
        >>> camera.rays().origins.shape
        torch.Size([4800, 3])
    """

    pose: Tensor
    intrinsics: Intrinsics
    near: float = 0.0
    far: float = float("inf")
    device: DeviceCoordinates | None = None

    def __post_init__(self) -> None:
        if tuple(self.pose.shape) not in ((4, 4), (3, 4)) or not bool(self.pose.isfinite().all()):
            raise ValueError(
                f"pose of shape {tuple(self.pose.shape)}: a camera has a finite (4, 4) camera-to-world pose"
            )
        if len(self.intrinsics.pinhole) != 1:
            raise ValueError(f"intrinsics of {len(self.intrinsics.pinhole)} cameras; give those of one, intrinsics[i]")

    @staticmethod
    def looking_at(
        target: Sequence[float],
        position: Sequence[float],
        *,
        up: Sequence[float] = (0.0, 0.0, 1.0),
        fov: float = 0.7,
        width: int = 400,
        height: int = 400,
    ) -> Camera:
        """Return the camera at ``position`` that looks at ``target``.

        Args:
            target, position: points of the scene, three numbers each.
            up: what is up in the image; not parallel to the line of sight.
            fov: horizontal field of view, in radians.
            width, height: of the image, in pixels.
        """
        place, goal, upright = (torch.tensor(list(map(float, v)), dtype=torch.float64) for v in (position, target, up))
        back = place - goal
        if float(torch.linalg.cross(back, upright).norm()) <= 1e-9 * float(back.norm() * upright.norm()):
            found = f"position={position}, target={target}, up={up}"
            raise ValueError(f"{found}: the line of sight has no length, or is along up; move one of them")
        pose = look_at(place[None], goal, upright)[0].float()
        return Camera(pose, Intrinsics.from_fov(fov, width, height))

    def resized(self, width: int, height: int) -> Camera:
        """Return the same camera with images of another size."""
        return dataclasses.replace(self, intrinsics=self.intrinsics.resized(width, height))

    def rays(self) -> Rays:
        """Return the rays through all pixels, row by row, (H·W,)."""
        k = self.intrinsics
        row, column = torch.meshgrid(torch.arange(k.height) + 0.5, torch.arange(k.width) + 0.5, indexing="ij")
        pose = self.pose.to(k.pinhole.dtype)
        rays = rays_from_camera(k, pose, column.flatten(), row.flatten(), self.near, self.far)
        return self.device.rays(rays) if self.device else rays


def cameras_of(views: Views) -> list[Camera]:
    """Return the cameras of a scene's views."""
    k = views.intrinsics
    return [Camera(pose, k[i], views.near, views.far, views.device) for i, pose in enumerate(views.poses)]


class Scene:
    """What to train on: a folder that says what it is, a data set by its name, or the embedded scene.

    Args:
        path: a scene's folder, of any kind that is read; or the name of a data set, such as ``lego``.
        data_dir: the folder of data sets, for those that are given by their name.
        **options: those of the data set, as ``hold_every=8``.

    Raises:
        ValueError: for a folder that is not there or holds no scene.

    Examples:
        >>> scene = Scene.procedural(num_solids=3)
        >>> len(scene.views("test", image_size=16))
        8
    """

    def __init__(self, path: str | Path, /, *, data_dir: str | Path = "data", **options: Any) -> None:
        from autoint.runs.command_line.folders import conf_dir
        from autoint.runs.command_line.scene_folders import with_scene_folders

        if not isinstance(path, (str, Path)):
            raise ValueError(f"scene={path!r:.60} must be the name of a scene, or the path of its folder")
        self.data_dir, self.options = str(data_dir), options
        self.words = with_scene_folders([f"data_dir={data_dir}", f"scene={path}"], conf_dir())[1:]
        self.name = Path(path).name

    @staticmethod
    def procedural(*, scene_seed: int = 0, num_solids: int = 5) -> Scene:
        """Return the embedded scene: soft coloured solids with exact images, the same on every machine."""
        return Scene("procedural", scene_seed=scene_seed, num_solids=num_solids)

    @staticmethod
    def from_blender(path: str | Path, **options: Any) -> Scene:
        """Return the scene of a folder with ``transforms_train.json`` and the like, as NeRF's synthetic ones."""
        return Scene._of("blender", path, options)

    @staticmethod
    def _of(kind: str, path: str | Path, options: dict[str, Any]) -> Scene:
        scene = Scene(kind, path=str(at_home(path).absolute()), **options)
        scene.name = Path(path).name
        return scene

    def views(self, split: str, image_size: int | None = None, at_most: int | None = None) -> Views:
        """Return one split, ``train``, ``val`` or ``test``: images, poses and intrinsics.

        Args:
            split: train, val or test.
            image_size: longer side in pixels; None keeps the data's.
            at_most: so many evenly spaced views; None for all.
        """
        from autoint.registry import DATASETS
        from autoint.runs.command_line.from_python import composed

        config, _ = composed(self.overrides())
        return DATASETS.build(config.options["scene"], self.data_dir, split, image_size, at_most)

    def overrides(self) -> list[str]:
        """Return the words of the command line that mean this scene."""
        from autoint.runs.command_line.from_python import words_of

        own = words_of({"data_dir": self.data_dir, "scene": self.options})
        return [*self.words, *own]

    def __repr__(self) -> str:
        return f"Scene({' '.join(self.words)})"
