"""Sweeps: finished jobs are left alone, other launchers and sweepers, and all runs in one table and one plot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from autoint.reports import pictures
from autoint.runs.command_line.cli import VERSION, store_groups
from tests.conftest import ROOT
from tests.runs.test_cli import CONF
from tests.scenes.test_task import environment


def test_the_front_of_quality_against_time():
    """Neither the slower of two equals, nor the worse of two as fast, nor what is slower and worse."""
    points = {"fast": (1.0, 20.0), "worse": (1.0, 19.0), "good": (2.0, 25.0), "same": (3.0, 25.0), "bad": (4.0, 22.0)}
    assert pictures.pareto({**points, "best": (5.0, 26.0)}) == ["fast", "good", "best"]


def test_a_sweep_goes_on_where_it_was_stopped(program, tiny, no_lpips, capfd):
    """A finished job is not run again, a job that is missing is; then all runs make one table and one plot."""
    common = [t for t in tiny if t != "sections=4"]
    common += ["trainer.max_steps=2", "resume=true", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${sections}"]
    assert program("train", "-m", "sections=2", *common)[0] == 0
    before = Path("sweep/2/checkpoints/last.ckpt").stat().st_mtime_ns
    status, out, _ = program("train", "-m", "sections=2,4", *common)
    assert status == 0
    assert out.count("finished before, nothing to do") == 1
    assert Path("sweep/2/checkpoints/last.ckpt").stat().st_mtime_ns == before
    status, out, _ = program("evaluate", "runs=sweep", "max_images=1", "hydra.run.dir=evaluation")
    assert status == 0
    assert "frames/s" in out
    assert Path("evaluation/pareto.png").is_file()
    for row, sections in zip(json.loads(Path("evaluation/result.json").read_text())["rows"], (2, 4), strict=True):
        assert row["evaluations_per_ray"] == sections + 1
        assert row["frames_per_second"] == pytest.approx(1 / row["seconds_per_frame"])
        assert row["rays_per_second"] == pytest.approx(144 * row["frames_per_second"])
        assert 0 < row["share_of_peak"] < 1


@pytest.mark.filterwarnings("ignore")
def test_optuna_searches_for_the_best_validation(program, tiny):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'autoint[sweep]'")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=2"]
    search += ["hydra.sweeper.n_jobs=1", "optimizer.lr=interval(0.001,0.01)", "hydra.sweep.dir=sweep"]
    status, _, err = program("train", "-m", *search, *tiny, "trainer.max_steps=2")
    assert status == 0, err
    found = [json.loads(f.read_text())["metrics"]["val/psnr"] for f in Path("sweep").glob("*/result.json")]
    best = Path("sweep/optimization_results.yaml").read_text()
    assert len(found) == 2
    assert f"best_value: {max(found)}" in best


def test_submitit_composes():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'autoint[sweep]'")
    store_groups()
    with initialize_config_dir(str(CONF), **VERSION):
        options = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"]
        launcher = compose("config", options, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node) == ("gpu", 1)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_in_processes_of_their_own(launcher, tiny):
    """One of two fails: the other is finished, the error is one line, and the status says so."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher", reason="pip install 'autoint[sweep]'")
    options = [t for t in tiny if t != "sections=4"]
    options += ["trainer.max_steps=2", "hydra.sweep.dir=sweep", f"hydra/launcher={launcher}"]
    command = [sys.executable, "-W", "ignore", str(ROOT / "train.py"), "-m", "sections=4,0", *options]
    done = subprocess.run(command, timeout=300, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "error: sections=0 must be an integer of at least 1" in done.stderr
    assert len(list(Path("sweep").rglob("result.json"))) == 1
