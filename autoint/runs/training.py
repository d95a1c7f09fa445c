"""One training run, from its configuration to its result."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from autoint.files import machine as memory
from autoint.files.whole_files import write_json
from autoint.runs import build, checkpoints, restoring, trainers
from autoint.runs.config import RunConfig
from autoint.runs.signals import Stopped

log = logging.getLogger(__name__)
LOST = re.compile("gloo|nccl|peer|timeout|timed out", re.IGNORECASE)  # what torch says of it has no type of its own
GRACE = 10.0  # seconds for other processes to say what is wrong with them
NOT_OF_THE_RUN = ("data_dir", "ckpt_path", "resume", "report")


def fit(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """Train as configured, in ``run_dir``; return and write the contents of ``result.json``.

    With ``resume`` a finished run that is there already is left as it is, and an unfinished one is finished.
    """
    weights = config.report.lpips_weights
    if weights is not None and not Path(weights).is_file():  # said now rather than after hours of training
        raise ValueError(f"report.lpips_weights={weights}: no such file; give torchvision's weights of the backbone")
    path = _start_from(config, run_dir)
    if config.resume and path is not None and (run_dir / "result.json").is_file():
        log.info("%s: finished before, nothing to do", run_dir)
        return dict(json.loads((run_dir / "result.json").read_text(encoding="utf-8")))
    if path is None:
        _put_aside(run_dir)
    contents = None if path is None else checkpoints.load(path)
    if path is not None and contents is not None:
        _check_same_model(config, path, contents)
    memory.keep_freed()
    task = build.task(config)
    if path is not None and contents is not None:
        checkpoints.check_resumable(path, contents, task.module)
        log.info("%s: going on from step %d of %s", run_dir, contents["global_step"], path)
    trainer = trainers.trainer(config, run_dir)
    start = time.perf_counter()
    _run(config, trainer, task, path)
    seconds = time.perf_counter() - start
    if trainer.global_rank != 0:
        return {}
    result = {
        "steps": trainer.global_step,
        "seconds": round(seconds, 2),
        "metrics": {k: float(v) for k, v in sorted(trainer.callback_metrics.items())},
        "collapsed": bool(getattr(task.module, "collapsed", False)),
    }
    write_json(run_dir / "result.json", result)
    log.info("%d steps in %.0f s", result["steps"], seconds)
    last = run_dir / "checkpoints" / "last.ckpt"
    if last.exists():  # +trainer.fast_dev_run=true saves nothing
        log.info("checkpoint: %s\nnext: python evaluate.py runs=%s", last, run_dir)
    return result


def objective(result: dict[str, Any]) -> float | None:
    """Return what a search over configurations is to maximise: the validation's PSNR, or the accuracy of a function."""
    metrics = result.get("metrics", {})
    error = metrics.get("test/integral_rms")
    return metrics.get("val/psnr", None if error is None else -float(error))


def _run(config: RunConfig, trainer: pl.Trainer, task: build.Task, path: Path | None) -> None:
    """Train; whatever ends it before its time, the log says from where it can go on, and how."""
    saver: Any = trainer.checkpoint_callback
    try:
        with saver.listener.listening():
            trainer.fit(task.module, task.data, ckpt_path=path, weights_only=True)
    except Stopped as stop:
        raise Stopped(stop.number, f"{stop.message} at step {trainer.global_step}{_hint(config, saver.path)}") from None
    except Exception as error:
        lost = trainer.world_size > 1 and isinstance(error, RuntimeError) and LOST.search(str(error))
        if saver.path.exists() or lost:
            why = f" of process {trainer.global_rank}: another process of this training is gone" if lost else ""
            log.error("the training failed at step %d%s%s", trainer.global_step, why, _hint(config, saver.path))
        _end_others(trainer)
        raise


def _end_others(trainer: pl.Trainer) -> None:
    """End the processes that this one has started, hung ones too: Lightning leaves them alone where this one fails."""
    end = time.monotonic() + GRACE
    for process in getattr(trainer.strategy.launcher, "procs", []):
        if isinstance(process, subprocess.Popen):
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def _hint(config: RunConfig, last: Path) -> str:
    if not last.exists():
        return "; nothing was saved yet"
    how = "" if config.resume else f" with ckpt_path=last hydra.run.dir={last.parent.parent}"
    return f"; {last} is whole, the same command{how} goes on from there"


def _start_from(config: RunConfig, run_dir: Path) -> Path | None:
    """Return the checkpoint to go on from: the one that ``ckpt_path`` means, or with ``resume`` that of the folder.

    ``last`` is the last.ckpt of the run's folder, ``auto`` the newest good one there, or none if nothing was saved yet.
    """
    folder, given = run_dir / "checkpoints", config.ckpt_path
    last = folder / "last.ckpt"
    here = config.resume and any(folder.glob("*.ckpt"))
    if given == "auto":
        path = checkpoints.newest(folder)
        if path is None:
            log.info("ckpt_path=auto: nothing was saved in %s yet; the training starts", folder)
    elif given == "last" and not last.exists():
        raise ValueError(
            f"ckpt_path=last: there is no {last}; `last` is that of the run's folder: give the folder of the run that "
            "is to go on, hydra.run.dir=RUN"
        )
    else:
        path = last if given == "last" or here else Path(given) if given else None
    if here and path is not None:
        _check_same(config, path)
    return path


def _put_aside(run_dir: Path) -> None:
    """Keep the checkpoints of an earlier run in this folder apart: nothing shall go on from them unasked."""
    folder = run_dir / "checkpoints"
    if any(folder.glob("*.ckpt")):
        aside = run_dir / f"checkpoints_{len(list(run_dir.glob('checkpoints_*')))}"
        log.warning("%s holds another run, which this one replaces; its checkpoints are kept in %s", run_dir, aside)
        with contextlib.suppress(FileNotFoundError):  # another process of this training was faster
            folder.rename(aside)
    (run_dir / "result.json").unlink(missing_ok=True)


def _check_same(config: RunConfig, last: Path) -> None:
    """Refuse to go on in a folder that holds another run, naming every key that differs."""
    there, here = (
        dict(_flat({k: v for k, v in c.to_plain().items() if k not in NOT_OF_THE_RUN}))
        for c in (restoring.stored_config(last, checkpoints.load(last)), config)
    )
    keys = [k for k in {**there, **here} if there.get(k) != here.get(k)]
    if keys:
        differing = ", ".join(f"{k} ({there.get(k)} there, {here.get(k)} here)" for k in keys)
        mend = "remove the folder, or give another one by hydra.sweep.dir or hydra.run.dir"
        raise ValueError(f"resume=true: {last.parent.parent} holds a run with another {differing}; {mend}")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts under the keys that a user would give; ``options`` is none of them."""
    for key, value in values.items():
        name = prefix if key == "options" else f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, name if key == "options" else f"{name}.")
        else:
            yield name, value


def _check_same_model(config: RunConfig, path: Path, contents: dict[str, Any]) -> None:
    """Refuse to resume a checkpoint of another task or architecture, naming every key that differs."""
    plain = contents["autoint"]["config"]
    if plain.get("task") != config.task:
        raise ValueError(f"ckpt_path={path}: it is of task={plain.get('task')}, not of task={config.task}")
    there, here = restoring.stored_config(path, contents).to_plain(), config.to_plain()
    fixed = ("network", "activation", "encoding")
    fixed_options = ("placement", "direction_encoding", "networks", "sections")
    pairs = [(k, there[k], here[k]) for k in fixed]
    pairs += [(k, there["options"].get(k), here["options"].get(k)) for k in fixed_options]
    differing = [f"{k} ({was} there, {now} here)" for k, was, now in pairs if was != now]
    if differing:
        raise ValueError(f"ckpt_path={path}: it was trained with another {', '.join(differing)}")
