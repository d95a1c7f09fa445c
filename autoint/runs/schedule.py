"""The learning-rate schedule, and how much is used up of the run's budget of steps or time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pytorch_lightning.callbacks import Timer

from autoint.runs.config import Optimizer


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


def used_budget(trainer: Any, step: int) -> float:
    """Return the part of the run's budget that is used up at this step, in [0, 1]."""
    used = step * trainer.accumulate_grad_batches / trainer.num_training_batches
    for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):
        left = timer.time_remaining()
        if left is not None:
            elapsed = timer.time_elapsed()
            used = max(used, elapsed / max(elapsed + left, 1e-9))
    return min(used, 1.0)
