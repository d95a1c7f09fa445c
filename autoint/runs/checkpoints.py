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
from torch import Tensor, nn

import autoint
from autoint.files.reading import escaped
from autoint.files.torch_files import read_plain, refuse_address
from autoint.files.whole_files import new_part

log = logging.getLogger(__name__)
FORMAT = 1
MAX_BYTES = 2**20
"""Of a configuration, as of a YAML file."""
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


def last(run: str | Path) -> Path:
    """Return the last checkpoint of a run's folder; any other path is that of a checkpoint itself."""
    return Path(run) / "checkpoints" / "last.ckpt" if Path(run).is_dir() else Path(run)


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
        described = file.with_name(CONFIG)
        if not described.is_file():
            raise ValueError(f"there is no {CONFIG}")
        if described.stat().st_size > MAX_BYTES:
            raise ValueError(f"{CONFIG} has {described.stat().st_size} bytes; at most {MAX_BYTES}")
        about = json.loads(described.read_text(encoding="utf-8"))
        weights = load_file(file)
    except Exception as error:  # safetensors raises its own kind
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: damaged, or without its {CONFIG} ({reason}); export the run again") from error
    about = about if isinstance(about, dict) else {}
    known = {"global_step": about["global_step"]} if "global_step" in about else {}
    return _ours(file, {"autoint": about, **known, "state_dict": weights})


def _ours(file: Path, contents: Any) -> dict[str, Any]:
    ours: Any = contents.get("autoint") if isinstance(contents, dict) else None
    known = isinstance(ours, dict) and type(ours.get("format")) is int
    if not known or (ours["format"] == FORMAT and not isinstance(ours.get("config"), dict)):
        raise ValueError(f"{file}: not a checkpoint of AutoInt; give a file that train.py wrote")
    if ours["format"] != FORMAT:
        made_by = escaped(f"{ours.get('version')!s:.40}")
        raise ValueError(
            f"{file}: format {ours['format']} (made by AutoInt {made_by}), but AutoInt {autoint.__version__} "
            f"reads format {FORMAT}; use the version that made it"
        )
    step, state = contents.get("global_step"), contents.get("state_dict")
    if "global_step" in contents and (type(step) is not int or not 0 <= step < 2**63):
        raise ValueError(
            f"{file}: damaged, its global_step is {' '.join(repr(step).split()):.80}, no number of steps; use another "
            "checkpoint"
        )
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in state.items()):
        raise ValueError(f"{file}: damaged, its state_dict holds no tensors by name; use another checkpoint")
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
            step = load(file).get("global_step")
            if step is None:
                raise ValueError(f"{file}: damaged, its global_step is missing")
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


def check_weights(path: Path, contents: dict[str, Any], module: nn.Module) -> None:
    """Refuse a checkpoint whose tensors are not what ``module`` says: in name, shape, kind of number and finiteness.

    The one place where that is checked. Of modules that take the shapes of what is loaded, which have a hook for it,
    the number of axes counts; what they have ``ADDED`` since a file was written may be missing. A run with
    ``trainer.precision=64-true`` has float64 where the module has float32. Infinity may stand where the module itself
    begins with it.
    """
    theirs, ours = contents["state_dict"], module.state_dict()
    config = contents["autoint"]["config"]
    trainer = config.get("trainer") if isinstance(config, dict) else None
    double = isinstance(trainer, dict) and str(trainer.get("precision")) in ("64", "64-true")
    taken = [f"{prefix}." for prefix, part in module.named_modules() if part._load_state_dict_pre_hooks and prefix]
    added = {f"{prefix}.{name}" for prefix, part in module.named_modules() for name in getattr(part, "ADDED", ())}
    found = [f"Missing key {name!r:.80}" for name in ours if name not in theirs and name not in added]
    found += [f"Unexpected key {name!r:.80}" for name in theirs if name not in ours]
    for name in ours.keys() & theirs.keys():
        own, their = ours[name], theirs[name]
        free = any(name.startswith(prefix) for prefix in taken)
        kinds = {own.dtype, torch.float64} if double and own.is_floating_point() else {own.dtype}
        if their.dim() != own.dim() or (their.shape != own.shape and not free):
            found.append(f"{name} has shape {tuple(their.shape)}, not {tuple(own.shape)}")
        elif their.dtype not in kinds or their.layout != torch.strided:
            found.append(f"{name} holds {their.dtype}, not {own.dtype}")
        elif their.is_floating_point() and not _finite(their, own):
            found.append(f"{name} holds numbers that are not finite")
    if found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        told = "; ".join(sorted(found)[:3])
        raise ValueError(f"{path}: its weights are not this model's ({told}{more}); use the run's own settings")


def _finite(their: Tensor, own: Tensor) -> bool:
    endless = not own.is_meta and bool((own == torch.inf).any())
    return not bool((their.isnan() | (their == -torch.inf)).any()) if endless else bool(their.isfinite().all())


def load_weights(path: Path, contents: dict[str, Any], module: nn.Module) -> None:
    """Load a checkpoint's weights into ``module``, once :func:`check_weights` has found nothing against them."""
    check_weights(path, contents, module)
    try:
        module.load_state_dict(contents["state_dict"])
    except (RuntimeError, ValueError) as error:  # what a module says of values that it cannot have
        lines = str(error).splitlines()
        told = "; ".join(line.strip() for line in lines[1:3] or lines)[:300]
        raise ValueError(f"{path}: its weights are not this model's ({told}); use the run's own settings") from error
