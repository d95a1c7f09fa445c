"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from autoint.files.reading import StrangeLinkError, inside, trusted

WRITTEN = (
    *(".hydra", "multirun.yaml", "checkpoints", "validation", "evaluation", "tensorboard"),
    *("image.png", "normals.png", "error.png"),
)
"""What runs and sweeps write into their folder, and other than by :func:`write_whole`."""


def write_whole(file: Path, content: bytes) -> Path:
    """Write beside the file's name and rename it, so that the file is whole or absent; return ``file``.

    ``OSError`` names the file, also of a full disk, where the operating system does not say which it is.
    """
    part = None
    try:
        part = new_part(file.parent, f".{file.name[:40]}-")
        part.write_bytes(content)
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            if part:
                part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(file)) from error
    return file


def new_part(folder: Path, prefix: str, directory: bool = False) -> Path:
    """Make an empty file, or a directory, for what is renamed when it is whole; return it.

    Its name is nobody else's, so that no link of a stranger can stand there, and its rights are what the umask leaves;
    :mod:`tempfile` makes it the owner's alone.
    """
    part = folder / f"{prefix}{secrets.token_hex(8)}.part"
    part.mkdir() if directory else part.touch(exist_ok=False)
    return part


def write_json(file: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(file, (json.dumps(value, indent=2) + "\n").encode())


def check_written(folder: Path, *more: str | Path) -> None:
    """Refuse links out of a folder where a run writes into it, as an archive of somebody else may hold them.

    The folder itself may be a link, as may the user's own ``checkpoints``, which lie on a larger disk: there is only
    renamed what is whole. Hard links, which lead anywhere unseen, become files of their own.

    Args:
        folder: of a run, a sweep or an evaluation.
        *more: further names in it.
    """
    for name in (*WRITTEN, *more):
        top = folder / name
        if name == "checkpoints" and (not top.is_symlink() or trusted(top)):
            continue
        walked = os.walk(top) if top.is_dir() and inside(top, folder) else ()
        below = [Path(where, name) for where, folders, files in walked for name in (*folders, *files)]
        for place in [top, *below]:
            if (place is top or place.is_symlink()) and not inside(place, folder):
                raise StrangeLinkError(
                    f"{place}: a link that leads out of the folder, to {os.path.realpath(place)!r:.200}, where the run "
                    "would write; remove it, or put the file or folder itself there"
                )
            if place.suffix in (".log", ".yaml", ".png") and place.is_file() and place.lstat().st_nlink > 1:
                write_whole(place, place.read_bytes())
