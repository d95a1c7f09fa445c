"""Captures described by one ``transforms.json``, as instant-ngp, nerfstudio and COLMAP's exporters write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from autoint.files import reading
from autoint.files.images import read_images
from autoint.registry import DATASETS, one_of
from autoint.scenes.data.frames import (
    Frame,
    frames_of,
    intrinsics_of,
    mask_of,
    number,
    plain,
    split_file,
    warn_of_shared_images,
)
from autoint.scenes.data.poses import poses_of, warn_of_twins
from autoint.scenes.data.views import Views, check_lens, evenly, held_out, names_of

NEEDS = (
    "a capture has transforms.json, or transforms_train.json and _test.json; nerfstudio's ns-process-data or "
    "instant-ngp's colmap2nerf.py finds the cameras of photos and writes it"
)
SPLITS = ("train", "val", "test")
BOUNDS = ("auto", "aabb_scale", "frustum")


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
    a split (``train_filenames``, …): then no view is in training and in a test that was not named for both. Intrinsics
    stand at the top or in a frame, and lens distortion is taken out of the rays. ``mask_path`` and
    ``dynamic_mask_NAME.png`` beside an image say which pixels do not count.

    Args:
        data_dir: the folder that holds data sets.
        split: ``train``, ``val`` or ``test``.
        image_size: longer side in pixels, by area averaging of premultiplied colour; None keeps the files' size.
        at_most: how many views to read, evenly spaced; None reads all.
        path: the capture's folder, absolute or relative to ``data_dir``.
        hold_every: of one transforms.json, every so manyth view, from the first, is val and test.
        missing: frames whose image is missing, and listed names without a frame: ``refuse`` or ``skip``.
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
    folder = reading.find_scene(data_dir, path, "transforms")
    single, train = folder / "transforms.json", folder / "transforms_train.json"
    file, reference = (single, single) if not train.is_file() else (split_file(folder, split), train)
    frames, gone = _present(file, missing)
    kept = list(range(len(frames)))
    if file == single:
        named = _named(frames, gone, file, split, missing)
        kept = held_out(len(frames), hold_every, split) if named is None else named
        _warn_of_shared_images(frames, kept)
    everything = frames if file == reference else frames_of(reference, NEEDS)
    cameras = poses_of(everything, reference)
    own = cameras if everything is frames else poses_of(frames, file)
    if own is not cameras:
        warn_of_twins(own, [frame["where"] for frame in frames], cameras, reference.name)
        warn_of_shared_images(frames, everything)
    kept = [kept[i] for i in evenly(len(kept), at_most)]
    chosen = [frames[i] for i in kept]
    images, size = read_images([frame["image"] for frame in chosen], image_size)
    intrinsics = intrinsics_of(chosen, size)
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
    every = names_of([frame["image"] for frame in frames])
    names, mask = tuple(every[i] for i in kept), mask_of(chosen, folder, size, image_size)
    views = Views(images, own[kept], intrinsics, near, far, names, box, mask=mask)
    if bounds == "frustum":
        return replace(views, box=views.frustum_box(5))
    return replace(views, box=None) if bounds == "auto" and bool((views.alpha < 0.5).any()) else views


def _warn_of_shared_images(frames: list[Frame], kept: list[int]) -> None:
    """Tell of images that two frames name, one of which is in this split and the other is not."""
    inside, own = {frames[i]["image"] for i in kept}, set(kept)
    shared = sorted({frame["image"] for i, frame in enumerate(frames) if i not in own} & inside)
    if shared:
        more = f", and {len(shared) - 1} more," if len(shared) > 1 else ""
        reading.warn(f"{shared[0]}{more} is the image of views that train and of views that are tested; check the file")


def _within(
    cube: tuple[Tensor, float, float], poses: Tensor, near: float | None, far: float | None
) -> tuple[float, float, tuple[Tensor, Tensor]]:
    """Near and far, from what the cube leaves where they are None, and the cube's corners."""
    center, half, reach = cube
    distance = (poses[:, :3, 3] - center).norm(dim=-1)
    near = max(0.05 * reach, float(distance.min()) - 3**0.5 * half) if near is None else near
    far = float(distance.max()) + 3**0.5 * half if far is None else far
    return near, far, (center - half, center + half)


def _named(frames: list[Frame], gone: list[Frame], file: Path, split: str, missing: str) -> list[int] | None:
    """Which frames of one transforms.json are in a split by the lists in it (nerfstudio), or None without lists.

    Val and test stand for each other where one has no list. Otherwise a split without a list has the frames that no
    list names, so that none is in training and in a test. Lists that do share images are warned of.
    """
    listed = {other: _listed(frames[0], file, other) for other in SPLITS}
    listed = {other: names for other, names in listed.items() if names}
    if not listed:
        return None
    known = [_names(frame) for frame in frames]
    within = {other: {i for i, of in enumerate(known) if of & names} for other, names in listed.items()}
    for other in ("val", "test"):
        if shared := sorted(within.get("train", set()) & within.get(other, set())):
            found = _some([str(frames[i]["file_path"]) for i in shared])
            reading.warn(
                f"{file}: train_filenames and {other}_filenames share {len(shared)} of {len(within[other])} images: "
                f"{found}; what is evaluated was trained on; take them out of one list"
            )
    stand_in = {"val": "test", "test": "val"}.get(split, "")
    source = split if split in listed else stand_in if stand_in in listed else None
    if source is None:
        kept = sorted(set(range(len(frames))) - set().union(*within.values()))
        if not kept:
            names = " and ".join(f"{other}_filenames" for other in listed)
            raise ValueError(f"{file}: no {split}_filenames, and {names} name every image; list those of {split}")
        reading.warn(f"{file}: no {split}_filenames; the {len(kept)} images that no list names are {split}")
        return kept
    strange = sorted(listed[source] - set().union(*known, *map(_names, gone)))
    if not within[source]:
        found = f"{source}_filenames={strange!r:.80} names none of the images"
        raise ValueError(f"{file}: {found}; mend or remove it")
    if strange:
        found = f"{source}_filenames: {len(strange)} of {len(listed[source])} names are of no frame: {_some(strange)}"
        if missing == "refuse":
            raise ValueError(f"{file}: {found}; mend them, or leave them out by scene.missing=skip")
        reading.warn(f"{file}: {found}; skipped")
    if source != split:
        reading.warn(f"{file}: no {split}_filenames; those of {source} stand for them")
    return sorted(within[source])


def _listed(top: Frame, file: Path, split: str) -> set[str]:
    """The images that the file lists for a split; an empty list is none."""
    names = top.get(f"{split}_filenames")
    if names is None:
        return set()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file}: {split}_filenames={names!r:.80} must be a list of file_paths of the frames")
    return set(map(plain, names))


def _names(frame: Frame) -> set[str]:
    """What a list may call a frame: its path, with or without the suffix that the path may leave out."""
    path = plain(frame["file_path"])
    return {path, str(PurePosixPath(path).with_name(frame["image"].name))}


def _some(names: list[str]) -> str:
    return ", ".join(f"{name:.120}" for name in names[:8]) + (", …" if len(names) > 8 else "")


def _present(file: Path, missing: str) -> tuple[list[Frame], list[Frame]]:
    """The frames of a file, by their paths: those whose ``image`` is there, and the others.

    The latter are refused or skipped, as told, and named.
    """
    present: list[Frame] = []
    gone: list[Frame] = []
    frames = sorted(frames_of(file, NEEDS), key=lambda frame: str(frame.get("file_path")))
    for frame in frames:
        frame["image"] = reading.image_file(file.parent, frame.get("file_path"), frame["where"])
        (present if frame["image"].is_file() else gone).append(frame)
    if gone:
        named = _some([str(frame["file_path"]) for frame in gone])
        found = f"{file}: {len(gone)} of {len(frames)} images are missing: {named}"
        if missing == "refuse":
            raise ValueError(f"{found}; restore them, or leave these frames out by scene.missing=skip")
        if not present:
            raise ValueError(f"{found}; nothing is left; restore them")
        reading.warn(f"{found}; skipped")
    return present, gone


def _cube(poses: Tensor, top: Frame, bounds: str, radius: float, file: Path) -> tuple[Tensor, float, float]:
    """Centre and half the side of the scene's cube, and the largest distance of a camera from its centre."""
    if bounds == "aabb_scale":
        # instant-ngp puts x at scale·x + offset, and its cube has the centre ½ and the side aabb_scale.
        if top.get("aabb_scale") is None:
            raise ValueError(f"{file}: aabb_scale=None, which scene.bounds=aabb_scale needs; use scene.bounds=auto")
        if top.get("aabb") is not None:  # which says scale and offset in another way, and wins
            lower, upper = _corners(top["aabb"], file)
            scale, center = 1 / max(1e-6, float((upper - lower).abs().max())), (lower + upper) / 2
        else:
            scale = number(top, "scale", 0.33, True)
            offset = top.get("offset", [0.5, 0.5, 0.5])
            if not isinstance(offset, list) or len(offset) != 3 or not all(map(reading.is_number, offset)):
                raise ValueError(f"{file}: offset={offset!r} must be three numbers")
            center = (0.5 - torch.tensor(offset, dtype=torch.float32)) / scale
        half = 0.5 * number(top, "aabb_scale", positive=True) / scale
    else:
        center = nearest_point(poses, file)
        away = ((center - poses[:, :3, 3]) * poses[:, :3, 2]).sum(-1) > 0
        if away.float().mean() > 0.5:
            reading.warn(
                f"{file}: {int(away.sum())} of {len(poses)} cameras look away from the point nearest to their axes; "
                "unless they look outwards, the poses have other axes than +x right, +y up, looking along −z: negate "
                "the second and the third column of OpenCV's"
            )
        half = radius * float((poses[:, :3, 3] - center).norm(dim=-1).max())
    return center, half, float((poses[:, :3, 3] - center).norm(dim=-1).max())


def _corners(box: object, file: Path) -> Tensor:
    """The corners (2, 3) of an ``aabb``."""
    rows = box if isinstance(box, list) and len(box) == 2 else [None, None]
    if not all(isinstance(row, list) and len(row) == 3 and all(map(reading.is_number, row)) for row in rows):
        raise ValueError(f"{file}: aabb={box!r:.80} must be two corners of three numbers")
    return torch.tensor(rows, dtype=torch.float32)


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
