"""After a sweep: its finished runs evaluated, each once, and the experiment's tables and pictures written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from autoint import build, checkpoints, figure3, reports, view_evaluation
from autoint.config import Report, RunConfig
from autoint.evaluation import EvaluateConfig, find_checkpoints, finite, on_device
from autoint.files import write_json
from autoint.registry import checked, fields_of
from autoint.unfinished import Unfinished

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """A finished run and what evaluation found: its configuration, its row of a table, its values per image."""

    run: RunConfig
    run_dir: Path
    row: dict[str, Any]
    per_image: list[dict[str, Any]]

    @property
    def scene(self) -> str:
        """The scene's name."""
        return view_evaluation.scene_name(self.run)

    @property
    def method(self) -> str:
        """``autoint_N`` or ``object_N``, by the number of sections, or ``nerf``, which has none."""
        name = str(self.run.options["model"]["name"])
        return name if name == "nerf" else f"{name}_{self.run.options['sections']}"

    def rendering(self, view: str) -> Path:
        """Return the file of a rendered view."""
        return self.run_dir / "evaluation" / "renders" / f"{view}.png"


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
    config = EvaluateConfig(runs=str(sweep_dir), data_dir=plain["data_dir"], **options).checked()
    finished = [f for f in find_checkpoints(config.runs) if (f.parent.parent / "result.json").is_file()]
    if report.layout == "figure3":
        print(f"{figure3.write(finished, sweep_dir)}\nreport: {sweep_dir / 'figure3.png'}")
        return
    results, failures = [], []
    for file in finished:
        try:
            results.append(evaluated(config, file))
        except ValueError as error:
            failures.append(f"{file.parent.parent}: {error}")
    if results:
        table = reports.write(report.layout, config, results, sweep_dir)
        print(f"{table}\nreport: {sweep_dir / 'table.md'}")
    if failures:
        raise ValueError(f"{len(failures)} of {len(finished)} runs could not be evaluated; {failures[0]}")
    if not results:
        raise ValueError(f"{sweep_dir}: no run was finished, so there is no table; the same command goes on")


def evaluated(config: EvaluateConfig, file: Path) -> Evaluated:
    """Evaluate the run of a checkpoint, or return what an earlier evaluation in the same way found of it."""
    run_dir = file.parent.parent
    known = run_dir / "evaluation" / "result.json"
    way = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("runs", "data_dir")}
    key = {"checkpoint": hashlib.sha256(file.read_bytes()).hexdigest(), **way}
    if known.is_file():
        kept = json.loads(known.read_text(encoding="utf-8"))
        lacks = kept["row"]["lpips"] is None and view_evaluation.lpips_metric(config.lpips, config.lpips_weights)
        if kept["key"] == key and not lacks:
            run = RunConfig.from_plain(checkpoints.load(file)["autoint"]["config"])
            return Evaluated(run, run_dir, kept["row"], kept["per_image"])
    run, restored = build.restored(file, data_dir=config.data_dir)
    row, values = on_device(restored, config).evaluate(config, run, known.parent)
    contents: dict[str, Any] = {"key": key, "row": finite([row])[0], "per_image": finite(values)}
    write_json(known, contents)
    Unfinished.clear(known.parent)
    return Evaluated(run, run_dir, contents["row"], contents["per_image"])
