"""Captures with a COLMAP model: ``sparse/0`` beside ``images`` and its reductions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoint.files import reading
from autoint.files.images import read_images
from autoint.registry import DATASETS
from autoint.scenes.data import masks
from autoint.scenes.data.colmap_files import NEEDS, SparseModel, find_model, read_model
from autoint.scenes.data.llff import image_folder
from autoint.scenes.data.poses import rigid
from autoint.scenes.data.views import Views, check_lens, evenly, held_out, names_of, of_other_shape
from autoint.scenes.rays import Intrinsics

TRUSTED_VIEWS, TRUSTED_ERROR = 3, 2.0
"""A point bounds the scene if so many images see it, to so many pixels."""
FEWEST = 20
MARGIN = 0.1
RAYS, MET, MOST_GROWN = 9, 0.995, 3.0
"""The box grows, up to so many times, until such a share of so many rays across each image meets it."""
FAR_AWAY = 1e6


@DATASETS.register("colmap")
def colmap(
    data_dir: str,
    split: str,
    image_size: int | None,
    at_most: int | None = None,
    *,
    path: str = "",
    factor: int | None = None,
    hold_every: int = 8,
    keep: float = 0.99,
    upright: bool = True,
    missing: str = "refuse",
) -> Views:
    """Load one split of a capture that COLMAP has placed.

    The scene is where the sparse points are: the box of all but a few of them, grown by a tenth, and further until
    nearly all rays meet it, as what is seen behind the scene has to be somewhere. Lens distortion is taken out of the
    rays.

    Args:
        data_dir: the folder that holds data sets.
        split: ``train``, ``val`` or ``test``; val and test are the same views.
        image_size: longer side in pixels, by area averaging; None keeps the files' size.
        at_most: how many views to read, evenly spaced; None reads all.
        path: the capture's folder, absolute or relative to ``data_dir``.
        factor: reads the folder ``images_<factor>``, 1 for ``images``; None takes the most reduced folder that still
            has ``image_size`` pixels, and the most reduced of all where no ``image_size`` is given.
        hold_every: every so manyth image, by name, from the first, is held out.
        keep: share of the sparse points, along each axis, that the box holds.
        upright: turn the model so that the cameras' up is +z, along which boxes and grids fit; false keeps its axes.
        missing: images that are not there: ``refuse`` or ``skip``.

    Raises:
        ValueError: naming the file or key, what was found and the mend.
    """
    folder = reading.find_scene(data_dir, path, "colmap")
    return placed(folder, split, image_size, at_most, factor, hold_every, keep, upright, missing)


def placed(
    folder: Path,
    split: str,
    image_size: int | None,
    at_most: int | None,
    factor: int | None,
    hold_every: int,
    keep: float,
    upright: bool,
    missing: str,
) -> Views:
    """Return one split of the capture in a folder; the arguments are those of :func:`colmap`."""
    if not 0.5 <= keep <= 1:
        raise ValueError(f"scene.keep={keep} must be between 0.5 and 1: the share of the points that the box holds")
    place = find_model(folder)
    if place is None:
        raise ValueError(f"{folder}: no COLMAP model there; {NEEDS}. Of photos alone: scene=photos, or autoint photos")
    model = read_model(place)
    where = image_folder(folder, factor, image_size)
    files = [reading.image_file(where, image.name, f"{place}: image {image.number}", "name") for image in model.images]
    there = [i for i, file in enumerate(files) if file.is_file()]
    if len(there) < len(files):
        gone = [model.images[i].name for i in sorted({*range(len(files))} - {*there})]
        found = f"{where}: {len(gone)} of {len(files)} images of the model are missing: {', '.join(gone[:8])}"
        if missing == "refuse" or not there:
            raise ValueError(f"{found}{reading.alike(where / gone[0])}; restore them, or set scene.missing=skip")
        reading.warn(f"{found}; skipped")
    if upright:
        model = _turned(model)
    every = rigid([model.images[i].pose for i in there], [f"{place}: {model.images[i].name}" for i in there]).float()
    kept = held_out(len(there), hold_every, split)
    chosen = [kept[i] for i in evenly(len(kept), at_most)]
    named, names = [files[there[i]] for i in chosen], names_of(files)
    images, size = read_images(named, image_size)
    cameras = _cameras(model, there, size, place)
    lower, upper = bounds(model, keep, place)
    near, _ = _range(model, lower, upper)
    lower, upper = _seen(Views(torch.empty(0), every, cameras, near, FAR_AWAY, ()), lower, upper)
    near, far = _range(model, lower, upper)
    return Views(
        images,
        every[chosen],
        cameras[chosen].resized(images.shape[2], images.shape[1]),
        near,
        far,
        tuple(names[there[i]] for i in chosen),
        (lower, upper),
        mask=masks.read(named, [_mask(folder, where, model.images[there[i]].name) for i in chosen], size, image_size),
    )


def _mask(folder: Path, where: Path, name: str) -> Path | None:
    """The mask of an image, ``masks/NAME.png`` as COLMAP has them, or ``masks_2/NAME.png`` of one in ``images_2``."""
    found = (
        reading.image_file(folder, f"{masks_of}/{name}.png", f"{folder}", "mask")
        for masks_of in (where.name.replace("images", "masks", 1), "masks")
    )
    return next((file for file in found if file.is_file()), None)


def _cameras(model: SparseModel, chosen: list[int], size: tuple[int, int], place: Path) -> Intrinsics:
    """The cameras of chosen images, whose files have this size (width, height)."""
    pinhole, distortion = [], []
    for image in (model.images[i] for i in chosen):
        lens = model.cameras[image.camera]
        if of_other_shape((lens.width, lens.height), size):
            found = f"camera {image.camera} is of {lens.width}x{lens.height}, but the image is {size[0]}x{size[1]}"
            raise ValueError(f"{place}: {image.name}: {found}; give the images that the model was made of")
        factors = size[0] / lens.width, size[1] / lens.height
        pinhole.append([value * factors[k % 2] for k, value in enumerate(lens.pinhole)])
        distortion.append(list(lens.distortion))
    if all(k == pinhole[0] for k in pinhole) and all(d == distortion[0] for d in distortion):
        pinhole, distortion = pinhole[:1], distortion[:1]
    lens_of_all = torch.tensor(distortion) if any(any(d) for d in distortion) else None
    cameras = Intrinsics(torch.tensor(pinhole), *size, lens_of_all)
    check_lens(cameras, str(place))
    return cameras


def _turned(model: SparseModel) -> SparseModel:
    """The model with what is up for its cameras along +z, by the smallest turn (Rodrigues)."""
    from autoint.scenes.camera_paths import up_axis  # which imports a module of this package

    up = up_axis(torch.stack([image.pose for image in model.images]))
    x, y, z = up.tolist()
    if z < -1 + 1e-9:
        turn = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=up.dtype))
    else:
        turn = torch.eye(4, dtype=up.dtype)
        turn[:3, :3] = torch.tensor(
            [[1 - x * x / (1 + z), -x * y / (1 + z), -x], [-x * y / (1 + z), 1 - y * y / (1 + z), -y], [x, y, z]],
            dtype=up.dtype,
        )
    images = [replace(image, pose=turn @ image.pose) for image in model.images]
    return replace(model, images=images, points=model.points @ turn[:3, :3].T)


def _trusted(model: SparseModel) -> Tensor:
    """Which points, (P,) of bool, bound the scene: all of them where few are well seen."""
    views = torch.tensor([len(set(seen.tolist())) for seen in model.seen_by])
    good = (views >= TRUSTED_VIEWS) & (model.errors <= TRUSTED_ERROR) if len(views) else views.bool()
    return good if int(good.sum()) >= FEWEST else torch.ones_like(good)


def bounds(model: SparseModel, keep: float, place: Path) -> tuple[Tensor, Tensor]:
    """Return the corners (3,) of the box that holds a share of the sparse points along each axis, grown by a tenth."""
    points = model.points[_trusted(model)]
    if len(points) < FEWEST:
        raise ValueError(
            f"{place}: {len(points)} points, which bound no scene; run the reconstruction with more images"
        )
    ends = torch.from_numpy(np.quantile(points.numpy(), [(1 - keep) / 2, (1 + keep) / 2], axis=0))
    grown = MARGIN * (ends[1] - ends[0]).clamp_min(0.05 * float((ends[1] - ends[0]).max()))
    return (ends[0] - grown).float(), (ends[1] + grown).float()


def _seen(views: Views, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The box, grown around its middle until the cameras' rays meet it: what is behind the scene has to be somewhere.

    A ray that misses the box shows the background, which photos have not.
    """
    k, grid = views.intrinsics, torch.linspace(0, 1, RAYS)
    x, y = torch.cartesian_prod(grid * k.width, grid * k.height).repeat(len(views), 1).unbind(-1)
    rays = views.through(torch.arange(len(views)).repeat_interleave(RAYS**2), x, y)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    for step in range(round((MOST_GROWN - 1) / 0.05) + 1):
        box = middle - (1 + 0.05 * step) * half, middle + (1 + 0.05 * step) * half
        if float(rays.clipped_to(*box).hit.float().mean()) >= MET:
            break
    return box


def _range(model: SparseModel, lower: Tensor, upper: Tensor) -> tuple[float, float]:
    """From a little before the nearest point that an image sees to the farthest corner of the box."""
    positions = {image.number: image.pose[:3, 3] for image in model.images}
    trusted = _trusted(model).nonzero()[:, 0].tolist()
    rows = [(k, n) for k in trusted for n in model.seen_by[k].tolist() if n in positions]
    corners = torch.cartesian_prod(*torch.stack([lower, upper], dim=-1)).double()
    origins = torch.stack([*positions.values()])
    far = float(torch.cdist(origins, corners).max())
    if not rows:
        return 0.01 * far, far
    index, seen = zip(*rows, strict=True)
    away = (model.points[list(index)] - torch.stack([positions[n] for n in seen])).norm(dim=-1)
    return 0.7 * float(np.quantile(away.numpy(), 0.002)), far
