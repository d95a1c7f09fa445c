"""``scene=FOLDER`` on the command line: the folder says what it is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from autoint.files.reading import OTHER_PHOTOS, SUFFIXES, VIDEOS, at_home, scene_folder
from autoint.registry import DATASETS

SIGNS = {
    "transforms.json": "transforms",
    "transforms_train.json": "blender",
    "poses_bounds.npy": "llff",
    "intrinsics.txt": "deepvoxels",
    "train/intrinsics.txt": "deepvoxels",
    "colmap/photos.json": "photos",
    "sparse/0/cameras.bin": "colmap",
    "sparse/0/cameras.txt": "colmap",
}
"""What a folder holds of which data set."""


def with_scene_folders(arguments: Sequence[str], conf: Path) -> list[str]:
    """Return a command line in which ``scene=FOLDER`` is the data set that the folder holds, and its path.

    Choices of the group ``scene`` stay as they are. With -m, several folders of one kind may stand beside each other.

    Args:
        arguments: the command line, without the program.
        conf: the folder of the configuration files.

    Raises:
        ValueError: for a folder that is not there or holds no scene.
    """
    data_dir = next((a.partition("=")[2] for a in reversed(arguments) if a.startswith("data_dir=")), "data")
    confs, out = _configurations(arguments, conf), []
    for argument in arguments:
        key, _, value = argument.partition("=")
        out += (_of_folders(_unquoted(value), data_dir, confs) if key == "scene" else None) or [argument]
    return out


def _of_folders(value: str, data_dir: str, confs: Sequence[Path]) -> list[str] | None:
    """The overrides that stand for a value of ``scene=``, or None for one that Hydra understands."""
    values = [value] if at_home(value).is_dir() else value.split(",")
    if not any(_is_folder(one, confs) for one in values):
        return None
    folders = [_found(value, data_dir) for value in values]
    kinds = list(dict.fromkeys(map(kind_of, folders)))
    if len(kinds) > 1:
        raise ValueError(f"scene={value}: folders of {' and '.join(kinds)} in one sweep; give those of one kind")
    quoted = ("'" + str(folder.absolute()).replace("\\", "\\\\").replace("'", "\\'") + "'" for folder in folders)
    return [f"scene={kinds[0]}", f"scene.path={','.join(quoted)}"]


def _is_folder(value: str, confs: Sequence[Path]) -> bool:
    """Whether a value means a folder: it looks like a path, or is one, and is no choice of the group."""
    if value in (*DATASETS.names(), "null", "") or any((conf / "scene" / f"{value}.yaml").is_file() for conf in confs):
        return False
    if re.match(r"\w+\(|\$\{|[\[{]", value):  # Hydra's own grammar
        return False
    return bool(re.search(r"[/\\]|^[.~]", value)) or scene_folder(".", value).is_dir()


def _found(value: str, data_dir: str) -> Path:
    """The folder of this name, here or below the folder of data sets."""
    here, there = scene_folder(".", value), scene_folder(data_dir, value)
    for folder in (here, there):
        if folder.is_dir():
            return folder
    if here.is_file():
        raise ValueError(f"scene={value}: a file; give the folder of the scene")
    below = "" if here.is_absolute() else f", here or below data_dir={data_dir}"
    kinds = ", ".join(DATASETS.names())
    raise ValueError(f"scene={value}: no such folder{below}; give a scene's folder, or a data set ({kinds})")


def kind_of(folder: Path) -> str:
    """Return the data set that reads a folder, by what is in it; ``ValueError`` says what is missing."""
    for sign, kind in SIGNS.items():
        if (folder / sign).is_file():
            return kind
    entries = sorted(folder.iterdir())
    below = [e.name for e in entries if e.is_dir() and any((e / sign).is_file() for sign in SIGNS)]
    if below:
        raise ValueError(f"scene={folder}: a folder of scenes; give one of them: {', '.join(below[:8])}")
    files = [*entries, *(p for e in entries if e.is_dir() and e.name == "images" for p in e.iterdir())]
    if any(p.suffix.lower() in (*SUFFIXES, *VIDEOS, *OTHER_PHOTOS) for p in files):
        return "photos"  # whose poses are to be found, or which are refused there
    signs = "transforms.json, transforms_train.json, poses_bounds.npy, intrinsics.txt, sparse/0, photos or a video"
    raise ValueError(f"scene={folder}: no scene there: none of {signs}")


def _configurations(arguments: Sequence[str], conf: Path) -> list[Path]:
    """The folders in which choices are: the program's, and those of ``--config-dir``."""
    own = [a.partition("=")[2] for a in arguments if re.match(r"--config-(dir|path)=|-c[dp]=", a)]
    flags = ("--config-dir", "-cd", "--config-path", "-cp")
    own += [value for flag, value in itertools.pairwise(arguments) if flag in flags]
    return [conf, *map(Path, own)]


def _unquoted(value: str) -> str:
    """A value without the quotes that Hydra would take away."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
