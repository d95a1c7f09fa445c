"""Whatever gives a parameter or a buffer another shape: trained, resumed, evaluated and exported from files alone."""

import contextlib
import json
import math
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch

from autoint.runs import build, checkpoints, restoring, trainers
from autoint.runs.config import RunConfig
from autoint.runs.evaluation import EvaluateConfig, evaluate_runs
from autoint.runs.export import export
from autoint.runs.training import fit
from autoint.tomography import evaluation as sinograms
from tests.conftest import ROOT

SMALL = {"hidden_features": 8, "num_layers": 2}
BASE = {
    "volrend": {"image_size": 12, "batch_size": 16, "sections": 4, "samples": 8, "val_images": 1, "network": SMALL},
    "ct": {"rho": 16, "theta": 16, "views": 4, "passes": 1, "batch_size": 16, "network": SMALL, "strength": 1e-4},
    "function": {"fit": "grad_net", "adam_steps": 2, "points": 64, "network": SMALL, "encoding": "identity"},
}
BANDS = {"name": "normalized_positional", "num_frequencies": 2}
GRID = {"name": "grid", "resolutions": [4, 8], "features": 2, "num_frequencies": 2}
OPEN = {"strength": None, "fields": ["object"]}
TRIPS = [
    ("volrend", {}),
    ("volrend", {"networks": 2}),
    ("volrend", {"network": {"hidden_features": 12, "num_layers": 1}, "sections": 2}),
    ("volrend", {"fit": "grad_net", "placement": {"name": "predicted", "hidden_features": 5, "num_layers": 1}}),
    ("volrend", {"placement": "occupied", "color": "weighted"}),
    ("volrend", {"placement": "proposal", "color": {"name": "decoded", "features": 3, "hidden_features": 7}}),
    ("volrend", {"encoding": GRID}),
    ("volrend", {"encoding": "identity", "direction_encoding": {"name": "positional", "num_frequencies": 1}}),
    ("volrend", {"encoding": {"name": "positional", "num_frequencies": 3, "include_input": False}}),
    ("volrend", {"networks": 2, "model": {"name": "autoint", "density_frequencies": 1, "anneal": 2}}),
    ("volrend", {"model": "section_means", "encoding": {**GRID, "resolutions": [4, 8, 16]}}),
    ("volrend", {"model": {"name": "section_means", "nodes": 3}, "placement": "proposal"}),
    ("volrend", {"model": {"name": "nerf", "coarse": 4, "fine": 4}}),
    ("volrend", {"activation": {"name": "sine"}, "grad_net": "graph"}),
    ("ct", {}),
    ("ct", {"fields": ["line"], "fit": "grad_net", "samples": 4, "encoding": GRID}),
    ("ct", {"fields": ["line", "object"], "network": {"hidden_features": 6, "num_layers": 3}}),
    ("ct", {"fields": ["object"], "exponent": 1.0}),
    ("ct", {**OPEN, "phantom": "ellipses"}),
    ("ct", {**OPEN, "spacing": 2.0, "gaussian": 0.01}),
    ("ct", {**OPEN, "exponent": 0.5, "views": 3, "photons": 1e4}),
    ("ct", {**OPEN, "rho": 340, "phantom": "ellipses"}),
    ("ct", {**OPEN, "rho": 330, "exponent": 1.0, "phantom": "ellipses"}),
    ("function", {}),
    ("function", {"function": "gaussian2d", "lower": [-1.0, 0.0], "network": {"hidden_features": 5, "num_layers": 1}}),
    ("function", {"function": "gaussian2d", "encoding": BANDS}),
    ("function", {"function": "polynomial", "activation": {"name": "sine"}, "upper": 2.0}),
    ("volrend", {"model": {"name": "potential", "features": 3}, "encoding": GRID, "smooth": 0.1}),
]
FRESH = (5, 21, 24)
QUICK = (3, 5, 10, 12, 14, 15, 21, 24)
"""Which of the trips are made where: each in fresh processes, some in every `make test`, all in `make test-all`."""


def settings(task, changes):
    steps = {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False}
    shared = {"encoding": BANDS} if task != "function" else {}
    return {"task": task, **shared, **BASE[task], "save_every": 1, "trainer": steps, **changes}


class KilledError(Exception):
    pass


class Stop(pl.Callback):
    """Ends a training before its third step, as a kill would."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 2:
            raise KilledError


def whole(module):
    """Return how many steps a module has to make at most."""
    search, line = getattr(module, "search", None), getattr(module, "line", None)
    return search.steps if search is not None and line is None else 3


def trips(numbers, quick=()):
    marks = {True: (), False: pytest.mark.slow}
    return [pytest.param(*TRIPS[k], id=f"{TRIPS[k][0]}-{k}", marks=marks[k in quick]) for k in numbers]


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == theirs[name].shape, name
        assert torch.equal(tensor, theirs[name].to(tensor)), name


@pytest.mark.parametrize(("task", "changes"), trips(range(len(TRIPS)), QUICK))
def test_a_run_comes_back_from_its_files(task, changes, tmp_path, no_lpips, monkeypatch):
    monkeypatch.setattr(sinograms, "CLASSICS", ("linear",))
    config, folder = RunConfig.from_plain(settings(task, changes)), tmp_path / "run"
    built, trainer = build.task(config), trainers.trainer(config, folder)
    trainer.callbacks.append(Stop())
    with contextlib.suppress(KilledError):  # an object that takes one step ends before
        trainer.fit(built.module, built.data)
    last = folder / "checkpoints" / "last.ckpt"
    assert checkpoints.load(last)["global_step"] == (2 if (steps := whole(built.module)) > 2 else steps)
    result = fit(RunConfig.from_plain({**settings(task, changes), "ckpt_path": str(last)}), folder)
    assert result["steps"] == min(steps, 3)
    contents = checkpoints.load(last)
    _, module = restoring.restored(last)
    same(module.state_dict(), contents["state_dict"])
    rows = evaluate_runs(EvaluateConfig(runs=str(folder), max_images=1, device="cpu"), tmp_path / "table")
    assert rows
    exported = export(str(folder))
    _, again = restoring.restored(exported / checkpoints.WEIGHTS)
    same(again.state_dict(), contents["state_dict"])


def overrides(plain, prefix=""):
    """Return nested settings as they are typed."""
    for key, value in plain.items():
        if key == "enable_progress_bar":
            yield "+trainer.enable_progress_bar=false"
        elif isinstance(value, dict):
            name = [f"{prefix}{key}={value['name']}"] if "name" in value else []
            yield from [*name, *overrides({k: v for k, v in value.items() if k != "name"}, f"{prefix}{key}.")]
        else:
            typed = json.dumps(value).replace(" ", "").replace('"', "")
            yield f"{prefix}{key}={typed}"


@pytest.mark.parametrize(("task", "changes"), trips(FRESH))
def test_a_run_comes_back_in_fresh_processes(task, changes, tmp_path):
    def run(*command):
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = [ROOT / "train.py", *overrides(settings(task, changes)), "hydra.run.dir=run"]
    run(*first)
    run(*first, "ckpt_path=last")
    run("-m", "autoint", "export", "run")
    lpips = [f"lpips_weights={tmp_path / 'none'}"] if task == "volrend" else []
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), "runs=run", "max_images=1", "hydra.run.dir=table", *lpips],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    if lpips:  # its weights are not here, and the run must have been rebuilt to find that out
        assert "size mismatch" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "table" / "table.md").is_file()


def large(**changes):
    plain = settings("ct", {**OPEN, "rho": 340, "theta": 4, "views": 4, "phantom": "ellipses", **changes})
    return build.task(RunConfig.from_plain(plain)).module, build.task(RunConfig.from_plain(plain), False).module


def test_a_checkpoint_of_before_has_scores_of_the_trials_that_its_scan_had():
    """Nine for a scan of more than 320 pixels, without those of finer lattices; twelve before those of patches."""
    module, rebuilt = large()
    assert [prior.deviation for _, prior in module.search.trials[:12]] == [0.0] * 12
    assert all(prior.deviation for _, prior in module.search.trials[12:])
    state = module.state_dict()
    for count in (9, 12):
        scores = torch.arange(float(count), dtype=torch.float64)
        old = {**state, "search.scores": scores}
        for at in (module, rebuilt):
            at.load_state_dict(old)
            assert at.search.scores.tolist() == [*range(count), *[math.inf] * (len(state["search.scores"]) - count)]
        assert module.search.best == module.search.trials[0]


def test_shapes_that_are_no_scan_of_any_lattice_are_refused():
    """Before anything is made in these shapes: a spacing of 10⁻⁹ would take 4·10¹⁸ nodes."""
    module, rebuilt = large()
    state = module.state_dict()
    rebuilt.load_state_dict(state)
    for damage, words in (
        ({"search.object.spacing": torch.tensor(1e-9, dtype=torch.float64)}, "not those of a lattice of spacing 1e-09"),
        ({"search.object.spacing": torch.tensor(math.nan, dtype=torch.float64)}, "of a lattice of spacing nan"),
        ({"search.object.values": torch.zeros(7)}, "7 nodes are not those of a lattice"),
        ({"search.object.theta": torch.zeros(5, dtype=torch.float64)}, "are no scan's"),
    ):
        with pytest.raises(ValueError, match=words):
            rebuilt.load_state_dict({**state, **damage})


def test_an_object_that_is_found_and_asked_to_go_on_is_left_as_it_is(tmp_path):
    config = settings("ct", {"fields": ["object"], "exponent": 1.0})
    config["trainer"]["max_steps"] = 20
    fit(RunConfig.from_plain(config), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = checkpoints.load(last)["state_dict"]
    result = fit(RunConfig.from_plain({**config, "ckpt_path": "last"}), tmp_path / "run")
    assert result["steps"] == 1
    same(checkpoints.load(last)["state_dict"], before)
