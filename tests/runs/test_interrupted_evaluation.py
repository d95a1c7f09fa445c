"""An evaluation that was interrupted goes on with the images that are not done yet."""

import json
from pathlib import Path

import pytest
import torch

from autoint.reports import metrics
from autoint.runs import checkpoints
from autoint.runs.interrupted import PartialEvaluation
from autoint.runs.training import fit
from autoint.scenes.volume import AbstractVolume
from tests.runs.test_resume import volrend_config

COMMAND = ("evaluate", "runs=run", "split=test", "max_images=3", "lpips_weights=null", "hydra.run.dir=out")
VIEWED = 5  # the first for its memory and its work, then three images


@pytest.fixture
def viewed(monkeypatch):
    """How many views were rendered, and after how many Ctrl-C is to be pressed."""

    monkeypatch.setattr(metrics, "lpips_metric", lambda net, weights: None)
    real, state = AbstractVolume.view, {"count": 0, "stop": 0}

    def view(self, *args, **kwargs):
        state["count"] += 1
        if state["count"] == state["stop"]:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(AbstractVolume, "view", view)
    return state


def again(viewed, program, *overrides, stop=0):
    viewed.update(count=0, stop=stop)
    status, _, err = program(*COMMAND, *overrides)
    return viewed["count"], status, err


def test_it_goes_on_with_the_images_not_yet_done(viewed, program):
    fit(volrend_config(), Path("run"))
    assert again(viewed, program, "hydra.run.dir=whole")[:2] == (VIEWED, 0)
    count, status, err = again(viewed, program, stop=5)
    assert (count, status) == (5, 130)
    assert f"stopped at run; the same command with hydra.run.dir={Path.cwd()}/out goes on with the images" in err
    assert not list(Path("out").glob("table.*"))
    [kept] = Path("out").rglob("unfinished.json")
    assert len(json.loads(kept.read_text())["done"]) == 2
    assert again(viewed, program)[:2] == (VIEWED - 2, 0)
    images = [json.loads(Path(folder, "result.json").read_text())["per_image"] for folder in ("out", "whole")]
    without = [[{k: v for k, v in image.items() if k != "seconds_per_frame"} for image in of] for of in images]
    assert without[0] == without[1]
    for picture in Path("whole").rglob("*.png"):
        assert picture.read_bytes() == Path("out", *picture.parts[1:]).read_bytes()
    assert not list(Path("out").rglob("unfinished.json"))
    assert again(viewed, program)[:2] == (VIEWED, 0)  # what was finished is done anew


def test_nothing_is_taken_from_another_evaluation(viewed, program):
    fit(volrend_config(), Path("run"))
    again(viewed, program, stop=5)
    assert again(viewed, program, "chunk_size=7", stop=4)[0] == 4  # other settings: all three anew
    last = Path("run/checkpoints/last.ckpt")
    contents = checkpoints.load(last)
    next(iter(contents["state_dict"].values())).view(-1)[0] += 1
    checkpoints.WholeFileIO().save_checkpoint(contents, last)
    assert again(viewed, program, "chunk_size=7")[:2] == (VIEWED, 0)


def test_what_others_have_begun_is_left():
    others = Path("out/other/unfinished.json")
    others.parent.mkdir(parents=True)
    others.write_text("{}")
    own = PartialEvaluation(Path("out/own"), torch.nn.Linear(1, 1), {})
    own.file.parent.mkdir()
    own.note("view", torch.zeros(1), {})
    PartialEvaluation.clear(Path("out/own/nothing"))
    assert own.file.exists()
    PartialEvaluation.clear(Path("out"))
    assert (own.file.exists(), others.read_text()) == (False, "{}")
