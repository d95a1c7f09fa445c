"""Videos: mp4 where imageio-ffmpeg is installed, animated pictures everywhere."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from autoint.reports.pictures import to_bytes
from autoint.runs.progress import tracked
from autoint.scenes.camera_paths import PATHS, read_path
from autoint.scenes.data.batches import WholeImages
from autoint.scenes.data.views import Views
from autoint.scenes.volume import AbstractVolume

if TYPE_CHECKING:
    from autoint.scenes.evaluation import Looking

log = logging.getLogger(__name__)


def video_format() -> str:
    """Return the best format that can be written here: mp4, webp or gif."""
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        return "mp4"
    return "webp" if features.check("webp") else "gif"


def write_video(file: Path, frames: Iterable[Tensor], fps: int) -> Path:
    """Write frames (H, W, 3) in [0, 1], one after the other as they come, whole or not at all; return the file.

    The suffix is that of :func:`video_format`. An mp4 has even sizes: an odd one grows by a pixel, repeated.
    """
    suffix = video_format()
    file = file.with_suffix(f".{suffix}")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".part.{file.name}")
    try:
        arrays = (to_bytes(frame).contiguous().numpy() for frame in frames)
        _write_mp4(part, arrays, fps) if suffix == "mp4" else _write_animation(part, arrays, fps)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return file


def _write_mp4(file: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    import imageio_ffmpeg

    writer = None
    try:
        for frame in frames:
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if writer is None:
                size = even.shape[1], even.shape[0]
                writer = imageio_ffmpeg.write_frames(str(file), size, fps=fps, quality=8, macro_block_size=2)
                writer.send(None)
            writer.send(even.tobytes())
    finally:
        if writer is not None:
            writer.close()


def _write_animation(file: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    pictures = map(Image.fromarray, frames)
    first = next(pictures)
    first.save(file, save_all=True, append_images=pictures, duration=round(1000 / fps), loop=0, quality=90)


@torch.no_grad()
def flight(volume: AbstractVolume, views: Views, looking: Looking) -> Views | None:
    """Return the frames of the path ``looking.video`` as views without images, by the camera of ``views``.

    None, after a warning, where the path meets the scene's box, and no ray of it what the volume has learned;
    ``ValueError`` where no ray of the path meets the box.
    """
    name, frames = looking.video, looking.video_frames
    if name.endswith(".json"):
        poses, k, _ = read_path(Path(name))
        frames = len(poses)
    else:
        poses, k = PATHS[name](views, frames), views.intrinsics[0]
    blank = torch.zeros(1, 1, 1, 4).expand(frames, k.height, k.width, 4)
    names = tuple(str(i) for i in range(frames))
    found = replace(views, images=blank, poses=poses, names=names, intrinsics=k, mask=None)
    lower, upper = volume.occupancy.lower.cpu(), volume.occupancy.upper.cpu()
    if any(bool(volume.hit(found.rays_of(i)).any()) for i in range(frames)):
        return found
    if not any(bool(found.rays_of(i).clipped_to(lower, upper).hit.any()) for i in range(frames)):
        others = " or ".join(other for other in PATHS if other != name)
        mend = f"use video={others}, or check scene.near and scene.far"
        raise ValueError(f"video={name}: no ray of the path's {frames} frames meets the scene; {mend}")
    log.warning("no video: no ray of the path's %d frames meets anything that was learned", frames)
    return None


@torch.no_grad()
def fly(
    volume: AbstractVolume, background: Tensor, flight: Views, looking: Looking, chunk_size: int, file: Path
) -> Path:
    """Render a scene along a path, :func:`flight`; return the video's file."""
    images = WholeImages(flight)

    def rendered() -> Iterator[Tensor]:
        for number in tracked(range(len(images)), f"video {file.stem}", "frame"):
            batch = images[number].to(background.device)
            assert batch.shape is not None
            yield volume.view(batch.rays, background, chunk_size)[0].cpu().reshape(*batch.shape, 3)

    written = write_video(file, rendered(), looking.video_fps)
    log.info("video: %s", written)
    return written
