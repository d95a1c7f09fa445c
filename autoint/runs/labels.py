"""What runs are called beside each other: by what differs between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from autoint.runs.config import RunConfig, flat
from autoint.runs.resuming import BUDGET

OF_NO_RUN = (
    "data_dir", "ckpt_path", "resume", "logger", "report", "trainer", "save_every", "val_every", "val_images", "viewer",
)  # fmt: skip
MOST, LONGEST = 4, 80


def label(text: str) -> str:
    """Return a text as part of a folder's name: letters, digits, ``_``, ``-``, ``+`` and ``.``, at most 60 of them."""
    return re.sub(r"[^\w.+-]+", "_", text.replace(":", "."))[:60].strip("_.-+") or "unnamed"


def portable(name: str) -> str:
    """Return a name without what a file system, a shell or Hydra's command line takes for something else."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")


def differences(runs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """Return for each run its values of the keys in which they differ, the task's own first, at most ``MOST``.

    Where components differ, as ``model``, their options have no part in it.
    """
    values = []
    for run in runs:
        plain = run.to_plain()
        own = {**plain.pop("options"), **plain, "trainer": {k: plain["trainer"].get(k) for k in BUDGET}}
        values.append(dict(flat({k: v for k, v in own.items() if k not in OF_NO_RUN or k == "trainer"})))
    shared = [key for key in values[0] if all(key in of for of in values)] if values else []
    keys = [key for key in shared if len({repr(of[key]) for of in values}) > 1]
    chosen = {key.removesuffix(".name") for key in keys if key.endswith(".name")}
    keys = [key for key in keys if key.endswith(".name") or key.rpartition(".")[0] not in chosen][:MOST]
    return [{key.removesuffix(".name"): _short(of[key]) for key in keys} for of in values]


def labels(found: Sequence[dict[str, Any]], folders: Sequence[str]) -> list[str]:
    """Return ``model=nerf, sections=8`` for each run, with its folder's name where that is not enough to tell it."""
    said = [", ".join(f"{key}={value}" for key, value in of.items()) for of in found]
    names = [
        label if label and said.count(label) == 1 else _with(label, f) for label, f in zip(said, folders, strict=True)
    ]
    return [
        name if names.count(name) == 1 else _with(label, f, 2)
        for name, label, f in zip(names, said, folders, strict=True)
    ]


def folder_name(number: int, values: dict[str, Any], otherwise: str) -> str:
    """Return ``03_model-nerf_sections-8``, or ``03_otherwise`` where there are no values."""
    parts = [f"{portable(key)}-{portable(str(value)) or 'none'}" for key, value in values.items()] or [
        portable(otherwise)
    ]
    return f"{number:02d}_{'_'.join(parts)}"[:LONGEST]


def _short(value: Any) -> Any:
    return PurePath(value).name if isinstance(value, str) and "/" in value else value


def _with(label: str, folder: str, parts: int = 1) -> str:
    name = "/".join(PurePath(folder).parts[-parts:])
    return f"{label} ({name})" if label else name
