"""``kill -9`` at random moments: what is left is whole, and leads to the same run."""

import os
import random
import signal
import time
import traceback
from pathlib import Path

import pytest
import torch

from autoint.runs import checkpoints
from autoint.runs.training import fit
from tests.runs.test_resume import RUNS, assert_same_run

pytestmark = pytest.mark.usefixtures("undrawn")
STEPS = {"max_steps": 20}


def train(name: str, run_dir: Path) -> int:
    """Train, or go on, in a process of its own that has imported everything already; return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        torch.set_num_threads(1)
        fit(RUNS[name](trainer=dict(STEPS), save_every=2, ckpt_path="auto"), run_dir)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(name: str, run_dir: Path) -> None:
    _, status = os.waitpid(train(name, run_dir), 0)
    assert status == 0, run_dir.with_suffix(".log").read_text()


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment(kills, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process that is forked has only one of them
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
    torch.set_num_threads(threads)
    assert killed >= kills / 2 - 1  # the others had come to their end before
