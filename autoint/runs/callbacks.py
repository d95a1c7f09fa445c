"""What watches over every training: the saving of its state, and a look at whether its numbers are finite."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import Tensor

import autoint
from autoint.runs.checkpoints import FORMAT
from autoint.runs.loggers import MetricsFile
from autoint.runs.schedule import follow_budget
from autoint.runs.signals import Listener, Stopped


class SaveLast(Checkpoint):
    """Saves ``last.ckpt`` every ``every`` steps, at the end, and when a signal asks to stop.

    Only between optimizer steps, when all that belongs to the last one, its validation and its logs, is done: what is
    saved is then a function of the number of steps, and a resumed run has neither a gap nor a double row. Lightning
    calls a ``Checkpoint`` after all other callbacks, so it sees when one of them, such as the timer, stops a training.
    """

    def __init__(self, folder: Path, every: int, config: dict[str, Any]) -> None:
        self.path, self.every, self.config = folder / "last.ckpt", every, config
        self.listener = Listener()
        self._begun = self._saved = 0
        self._stop_after_step = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            probe(self.path.parent)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = trainer.global_step
        if trainer.ckpt_path:
            source = Path(trainer.ckpt_path)
            self._saved = trainer.global_step if _same(source, self.path) else 0
            for logger in (x for x in trainer.loggers if isinstance(x, MetricsFile)):
                logger.go_on(source.parent.parent / MetricsFile.NAME, trainer.global_step)
            follow_budget(trainer)
        self.listener.listen()  # Lightning has put its own handler before ours
        self.listener.busy = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = step  # the number under which Lightning logs
        for key in [key for key, value in loop._results.items() if not value.meta.on_epoch]:
            del loop._results[key]  # of an earlier step: a resumed run could not log it once more
        if batch_idx % trainer.accumulate_grad_batches or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        received = self._received(trainer)
        if received or (step % self.every == 0 and step > self._begun):
            self._save(trainer)
        if received:
            raise Stopped(received)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let nothing stop the training in the middle of a step: gradients that are being accumulated are not saved."""
        self._stop_after_step |= trainer.should_stop
        trainer.should_stop = self._stop_after_step and not trainer.fit_loop._should_accumulate()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer)
        self.listener.busy = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        step, batches = trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.current.completed
        for name, tensor in _tensors(pl_module, checkpoint):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise diverged(trainer, f"{name} is not finite", batches - 1)
        checkpoint["autoint"] = {"format": FORMAT, "version": autoint.__version__, "config": self.config}
        loop = checkpoint["loops"]["fit_loop"]
        done = dict.fromkeys(("ready", "started", "processed", "completed"), batches)
        loop["epoch_loop.batch_progress"] |= {"total": done, "current": dict(done), "is_last_batch": False}
        within = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        loop["epoch_progress"] |= {"total": within, "current": dict(within)}
        loop["epoch_loop.state_dict"] = {"_batches_that_stepped": step}
        loop["state_dict"]["combined_loader"] = [{"step": batches}]

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step != self._saved:
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved = trainer.global_step

    def _received(self, trainer: pl.Trainer) -> int:
        """Return the signal that any of the processes has received: all of them stop at the same step."""
        if trainer.world_size == 1:
            return self.listener.received
        received = torch.tensor(self.listener.received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max"))


class Finite(Callback):
    """Stops a training whose loss or gradients are not finite, before they reach the weights.

    On a GPU, where looking costs a synchronisation, only at the steps that are logged; what slips through is found by
    :class:`SaveLast`, which saves no weights that are not finite.
    """

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if _looks(trainer, pl_module) and not loss.isfinite().all():
            raise diverged(trainer, f"the loss is {loss.detach().sum().item()}", trainer.fit_loop.epoch_loop.batch_idx)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not _looks(trainer, pl_module) or getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # a loss that is scaled overflows now and then, and its scaler skips such a step
        grads = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        if grads and not torch.nn.utils.get_total_norm(list(grads.values())).isfinite():
            bad = [name for name, grad in grads.items() if not grad.isfinite().all()]
            what = f"the gradient of {bad[0]} is not finite" if bad else "the norm of the gradient is not finite"
            raise diverged(trainer, what, trainer.fit_loop.epoch_loop.batch_idx)


def _looks(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return module.device.type == "cpu" or (trainer.global_step + 1) % every == 0


def diverged(trainer: Any, what: str, batch: int) -> ValueError:
    """Return the error of a training that has gone wrong, with all that is needed to look into it or to go on."""
    step, seed = batch // trainer.accumulate_grad_batches, getattr(trainer.lightning_module, "seed", None)
    saver = trainer.checkpoint_callback
    last = saver.path if isinstance(saver, SaveLast) and saver.path.exists() else None
    clip = " or add +trainer.gradient_clip_val=1" if trainer.lightning_module.automatic_optimization else ""
    return ValueError(
        f"training diverged: {what} at step {step} (batch {batch} of seed={seed}); lower optimizer.lr{clip}; "
        f"last good checkpoint: {last or 'none yet'}"
    )


def probe(folder: Path) -> None:
    """Find out before a training whether checkpoints can be written; remove what a killed run has left half-written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(".*.part"):
            part.unlink()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-", suffix=".part") as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(
            f"{folder}: checkpoints cannot be written there ({error.strerror}, as user {os.getuid()}); "
            "choose another folder by hydra.run.dir"
        ) from error
    with contextlib.suppress(OSError):
        folder.rmdir()  # empty until something is saved


def _same(first: Path, second: Path) -> bool:
    return second.exists() and os.path.samefile(first, second)


def _tensors(module: pl.LightningModule, checkpoint: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """Return the weights, and what the optimizers remember of each of them, by name; a buffer may hold infinity."""
    found: list[tuple[str, Any]] = list(module.named_parameters())
    for state in checkpoint.get("optimizer_states", []):
        for number, values in state["state"].items():
            found += [(f"{key} of weight {number} in the optimizer", v) for key, v in values.items()]
    return [(name, value) for name, value in found if isinstance(value, Tensor)]
