"""After a sweep: its finished runs evaluated, each once, and the report written that its layout names."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from autoint.files import reading
from autoint.files.whole_files import check_written, write_json
from autoint.registry import LAYOUTS, checked, fields_of
from autoint.reports import metrics
from autoint.runs import checkpoints, named_code, restoring
from autoint.runs.config import Report, RunConfig
from autoint.runs.evaluation import EvaluateConfig, find_checkpoints, finite, on_device
from autoint.runs.interrupted import PartialEvaluation

log = logging.getLogger(__name__)
MEASURED = ("psnr", "ssim", "lpips", "seconds_per_frame", "memory", "evaluations_per_ray", "images")
"""Of a row, what the layouts of reports count on."""


@dataclass(frozen=True)
class Evaluated:
    """A finished run and what evaluation found: its configuration, its row of a table, its values per image."""

    run: RunConfig
    run_dir: Path
    row: dict[str, Any]
    per_image: list[dict[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """The finished runs of a sweep, for a report about them.

    Attributes:
        config: how runs are evaluated.
        folder: the sweep's own, where the report is written.
        files: the last checkpoint of every finished run.
        failures: what kept runs from being evaluated, a line each.
    """

    config: EvaluateConfig
    folder: Path
    files: Sequence[Path]
    failures: list[str] = field(default_factory=list)

    def results(self) -> list[Evaluated]:
        """Evaluate the runs; ``ValueError`` where none can be, and a note in ``failures`` for each that cannot."""
        results = []
        for file in self.files:
            try:
                results.append(evaluated(self.config, file))
            except ValueError as error:
                self.failures.append(f"{file.parent.parent}: {error}")
        if not results:
            self.check()
            raise ValueError(f"{self.folder}: no run was finished, so there is no table; the same command goes on")
        return results

    def check(self) -> None:
        """Tell of the runs that could not be evaluated, by ``ValueError``."""
        if self.failures:
            count = f"{len(self.failures)} of {len(self.files)} runs"
            raise ValueError(f"{count} could not be evaluated; {self.failures[0]}")


@dataclass(frozen=True)
class Layout:
    """What is written after a sweep: the ``task`` whose runs it is about, and ``write(sweep)``.

    ``write`` returns the table as text, after writing it and its pictures into the sweep's folder.
    """

    task: str
    write: Callable[[Sweep], str]


def report_layout(name: str, task: str) -> Callable[[Callable[[Sweep], str]], Callable[[Sweep], str]]:
    """Register what ``report.layout=name`` writes about the runs of ``task``."""

    def add(write: Callable[[Sweep], str]) -> Callable[[Sweep], str]:
        def layout() -> Layout:
            return Layout(task, write)

        layout.__module__ = write.__module__
        LAYOUTS.register(name)(layout)
        return write

    return add


def write_report(composed: DictConfig, sweep_dir: Path) -> None:
    """Evaluate the finished runs of a sweep, and write what ``report.layout`` says into the sweep's folder.

    A run that cannot be evaluated is left out and told of in the end, by ``ValueError``. What was found of a run is
    kept in its folder, and used again as long as its checkpoint and the way of evaluating stay the same,
    unless LPIPS could not be had then and can be now.
    """
    plain: Any = OmegaConf.to_container(composed, resolve=True)
    report = Report(**checked(fields_of(Report), plain["report"], "report"))
    if report.layout == "none":
        return
    options = {k: v for k, v in dataclasses.asdict(report).items() if k != "layout"}
    code = sorted(named_code.named()) or None
    config = EvaluateConfig(runs=str(sweep_dir), data_dir=plain["data_dir"], function=code, **options).checked()
    finished = [f for f in find_checkpoints(config.runs) if (f.parent.parent / "result.json").is_file()]
    sweep = Sweep(config, sweep_dir, finished)
    table = LAYOUTS.build(report.layout).write(sweep)
    print(f"{table}\nreport: {sweep_dir / 'table.md'}")
    sweep.check()


def evaluated(config: EvaluateConfig, file: Path) -> Evaluated:
    """Evaluate the run of a checkpoint, or return what an earlier evaluation in the same way found of it."""
    run_dir = file.parent.parent
    check_written(run_dir)
    known = run_dir / "evaluation" / "result.json"
    way = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("runs", "data_dir")}
    key = {"checkpoint": hashlib.sha256(file.read_bytes()).hexdigest(), **way}
    kept = reading.remembered(known)
    if _is_whole(kept) and kept["key"] == key:
        lacks = kept["row"]["lpips"] is None and metrics.lpips_metric(config.lpips, config.lpips_weights)
        if not lacks:
            run = restoring.stored_config(file, checkpoints.load(file))
            return Evaluated(run, run_dir, kept["row"], kept["per_image"])
    run, restored = restoring.restored(file, config.code, data_dir=config.data_dir)
    row, values = on_device(restored, config).evaluate(config, run, known.parent)
    contents: dict[str, Any] = {"key": key, "row": finite([row])[0], "per_image": finite(values)}
    write_json(known, contents)
    PartialEvaluation.clear(known.parent)
    return Evaluated(run, run_dir, contents["row"], contents["per_image"])


def _is_whole(kept: Any) -> bool:
    """Return whether a file of an evaluation has the form in which :func:`evaluated` writes it."""
    row, values = (kept.get("row"), kept.get("per_image")) if isinstance(kept, dict) else (None, None)
    if not isinstance(row, dict) or not isinstance(values, list) or "key" not in kept:
        return False
    numbers = all(key in row and (row[key] is None or reading.is_number(row[key])) for key in MEASURED)
    return numbers and all(isinstance(value, dict) for value in values)
