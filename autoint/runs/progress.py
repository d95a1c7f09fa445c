"""How far something is: one line that is written over on a terminal, a plain line a minute where there is none."""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from autoint.runs.schedule import deadline

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST, EVERY = 5.0, 60.0  # seconds before the first plain line, and between two
REFRESH = 0.25  # seconds between two looks of a terminal's line
CLEAR = "\r\x1b[K"


class Line(logging.Filter):
    """The line itself, which gives way to whatever is logged meanwhile.

    Args:
        terminal: whether stderr is one; looked at by default.
    """

    def __init__(self, terminal: bool | None = None) -> None:
        super().__init__()
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self._due, self._shown = time.monotonic() + (0.0 if self.terminal else FIRST), False
        self._handlers: list[logging.Handler] = []

    def due(self) -> bool:
        """Return whether it is time for the next look."""
        return time.monotonic() >= self._due

    def show(self, text: str) -> None:
        """Show the text, in place of what was shown before where there is a terminal."""
        self._due = time.monotonic() + (REFRESH if self.terminal else EVERY)
        if not self.terminal:
            log.info("%s", text)
            return
        if not self._handlers:
            self._handlers = list(logging.getLogger().handlers)
            for handler in self._handlers:
                handler.addFilter(self)
        sys.stderr.write(f"{CLEAR}{text}")
        sys.stderr.flush()
        self._shown = True

    def filter(self, record: logging.LogRecord) -> bool:
        """Make room for what is logged."""
        self._wipe()
        return True

    def _wipe(self) -> None:
        if self._shown:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()
            self._shown = False

    def close(self) -> None:
        """Take the line away."""
        self._wipe()
        for handler in self._handlers:
            handler.removeFilter(self)
        self._handlers = []


@contextlib.contextmanager
def telling(of: logging.Logger) -> Iterator[None]:
    """Let what is logged by a module, and here, be read as in a training: for commands that Hydra does not set up."""
    handler, levels = logging.StreamHandler(), {logger: logger.level for logger in (of, log)}
    told = {logger.name for logger in levels}
    handler.addFilter(lambda record: record.levelno > logging.INFO or record.name in told)
    logging.getLogger().addHandler(handler)
    for logger in levels:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for logger, level in levels.items():
            logger.setLevel(level)


class Once(logging.Filter):
    """While it is entered, lets through once whatever is logged: for what would be said of each of many things alike.

    Args:
        told: what was said before.
    """

    def __init__(self, told: Iterable[str] = ()) -> None:
        super().__init__()
        self.told, self._handlers = set(told), list[logging.Handler]()

    def __enter__(self) -> Self:
        last = logging.lastResort  # where nothing is set up, as in a process that was started for a part of the work
        self._handlers = list(logging.getLogger().handlers) or ([last] if last else [])
        for handler in self._handlers:
            handler.addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        for handler in self._handlers:
            handler.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record says something new."""
        text = record.getMessage()
        if text not in self.told:
            self.told.add(text)
            record.new = True  # for all handlers, of which each asks
        return hasattr(record, "new")


class Progress(Callback):
    """Shows the step, the rate, what is measured, and the time left of the budget that ends first."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self._most = math.inf  # of a module that ends by itself
        self._seen: collections.deque[tuple[float, int]] = collections.deque(maxlen=240)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._most = getattr(pl_module, "most_steps", math.inf)
        if trainer.is_global_zero:
            self.line = Line()
            self._seen.append((time.monotonic(), trainer.global_step))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.line is not None and self.line.due():
            self._seen.append((time.monotonic(), trainer.global_step))
            self.line.show(self.text(trainer))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.line is not None and self.line.terminal:
            self.line.show(f"step {trainer.global_step:,}, validation")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Take the line away: what comes after the training says of itself."""
        if self.line is not None:
            self.line.close()
            self.line = None

    def text(self, trainer: pl.Trainer) -> str:
        """Return the line: ``step 1,200 of 20,000, 85.2 steps/s, psnr 24.31, 3 min 41 s left``."""
        (begin, first), (now, step) = self._seen[0], self._seen[-1]
        rate = (step - first) / max(now - begin, 1e-9)
        total = round(trainer.num_training_batches / trainer.accumulate_grad_batches)
        total = int(min(total, self._most))
        timer = deadline(trainer)
        budgets = [timer.seconds - timer.time_elapsed()] if timer else []
        budgets += [(total - step) / rate] if rate else []
        # A limit of steps that time will not allow says nothing of how far the training is.
        by_time = timer is not None and budgets[0] == min(budgets)
        parts = [f"step {step:,}" + ("" if by_time else f" of {total:,}"), f"{rate:.3g} steps/s"]
        shown: dict[str, Any] = {**trainer.progress_bar_metrics, **trainer.callback_metrics}
        names = [name for name in shown if name in trainer.progress_bar_metrics or name == "val/psnr"]
        parts += [f"{name.removeprefix('train/')} {float(shown[name]):.4g}" for name in names]
        return ", ".join([*parts, f"{duration(min(budgets))} left"] if budgets else parts)


def duration(seconds: float) -> str:
    """Return a duration for people: 42 s, 3 min 41 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def tracked(items: Sequence[T], name: str, unit: str) -> Iterator[T]:
    """Yield the items, and show how many are done: ``lego: 3 of 25 images, 41 s left``."""
    line, start, count = Line(), time.monotonic(), len(items)
    try:
        for done, item in enumerate(items):
            if line.due():
                left = f", {duration((time.monotonic() - start) / done * (count - done))} left" if done else ""
                line.show(f"{name}: {done} of {count} {unit}s{left}")
            yield item
    finally:
        line.close()
