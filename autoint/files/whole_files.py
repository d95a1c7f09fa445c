"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_whole(file: Path, content: bytes) -> Path:
    """Write beside the file's name and rename it, so that the file is whole or absent; return ``file``.

    ``OSError`` names the file, also of a full disk, where the operating system does not say which it is.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(file)) from error
    return file


def new_part(folder: Path, prefix: str, directory: bool = False) -> Path:
    """Make an empty file, or a directory, for what is renamed when it is whole; return it.

    Its name is nobody else's, and its rights are what the umask leaves; :mod:`tempfile` makes it the owner's alone.
    """
    part = folder / f"{prefix}{secrets.token_hex(8)}.part"
    part.mkdir() if directory else part.touch(exist_ok=False)
    return part


def write_json(file: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(file, (json.dumps(value, indent=2) + "\n").encode())
