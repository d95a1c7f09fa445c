"""The budget of a training, in steps and in time: how much of it is used up, and the learning rate that follows it."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from autoint.networks.encodings import AbstractEncoding
from autoint.runs.config import Optimizer

CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+):(\d+(?:\.\d+)?)")
UNITS = re.compile(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s?)?")
IN_SECONDS = (86400, 3600, 60, 1)
ALLOWED = "give seconds, or as in 90s, 5m, 1h30m or DD:HH:MM:SS"


def seconds_of(key: str, value: Any) -> float:
    """Return a duration in seconds: a number of them, ``90s``, ``5m``, ``1h30m``, ``DD:HH:MM:SS`` or {hours: 1, …}.

    Raises:
        ValueError: for anything else, and unless it is positive and finite; it names ``key``.
    """
    try:
        if isinstance(value, Mapping):
            seconds = datetime.timedelta(**{str(k): v for k, v in value.items()}).total_seconds()
        elif isinstance(value, str):
            text = re.sub(r"(?<=h)(\d+)$", r"\1m", re.sub(r"\s", "", value.lower()))  # 1h30 is half past one
            parts = CLOCK.fullmatch(text) or UNITS.fullmatch(text)
            if parts is None:
                raise ValueError
            seconds = sum(float(part or 0) * unit for part, unit in zip(parts.groups(), IN_SECONDS, strict=True))
        elif isinstance(value, bool):
            raise ValueError
        else:
            seconds = float(value)
        if not 0 < seconds < math.inf:
            raise ValueError
        datetime.timedelta(seconds=seconds)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key}={value!r:.80} is no time to train for; {ALLOWED}") from None
    return seconds


class Deadline(Timer):
    """Ends a training such that the validation that follows is over within ``seconds`` of its start.

    That validation is expected to take as long as the longest so far, and the first as long as the task finds out by
    its ``rehearsal()``, where it has one.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(datetime.timedelta(seconds=seconds), verbose=False)
        self.seconds, self._kept, self._measured = seconds, 0.0, False

    @property
    def state_key(self) -> str:
        """That of Lightning's own, as checkpoints have it."""
        return "Timer"

    def time_remaining(self, stage: str = "train") -> float:
        """Return the seconds that are left for training, without those kept for the last validation."""
        return self.seconds - self.time_elapsed(stage) - self._kept

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._keep(max(self._kept if self._measured else 0.0, self.time_elapsed("validate")))
        self._measured = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        rehearsal = getattr(pl_module, "rehearsal", None)
        if rehearsal is not None:
            self._keep(rehearsal())

    def _keep(self, seconds: float) -> None:
        self._kept = min(seconds, self.seconds / 2)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_idx + 1
        validates = batches % trainer.val_check_batch == 0 if trainer.val_check_batch else False
        # Of two validations of which only one is over in time, this step's is the last.
        self._stop(trainer, self.time_remaining() <= (self._kept if validates else 0.0))

    def on_fit_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self._stop(trainer, self.time_remaining() <= 0)

    def _stop(self, trainer: pl.Trainer, now: bool) -> None:
        trainer.should_stop = bool(trainer.strategy.broadcast(now)) or trainer.should_stop


def deadline(trainer: pl.Trainer) -> Deadline | None:
    """Return the trainer's budget of time, or None where there is none."""
    return next((c for c in trainer.callbacks if isinstance(c, Deadline)), None)  # type: ignore[attr-defined]


def learning_rate(trainer: Any, optimizer: Optimizer) -> Callable[[int], float]:
    """Return step → factor of the learning rate: a linear warm-up, times a decay.

    The decay is a cosine from 1 to ``final`` over the part of the budget that is used up, max(step / max_steps,
    elapsed / max_time), or, with ``decay_steps``, a factor of ``final`` every so many steps. A cosine with
    ``trainer.max_time`` depends on the clock, so such a run is reproducible up to that only.
    """
    final, every = optimizer.final, optimizer.decay_steps

    def factor(step: int) -> float:
        warm_up = min(1.0, (step + 1) / max(1, optimizer.warmup_steps))
        if every is not None:
            return warm_up * final ** (step // every)
        return warm_up * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * used_budget(trainer, step))))

    return factor


def adam(module: nn.Module, trainer: Any, optimizer: Optimizer) -> dict[str, Any]:
    """Return what ``configure_optimizers`` is to: Adam, with encodings at a rate of their own, and the schedule."""
    beta_1, beta_2 = optimizer.betas
    groups: list[dict[str, Any]] = [{"params": list(module.parameters())}]
    if optimizer.encoding_lr is not None:
        learned = [p for m in module.modules() if isinstance(m, AbstractEncoding) for p in m.parameters()]
        own = {id(p) for p in learned}
        groups = [{"params": [p for p in module.parameters() if id(p) not in own]}]
        groups += [{"params": learned, "lr": optimizer.encoding_lr}] if learned else []
    made = torch.optim.Adam(groups, lr=optimizer.lr, betas=(beta_1, beta_2), fused=True)
    schedule = LambdaLR(made, learning_rate(trainer, optimizer))
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def used_budget(trainer: Any, step: int) -> float:
    """Return the part of the run's budget that is used up at this step, in [0, 1]."""
    used = step * trainer.accumulate_grad_batches / trainer.num_training_batches
    for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):
        left = timer.time_remaining()
        if left is not None:
            elapsed = timer.time_elapsed()
            used = max(used, elapsed / max(elapsed + left, 1e-9))
    return min(used, 1.0)


def follow_budget(trainer: pl.Trainer) -> None:
    """Set the learning rates by the present budget: a checkpoint holds those of the budget that it was made with."""
    for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
        if isinstance(scheduler, LambdaLR):
            groups = scheduler.optimizer.param_groups
            for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
                group["lr"] = base * factor(scheduler.last_epoch)
