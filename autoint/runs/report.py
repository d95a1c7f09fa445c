"""``report.html``: one page to mail about a run, an evaluation or a sweep."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import logging
import math
import platform
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from PIL import Image

import autoint
from autoint.files import reading
from autoint.files.images import FORMATS, image_size_of
from autoint.files.machine import process_memory
from autoint.reports import charts, pictures
from autoint.reports.page import VIEWS, Page, RunOfPage, TableOfPage
from autoint.reports.tables import cell
from autoint.runs import checkpoints, labels, restoring, resuming
from autoint.runs.command_line.from_python import composed, words_of
from autoint.runs.config import GROUPS, RunConfig, complete, flat
from autoint.runs.evaluation import EvaluateConfig, EvaluatedRun, Evaluation, find_checkpoints
from autoint.runs.loggers import MetricsFile
from autoint.runs.progress import duration

log = logging.getLogger(__name__)
NAME = "report.html"
OF_NO_INTEREST = ("data_dir", "ckpt_path", "resume", "logger", "report", "viewer", "trainer.enable_progress_bar")
LOGARITHMIC = ("loss", "relative_error")
CURVES = (*LOGARITHMIC, "psnr")
KNOWN = tuple(f"trainer.{key}=" for key in ("max_steps", "max_time", "accelerator", "devices", "strategy", "precision"))
MOST_BYTES, MOST_RUNS, OTHERS = 2**25, 200, 4


@dataclass(frozen=True)
class _Run:
    """A run of a page: what it is called, its configuration, and where its measurements and its pictures are."""

    name: str
    config: RunConfig
    folder: Path
    pictures: Sequence[Path]
    result: dict[str, Any] = field(default_factory=dict)


def tolerant(write: Callable[..., Path | None]) -> Callable[..., Path | None]:
    """Return a writer of reports that costs nobody what was trained or measured before: it warns where it fails."""

    @functools.wraps(write)
    def tried(*args: Any) -> Path | None:
        try:
            return write(*args)
        except (OSError, ValueError) as error:
            log.warning("no %s was written: %s", NAME, error)
            return None

    return tried


@tolerant
def of_training(run_dir: Path) -> Path | None:
    """Write the report of a run that was trained into its folder; return its path, or None where nothing was saved."""
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        return None
    run = _run(checkpoint, run_dir.name)
    page = _page(f"{run.config.task}: {_subject(run.config)}", [run])
    page.runs[0].facts.append(("memory at its peak", f"{process_memory() / 1e9:.2f} GB"))
    numbers = {k: v for k, v in run.result.get("metrics", {}).items() if isinstance(v, float)}
    if numbers:
        shown = [f"{value:.4g}" for value in numbers.values()]
        page.tables.append(TableOfPage("Measured while training", list(numbers), [shown]))
    return page.write(run_dir / NAME)


@tolerant
def of_evaluation(found: Evaluation, config: EvaluateConfig) -> Path | None:
    """Write the report of an evaluation into its folder; return its path."""
    runs = [_evaluated(run) for run in found.runs]
    subject = _subject(runs[0].config) if len(runs) == 1 else f"{len(runs)} runs"
    page = _page(f"{found.runs[0].run.task}: {subject}", runs)
    for task in dict.fromkeys(run.run.task for run in found.runs):
        of_task = [run for run in found.runs if run.run.task == task]
        columns = {key: head for key, head in of_task[0].columns.items() if key != "run" or len(found.runs) > 1}
        lines = [[cell(row[key], form) for key, (_, form) in columns.items()] for run in of_task for row in run.rows]
        heads = [head.format(**dataclasses.asdict(config)) for head, _ in columns.values()]
        notes = "; ".join(dict.fromkeys(run.protocol for run in of_task if run.protocol))
        page.tables.append(TableOfPage(f"Measured on {config.split}", heads, lines, notes))
    if found.failed:
        page.tables.append(TableOfPage("Not evaluated", ["run", "because"], [[*pair] for pair in found.failed.items()]))
    measured = [(run.name, row) for run in found.runs for row in run.rows]
    _add_pareto(page, runs, measured, "seconds_per_frame", "seconds per frame")
    return page.write(found.folder / NAME)


@tolerant
def of_sweep(sweep_dir: Path) -> Path | None:
    """Write the report of the finished runs of a sweep into its folder; return its path, or None without any."""
    files = find_checkpoints(str(sweep_dir))
    files = [file for file in files if (file.parent.parent / "result.json").is_file()][:MOST_RUNS]
    if not files:
        return None
    named = [_run(file, file.parent.parent.name) for file in files]
    differing = labels.differences([run.config for run in named])
    names = labels.labels(differing, [run.name for run in named])
    runs = [dataclasses.replace(run, name=name) for run, name in zip(named, names, strict=True)]
    page = _page(f"{runs[0].config.task}: a sweep of {len(runs)} runs", runs)
    measured = [(run.name, _measured(run)) for run in runs]
    keys = list(dict.fromkeys(key for _, row in measured for key in row))
    lines = [[name, *(cell(row.get(key, math.nan), ".4g") for key in keys)] for name, row in measured]
    page.tables.append(TableOfPage("Measured", ["run", *keys], lines))
    across = "seconds_per_frame" if all("seconds_per_frame" in row for _, row in measured) else "seconds"
    told = {"seconds": "seconds of training", "seconds_per_frame": "seconds per frame"}[across]
    _add_pareto(page, runs, measured, across, told)
    return page.write(sweep_dir / NAME)


def _page(title: str, runs: Sequence[_Run]) -> Page:
    """A page with what was run, and for a single run its curves and pictures."""
    when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)
    made = f"{when}, AutoInt {autoint.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    page = Page(title, f"{made}, {platform.system()}, {device}, {threads}", [_said(run) for run in runs])
    if len(runs) == 1:
        page.charts = _curves(runs[0].folder / MetricsFile.NAME)
        for file in runs[0].pictures:
            page.show(file)
    return page


def _said(run: _Run) -> RunOfPage:
    """What is said of a run: the command that does the same, its differences from the defaults, time and steps."""
    differences = _differences(run.config)
    words = [word for key, here, _ in differences for word in words_of({key: _elsewhere(here)})]
    words = [_typed(word.removeprefix("++") if word[2:].startswith(KNOWN) else word) for word in words]
    told = [(key, _shown(here), _shown(there)) for key, here, there in differences]
    facts = []
    if isinstance(steps := run.result.get("steps"), int):
        facts.append(("steps", f"{steps:,}"))
    if isinstance(seconds := run.result.get("seconds"), (int, float)):
        facts.append(("training", duration(float(seconds))))
    weights = run.folder / "checkpoints" / "last.ckpt"
    if weights.is_file():
        facts.append(("checkpoint", f"{weights.stat().st_size / 1e6:.1f} MB"))
    return RunOfPage(run.name, " ".join(["python train.py", f"task={run.config.task}", *words]), told, facts)


def _typed(word: str) -> str:
    """A word as a shell takes it: with what Hydra quotes in double quotes, where nothing in it means more."""
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)


def _differences(config: RunConfig) -> list[tuple[str, Any, Any]]:
    """The keys whose values are no defaults, with both; a component before its options."""
    here, there = config.to_plain(), _defaults(config.task).to_plain()
    for plain in (here, there):
        plain |= plain.pop("options")
    for key, registry in GROUPS.items():
        if key in here and here[key].get("name") != there.get(key, {}).get("name"):
            of_this = complete(key, registry, here[key]["name"])
            there[key] = of_this | {"name": there.get(key, {}).get("name")}
    ours, theirs = dict(flat(here)), dict(flat(there))
    keys = [
        key for key in ours if ours[key] != theirs.get(key) and not key.startswith(OF_NO_INTEREST) and key != "task"
    ]
    return [(key.removesuffix(".name"), ours[key], theirs.get(key)) for key in keys]


@functools.cache
def _defaults(task: str) -> RunConfig:
    """What a run of this task is without any key: by the recipe, for the machine at hand."""
    try:
        return composed([f"task={task}"])[0]
    except ValueError:  # of a task that needs a key
        return RunConfig.from_plain({"task": task})


def _shown(value: Any) -> str:
    """A value for people."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(_elsewhere(value))


def _elsewhere(value: Any) -> Any:
    """A value as others may read it: of a whole path the end alone."""
    return f"…/{PurePath(value).name}" if isinstance(value, str) and PurePath(value).is_absolute() else value


def _curves(file: Path) -> list[str]:
    """Charts of what ``metrics.csv`` holds: losses on a logarithmic scale, and quality."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    if file.is_file() and file.stat().st_size <= MOST_BYTES:
        with file.open(encoding="utf-8", errors="replace", newline="") as stream, suppress(csv.Error):
            for row in csv.DictReader(stream):
                for key, value in row.items():
                    if isinstance(key, str) and isinstance(value, str) and value and key.rpartition("/")[2] in CURVES:
                        with suppress(ValueError, TypeError):
                            point = float(row["step"] or ""), float(value)
                            found.setdefault(key.rpartition("/")[2], {}).setdefault(key, []).append(point)
    return [
        charts.curves(
            found[kind], "step", "PSNR (dB)" if kind == "psnr" else kind.replace("_", " "), kind in LOGARITHMIC
        )
        for kind in CURVES
        if kind in found
    ]


def _add_pareto(
    page: Page, runs: Sequence[_Run], measured: Iterable[tuple[str, dict[str, Any]]], across: str, told: str
) -> None:
    """Plot quality against time where several runs have both, with a thumbnail of each."""
    points = {
        name: (float(row[across]), float(row["psnr"]))
        for name, row in measured
        if isinstance(row.get(across), (int, float)) and isinstance(row.get("psnr"), float)
    }
    if len(points) > 1:
        thumbnails = {run.name: page.thumbnail(run.pictures[0]) for run in runs if run.pictures}
        kept = {name: uri for name, uri in thumbnails.items() if uri}
        page.charts.append(charts.pareto(points, pictures.pareto(points), kept, told))


def _run(checkpoint: Path, name: str) -> _Run:
    """A run by its last checkpoint; its pictures are those of its evaluation, if there was one, or of its training."""
    contents, folder = checkpoints.load(checkpoint), checkpoint.parent.parent
    shown = _pictures(folder / "evaluation") or [*_pictures(folder), *_pictures(folder / "validation")[-1:]]
    result = resuming.result_of(checkpoint, contents) or {}
    return _Run(name, restoring.stored_config(checkpoint, contents), folder, shown, result)


def _evaluated(run: EvaluatedRun) -> _Run:
    folder = run.file.parent.parent if run.file.name == "last.ckpt" else run.file.parent
    result = resuming.result_of(run.file, {"global_step": run.steps}) or {}
    return _Run(run.name, run.run, folder, _pictures(run.folder), result)


def _measured(run: _Run) -> dict[str, Any]:
    """The numbers of a run: steps and seconds, and what its evaluation or else its validation found."""
    row = {key: run.result[key] for key in ("steps", "seconds") if isinstance(run.result.get(key), (int, float))}
    measured = run.result.get("metrics", {})
    row |= {key.removeprefix("val/"): v for key, v in measured.items() if key[:4] in ("val/", "test")}
    with suppress(KeyError, TypeError):
        kept = reading.remembered(run.folder / "evaluation" / "result.json")["row"]
        row |= {key: kept[key] for key in ("psnr", "ssim", "seconds_per_frame", "memory") if kept[key] is not None}
    return {key: value for key, value in row.items() if isinstance(value, (int, float))}


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, of many views evenly spaced ones."""
    kinds = {file: _kind(file) for file in sorted([*folder.glob("*.png"), *folder.glob("*.svg")])}
    views, others = ([file for file, kind in kinds.items() if kind == which] for which in ("view", "picture"))
    step = max(1, -(-len(views) // VIEWS))
    return [*views[::step], *others[:OTHERS]]


def _kind(file: Path) -> str:
    """Whether a file is a view with its truth, another picture, or none that can be read."""
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        return "unreadable"
    if file.suffix == ".svg":
        return "picture"
    try:
        image_size_of(file)
        with Image.open(file, formats=FORMATS) as image:
            return "view" if pictures.panels_of(image) else "picture"
    except (OSError, ValueError):
        return "unreadable"


def _subject(config: RunConfig) -> str:
    """What a run is about: its scene, phantom, shape or function."""
    for key in ("scene", "phantom", "shape"):
        if key in config.options:
            choice = config.options[key]
            return PurePath(choice["path"]).name if choice.get("path") else str(choice["name"])
    return str(config.options.get("function", config.task))
