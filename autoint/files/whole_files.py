"""Files that are whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_whole(file: Path, content: bytes) -> Path:
    """Write beside the file's name and rename it, so that the file is whole or absent; return ``file``."""
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(content)
    os.replace(part, file)
    return file


def write_json(file: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(file, (json.dumps(value, indent=2) + "\n").encode())
