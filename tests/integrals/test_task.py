"""The function task, from the command line to its table."""

import json

import pytest
import torch

from autoint.integrals.functions import target
from autoint.registry import FUNCTIONS
from autoint.runs import build, checkpoints
from autoint.runs.config import RunConfig
from autoint.runs.training import fit

QUICK = ("task=function", "adam_steps=20", "trainer.max_steps=60", "+trainer.enable_progress_bar=false")


def config(**changes):
    plain = {
        "task": "function",
        "fit": "grad_net",
        "activation": {"name": "sine", "omega_0": 10.0},
        "encoding": "identity",
        "network": {"hidden_features": 8, "num_layers": 2},
        "trainer": {"max_steps": 12, "accelerator": "cpu", "enable_progress_bar": False},
        "adam_steps": 4,
        "points": 32,
        "save_every": 5,
    }
    return RunConfig.from_plain({**plain, **changes})


def test_train_and_evaluate(program, tmp_path):
    status, _, err = program("train", *QUICK, "function=xcosx", "lower=-1", "upper=2", "hydra.run.dir=run")
    assert status == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["test/integral_max"] < 1e-3
    assert (tmp_path / "run" / "plot.png").stat().st_size > 10_000
    assert "| xcosx " in (tmp_path / "run" / "errors.md").read_text()
    status, out, err = program("evaluate", "runs=run", "hydra.run.dir=table")
    assert status == 0, err
    assert "| xcosx    | x·cos(x) | [-1, 2] |" in out
    (row,) = json.loads((tmp_path / "table" / "result.json").read_text())["rows"]
    assert row["integral_max"] == result["metrics"]["test/integral_max"]  # float64, through the checkpoint
    assert (tmp_path / "table" / "images" / "00_xcosx" / "plot.png").exists()


def test_a_function_of_ones_own(program, tmp_path, monkeypatch, undrawn):
    (tmp_path / "my_functions.py").write_text(
        "import torch\n\n\ndef ridge(x):\n    return torch.exp(x[:, 0] * x[:, 1])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = program(
        "train", *QUICK, "function=my_functions:ridge", "lower=[-1,0]", "upper=[1,1]", "hydra.run.dir=run", "points=64"
    )
    assert status == 0, err
    assert "Gauss-Legendre quadrature" in (tmp_path / "run" / "errors.md").read_text()


def test_an_expression_as_it_is_typed(program, tmp_path, request):
    """Whatever Hydra makes of ``sin(x)``: in one dimension, and in a sweep beside others."""
    small = "network.hidden_features=8"
    status, out, err = program("train", *QUICK, "function=sin(x)*exp(-y^2)", "points=64", small)
    assert status == 0, err
    assert "fit: relative error" in out + err
    assert "; tolerance 1e-08 " in out + err
    [file] = tmp_path.rglob("errors.md")
    assert "| sin(x)*exp(-y^2) | sin(x)*exp(-y^2) | [-1, 1] × [-1, 1] |" in file.read_text()
    assert file.parent.parent.name == "sin_x_exp_-y_2"  # no slash, star, bracket or space
    request.getfixturevalue("undrawn")
    sweep = (
        "function=cos,max(x,0.5),'where(x<0,1,2)'",
        "hydra.sweep.dir=sweep",
        "adam_steps=2",
        "trainer.max_steps=3",
    )
    status, _, err = program("train", "-m", *QUICK[:1], *QUICK[3:], *sweep, small)
    assert status == 0, err
    status, out, err = program("evaluate", "runs=sweep", "hydra.run.dir=table")
    assert status == 0, err
    assert all(f"| {cell} " in out for cell in ("cos", "cos(10x)", "max(x,0.5)", "where(x<0,1,2)"))
    names = {folder.name[3:] for folder in (tmp_path / "table" / "images").iterdir()}
    assert names == {"function-cos", "function-max-x-0.5", "function-where-x-0-1-2"}


def test_help_says_the_formulas(program):
    status, out, err = program("train", "task=function", "--help")
    assert status == 0, err
    said = " ".join(out.split())
    for name in FUNCTIONS.names():
        assert f"{name} is {target(name).formula}" in said


def test_a_number_is_that_number_on_every_axis():
    task = build.task(config(function="gaussian3d", lower=-1, upper=[1, 1, 2]))
    assert task.module.model.upper.tolist() == [1, 1, 2]
    assert task.module.model.lower.tolist() == [-1, -1, -1]


def test_a_box_of_thousands_of_numbers_is_a_line_that_can_be_read():
    with pytest.raises(ValueError, match="has 3 coordinates; give so many, or a number") as error:
        build.task(config(function="gaussian3d", lower=-1, upper=[[1.0] * 60] * 60))
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("function=cosine",), "function='cosine' is unknown; did you mean 'cos'?"),
        (("function=sinn(x)",), "function='sinn(x)', character 1: unknown function 'sinn'; did you mean 'sin'?"),
        (("function=x*y", "lower=[0]", "upper=[1]"), "function=x*y has 2 coordinates"),
        (("function=log(x)",), "must be finite on the whole box"),
        (("function=1/x",), "function=1/x is [inf] at x=[0.0]; it must be finite on the whole box"),
        (("function=sin(x*y)/(x*y)", "lower=[-1,-1]"), "is [nan] at x=[0.0, 0.0]; it must be finite on the whole box"),
        (("function=nowhere:f",), "No module named 'nowhere'"),
        (("function=math:pi",), "must be callable"),
        (("function=gaussian2d", "lower=[-1]", "upper=[1]"), "has 2 coordinates"),
        (("lower=1", "upper=-1"), "lower below upper"),
        (("fit=integral_net",), "use fit=grad_net"),
        (("tolerance=0",), "tolerance=0.0 must be positive"),
        (("points=0",), "points=0 must be an integer of at least 1"),
        (("grad_net=double_backward",), "use grad_net=explicit"),
    ],
)
def test_bad_input_is_one_line(program, tmp_path, overrides, words):
    status, _, err = program("train", *QUICK, *overrides)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path, undrawn):
    """Across the change from Adam to Levenberg-Marquardt, and from its middle."""
    fit(config(), tmp_path / "whole")
    whole = checkpoints.load(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    for steps in (3, 7):
        trainer = {"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False}
        fit(config(trainer=trainer), tmp_path / f"part{steps}")
        part = tmp_path / f"part{steps}" / "checkpoints" / "last.ckpt"
        fit(config(ckpt_path=str(part)), tmp_path / f"rest{steps}")
        rest = checkpoints.load(tmp_path / f"rest{steps}" / "checkpoints" / "last.ckpt")
        assert rest["global_step"] == 12
        for key, value in whole["state_dict"].items():
            assert torch.equal(value, rest["state_dict"][key]), key


def test_it_ends_where_the_tolerance_is_reached(tmp_path, undrawn):
    result = fit(config(function="linear", tolerance=1e-2, trainer={**config().trainer, "max_steps": 500}), tmp_path)
    assert result["steps"] < 500
    assert result["metrics"]["train/relative_error"] <= 1e-2
