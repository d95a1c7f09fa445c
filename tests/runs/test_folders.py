"""Folders that the program names itself: nobody else's, and named by what every file system can hold."""

import threading
from datetime import datetime
from pathlib import Path

import pytest
from hydra.core import utils
from omegaconf import OmegaConf

from autoint.runs import labels
from autoint.runs.command_line import folders
from tests.scenes.test_task import tiny_config

QUICK = (
    "task=function",
    "adam_steps=1",
    "points=16",
    "trainer.max_steps=1",
    "network.hidden_features=4",
    "+trainer.enable_progress_bar=false",
)


@pytest.fixture
def one_second(monkeypatch):
    """All that begins, begins within the same second."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12)

    monkeypatch.setattr(utils, "datetime", Clock)


def test_only_one_of_many_gets_a_folder(tmp_path):
    found, barrier = [], threading.Barrier(8)

    def claim():
        barrier.wait()
        found.append(folders.first_free(tmp_path / "a" / "12-00-00"))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(f.name for f in found) == ["12-00-00", *(f"12-00-00_{i}" for i in range(1, 8))]


def test_trainings_and_evaluations_of_the_same_second_have_folders_of_their_own(
    program, one_second, tmp_path, monkeypatch
):
    """A function's colon is none in a folder's name; what does not run claims nothing."""
    (tmp_path / "ours.py").write_text("def f(x):\n    return x[:, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = (*QUICK, "function=ours:f")
    for seed in (0, 1):
        assert program("train", *mine, f"seed={seed}")[0] == 0
    places = [Path(f"outputs/function/ours.f/2026-01-01_12-00-00{end}") for end in ("", "_1")]
    assert sorted(Path("outputs/function/ours.f").iterdir()) == places
    for seed, place in enumerate(places):
        assert OmegaConf.load(place / ".hydra" / "config.yaml").seed == seed
        assert (place / "checkpoints" / "last.ckpt").is_file()
        assert not (place / "checkpoints_0").exists()
    assert program("train", *mine, "sections=3")[0] == 2
    assert sorted(Path("outputs/function/ours.f").iterdir()) == places
    assert program("train", *mine, "--cfg", "job")[0] == 0
    assert sorted(Path("outputs/function/ours.f").iterdir()) == places


def test_a_sweep_has_a_folder_of_its_own_with_jobs_named_by_what_is_swept(program, one_second):
    assert program("train", "-m", "function=linear,cos", "optimizer.lr=0.01,", *QUICK)[0] == 2  # nothing is left of it
    assert program("train", "-m", "function=linear,cos", *QUICK)[0] == 0
    assert program("train", "-m", "function=linear", *QUICK)[0] == 0
    place = Path("outputs/function/sweeps/2026-01-01_12-00-00")
    assert sorted(p.name for p in place.iterdir() if p.is_dir()) == ["0_function-linear", "1_function-cos"]
    assert [p.name for p in Path(f"{place}_1").iterdir() if p.is_dir()] == ["0"]
    status, out, err = program("evaluate", f"runs={place}/1_function-cos,{place}_1")
    assert status == 0, err
    images = Path("outputs/evaluations/2026-01-01_12-00-00/images")
    assert sorted(p.name for p in images.iterdir()) == ["00_function-cos", "01_function-linear"]
    status, out, err = program("evaluate", str(place / "0_function-linear"))
    assert status == 0, err
    assert (out.count(f"| {place}/"), len(list(Path("outputs/evaluations").iterdir()))) == (1, 2)
    for argument in ("nowhere/x", "runs=nowhere/x", f"runs={place},nowhere/x"):
        status, _, err = program("evaluate", argument)
        words = "error: runs=nowhere/x: no such file or folder; give a checkpoint, a run's folder or a folder of runs"
        assert (status, err.splitlines()[-1]) == (2, words)


def test_a_file_may_not_name_a_folder_in_which_another_run_is(program):
    """Unless it goes on there: as a sweep with resume does, and as the command line may ask for."""

    def place(section, resume=False, words=()):
        places = {"run": {"dir": "mine"}, "sweep": {"dir": "mine", "subdir": "0"}, "sweeper": {"params": {}}}
        config = OmegaConf.create({"resume": resume, "hydra": places})
        config.hydra.overrides = {"hydra": [], "task": list(words)}
        [*claimed] = folders._claim(config, f"{section}.dir")
        for folder in claimed:
            folder.rmdir()
        return config.hydra[section].dir

    assert place("run") == "mine"
    Path("mine").mkdir()
    assert place("run") == place("sweep") == "mine"
    Path("mine/result.json").write_text("{}")
    assert place("run") == place("run", resume=True) == place("sweep", resume=True) == "mine_1"
    assert place("run", words=["ckpt_path=last"]) == "mine"
    Path("mine/checkpoints").mkdir()
    Path("mine/checkpoints/last.ckpt").touch()
    assert (place("run"), place("run", resume=True)) == ("mine_1", "mine")
    Path("mine/checkpoints/last.ckpt").unlink()
    Path("mine/multirun.yaml").touch()
    assert (place("sweep"), place("sweep", resume=True)) == ("mine_1", "mine")
    Path("experiment").mkdir()
    Path("experiment/evil.yaml").write_text("# @package _global_\nhydra: {run: {dir: .}}\n")
    status, _, err = program("train", *QUICK, "--config-dir", ".", "experiment=evil")
    assert (status, err) == (
        2,
        "error: hydra.run.dir=.: a file may name places below the current folder only; set it yourself\n",
    )


def test_values_that_are_no_names_leave_the_number(program):
    assert program("train", "-m", "lower=[-1],[-0.5]", *QUICK, "hydra.sweep.dir=sweep")[0] == 0
    assert sorted(p.name for p in Path("sweep").iterdir() if p.is_dir()) == ["0", "1"]


@pytest.mark.parametrize("value", ["a b", "it's", "a\\", "a\\'b", "c=d", "x,y"])
def test_a_quoted_value_is_itself_to_hydra(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [override] = OverridesParser.create().parse_overrides([f"key={folders.quoted(value)}"])
    assert override.value() == value


def test_other_processes_of_a_training_claim_nothing(monkeypatch):
    raw = {"run": {"dir": "outputs/${now:%H}"}, "overrides": {"hydra": []}}
    config = OmegaConf.create({"hydra": raw})
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert folders._claim(config, "run.dir") == []
    monkeypatch.delenv("LOCAL_RANK")
    config.hydra.overrides.hydra = ["hydra.run.dir=outputs/${now:%H}"]
    assert folders._claim(config, "run.dir") == []


def test_runs_are_called_by_what_differs_between_them():
    configs = [
        tiny_config(model=model, sections=sections, data_dir=place)
        for model, sections, place in (("autoint", 4, "a"), ("nerf", 4, "b"), ("nerf", 8, "c"), ("nerf", 8, "d"))
    ]
    found = labels.differences(configs)
    assert found[0] == {"sections": 4, "model": "autoint"}
    assert labels.labels(found, ["mine/0", "mine/1", "mine/2", "other/2"]) == [
        "sections=4, model=autoint",
        "sections=4, model=nerf",
        "sections=8, model=nerf (mine/2)",
        "sections=8, model=nerf (other/2)",
    ]
    assert labels.folder_name(3, found[2], "lego_8") == "03_sections-8_model-nerf"
    assert labels.folder_name(0, {}, "my:scene/8") == "00_my-scene-8"
