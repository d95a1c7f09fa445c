"""One training run, from its configuration to its result."""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from autoint.files import machine as memory
from autoint.files.whole_files import check_written, write_json
from autoint.reports import metrics
from autoint.runs import build, checkpoints, damage, named_code, restoring, resuming, trainers
from autoint.runs.config import RunConfig
from autoint.runs.signals import Stopped

log = logging.getLogger(__name__)
LOST = re.compile("gloo|nccl|peer|timeout|timed out", re.IGNORECASE)  # what torch says of it has no type of its own
OF_A_RUN = ("result.json", "metrics.csv", "report.html", "validation")
GRACE = 10.0  # seconds for other processes to say what is wrong with them


def fit(
    config: RunConfig, run_dir: Path, given: Sequence[str] | None = None, told: Sequence[str] = ()
) -> dict[str, Any]:
    """Train as configured, in ``run_dir``; return and write the contents of ``result.json``.

    With ``resume`` a finished run that is there already is left as it is, and an unfinished one is finished. ``given``
    are the keys that the command line has set, from which :func:`autoint.runs.resuming.continued` tells the rest. The
    lines ``told`` are logged when all input has turned out good and the training begins.
    """
    weights = config.report.lpips_weights
    if weights not in (None, metrics.DOWNLOAD) and not Path(str(weights)).is_file():  # now, rather than after hours
        raise ValueError(f"report.lpips_weights={weights}: no such file; give torchvision's weights of the backbone")
    check_written(run_dir)
    path = resuming.start_from(config, run_dir)
    contents: dict[str, Any] = {}
    earlier = None
    if path is None:
        _put_aside(run_dir)
    else:
        contents = checkpoints.load(path)
        damage.check_parts(path, contents)
        stored = restoring.stored_config(path, contents)
        if given is not None and config.ckpt_path is not None:
            named = named_code.of(config.options)
            config = resuming.continued(config, stored, given)
            line = " ".join([named_code.typed(), *([] if "task" in given else [f"task={config.task}"])])
            named_code.check(config.options, named.values(), str(path), line)
        resuming.check_same(config, path, stored)
        resuming.check_budget(config, path, contents, stored)
        earlier = resuming.result_of(path, contents)
        here = path.parent.parent.absolute() == run_dir.absolute()
        if here and earlier is not None and not resuming.has_more_to_do(config, stored):
            log.info("%s: finished before, nothing to do; a larger trainer.max_steps or max_time goes on", run_dir)
            return earlier
    memory.keep_freed()
    task = build.task(config)
    trainer = trainers.trainer(config, run_dir)
    if path is not None:
        damage.check(path, contents, task.module, trainer)
        trainer.callbacks.insert(0, damage.Remembers(path))  # type: ignore[attr-defined]
        log.info("%s: going on from step %d of %s", run_dir, contents["global_step"], path)
    for line in told if trainer.global_rank == 0 else ():
        log.info(line)
    (run_dir / "result.json").unlink(missing_ok=True)  # of an end that is no longer the run's
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
    if earlier is not None and earlier["steps"] == trainer.global_step:
        log.info("nothing was left to do; the result stays")
        result = earlier
    write_json(run_dir / "result.json", result)
    log.info("%d steps in %.0f s", result["steps"], seconds)
    last = run_dir / "checkpoints" / "last.ckpt"
    if last.exists():  # +trainer.fast_dev_run=true saves nothing
        log.info("checkpoint: %s\nnext: python evaluate.py %s", last, named_code.word("runs", run_dir))
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
    how = "" if config.resume else f" with ckpt_path=last {named_code.word('hydra.run.dir', last.parent.parent)}"
    return f"; {last} is whole, the same command{how} goes on from there"


def _put_aside(run_dir: Path) -> None:
    """Keep what an earlier run has made in this folder apart: nothing goes on from it unasked, or is taken for new."""
    folder = run_dir / "checkpoints"
    if any(folder.glob("*.ckpt")):
        aside = run_dir / f"checkpoints_{len(list(run_dir.glob('checkpoints_*')))}"
        log.warning("%s holds another run, which this one replaces; what it has made is kept in %s", run_dir, aside)
        with contextlib.suppress(FileNotFoundError):  # another process of this training was faster
            folder.rename(aside)
            for made in filter(Path.exists, (run_dir / name for name in OF_A_RUN)):
                made.rename(aside / made.name)
    (run_dir / "result.json").unlink(missing_ok=True)
