"""Forward-facing captures as LLFF writes them: ``poses_bounds.npy`` beside ``images`` and its reductions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoint.files import reading
from autoint.files.images import image_size_of, images_in, read_images
from autoint.registry import DATASETS
from autoint.scenes.data import download, masks
from autoint.scenes.data.poses import rigid
from autoint.scenes.data.views import Views, evenly, held_out, names_of, of_other_shape
from autoint.scenes.rays import DeviceCoordinates, Intrinsics

SOURCE = "nerf_llff_data.zip, linked from the NeRF project page, https://www.matthewtancik.com/nerf"
NEEDS = "an LLFF scene has poses_bounds.npy and images"
NEAR_BOUND = 0.75
"""The scene is scaled so that the nearest bound times this is at depth 1, where device coordinates begin (NeRF)."""


@DATASETS.register("llff")
def llff(
    data_dir: str,
    split: str,
    image_size: int | None,
    at_most: int | None = None,
    *,
    path: str = "",
    factor: int | None = None,
    ndc: bool = True,
    hold_every: int = 8,
) -> Views:
    """Load one split of a forward-facing capture.

    The poses are moved so that their mean is the identity, and scaled by the nearest bound (NeRF): three quarters of it
    are the unit of length, that of depths too.

    Args:
        data_dir: the folder that holds data sets.
        split: ``train``, ``val`` or ``test``; val and test are the same views.
        image_size: longer side in pixels, by area averaging; None keeps the files' size.
        at_most: how many views to read, evenly spaced; None reads all.
        path: the scene's folder, absolute or relative to ``data_dir``.
        factor: reads the folder ``images_<factor>``, 1 for ``images``; None takes the most reduced folder that still
            has ``image_size`` pixels, and the most reduced of all where no ``image_size`` is given.
        ndc: rays in normalised device coordinates, in which t is the distance in a cube that reaches to infinity;
            false keeps the world's, between 0.9 of the nearest and the farthest bound.
        hold_every: every so manyth view, from the first, is held out.

    Raises:
        ValueError: naming the file or key, what was found and the mend.
    """
    folder = reading.find_scene(data_dir, path, "llff", download.source(path, SOURCE), "nerf_llff_data")
    poses, sizes, bounds = _poses_bounds(folder / "poses_bounds.npy")
    files = images_in(image_folder(folder, factor, image_size))
    if len(files) != len(poses):
        raise ValueError(
            f"{files[0].parent}: {len(files)} images, but poses_bounds.npy has {len(poses)} rows, one for each; "
            "restore the images, or run the pose estimation again"
        )
    scale = 1 / (NEAR_BOUND * float(bounds.min()))
    poses[:, :3, 3] *= scale
    poses = torch.linalg.inv(_mean_pose(poses)) @ poses
    near, far = (0.0, math.inf) if ndc else (0.9 * scale * float(bounds.min()), scale * float(bounds.max()))
    height, width, focal = sizes.unbind(-1)
    pinhole = torch.stack([focal, focal, width / 2, height / 2], dim=-1).float()
    intrinsics = Intrinsics(pinhole, round(float(width[0])), round(float(height[0])))
    device = None
    if ndc:
        scales = (float((2 * focal / side).mean()) for side in (width, height))
        device = DeviceCoordinates(*scales)
        _check_forward(poses, intrinsics, folder)
    everything = Views(torch.empty(0), poses.float(), intrinsics, near, far, (), device=device)
    lower, upper = everything.frustum_box(5)
    kept = held_out(len(files), hold_every, split)
    chosen = [kept[i] for i in evenly(len(kept), at_most)]
    images, size = read_images([files[i] for i in chosen], image_size)
    if of_other_shape(size, (intrinsics.width, intrinsics.height)):
        found = f"image is {size[0]}x{size[1]}, but poses_bounds.npy is of {intrinsics.width}x{intrinsics.height}"
        raise ValueError(f"{files[chosen[0]]}: {found}; give the images that the poses are of")
    names = names_of(files)
    return replace(
        everything,
        images=images,
        poses=everything.poses[chosen],
        intrinsics=intrinsics[chosen].resized(images.shape[2], images.shape[1]),
        names=tuple(names[i] for i in chosen),
        box=(lower, upper),
        mask=masks.read([files[i] for i in chosen], [None] * len(chosen), size, image_size),
    )


def _poses_bounds(file: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Poses (V, 4, 4) in OpenGL's convention, height, width and focal length (V, 3), near and far (V, 2): float64."""
    table = reading.read_npy(file, NEEDS)
    if table.ndim != 2 or table.shape[1] != 17 or not len(table):
        raise ValueError(f"{file}: an array of shape {table.shape} of {table.dtype}; it must be (views, 17) of numbers")
    usable = (np.abs(table) < 1e12).all(1)  # NaN is not
    if not usable.all():
        raise ValueError(f"{file}: NaN or infinity in row {int(np.argmin(usable))}; restore it")
    rows = torch.from_numpy(table.astype(np.float64))
    matrices, bounds = rows[:, :15].view(-1, 3, 5), rows[:, 15:]
    wrong = (bounds[:, 0] < 1e-9) | (bounds[:, 1] <= bounds[:, 0])
    if wrong.any():
        view = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"{file}: row {view} has the bounds {bounds[view].tolist()}; need 0 < near < far, near above 1e-9"
        )
    sizes = matrices[:, :, 4]
    if (sizes <= 0).any() or (sizes[:, :2] != sizes[0, :2]).any():
        raise ValueError(f"{file}: height, width and focal length must be positive, and one size for all views")
    down, right, back = matrices[:, :, 0], matrices[:, :, 1], matrices[:, :, 2]
    poses = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    poses[:, :3] = torch.stack([right, -down, back, matrices[:, :, 3]], dim=-1)
    return rigid(list(poses), [f"{file}: row {view}" for view in range(len(poses))]), sizes, bounds


def _mean_pose(poses: Tensor) -> Tensor:
    """The pose (4, 4) in the middle of poses, that looks along their mean axis with their mean direction up."""
    back, up = (torch.nn.functional.normalize(poses[:, :3, k].sum(0), dim=0) for k in (2, 1))
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=0)
    mean = torch.eye(4, dtype=poses.dtype)
    mean[:3] = torch.stack([right, torch.linalg.cross(back, right), back, poses[:, :3, 3].mean(0)], dim=-1)
    return mean


def _check_forward(poses: Tensor, intrinsics: Intrinsics, folder: Path) -> None:
    """Refuse device coordinates where some ray of the images does not look along −z."""
    views = Views(torch.empty(0), poses.float(), intrinsics, 0.0, 1.0, ())
    view = torch.arange(len(poses)).repeat_interleave(4)
    x = torch.tensor([0.0, 0.0, intrinsics.width, intrinsics.width]).repeat(len(poses))
    y = torch.tensor([0.0, intrinsics.height]).repeat(2 * len(poses))
    aside = views.through(view, x, y).directions[:, 2] > -1e-2
    if aside.any():
        raise ValueError(
            f"{folder}: view {int(view[aside][0])} sees what is beside or behind the others, but scene.ndc=true needs "
            "cameras that face one way; set scene.ndc=false"
        )


def image_folder(folder: Path, factor: int | None, image_size: int | None) -> Path:
    """Return the folder of images to read, of ``images`` and its reductions ``images_2`` and so on."""
    reductions = {1: folder / "images"}
    for candidate in folder.glob("images_*"):
        number = candidate.name.removeprefix("images_")
        if number.isdigit():
            reductions[int(number)] = candidate
    reductions = {n: reductions[n] for n in sorted(reductions, reverse=True) if reductions[n].is_dir()}
    if not reductions:
        raise ValueError(f"{folder}: no folder 'images' there; {NEEDS}")
    if factor is not None:
        if factor not in reductions:
            there = ", ".join(map(str, sorted(reductions)))
            raise ValueError(f"scene.factor={factor}: no such reduction in {folder} (there: {there})")
        return reductions[factor]
    for candidate in reductions.values():
        if image_size is None or max(image_size_of(images_in(candidate)[0])) >= image_size:
            return candidate
    return candidate
