"""Evaluation: checkpoints in, tables and pictures out."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from autoint.files import machine as memory
from autoint.files.reading import escaped
from autoint.files.torch_files import refuse_address
from autoint.files.whole_files import write_json, write_whole
from autoint.registry import EVALUATIONS, at_least_one, checked, fields_of, one_of
from autoint.reports import metrics, pictures
from autoint.reports.tables import markdown
from autoint.runs import checkpoints, labels, named_code, restoring
from autoint.runs.config import RunConfig
from autoint.runs.interrupted import PartialEvaluation

log = logging.getLogger(__name__)


@dataclass
class EvaluateConfig:
    """What to evaluate, and how; ``options`` holds the keys that belong to tasks.

    Attributes:
        runs: a checkpoint, a run's folder, a folder of runs, or several of them, as a,b.
        data_dir: where the data sets are; None takes the place of the training.
        split: train, val or test.
        max_images: evenly spaced ones; None takes all.
        chunk_size: rays at a time, which bounds the memory.
        lpips: backbone, vgg or alex; or none, for no LPIPS.
        lpips_weights: file with torchvision's weights of the backbone, or download; None takes torch's cache.
        device: auto, cpu or cuda.
        function: code of your own that runs may name, ``module:callable``, or a list of such; None allows none.
        options: of all tasks together.
    """

    runs: Any = "outputs"
    data_dir: str | None = None
    split: str = "test"
    max_images: int | None = None
    chunk_size: int = 16384
    lpips: str = "vgg"
    lpips_weights: str | None = None
    device: str = "auto"
    function: Any = None
    options: dict[str, Any] = field(default_factory=lambda: {k: d for k, (_, d) in own_fields().items()})

    @staticmethod
    def from_hydra(composed: DictConfig) -> EvaluateConfig:
        """Check what Hydra composed; ``ValueError`` names the key, the value and what is allowed."""
        plain: Any = OmegaConf.to_container(composed, resolve=True)
        return EvaluateConfig.from_plain(plain)

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> EvaluateConfig:
        """Check keys and values, those of tasks among them; ``ValueError`` names the key and what is allowed."""
        own = own_fields()
        values = checked({**shared_fields(), **own}, plain, "")
        options = {key: values.pop(key) for key in own}
        return EvaluateConfig(**values, options=options).checked()

    def checked(self) -> EvaluateConfig:
        """Return the configuration itself; ``ValueError`` names the key, the value and what is allowed."""
        allowed = {
            "split": ("train", "val", "test"),
            "lpips": ("none", *metrics.BACKBONES),
            "device": ("auto", "cpu", "cuda"),
        }
        if not all(isinstance(run, str) and run for run in paths_of(self.runs) or [None]):
            raise ValueError(f"runs={self.runs!r} must be a path, or several as in runs=a,b")
        for key, values in allowed.items():
            one_of(key, getattr(self, key), values)
        at_least_one(max_images=self.max_images, chunk_size=self.chunk_size)
        for name in self.code:
            if not named_code.NAME.fullmatch(name):
                raise ValueError(
                    f"function={name!r:.80}: names code of your own, package.module:callable, that a run was trained "
                    "with; leave it out for others"
                )
        for task in EVALUATIONS.names():
            self.of(task)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda: this machine or this build of torch has no CUDA device; use device=cpu")
        return self

    @property
    def code(self) -> list[str]:
        """The code that runs may name."""
        given = self.function if isinstance(self.function, list) else [self.function]
        return [str(name) for name in given if name is not None]

    def of(self, task: str) -> Any:
        """Return the evaluation options that ``task`` has declared, built and checked."""
        return EVALUATIONS[task](**{key: self.options[key] for key in EVALUATIONS.fields(task)})


def shared_fields() -> dict[str, tuple[Any, Any]]:
    """Return the keys that are no task's own, ``{key: (type, default)}``."""
    return {key: value for key, value in fields_of(EvaluateConfig).items() if key != "options"}


def own_fields() -> dict[str, tuple[Any, Any]]:
    """Return the keys that tasks have declared for their own evaluation, ``{key: (type, default)}``."""
    return {key: value for task in EVALUATIONS.names() for key, value in EVALUATIONS.fields(task).items()}


def paths_of(runs: Any) -> list[Any]:
    """Return what ``runs`` names, one path or several."""
    return list(runs) if isinstance(runs, (list, tuple)) else [runs]


def find_checkpoints(runs: Any) -> list[Path]:
    """Return the checkpoints named by ``runs``, each once: files, runs' folders, or folders of runs at any depth."""
    every: dict[Path, Path] = {}
    for name in paths_of(runs):
        refuse_address(name)
        place = Path(name)
        found = sorted(place.rglob("checkpoints/last.ckpt")) if place.is_dir() else [place] if place.is_file() else []
        if (exported := place / checkpoints.WEIGHTS).is_file():  # of a folder that an export or a baking has made
            found.append(exported)
        if not found:
            what = "no checkpoints/last.ckpt below it" if place.is_dir() else "no such file or folder"
            raise ValueError(f"runs={name}: {what}; give a checkpoint, a run's folder or a folder of runs")
        for file in found:
            every.setdefault(file.resolve(), file)
    return list(every.values())


@dataclass(frozen=True)
class EvaluatedRun:
    """What was measured of one run.

    Attributes:
        name: as it stands in the table.
        file: its checkpoint.
        steps: after which the checkpoint was written.
        run: its configuration.
        columns: of its table, {key: (head, format)}.
        rows, values: those of the table, and what is behind them.
        folder: where its pictures are.
        protocol: what the numbers rest on, in words.
    """

    name: str
    file: Path
    steps: int
    run: RunConfig
    columns: dict[str, tuple[str, str]]
    rows: list[dict[str, Any]]
    values: list[dict[str, Any]]
    folder: Path
    protocol: str


@dataclass(frozen=True)
class Evaluation:
    """What was measured of runs, and where it was written.

    Attributes:
        table: for people, in Markdown; a table for each task.
        rows: the table's values, a dict per run.
        per_image: the values of every image, with the run's name.
        failed: why runs could not be evaluated, by their names.
        folder: where tables, values and pictures are.
        runs: the runs one by one.
    """

    table: str
    rows: list[dict[str, Any]]
    per_image: list[dict[str, Any]]
    failed: dict[str, str]
    folder: Path
    runs: list[EvaluatedRun]

    def tell(self) -> None:
        """Print the table, what its numbers rest on, and where it is; ``ValueError`` where runs failed."""
        print(self.table)
        for protocol in dict.fromkeys(run.protocol for run in self.runs if run.protocol):
            print(f"protocol: {escaped(protocol)}")
        print(f"table:    {self.folder / 'table.md'}\npictures: {self.folder / 'images'}")
        if self.failed:
            count = f"{len(self.failed)} of {len(self.failed) + len(self.runs)} runs"
            raise ValueError(f"{count} could not be evaluated; the table says which and why")


def evaluate_runs(config: EvaluateConfig, out_dir: Path) -> list[dict[str, Any]]:
    """Evaluate as :func:`evaluated_runs` does, print the table, and return its rows; ``ValueError`` where runs fail."""
    found = evaluated_runs(config, out_dir)
    found.tell()
    return found.rows


def evaluated_runs(config: EvaluateConfig, out_dir: Path) -> Evaluation:
    """Evaluate every run as its task does, and write tables, values and pictures into ``out_dir``.

    A task's module has ``columns``, {key: (head, format)}, a ``label(run)``, and ``evaluate(config, run, folder)``,
    which returns the row (or rows) of a run and the values behind it, and writes its pictures into ``folder``.
    """
    memory.keep_freed()
    files = find_checkpoints(config.runs)
    found: list[EvaluatedRun] = []
    failed: dict[str, str] = {}
    differing, shown = _told_apart(files)
    for number, file in enumerate(files):
        try:
            found.append(_evaluated(config, file, out_dir, number, differing.get(file, {})))
        except KeyboardInterrupt:
            here = named_code.word("hydra.run.dir", out_dir)
            mend = f"the same command with {here} goes on with the images that are not done yet"
            raise KeyboardInterrupt(f"stopped at {_name(file)}; {mend}") from None
        except Exception as error:  # one run, whatever is in it, costs no other
            if len(files) == 1:
                raise
            expected = isinstance(error, (ValueError, OSError))
            failed[_name(file)] = str(error) if expected else f"{type(error).__name__}: {error}"
            log.error("%s is left out: %s", escaped(_name(file)), escaped(failed[_name(file)]))
            log.debug("%s", _name(file), exc_info=True)
            continue
    if not found:
        raise ValueError(
            f"runs={config.runs}: none of {len(files)} runs could be evaluated: {next(iter(failed.values()))}"
        )
    _tell_unused(config, {run.run.task for run in found})
    heads = dataclasses.asdict(config)
    tables: dict[str, tuple[dict[str, tuple[str, str]], list[dict[str, Any]]]] = {}
    for run in found:
        tables.setdefault(run.run.task, (run.columns, []))[1].extend(run.rows)
    table = "\n".join(markdown(rows, columns, heads) for columns, rows in tables.values())
    rows = [row for _, of_task in tables.values() for row in of_task]
    per_image = [{"run": run.name, **value} for run in found for value in run.values]
    if failed:
        reasons = [{"run": run, "reason": reason} for run, reason in failed.items()]
        table += "\n" + markdown(reasons, {"run": ("not evaluated", ""), "reason": ("because", "")}, heads)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_whole(out_dir / "table.md", table.encode())
    _write_csv(out_dir / "table.csv", rows)
    _write_csv(out_dir / "per_image.csv", per_image)
    write_json(
        out_dir / "result.json",
        {"split": config.split, "rows": finite(rows), "per_image": finite(per_image), "failed": failed},
    )
    measured = [row for row in rows if {"seconds_per_frame", "psnr"} <= row.keys()]
    points = {shown.get(r["run"], r["run"]): (r["seconds_per_frame"], r["psnr"]) for r in measured}
    if len(points) > 1:
        pictures.write_pareto(out_dir / "pareto.png", points)
    PartialEvaluation.clear(out_dir)
    return Evaluation(table, rows, per_image, failed, out_dir, found)


def _tell_unused(config: EvaluateConfig, tasks: set[str]) -> None:
    """Say which options were given that none of the evaluated tasks knows."""
    known = {key for task in tasks if task in EVALUATIONS.names() for key in EVALUATIONS.fields(task)}
    for key, (_, default) in own_fields().items():
        if key not in known and config.options[key] != default:
            log.warning("%s=%s says nothing to runs of task=%s", key, config.options[key], ", ".join(sorted(tasks)))


def _told_apart(files: list[Path]) -> tuple[dict[Path, dict[str, Any]], dict[str, str]]:
    """Return what differs between runs, by their checkpoints, and what they are called for it, by their names."""
    configs = {}
    for file in files if len(files) > 1 else []:
        with contextlib.suppress(Exception):  # which evaluation will tell of
            configs[file] = restoring.stored_config(file, checkpoints.load(file))
    found, names = labels.differences(list(configs.values())), [_name(file) for file in configs]
    return dict(zip(configs, found, strict=True)), dict(zip(names, labels.labels(found, names), strict=True))


def _evaluated(
    config: EvaluateConfig, file: Path, out_dir: Path, number: int, differing: dict[str, Any]
) -> EvaluatedRun:
    """Return what a run's task has measured of it, after writing its pictures."""
    command = f"python evaluate.py {named_code.word('runs', config.runs)}"
    overrides = {"data_dir": config.data_dir} if config.data_dir else {}
    run, built = restoring.restored(file, config.code, command, **overrides)
    steps = int(checkpoints.load(file).get("global_step", 0))
    module = on_device(built, config)
    folder = out_dir / "images" / labels.folder_name(number, differing, module.label(run))
    row, values = module.evaluate(config, run, folder)
    columns = {key: head for key, head in module.columns.items() if key != "lpips" or config.lpips != "none"}
    rows = [{**one, "run": _name(file)} for one in (row if isinstance(row, list) else [row])]
    protocol = module.protocol(config, run) if hasattr(module, "protocol") else ""
    return EvaluatedRun(_name(file), file, steps, run, columns, rows, values, folder, protocol)


def on_device(module: Any, config: EvaluateConfig) -> Any:
    """Return the module on the device that evaluation is to use."""
    available = "cuda" if torch.cuda.is_available() else "cpu"
    return module.to(available if config.device == "auto" else config.device)


def _name(checkpoint: Path) -> str:
    """A run's folder, for its last checkpoint, an export's folder, or the checkpoint's own path."""
    folders = {"last.ckpt": checkpoint.parent.parent, checkpoints.WEIGHTS: checkpoint.parent}
    return str(folders.get(checkpoint.name, checkpoint))


def finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON knows no NaN: a value that could not be had is null."""
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(finite(rows))
    write_whole(file, stream.getvalue().encode())
