"""Photos without poses, or a video: where they were taken from, by COLMAP's structure from motion (``pycolmap``)."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from autoint.files import reading
from autoint.files.images import FORMATS, image_size_of, images_in
from autoint.files.whole_files import new_part, write_json
from autoint.registry import COMMANDS, DATASETS, one_of
from autoint.scenes.data.colmap import placed
from autoint.scenes.data.colmap_files import find_model, read_model
from autoint.scenes.data.views import Views

log = logging.getLogger(__name__)
KEPT, TOLD = "colmap", "photos.json"
"""The folder beside the photos that holds what was found, and the file in it that says what became of every photo."""
LARGEST, SHARPNESS_SIZE = 1600, 640
"""Longer side of the images that are matched and trained on, and of those that are looked at for blur."""
BLURRED = 0.2
"""An image is blurred whose edges are so many times coarser than those of the median image."""
MANY, FRAMES = 100, 100
"""Of more images than this only neighbours are matched; of a video so many frames are taken."""
FEW_FEATURES, FEW_MATCHES = 100, 30
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".MP4", ".MOV")
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
    kept, source = folder / KEPT, _source(folder)
    if not again and (known := _known(kept, source)):
        return known
    colmap = _pycolmap()
    part = new_part(folder, f".{KEPT}-", directory=True)
    try:
        (part / "images").mkdir()
        video = isinstance(source, Path)
        names = _frames(source, part / "images") if isinstance(source, Path) else _copies(source, part / "images")
        names, odd = _of_one_size(part / "images", names)
        sharp, blurred = _sharp(part / "images", names)
        sequential = matching == "sequential" or (matching == "auto" and (video or len(sharp) > MANY))
        log.info(
            "%s: %d images, %s matching; some minutes", folder, len(sharp), "sequential" if sequential else "exhaustive"
        )
        model, unplaced = _mapped(colmap, part, sharp, sequential)
        told = {"error": model.compute_mean_reprojection_error(), "blurred": blurred, "unplaced": {**odd, **unplaced}}
        write_json(part / TOLD, {**told, "source": _stamp(source), "total": len(names) + len(odd)})
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


def _source(folder: Path) -> list[Path] | Path:
    """The photos of a folder, or its only video."""
    for place in (folder / "images", folder):
        if place.is_dir() and any(p.suffix in reading.SUFFIXES for p in place.iterdir()):
            return images_in(place)
    videos = [p for p in sorted(folder.iterdir()) if p.suffix in VIDEOS]
    if len(videos) != 1:
        found = f"{len(videos)} videos" if videos else "no PNG or JPEG images, and no video"
        raise ValueError(f"{folder}: {found} there; give a folder of photos, or with one video")
    return videos[0]


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


def _copies(files: Sequence[Path], to: Path) -> list[str]:
    """Write the photos upright and at most ``LARGEST`` pixels long; return their names."""
    names = []
    for file in files:
        image_size_of(file)  # refuses what is too large before it is decoded
        with Image.open(file, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            if upright is image and max(image.size) <= LARGEST:
                shutil.copyfile(file, to / file.name)
            else:
                upright.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX, reducing_gap=3)
                upright.info.pop("exif", None)
                upright.save(to / file.name, quality=95)
        names.append(file.name)
    return names


def _frames(video: Path, to: Path) -> list[str]:
    """Write evenly spaced frames of a video, of each stretch the sharpest of a few; return their names."""
    try:
        ffmpeg = importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ValueError(f"{video}: a video needs imageio-ffmpeg ({error}); pip install 'autoint[video]'") from error
    count, _ = ffmpeg.count_frames_and_secs(str(video))
    every = max(1, count // FRAMES)
    looked_at = {k * every + j * max(1, every // 4) for k in range(count // every) for j in range(4)}
    reader = ffmpeg.read_frames(str(video))
    size = next(reader)["size"]
    best: dict[int, tuple[float, str]] = {}
    for number, raw in enumerate(reader):
        if number not in looked_at:
            continue
        image = Image.frombytes("RGB", size, raw)
        image.thumbnail((LARGEST, LARGEST))
        sharpness = _sharpness(image)
        if sharpness > best.get(number // every, (-1.0, ""))[0]:
            if number // every in best:
                (to / best[number // every][1]).unlink()
            best[number // every] = sharpness, f"frame_{number:06d}.png"
            image.save(to / best[number // every][1])
    return [name for _, name in sorted(best.values(), key=lambda item: item[1])]


def _of_one_size(folder: Path, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The names of the images of the commonest size, and why the others, which are removed, are left out."""
    sizes = {name: image_size_of(folder / name) for name in names}
    [((width, height), _)] = Counter(sizes.values()).most_common(1)
    odd = {
        n: f"it is {w}x{h}, and most are {width}x{height}" for n, (w, h) in sizes.items() if (w, h) != (width, height)
    }
    for name in odd:
        (folder / name).unlink()
    return [name for name in names if name not in odd], odd


def _sharpness(image: Image.Image) -> float:
    """How fine the edges of an image are: the energy of its second differences over that of its first ones."""
    grey = image.convert("L")
    grey.thumbnail((SHARPNESS_SIZE, SHARPNESS_SIZE))
    values = np.asarray(grey, dtype=np.float64)
    first = sum(float(np.square(np.diff(values, axis=k)).mean()) for k in (0, 1))
    second = sum(float(np.square(np.diff(values, n=2, axis=k)).mean()) for k in (0, 1))
    return second / (first + 1e-9)


def _sharp(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of images that are sharp, and of those that are not, which are removed."""
    values = {}
    for name in names:
        with Image.open(folder / name) as image:
            values[name] = _sharpness(image)
    least = BLURRED * float(np.median([*values.values()]))
    blurred = [name for name in names if values[name] < least]
    for name in blurred:
        (folder / name).unlink()
    return [name for name in names if name not in blurred], blurred


def _mapped(colmap: Any, folder: Path, names: Sequence[str], sequential: bool) -> tuple[Any, dict[str, str]]:
    """Find the poses of the images in a folder, keep them in ``sparse/0``, and say why some have none."""
    database, images, threads = folder / "database.db", folder / "images", len(os.sched_getaffinity(0))
    options = colmap.FeatureExtractionOptions()
    options.num_threads, options.sift.max_num_features, options.use_gpu = threads, 4096, False
    camera = colmap.ImageReaderOptions()
    camera.camera_model = "OPENCV" if len(names) >= 20 else "SIMPLE_RADIAL"
    colmap.extract_features(database, images, [*names], colmap.CameraMode.SINGLE, camera, options, colmap.Device.cpu)
    matching = colmap.FeatureMatchingOptions()
    matching.num_threads, matching.use_gpu = threads, False
    match = colmap.match_sequential if sequential else colmap.match_exhaustive
    match(database, matching, device=colmap.Device.cpu)
    mapping = colmap.IncrementalPipelineOptions()
    mapping.num_threads, mapping.random_seed, mapping.min_model_size = threads, 0, 3
    (folder / "sparse").mkdir()
    models = colmap.incremental_mapping(database, images, folder / "sparse", mapping)
    reasons = _reasons(colmap, database)
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


def _reasons(colmap: Any, database: Path) -> dict[str, str]:
    """Why an image may not have been placed, by its name."""
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
            reasons[image.name] = f"it overlaps no other image (at most {matches} matches)"
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
    folder = given.folder.expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give that of the photos")
    found = poses_of_photos(folder, given.matching, given.again)
    print(f"{found}\nnext: python train.py scene={folder}")
