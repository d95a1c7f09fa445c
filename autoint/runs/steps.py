"""Training data that is indexed by step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl


class StepLoader:
    """An iterable of ``total`` batches, the k-th of which is ``sample(k)``.

    A batch depends on nothing but its number, and the number is all the state there is: a run that is resumed sees
    exactly the batches it would have seen.
    """

    def __init__(self, sample: Callable[[int], Any], total: int) -> None:
        self.sample, self.total, self.step = sample, total, 0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Any]:
        while self.step < self.total:
            self.step += 1
            yield self.sample(self.step - 1)
        self.step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


class Steps(pl.LightningDataModule):
    """The numbers of the steps, for a task that draws its batches where it uses them."""

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.total_steps = total_steps

    def train_dataloader(self) -> StepLoader:
        return StepLoader(lambda step: step, self.total_steps)
