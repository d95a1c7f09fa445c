"""A teacher: a finished run, of whose scene another model learns from views that no camera took."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoint.runs import checkpoints, restoring
from autoint.runs.config import RunConfig
from autoint.runs.progress import tracked
from autoint.runs.seeding import generator
from autoint.scenes.data.views import Views
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Intrinsics

log = logging.getLogger(__name__)
NEIGHBOURS, BEYOND = 8, 0.25


def taught(views: Views, config: RunConfig, occupancy: Occupancy) -> Views:
    """Return the training views together with ``teacher_views`` of the run ``teacher``, or, ``teacher_only``, those.

    The teacher renders on the device that the training will take, colours premultiplied and with its opacity, so that
    what its pupil sees is an image like the real ones. What the teacher has learned of where the scene is, its pupil's
    ``occupancy`` is told, if their boxes are the same.

    Raises:
        ValueError: for a teacher that is no finished run of the same scene, naming it.
    """
    options = config.options
    run, start = Path(options["teacher"]), time.perf_counter()
    file = checkpoints.last(run)
    if not file.is_file():
        raise ValueError(f"teacher={run}: no run is there; give the folder of one, with checkpoints/last.ckpt in it")
    stored, module = restoring.restored(file)
    if stored.task != "volrend" or stored.options["scene"] != options["scene"]:
        of = stored.options["scene"] if stored.task == "volrend" else f"task={stored.task}"
        raise ValueError(f"teacher={run} has learned {of}, and this run is to learn {options['scene']}")
    device = "cuda" if torch.cuda.is_available() and config.trainer.get("accelerator") != "cpu" else "cpu"
    volume: Any = module.to(device).volume  # an AbstractVolume, of any model
    known = volume.occupancy
    if torch.equal(known.lower.cpu(), occupancy.lower) and torch.equal(known.upper.cpu(), occupancy.upper):
        occupancy.density.copy_(known.density)
        occupancy.mean.copy_(known.mean)
    chosen, poses = novel_poses(views.poses, options["teacher_views"], generator(config.seed, "teacher"))
    # Cameras of their own, even where one serves all real views.
    unseen = dataclasses.replace(views, poses=poses, intrinsics=_each(views.intrinsics, chosen), mask=None)
    height, width = views.images.shape[1:3]
    images = torch.empty(len(poses), height, width, 4)
    background = torch.zeros(3, device=device)
    for number in tracked(range(len(poses)), "teacher", "view"):
        rgb, _, acc = volume.view(unseen.rays_of(number).to(torch.device(device)), background, config.report.chunk_size)
        images[number] = torch.cat([rgb, acc[:, None]], dim=-1).view(height, width, 4).clamp(0, 1)
    names = tuple(f"teacher_{number:04d}" for number in range(len(poses)))
    real = "alone" if options["teacher_only"] else f"beside {len(views)} real ones"
    log.info("%d views of %s %s, rendered in %.0f s", len(poses), run, real, time.perf_counter() - start)
    unseen = dataclasses.replace(unseen, images=images, names=names)
    return unseen if options["teacher_only"] else _together(views, unseen)


def novel_poses(poses: Tensor, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return ``count`` cameras between those of ``poses`` (V, 4, 4) and a little beyond: whose they are, and (C, 4, 4).

    Each lies on the line from a random camera to one of its nearest, up to a quarter of the way behind either, and
    looks along the rotation between theirs, the nearest to the mean of the matrices.
    """
    chosen = torch.randint(len(poses), (count,), generator=g)
    centres = poses[:, :3, 3]
    near = torch.cdist(centres, centres).argsort(dim=1)[:, : NEIGHBOURS + 1]
    other = near[chosen, torch.randint(near.shape[1], (count,), generator=g)]
    share = (torch.rand(count, 1, 1, generator=g) * (1 + 2 * BEYOND) - BEYOND).to(poses)
    out = torch.lerp(poses[chosen], poses[other], share)
    u, _, vh = torch.linalg.svd(out[:, :3, :3])
    u[:, :, 2] = u[:, :, 2] * torch.linalg.det(u @ vh)[:, None]
    out[:, :3, :3] = u @ vh
    return chosen, out


def _each(intrinsics: Intrinsics, views: Tensor) -> Intrinsics:
    """Return a camera of its own for each of ``views``."""
    one = len(intrinsics.pinhole) == 1
    index = torch.zeros_like(views) if one else views
    distortion = None if intrinsics.distortion is None else intrinsics.distortion[index]
    return dataclasses.replace(intrinsics, pinhole=intrinsics.pinhole[index], distortion=distortion)


def _together(views: Views, more: Views) -> Views:
    """Return both sets of views as one."""
    own, others = _each(views.intrinsics, torch.arange(len(views))), more.intrinsics
    distortion = None
    if own.distortion is not None and others.distortion is not None:
        distortion = torch.cat([own.distortion, others.distortion])
    mask = None
    if views.mask is not None:
        mask = torch.cat([views.mask, torch.ones(more.images.shape[:3], dtype=torch.bool)])
    return dataclasses.replace(
        views,
        images=torch.cat([views.images, more.images]),
        poses=torch.cat([views.poses, more.poses]),
        intrinsics=dataclasses.replace(own, pinhole=torch.cat([own.pinhole, others.pinhole]), distortion=distortion),
        names=(*views.names, *more.names),
        mask=mask,
    )
