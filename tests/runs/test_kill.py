"""``kill -9`` at random moments: what is left is whole, and leads to the same run."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from autoint.runs import checkpoints
from autoint.runs.training import fit
from tests.conftest import forked
from tests.runs.test_resume import RUNS, assert_same_run

STEPS = {"max_steps": 20}


def train(name: str, run_dir: Path) -> int:
    """Train, or go on, in a process of its own; return its number."""
    log = os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    config = RUNS[name](trainer=dict(STEPS), save_every=2, ckpt_path="auto")
    child = forked(lambda: fit(config, run_dir), log, log)
    os.close(log)
    return child


def finish(name: str, run_dir: Path) -> None:
    _, status = os.waitpid(train(name, run_dir), 0)
    assert status == 0, run_dir.with_suffix(".log").read_text()


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment(kills, tmp_path):
    draw, seconds, killed = random.Random(kills), {}, 0
    for trial in range(kills):
        name = list(RUNS)[trial % len(RUNS)]
        if name not in seconds:
            start = time.monotonic()
            finish(name, tmp_path / name)
            seconds[name] = time.monotonic() - start
        run_dir = tmp_path / f"{name}_{trial}"
        child = train(name, run_dir)
        time.sleep(draw.uniform(0, seconds[name]))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        for file in run_dir.glob("checkpoints/*.ckpt"):
            checkpoints.load(file)
        finish(name, run_dir)
        assert_same_run(run_dir, tmp_path / name)
        assert not list(run_dir.glob("checkpoints/.*"))
    assert killed >= kills / 2 - 1  # the others had come to their end before
