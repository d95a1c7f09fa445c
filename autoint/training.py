"""One training run, from its configuration to its result."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from autoint import build, checkpoints
from autoint.config import RunConfig
from autoint.files import write_json

log = logging.getLogger(__name__)


def fit(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """Train as configured, in ``run_dir``; return and write the contents of ``result.json``."""
    if config.ckpt_path is not None:
        _check_resumable(config)
    task = build.task(config)
    trainer = build.trainer(config, run_dir)
    start = time.perf_counter()
    last = run_dir / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(task.module, task.data, ckpt_path=config.ckpt_path, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        hint = f"; the same command with ckpt_path={last} goes on from there" if last.exists() else ""
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
