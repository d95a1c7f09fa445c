"""Checkpoints: plain data, written whole or not at all, on optimizer-step boundaries."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

import autoint

FORMAT = 1
PLAIN = (dict, list, tuple, set, str, bytes, int, float, bool, type(None), torch.Tensor, torch.Size, torch.dtype)


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name, reads it back, and only then renames it; loads plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save ``checkpoint`` at ``path``; at every instant ``path`` is absent, the old file or the new one."""
        _assert_plain(checkpoint, "checkpoint")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".tmp-", suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            with zipfile.ZipFile(name) as archive:
                damaged = archive.testzip()
            if damaged:
                raise OSError(f"{target}: the checkpoint could not be read back ({damaged}); check the disk")
            _keep_previous(target)
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint as :func:`load` does."""
        return load(path)


def _keep_previous(target: Path) -> None:
    """Keep the checkpoint that is about to be replaced as ``previous.ckpt``."""
    if target.exists():
        spare = target.with_name(".previous.part")
        spare.unlink(missing_ok=True)
        os.link(target, spare)
        os.replace(spare, target.with_name("previous.ckpt"))


def _assert_plain(value: Any, where: str) -> None:
    assert isinstance(value, PLAIN), f"{where} is a {type(value).__name__}, which weights_only=True would refuse"
    if isinstance(value, dict):
        for key, item in value.items():
            _assert_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple, set)):
        for i, item in enumerate(value):
            _assert_plain(item, f"{where}[{i}]")


def load(path: str | Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, on the CPU; ``ValueError`` if it is missing, damaged or not ours.

    Only plain data is unpickled (``weights_only=True``), and every record's checksum is verified first, which
    ``torch.load`` does not do.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file}: no such checkpoint; give a .ckpt file, as in ckpt_path=RUN/checkpoints/last.ckpt")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"bad checksum in {damaged}")
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        spare = file.with_name("previous.ckpt")
        mend = f"use {spare}" if spare.is_file() and spare != file else "use another checkpoint"
        raise ValueError(f"{file}: damaged checkpoint ({error}); {mend}") from error
    try:
        contents = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; whatever it is, nothing in the file was run
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"{file}: refused, it holds more than plain data ({reason}); nothing in it was run") from error
    ours = contents.get("autoint") if isinstance(contents, dict) else None
    if not isinstance(ours, dict):
        raise ValueError(f"{file}: not a checkpoint of AutoInt; give a file that train.py wrote")
    if ours.get("format") != FORMAT:
        made_by = ours.get("version")
        raise ValueError(
            f"{file}: format {ours.get('format')} (made by AutoInt {made_by}), but AutoInt {autoint.__version__} "
            f"reads format {FORMAT}; use the version that made it"
        )
    return contents


class SaveLast(Checkpoint):
    """Saves ``last.ckpt`` every ``every`` steps and at the end, keeping the one before as ``previous.ckpt``.

    Only between optimizer steps: a state saved from the middle of a step cannot be resumed exactly. Lightning calls a
    ``Checkpoint`` after all other callbacks, so it sees when one of them, such as the timer, has stopped the training.
    """

    def __init__(self, folder: Path, every: int, config: dict[str, Any]) -> None:
        self.path, self.every, self.config = folder / "last.ckpt", every, config

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["autoint"] = {"format": FORMAT, "version": autoint.__version__, "config": self.config}
        # Whether a batch is the last one is for the resumed run's max_steps to say.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        last = trainer.should_stop or batch_idx + 1 == trainer.num_training_batches
        if last or trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.path, weights_only=False)
