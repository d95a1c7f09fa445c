"""DeepVoxels' scenes: ``intrinsics.txt`` beside folders ``pose`` of text files and ``rgb`` of images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from autoint.files import reading
from autoint.files.images import images_in, read_images
from autoint.registry import DATASETS
from autoint.runs.seeding import generator
from autoint.scenes.data import masks
from autoint.scenes.data.poses import rigid
from autoint.scenes.data.views import Views, evenly, names_of
from autoint.scenes.rays import Intrinsics

SOURCE = "synthetic_scenes.zip, linked from https://github.com/vsitzmann/deepvoxels"
SPLITS = {"train": "train", "val": "validation", "test": "test"}
NEEDS = "a DeepVoxels scene has intrinsics.txt, pose/*.txt and rgb/*.png"


@DATASETS.register("deepvoxels")
def deepvoxels(
    data_dir: str,
    split: str,
    image_size: int | None,
    at_most: int | None = None,
    *,
    path: str = "",
    radius: float = 1.0,
    split_seed: int = 0,
) -> Views:
    """Load one split of a DeepVoxels scene.

    The folders of the splits are found below the scene (``cube/train``) and beside it (``train/cube``, as in the
    archive). Without such folders a random half of the images trains and the other half is val and test.

    Args:
        data_dir: the folder that holds data sets.
        split: ``train``, ``val`` or ``test``.
        image_size: longer side in pixels, by area averaging; None keeps the files' size.
        at_most: how many views to read, evenly spaced; None reads all.
        path: the scene's folder, absolute or relative to ``data_dir``.
        radius: half the side of the scene's box, around the centre that intrinsics.txt gives.
        split_seed: which half trains.

    Raises:
        ValueError: naming the file or key, what was found and the mend.
    """
    if radius <= 0:
        raise ValueError(f"scene.radius={radius} must be greater than 0: half the side of the scene's box")
    folder, whole = _folder(data_dir, path, split)
    intrinsics, center, inverted = _intrinsics(folder / "intrinsics.txt")
    files = images_in(folder / "rgb")
    if whole:
        order = torch.randperm(len(files), generator=generator(split_seed, "deepvoxels")).tolist()
        half = (len(files) + 1) // 2
        files = [files[i] for i in sorted(order[:half] if split == "train" else order[half:])]
    pose_files = [folder / "pose" / f"{f.stem}.txt" for f in files]
    poses = _poses(rigid(reading.gathered(_matrix, pose_files), list(map(str, pose_files))), inverted)
    # of all views: a part of them must see the same range
    distance = (poses[:, :3, 3] - center).norm(dim=-1)
    near, far = max(1e-2 * radius, float(distance.min()) - 3**0.5 * radius), float(distance.max()) + 3**0.5 * radius
    chosen = evenly(len(files), at_most)
    images, size = read_images([files[i] for i in chosen], image_size)
    intrinsics = _cropped(intrinsics, size, folder).resized(images.shape[2], images.shape[1])
    every, box = names_of(files), (center - radius, center + radius)
    names = tuple(every[i] for i in chosen)
    mask = masks.read([files[i] for i in chosen], [None] * len(chosen), size, image_size)
    return Views(images, poses[chosen], intrinsics, near, far, names, box, mask=mask)


def _folder(data_dir: str, path: str, split: str) -> tuple[Path, bool]:
    """The folder of a split, and whether it holds all images of the scene, not only the split's."""
    scene, name = reading.scene_folder(data_dir, path), SPLITS[split]
    for candidate in (scene / name, scene.parent / name / scene.name, scene) if path else ():
        if (candidate / "intrinsics.txt").is_file():
            return candidate, candidate == scene
    scene = reading.find_scene(data_dir, path, "deepvoxels", f"get {SOURCE}", "deepvoxels")
    raise ValueError(f"{scene}: no intrinsics.txt there, in {name} or in ../{name}/{scene.name}; {NEEDS}")


def _numbers(file: Path) -> list[list[float]]:
    if not file.is_file():
        raise ValueError(f"{file}: file not found; {NEEDS}")
    try:
        lines = [[float(word) for word in line.split()] for line in file.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not a text file of numbers ({error!s:.80}); restore it") from error
    if not all(abs(number) < 1e12 for line in lines for number in line):
        raise ValueError(f"{file}: NaN or infinity or beyond all sizes; restore it")
    return lines


def _intrinsics(file: Path) -> tuple[Intrinsics, Tensor, bool]:
    """The camera, the scene's centre, and whether the poses are world-to-camera.

    The lines are: f cx cy 0; centre of the grid; near plane; scale; height and width; and, at times, 1 for
    world-to-camera poses.
    """
    lines = _numbers(file)
    shapes = [len(line) for line in lines]
    if shapes[:1] not in ([3], [4]) or shapes[1:5] != [3, 1, 1, 2]:
        raise ValueError(
            f"{file}: lines of {shapes} numbers; it needs 'f cx cy 0', three of the centre, near plane, scale, and "
            "'height width'"
        )
    focal, cx, cy = lines[0][:3]
    height, width = (round(side) for side in lines[4])
    if not (0 < focal < float("inf") and height > 0 and width > 0):
        raise ValueError(f"{file}: f={focal}, height={height}, width={width} must be positive")
    intrinsics = Intrinsics(torch.tensor([[focal, focal, cx, cy]]), width, height)
    return intrinsics, torch.tensor(lines[1]), bool(shapes[5:] and lines[5][0])


def _cropped(intrinsics: Intrinsics, size: tuple[int, int], folder: Path) -> Intrinsics:
    """The camera of images of this size: square images of another camera are its central square (as in the archive)."""
    width, height = intrinsics.width, intrinsics.height
    if size[0] == size[1] and width != height:
        side = min(width, height)
        shift = torch.tensor([0.0, 0.0, (width - side) / 2, (height - side) / 2])
        return Intrinsics(intrinsics.pinhole - shift, side, side)
    if abs(size[0] * height - size[1] * width) > 0.01 * size[0] * height:
        found = f"{width}x{height} in intrinsics.txt, {size[0]}x{size[1]} in rgb"
        raise ValueError(f"{folder}: images of another shape than the camera's ({found}); restore the images")
    return intrinsics


def _matrix(file: Path) -> Tensor:
    numbers = [number for line in _numbers(file) for number in line]
    if len(numbers) != 16:
        raise ValueError(f"{file}: {len(numbers)} numbers; a pose has 16, a 4x4 camera-to-world matrix")
    return torch.tensor(numbers, dtype=torch.float64).view(4, 4)


def _poses(matrices: Tensor, inverted: bool) -> Tensor:
    """Camera-to-world poses (V, 4, 4) in OpenGL's convention from OpenCV's, +y down and looking along +z."""
    poses = torch.linalg.inv(matrices) if inverted else matrices
    return (poses * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)).float()
