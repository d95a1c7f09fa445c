"""Photos without poses, or a video: where they were taken from, by COLMAP's structure from motion (``pycolmap``)."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from autoint.files import reading
from autoint.files.whole_files import new_part, write_json
from autoint.registry import COMMANDS, DATASETS, one_of
from autoint.scenes.data.colmap import placed
from autoint.scenes.data.colmap_files import find_model, read_model
from autoint.scenes.data.photo_files import prepared, source_of
from autoint.scenes.data.views import Views, evenly

log = logging.getLogger(__name__)
KEPT, TOLD = "colmap", "photos.json"
"""The folder beside the photos that holds what was found, and the file in it that says what became of every photo."""
MANY, KEYS = 100, 32
"""Of more images than this only neighbours are compared, and so many, evenly spaced, with each other: a walk around
something ends where it began."""
FEWEST, FEW_FEATURES, FEW_MATCHES = 3, 100, 30
MATCHING = ("auto", "exhaustive", "sequential")


@dataclass(frozen=True)
class Found:
    """What became of photos.

    Attributes:
        folder: with the images and the model.
        placed: how many have a pose.
        total: of how many.
        error: the mean reprojection error in pixels.
        blurred: the names of those that were dropped as blurred.
        unplaced: why the others have no pose, by their names.
    """

    folder: Path
    placed: int
    total: int
    error: float
    blurred: list[str]
    unplaced: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.placed} of {self.total} images placed, reprojection error {self.error:.2f} pixels"]
        lines += [f"dropped as blurred: {', '.join(self.blurred)}"] if self.blurred else []
        lines += [f"not placed: {name}: {why}" for name, why in self.unplaced.items()]
        return "\n".join(lines)


@DATASETS.register("photos")
def photos(
    data_dir: str,
    split: str,
    image_size: int | None,
    at_most: int | None = None,
    *,
    path: str = "",
    matching: str = "auto",
    hold_every: int = 8,
    keep: float = 0.99,
    upright: bool = True,
) -> Views:
    """Load one split of a folder of photos, or of a video, after finding their poses once.

    What is found is kept in ``colmap`` beside the photos, a COLMAP model with the images that it is of, and used again.

    Args:
        data_dir: the folder that holds data sets.
        split: ``train``, ``val`` or ``test``; val and test are the same views.
        image_size: longer side in pixels, by area averaging; None keeps that of the images, at most 1600.
        at_most: how many views to read, evenly spaced; None reads all.
        path: the folder of the photos, which may be in ``images`` in it, or with a single video; absolute or relative
            to ``data_dir``.
        matching: ``exhaustive`` compares all pairs, ``sequential`` neighbours by name; ``auto`` is sequential for a
            video and for more than 100 photos.
        hold_every: every so manyth image, by name, from the first, is held out.
        keep: share of the sparse points, along each axis, that the scene's box holds.
        upright: turn the world so that the cameras' up is +z; false keeps COLMAP's axes.

    Raises:
        ValueError: naming the file or key, what was found and the mend.
    """
    folder = reading.find_scene(data_dir, path, "photos")
    found = poses_of_photos(folder, matching)
    return placed(found.folder, split, image_size, at_most, None, hold_every, keep, upright, "refuse")


def poses_of_photos(folder: Path, matching: str = "auto", again: bool = False) -> Found:
    """Return where the photos of a folder, or the frames of its video, were taken from.

    Args:
        folder: of the photos.
        matching: see :func:`photos`.
        again: whether to find anew what was found before.
    """
    one_of("scene.matching", matching, MATCHING)
    kept, source = folder / KEPT, source_of(folder)
    if not again and (known := _known(kept, source)):
        return known
    colmap = _pycolmap()
    part = new_part(folder, f".{KEPT}-", directory=True)
    try:
        (part / "images").mkdir()
        sharp, blurred, odd = prepared(source, part / "images")
        if len(sharp) < FEWEST:
            why = "; ".join(
                [*(f"{name} is blurred" for name in blurred[:3]), *(f"{n}: {w}" for n, w in odd.items())][:3]
            )
            raise ValueError(
                f"{folder}: {len(sharp)} usable images{f' ({why})' if why else ''}; it takes {FEWEST}, better 30"
            )
        video = isinstance(source, Path)
        sequential = matching == "sequential" or (matching == "auto" and (video or len(sharp) > MANY))
        model, unplaced = _mapped(colmap, part, sharp, sequential)
        told = {"error": model.compute_mean_reprojection_error(), "blurred": blurred, "unplaced": {**odd, **unplaced}}
        write_json(part / TOLD, {**told, "source": _stamp(source), "total": len(sharp) + len(blurred) + len(odd)})
        shutil.rmtree(kept, ignore_errors=True)
        part.rename(kept)
    except OSError as error:
        raise ValueError(
            f"{folder}: what is found is kept beside the photos, and cannot be written ({error})"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = _known(kept, source)
    assert found is not None
    log.info("%s", found)
    return found


def _stamp(source: list[Path] | Path) -> list[list[Any]]:
    """What tells these photos from others: names and sizes."""
    return [[file.name, file.stat().st_size] for file in (source if isinstance(source, list) else [source])]


def _known(kept: Path, source: list[Path] | Path) -> Found | None:
    """What was found of the same photos before, if it is whole."""
    place = find_model(kept)
    if place is None or not (kept / TOLD).is_file():
        return None
    told = reading.read_json(kept / TOLD, "autoint photos writes it")
    if told.get("source") != _stamp(source):
        reading.warn(f"{kept}: the photos are others now; autoint photos FOLDER --again places them anew")
    blurred, unplaced = told.get("blurred"), told.get("unplaced")
    if not isinstance(blurred, list) or not isinstance(unplaced, dict) or not reading.is_number(told.get("error")):
        raise ValueError(f"{kept / TOLD}: damaged; autoint photos FOLDER --again writes it anew")
    return Found(
        kept,
        len(read_model(place).images),
        int(told.get("total", 0)),
        float(told["error"]),
        [str(name) for name in blurred],
        {str(name): str(why) for name, why in unplaced.items()},
    )


def _pycolmap() -> Any:
    try:
        colmap = importlib.import_module("pycolmap")
    except ImportError as error:
        raise ValueError(f"scene=photos needs pycolmap ({error}); pip install 'autoint[photos]'") from error
    colmap.logging.minloglevel = 2
    return colmap


def _mapped(colmap: Any, folder: Path, names: Sequence[str], sequential: bool) -> tuple[Any, dict[str, str]]:
    """Find the poses of the images in a folder, keep them in ``sparse/0``, and say why some have none."""
    database, images, threads = folder / "database.db", folder / "images", len(os.sched_getaffinity(0))
    options = colmap.FeatureExtractionOptions()
    options.num_threads, options.sift.max_num_features, options.use_gpu = threads, 4096, False
    log.info("%d images: looking for features; some minutes in all", len(names))
    camera = colmap.ImageReaderOptions()
    camera.camera_model = "OPENCV" if len(names) >= 20 else "SIMPLE_RADIAL"
    colmap.extract_features(database, images, [*names], colmap.CameraMode.SINGLE, camera, options, colmap.Device.cpu)
    matching = colmap.FeatureMatchingOptions()
    matching.num_threads, matching.use_gpu = threads, False
    log.info("%d images: comparing %s", len(names), "neighbours" if sequential else "all pairs")
    if sequential:
        colmap.match_sequential(database, matching, device=colmap.Device.cpu)
        keys = [names[i] for i in evenly(len(names), KEYS)]
        pairs = colmap.ImportedPairingOptions()
        pairs.match_list_path = folder / "pairs.txt"
        pairs.match_list_path.write_text("".join(f"{a} {b}\n" for a, b in combinations(keys, 2)), encoding="utf-8")
        colmap.match_image_pairs(database, matching, pairs, device=colmap.Device.cpu)
        pairs.match_list_path.unlink()
    else:
        colmap.match_exhaustive(database, matching, device=colmap.Device.cpu)
    log.info("%d images: placing one after the other", len(names))
    mapping = colmap.IncrementalPipelineOptions()
    mapping.num_threads, mapping.random_seed, mapping.min_model_size = threads, 0, 3
    (folder / "sparse").mkdir()
    models = colmap.incremental_mapping(database, images, folder / "sparse", mapping)
    reasons = _reasons(colmap, database, sequential)
    if not models:
        why = "; ".join(f"{name}: {reason}" for name, reason in [*reasons.items()][:5])
        mend = "take photos that overlap by two thirds, of something with texture, from different places"
        raise ValueError(f"{folder.parent}: no two of {len(names)} images could be placed ({why}); {mend}")
    best = max(models, key=lambda k: models[k].num_reg_images())
    model = models[best]
    shutil.rmtree(folder / "sparse")
    (folder / "sparse" / "0").mkdir(parents=True)
    model.write_binary(folder / "sparse" / "0")
    database.unlink()
    with_pose = {image.name for image in model.images.values() if image.has_pose}
    elsewhere = {i.name for k, m in models.items() if k != best for i in m.images.values() if i.has_pose}
    unplaced = {}
    for name in sorted(set(names) - with_pose):
        (images / name).unlink()
        unplaced[name] = "it is placed with others that overlap none of these" if name in elsewhere else reasons[name]
    return model, unplaced


def _reasons(colmap: Any, database: Path, sequential: bool) -> dict[str, str]:
    """Why an image may not have been placed, by its name."""
    compared = " that it was compared with; --again --matching exhaustive compares all" if sequential else ""
    with contextlib.closing(colmap.Database.open(database)) as opened:
        images = opened.read_all_images()
        features = {image.image_id: opened.num_keypoints_for_image(image.image_id) for image in images}
        most = dict.fromkeys(features, 0)
        ids, geometries = opened.read_two_view_geometry_num_inliers()
        for (first, second), inliers in zip((colmap.pair_id_to_image_pair(i) for i in ids), geometries, strict=True):
            most[first], most[second] = max(most[first], inliers), max(most[second], inliers)
    reasons = {}
    for image in images:
        count, matches = features[image.image_id], most[image.image_id]
        if count < FEW_FEATURES:
            reasons[image.name] = f"it shows little texture ({count} features)"
        elif matches < FEW_MATCHES:
            reasons[image.name] = f"it overlaps no other image{compared} (at most {matches} matches)"
        else:
            reasons[image.name] = f"its matches (at most {matches}) contradict the rest: what moves, or repeats itself?"
    return reasons


@COMMANDS.register("photos")
def main(arguments: list[str]) -> None:
    """Find where photos or a video's frames were taken from: autoint photos FOLDER."""
    parser = argparse.ArgumentParser(prog="autoint photos", description=(main.__doc__ or "").partition(":")[0])
    parser.add_argument("folder", type=Path, help="of the photos, or with one video")
    parser.add_argument("--matching", choices=MATCHING, default="auto", help="which images are compared (auto)")
    parser.add_argument("--again", action="store_true", help="find anew what was found before")
    given = parser.parse_args(arguments)
    folder = reading.at_home(given.folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give that of the photos")
    found = poses_of_photos(folder, given.matching, given.again)
    print(f"{found}\nnext: python train.py {shlex.quote(f'scene={folder}')}")
