"""Loggers: ``metrics.csv``, which is always written, and those beside it, which never stop a training."""

from __future__ import annotations

import contextlib
import csv as csv_format
import io
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger

from autoint.files.whole_files import write_whole
from autoint.registry import LOGGERS

log = logging.getLogger(__name__)
MOST_BYTES = 2**28
"""Of metrics that are gone on with."""
COLUMN, NUMBER = re.compile(r"[\w./-]+"), re.compile(r"[\w.+-]{1,40}")
"""What of a table goes on in another: names and numbers, nothing that a shell or a spreadsheet would run."""
PATIENCE = 2.0  # seconds to wait for wandb's server, whose own client waits for a minute and a half


class MetricsFile(Logger):
    """``metrics.csv`` of a run: a row per logged step and validation, whole at any time, continued by a resumed run.

    Lightning's own begins its file anew in every process, and rewrites it in place when a column is added.
    """

    NAME = "metrics.csv"
    name, version = "csv", ""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.file = run_dir / self.NAME
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = []
        self._begun = False

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.file.parent)

    def go_on(self, before: Path, step: int) -> None:
        """Continue the rows of an earlier run, or of this one's earlier part, as far as they are of its first steps."""
        if before.is_file() and before.stat().st_size <= MOST_BYTES:
            whole, _, _ = before.read_text(encoding="utf-8", errors="replace").rpartition("\n")
            with contextlib.suppress(csv_format.Error):  # the rows before what is no table are taken
                for row in csv_format.DictReader(io.StringIO(whole)):
                    if re.fullmatch("[0-9]{1,18}", row.get("step") or "") and int(row["step"]) < step:
                        self.rows.append({k: v for k, v in row.items() if _is_measured(k, v)})
            self._rewrite()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row."""
        self.rows.append({**metrics, "step": step})
        if not self._begun or not set(self.rows[-1]) <= set(self.columns):
            self._rewrite()
            return
        with self.file.open("a", newline="", encoding="utf-8") as stream:
            csv_format.DictWriter(stream, self.columns, lineterminator="\n").writerow(self.rows[-1])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``.hydra/`` holds them."""

    @rank_zero_only
    def _rewrite(self) -> None:
        self._begun = True
        self.columns = sorted({"step"}.union(*self.rows))
        text = io.StringIO(newline="")
        writer = csv_format.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, text.getvalue().encode())


def _is_measured(column: Any, value: Any) -> bool:
    """Return whether this is what a logger has written; beyond a row's end, csv has None and lists."""
    return (
        isinstance(column, str)
        and isinstance(value, str)
        and bool(COLUMN.fullmatch(column) and NUMBER.fullmatch(value))
    )


class Tolerant(Logger):
    """Another logger whose failures are told of once and do not stop the training."""

    def __init__(self, make: Callable[[], Logger], name: str) -> None:
        super().__init__()
        self._name, self.failures = name, 0
        self.inner: Logger | None = None
        self.inner = self._tried(make)

    def _tried(self, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except Exception as error:  # whatever a server, a disk or a library makes of it
            self.failures += 1
            if self.failures == 1:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning(
                    "logger=%s fails (%s); the training goes on, and metrics.csv has it all", self._name, reason
                )
            return None

    @property
    def name(self) -> str:
        """The logger's name."""
        return self._name

    @property
    def version(self) -> str:
        """None of its own."""
        return ""

    @property
    def experiment(self) -> Any:
        """What the other logger writes to; asking for it opens that."""
        return self._tried(lambda: getattr(self.inner, "experiment", None))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Pass a row on."""
        if self.inner is not None:
            self._tried(self.inner.log_metrics, metrics=metrics, step=step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``.hydra/`` holds them."""

    def save(self) -> None:
        """Have it written."""
        if self.inner is not None:
            self._tried(self.inner.save)

    def finalize(self, status: str) -> None:
        """Have it closed."""
        if self.inner is not None:
            self._tried(self.inner.finalize, status)


@LOGGERS.register("csv")
def csv(run_dir: Path) -> list[Logger]:
    """Nothing but ``metrics.csv``."""
    return []


@LOGGERS.register("tensorboard")
def tensorboard(run_dir: Path) -> list[Logger]:
    """TensorBoard events in ``tensorboard/``; look at them by ``tensorboard --logdir outputs``."""
    from pytorch_lightning.loggers import TensorBoardLogger

    return [Tolerant(lambda: TensorBoardLogger(run_dir, name="tensorboard", version=""), "tensorboard")]


@LOGGERS.register("wandb")
def wandb(run_dir: Path, *, project: str = "autoint", offline: bool = True) -> list[Logger]:
    """Weights & Biases; offline unless ``logger.offline=false``, so that no account and no network are needed.

    Args:
        run_dir: the run's folder.
        project: name of the project there.
        offline: keep everything in the run's folder, to be sent later by ``wandb sync``.
    """
    from pytorch_lightning.loggers import WandbLogger

    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not offline and not answers(address):
        offline = True
        log.warning("%s does not answer: logging offline; later, wandb sync %s/wandb/offline-run-*", address, run_dir)
    make = WandbLogger
    return [Tolerant(lambda: make(project=project, offline=offline, save_dir=run_dir, name=run_dir.name), "wandb")]


def answers(address: str) -> bool:
    """Return whether a server answers in time, whatever it answers."""
    try:
        urllib.request.urlopen(address, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True
