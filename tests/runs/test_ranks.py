"""Processes that train together: where one dies, hangs or is asked to stop, all end soon, and nothing is lost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoint.runs import checkpoints
from autoint.runs.training import fit
from tests.conftest import ROOT
from tests.runs.test_resume import volrend_config

SCRIPT = """
import datetime, logging, os, signal, sys, time
from pathlib import Path
import pytorch_lightning as pl
from autoint.runs import build
from autoint.runs import trainers
from autoint.runs.training import fit
from autoint.scenes.occupancy import Occupancy
from autoint.scenes import task as volrend
from tests.runs.test_resume import volrend_config

volrend.visual_hull = lambda views: Occupancy(*views.frustum_box())  # which takes no time
rank, what, run_dir = sys.argv[1:]
real = trainers.trainer


class Fault(pl.Callback):
    def on_before_backward(self, trainer, module, loss):
        if trainer.global_step == 6:
            Path(run_dir, f"pid{trainer.global_rank}").write_text(str(os.getpid()))
            if trainer.global_rank == int(rank):
                {"die": lambda: os.kill(os.getpid(), signal.SIGKILL), "raise": lambda: 1 / 0,
                 "hang": lambda: time.sleep(300), "stop": lambda: os.kill(os.getpid(), signal.SIGTERM),
                 "group": lambda: os.killpg(0, signal.SIGTERM)}[what]()


def trainer(*args):
    made = real(*args)
    made.callbacks.insert(0, Fault())
    return made


if __name__ == "__main__":
    logging.basicConfig()
    trainers.trainer, trainers.PATIENCE = trainer, datetime.timedelta(seconds=60)
    fit(volrend_config(trainer={"devices": 2, "strategy": "ddp"}), Path(run_dir))
"""
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("rank", "what"),
    [
        (1, "die"),
        pytest.param(0, "die", marks=slow),
        pytest.param(1, "raise", marks=slow),
        pytest.param(1, "hang", marks=slow),
        pytest.param(0, "stop", marks=slow),
        pytest.param(1, "stop", marks=slow),
        pytest.param(0, "group", marks=slow),
    ],
)
def test_all_processes_end_and_a_whole_checkpoint_stays(rank, what, tmp_path):
    script, run_dir = tmp_path / "two.py", tmp_path / "run"
    script.write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", script, str(rank), what, run_dir]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("w") as stream:
        child = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
        status = child.wait(timeout=240)
    said = log.read_text()
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids(run_dir) if alive(pid)]:
        assert time.monotonic() < deadline, f"{left} still there\n{said}"
        time.sleep(0.2)
    assert len(pids(run_dir)) == 2, said
    stopped = what in ("stop", "group")
    assert status == 143 if stopped else status != 0
    assert ("saving after this step" if stopped else "last.ckpt is whole, the same command") in said
    last = run_dir / "checkpoints" / "last.ckpt"
    assert checkpoints.load(last)["global_step"] == (7 if stopped else 4)
    result = fit(volrend_config(ckpt_path="last"), run_dir)  # by one process, where two have been
    assert result["steps"] == 12


def pids(run_dir: Path) -> list[int]:
    return [int(file.read_text()) for file in run_dir.glob("pid*")]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
