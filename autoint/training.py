"""One training run, from its configuration to its result."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoint import build, checkpoints, memory
from autoint.config import RunConfig
from autoint.files import write_json

log = logging.getLogger(__name__)
NOT_OF_THE_RUN = ("data_dir", "ckpt_path", "resume", "report")


def fit(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """Train as configured, in ``run_dir``; return and write the contents of ``result.json``.

    With ``resume`` a finished run that is there already is left as it is, and an unfinished one is finished.
    """
    weights = config.report.lpips_weights
    if weights is not None and not Path(weights).is_file():  # said now rather than after hours of training
        raise ValueError(f"report.lpips_weights={weights}: no such file; give torchvision's weights of the backbone")
    last = run_dir / "checkpoints" / "last.ckpt"
    if config.resume and last.exists():
        _check_same(config, last)
        if (run_dir / "result.json").is_file():
            log.info("%s: finished before, nothing to do", run_dir)
            return dict(json.loads((run_dir / "result.json").read_text(encoding="utf-8")))
        log.info("%s: going on from %s", run_dir, last)
        _keep_metrics(run_dir)
        config = dataclasses.replace(config, ckpt_path=str(last))
    if config.ckpt_path is not None:
        _check_resumable(config)
    memory.keep_freed()
    task = build.task(config)
    trainer = build.trainer(config, run_dir)
    start = time.perf_counter()
    try:
        trainer.fit(task.module, task.data, ckpt_path=config.ckpt_path, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        how = "" if config.resume else f" with ckpt_path={last}"
        hint = f"; the same command{how} goes on from there" if last.exists() else ""
        raise KeyboardInterrupt(f"stopped at step {trainer.global_step}{hint}") from None
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
    if last.exists():  # +trainer.fast_dev_run=true saves nothing
        log.info("checkpoint: %s\nnext: python evaluate.py runs=%s", last, run_dir)
    return result


def objective(result: dict[str, Any]) -> float | None:
    """Return what a search over configurations is to maximise: the validation's PSNR, or the accuracy of a function."""
    metrics = result.get("metrics", {})
    error = metrics.get("test/integral_rms")
    return metrics.get("val/psnr", None if error is None else -float(error))


def _check_same(config: RunConfig, last: Path) -> None:
    """Refuse to go on in a folder that holds another run, naming every key that differs."""
    there, here = (
        dict(_flat({k: v for k, v in c.to_plain().items() if k not in NOT_OF_THE_RUN}))
        for c in (RunConfig.from_plain(checkpoints.load(last)["autoint"]["config"]), config)
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


def _keep_metrics(run_dir: Path) -> None:
    """Put the metrics of an interrupted run aside; the logger begins its file anew."""
    file = run_dir / "metrics.csv"
    if file.exists():
        parts = len(list(run_dir.glob("metrics_*.csv")))
        file.rename(run_dir / f"metrics_{parts}.csv")


def _check_resumable(config: RunConfig) -> None:
    """Refuse to resume a checkpoint of another architecture, naming every key that differs."""
    assert config.ckpt_path is not None
    there = RunConfig.from_plain(checkpoints.load(config.ckpt_path)["autoint"]["config"]).to_plain()
    here = config.to_plain()
    fixed = ("task", "network", "activation", "encoding")
    fixed_options = ("placement", "direction_encoding", "networks", "sections")
    pairs = [(k, there[k], here[k]) for k in fixed]
    pairs += [(k, there["options"].get(k), here["options"].get(k)) for k in fixed_options]
    differing = [f"{k} ({was} there, {now} here)" for k, was, now in pairs if was != now]
    if differing:
        raise ValueError(f"ckpt_path={config.ckpt_path}: it was trained with another {', '.join(differing)}")
