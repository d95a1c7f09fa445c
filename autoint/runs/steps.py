"""Training data that is indexed by step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


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
