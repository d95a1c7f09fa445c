"""The learning-rate schedule, over whichever of the run's two budgets runs out first: steps or time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pytorch_lightning.callbacks import Timer


def warm_up_and_cosine(trainer: Any, warmup_steps: int, final: float) -> Callable[[int], float]:
    """Return step → factor of the learning rate: a linear warm-up, times a cosine from 1 to ``final``.

    The cosine runs over the part of the budget that is used up, max(step / max_steps, elapsed / max_time). With
    ``trainer.max_time`` the factor depends on the clock, so such a run is reproducible up to that only.
    """

    def factor(step: int) -> float:
        cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * used_budget(trainer, step)))
        return min(1.0, (step + 1) / max(1, warmup_steps)) * cosine

    return factor


def used_budget(trainer: Any, step: int) -> float:
    """Return the part of the run's budget that is used up at this step, in [0, 1]."""
    used = step / trainer.num_training_batches
    for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):
        left = timer.time_remaining()
        if left is not None:
            elapsed = timer.time_elapsed()
            used = max(used, elapsed / max(elapsed + left, 1e-9))
    return min(used, 1.0)
