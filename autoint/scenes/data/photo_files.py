"""Photos as phones save them, or a video, as a folder of images that a camera's pose can be found of."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from autoint.files import reading
from autoint.files.images import FORMATS, ORIENTATION, image_size_of, images_in

LARGEST, SHARPNESS_SIZE = 1600, 640
"""Longer side of the images that are matched and trained on, and of those that are looked at for blur."""
BLURRED = np.array([0.2, 0.05])
"""An image is blurred if its edges are so much coarser than those of the median image, or its detail so much less."""
FRAMES, CANDIDATES = 100, 4
"""Of a video so many frames are taken, each the sharpest of so many."""
CONVERT = (
    "save them as JPEG, by ImageMagick's `magick mogrify -format jpg`, macOS's `sips -s format jpeg` or, on the phone, "
    "by Settings > Camera > Formats > Most Compatible"
)


def source_of(folder: Path) -> list[Path] | Path:
    """Return the photos of a folder, which may be in ``images`` in it, or its only video."""
    for place in (folder / "images", folder):
        if place.is_dir() and any(p.suffix in reading.SUFFIXES for p in place.iterdir()):
            return images_in(place)
    files = sorted(p for place in (folder, folder / "images") if place.is_dir() for p in place.iterdir())
    videos, others = ([p for p in files if p.suffix.lower() in kind] for kind in (reading.VIDEOS, reading.OTHER_PHOTOS))
    if len(videos) == 1:
        return videos[0]
    if others and not videos:
        kinds = " and ".join(sorted({p.suffix[1:].upper() for p in others}))
        raise ValueError(f"{folder}: {len(others)} photos in {kinds} ({others[0].name}, …), not read here; {CONVERT}")
    found = f"{len(videos)} videos" if videos else "no PNG or JPEG images, and no video"
    raise ValueError(f"{folder}: {found} there; give a folder of photos, or with one video")


def prepared(source: list[Path] | Path, to: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Write what poses are to be found of into the folder ``to``: upright, of one size, sharp, of ``LARGEST`` pixels.

    Names lose their spaces, which COLMAP's lists of names do not know. Of photos taken with the phone held upright and
    lying the fewer are turned by 90°, so that all have the pixels of one camera.

    Returns:
        The names of the images, those that were dropped as blurred, and why others were left out, by their names.
    """
    names, odd = _copies(source, to) if isinstance(source, list) else (_frames(source, to), {})
    names, of_another_size = _of_one_size(to, names)
    sharp, blurred = _sharp(to, names)
    return sharp, blurred, odd | of_another_size


def _copies(files: Sequence[Path], to: Path) -> tuple[list[str], dict[str, str]]:
    """Write the photos upright; return their names, and why others cannot be read."""
    from autoint.runs.progress import tracked  # imports Lightning, which who only reads scenes does without

    names: list[str] = []
    odd = {
        p.name: f"{p.suffix[1:].upper()} is not read; {CONVERT}"
        for p in sorted(files[0].parent.iterdir())
        if p.suffix.lower() in reading.OTHER_PHOTOS
    }
    for file in tracked(files, "photos", "photo"):
        name = re.sub(r"\s+", "_", file.name)
        name = f"{len(names)}_{name}" if name in names else name
        try:
            image_size_of(file)  # refuses what is too large before it is decoded
            with Image.open(file, formats=FORMATS) as image:
                turn = image.getexif().get(ORIENTATION, 1)
                if turn in (0, 1) and max(image.size) <= LARGEST and image.mode in ("RGB", "L", "RGBA"):
                    image.load()  # a damaged one ends here
                    shutil.copyfile(file, to / name)
                else:
                    upright = ImageOps.exif_transpose(image)
                    upright.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX, reducing_gap=3)
                    upright = upright if upright.mode in ("RGB", "L", "RGBA") else upright.convert("RGB")
                    upright.info.pop("exif", None)
                    upright.save(to / name, quality=95)
        except ValueError as error:
            odd[file.name] = str(error).removeprefix(f"{file}: ")
        except (OSError, SyntaxError) as error:  # as Pillow says of a file that ends too early
            odd[file.name] = f"it is damaged ({error})"
            (to / name).unlink(missing_ok=True)
        else:
            names.append(name)
    if not names:
        first, why = next(iter(odd.items()))
        raise ValueError(f"{files[0].parent}: none of {len(odd)} photos can be read; {first}: {why}")
    return names, odd


def _frames(video: Path, to: Path) -> list[str]:
    """Write evenly spaced frames of a video, of each stretch the sharpest of a few; return their names."""
    try:
        ffmpeg = importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ValueError(f"{video}: a video needs imageio-ffmpeg ({error}); pip install 'autoint[video]'") from error
    candidates = _candidates(ffmpeg, video, to)
    every, names = max(1, round(len(candidates) / FRAMES)), []
    for first in range(0, len(candidates), every):
        sharpnesses = {}
        for file in candidates[first : first + every]:
            with Image.open(file, formats=FORMATS) as image:
                sharpnesses[file] = sharpness(image)[0]
        best = max(sharpnesses, key=lambda file: sharpnesses[file])
        names.append(best.name)
        for file in sharpnesses.keys() - {best}:
            file.unlink()
    return names


def _candidates(ffmpeg: Any, video: Path, to: Path) -> list[Path]:
    """Write frames at even times, upright and at most ``LARGEST`` long; return their files in order.

    What looks like a video may be a list of addresses: only local files are opened.
    """
    start = [ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-protocol_whitelist", "file"]
    start += ["-i", str(video.absolute())]
    said = _said(start)
    length, rate = re.search(r"Duration: (\d+):(\d+):([\d.]+)", said), re.search(r"([\d.]+) fps", said)
    hours, minutes, seconds = map(float, length.groups()) if length else (0.0, 0.0, 0.0)
    duration, most = 3600 * hours + 60 * minutes + seconds, FRAMES * CANDIDATES
    every_second = min(float(rate[1]) if rate else 30.0, most / duration if duration else 30.0)
    size = f"scale='min({LARGEST},iw)':'min({LARGEST},ih)':force_original_aspect_ratio=decrease"
    said = _said([
        *start, "-loglevel", "error", "-map", "0:v:0", "-vf", f"fps={every_second:.6g},{size}",
        "-frames:v", str(2 * most), "-q:v", "2", str(to / "frame_%06d.jpg"),
    ])  # fmt: skip
    if found := sorted(to.glob("frame_*.jpg")):
        return found
    why = said.strip().splitlines()[-1:] or ["no frame of it can be decoded"]
    raise ValueError(f"{video}: no readable video ({why[0]:.200}); record or convert it anew as mp4")


def _said(command: Sequence[str]) -> str:
    """Run a program; return what it says, whether it fails or not."""
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stderr


def _of_one_size(folder: Path, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The names of the images of the commonest size, lying or upright, and why the others were removed."""
    sizes = {name: image_size_of(folder / name) for name in names}
    [((width, height), _)] = Counter(sizes.values()).most_common(1)
    odd = {}
    for name, (w, h) in sizes.items():
        if (w, h) == (height, width) != (width, height):
            with Image.open(folder / name, formats=FORMATS) as image:
                turned = image.transpose(Image.Transpose.ROTATE_90)
            turned.info.pop("exif", None)
            turned.save(folder / name, quality=95)
        elif (w, h) != (width, height):
            odd[name] = f"it is {w}x{h}, and most are {width}x{height}"
            (folder / name).unlink()
    return [name for name in names if name not in odd], odd


def sharpness(image: Image.Image) -> tuple[float, float]:
    """Return how fine the edges of an image are, and how much detail it has.

    The former is the energy of second differences over that of first ones, the latter that over the mean's.
    """
    grey = image.convert("L")
    grey.thumbnail((SHARPNESS_SIZE, SHARPNESS_SIZE))
    values = np.asarray(grey, dtype=np.float64)
    first = sum(float(np.square(np.diff(values, axis=k)).mean()) for k in (0, 1))
    second = sum(float(np.square(np.diff(values, n=2, axis=k)).mean()) for k in (0, 1))
    return second / (first + 1e-9), second / (float(values.mean()) ** 2 + 1e-9)


def _sharp(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of images that are sharp, and of those that are not, which are removed."""
    values = np.empty((len(names), 2))
    for number, name in enumerate(names):
        with Image.open(folder / name, formats=FORMATS) as image:
            values[number] = sharpness(image)
    least = BLURRED * np.median(values, axis=0)
    blurred = [name for name, value in zip(names, values, strict=True) if (value < least).any()]
    for name in blurred:
        (folder / name).unlink()
    return [name for name in names if name not in blurred], blurred
