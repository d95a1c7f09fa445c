"""Checkpoints: plain data, written whole or not at all, and verified before anything in them is used."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from safetensors.torch import load_file
from torch import nn

import autoint
from autoint.files.torch_files import read_plain, refuse_address, tensors_of
from autoint.files.whole_files import new_part

log = logging.getLogger(__name__)
FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # what autoint.runs.export writes
PLAIN = (dict, list, tuple, str, int, float, bool, type(None), torch.Tensor)


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name, reads it back, and only then renames it; loads plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save ``checkpoint`` at ``path``; at every instant ``path`` is absent, the old file or the new one."""
        _assert_plain(checkpoint, "checkpoint")
        target = Path(path)
        name = ""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            name = str(new_part(target.parent, ".tmp-"))
            with open(name, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            with zipfile.ZipFile(name) as archive:
                damaged = archive.testzip()
            if damaged:
                raise OSError(f"it could not be read back, {damaged} differs")
            _keep_previous(target)
            os.replace(name, target)
            _sync(target.parent)
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # torch makes RuntimeErrors of a disk's
            raise ValueError(_not_saved(target, error)) from error
        finally:
            if name:
                Path(name).unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint as :func:`load` does."""
        return load(path)


def _keep_previous(target: Path) -> None:
    """Keep the checkpoint that is about to be replaced as ``previous.ckpt``."""
    if target.exists():
        spare = target.with_name(".previous.part")
        spare.unlink(missing_ok=True)
        try:
            os.link(target, spare)
        except OSError:  # a file system without links
            shutil.copyfile(target, spare)
        os.replace(spare, target.with_name("previous.ckpt"))
        spare.unlink(missing_ok=True)  # it is still there if the two were the same file, as after a kill right here


def _sync(folder: Path) -> None:
    """Have the renaming on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_saved(target: Path, error: Exception) -> str:
    free = ""
    with contextlib.suppress(OSError):
        free = f", {shutil.disk_usage(target.parent).free / 1e6:.0f} MB are free"
    before = f"the one before it is whole: {target}" if target.exists() else "there is none before it"
    reason = str(error.__cause__ or error.__context__ or error).splitlines()[0]
    return f"{target}: the checkpoint could not be saved ({reason}{free}); {before}; make room, then resume"


def _assert_plain(value: Any, where: str) -> None:
    assert isinstance(value, PLAIN), f"{where} is a {type(value).__name__}, which would be refused when loaded"
    if isinstance(value, dict):
        for key, item in value.items():
            _assert_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _assert_plain(item, f"{where}[{i}]")


def load(path: str | Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, on the CPU; ``ValueError`` if it is missing, damaged or not ours.

    Read as :func:`autoint.files.torch_files.read_plain` reads: nothing in the file is run.
    """
    file = Path(path)
    refuse_address(path)
    if file.name == WEIGHTS and file.is_file():
        return _exported(file)
    if not file.is_file():
        raise ValueError(f"{file}: no such checkpoint; give a .ckpt file, as in ckpt_path=RUN/checkpoints/last.ckpt")
    spare = file.with_name("previous.ckpt")
    mend = f"use {spare}, or ckpt_path=auto" if spare.is_file() and spare != file else "use another checkpoint"
    return _ours(file, read_plain(file, mend))


def _exported(file: Path) -> dict[str, Any]:
    """Return what :mod:`autoint.runs.export` has made of a checkpoint: its weights and its configuration."""
    try:
        about = json.loads(file.with_name(CONFIG).read_text(encoding="utf-8"))
        weights = load_file(file)
    except Exception as error:  # safetensors raises its own kind
        raise ValueError(f"{file}: damaged, or without its {CONFIG} ({error}); export the run again") from error
    about = about if isinstance(about, dict) else {}
    return _ours(file, {"autoint": about, "global_step": about.get("global_step"), "state_dict": weights})


def _ours(file: Path, contents: Any) -> dict[str, Any]:
    ours = contents.get("autoint") if isinstance(contents, dict) else None
    if not isinstance(ours, dict) or (ours.get("format") == FORMAT and not isinstance(ours.get("config"), dict)):
        raise ValueError(f"{file}: not a checkpoint of AutoInt; give a file that train.py wrote")
    if ours.get("format") != FORMAT:
        made_by = ours.get("version")
        raise ValueError(
            f"{file}: format {ours.get('format')} (made by AutoInt {made_by}), but AutoInt {autoint.__version__} "
            f"reads format {FORMAT}; use the version that made it"
        )
    return dict(contents)


def newest(folder: Path) -> Path | None:
    """Return the newest good checkpoint of a run's folder ``checkpoints``, or None where nothing was ever saved.

    A damaged ``last.ckpt`` is told of and put aside as ``damaged.ckpt``, so that the next save does not put it in the
    place of ``previous.ckpt``. Where there are checkpoints but none is good, that is an error: nothing starts from zero
    unasked.
    """
    problems = []
    for file in (folder / "last.ckpt", folder / "previous.ckpt"):
        if not os.path.lexists(file):
            continue
        try:
            step = load(file)["global_step"]
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            log.warning("%s\ngoing on from %s, of step %d; what came after it is done again", problems[0], file, step)
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder / "last.ckpt", folder / "damaged.ckpt")
        return file
    if problems or any(folder.glob("*.ckpt")):
        found = "; ".join(problems) or f"{folder}: there is neither last.ckpt nor previous.ckpt"
        raise ValueError(f"{found}; to start from zero, remove {folder} or choose another folder by hydra.run.dir")
    return None


def load_weights(path: Path, contents: dict[str, Any], module: nn.Module) -> None:
    """Load a checkpoint's weights into ``module``; ``ValueError`` names the first that are not the module's."""
    try:
        module.load_state_dict(contents["state_dict"])
    except Exception as error:  # whatever a module makes of weights that it does not expect
        lines = str(error).splitlines()
        told = "; ".join(line.strip() for line in lines[1:3] or lines)[:300]
        raise ValueError(f"{path}: its weights are not this model's ({told}); use the run's own settings") from error


def check_resumable(path: Path, contents: dict[str, Any], module: nn.Module) -> None:
    """Refuse to resume from a checkpoint that lacks the optimizers' state, or has another model's; load its weights."""
    load_weights(path, contents, module)
    if not {"loops", "optimizer_states", "lr_schedulers", "global_step"} <= contents.keys():
        raise ValueError(f"{path}: weights alone, without what is needed to go on training; give a run's last.ckpt")
    shapes = {tuple(p.shape) for p in module.parameters()} | {(), (1,)}
    states = contents["optimizer_states"]
    if any(tuple(tensor.shape) not in shapes for tensor in tensors_of(states)):
        raise ValueError(f"{path}: its optimizer belongs to another model; use the run's own settings")
