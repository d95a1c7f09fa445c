"""What may change when a run goes on is applied; all else is refused by name; what was finished keeps its result."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoint.files import whole_files
from autoint.runs import build, checkpoints, resuming, trainers
from autoint.runs.config import RunConfig
from autoint.runs.export import export
from autoint.runs.schedule import Deadline, seconds_of
from autoint.runs.training import fit
from tests.runs.test_resume import STEPS, ct_config, function_config
from tests.scenes.test_task import tiny_config

FINISHED: dict[str, Path] = {}


@pytest.fixture
def finished(tmp_path_factory):
    """The last checkpoint of a finished run, of four steps."""
    if "run" not in FINISHED:
        FINISHED["run"] = tmp_path_factory.mktemp("finished")
        fit(tiny_config(save_every=2, trainer={"max_steps": 4}), FINISHED["run"])
    return FINISHED["run"] / "checkpoints" / "last.ckpt"


def again(path: Path, **overrides) -> RunConfig:
    return tiny_config(save_every=2, ckpt_path=str(path), **{"trainer": {"max_steps": 4}, **overrides})


REFUSED = {
    "optimizer.lr": ({"optimizer": {"lr": 0.1}}, "another optimizer.lr (0.005 there, 0.1 here)"),
    "optimizer.final": ({"optimizer": {"final": 0.5}}, "another optimizer.final (0.02 there, 0.5 here)"),
    "seed": ({"seed": 7}, "another seed (0 there, 7 here)"),
    "batch_size": ({"batch_size": 16}, "another batch_size (32 there, 16 here)"),
    "fit": ({"fit": "grad_net"}, "another fit (integral_net there, grad_net here)"),
    "background": ({"background": "random"}, "another background (white there, random here)"),
    "image_size": ({"image_size": 8}, "another image_size ("),
    "placement": ({"placement": "proposal"}, "another placement (uniform there, proposal here)"),
    "model.anneal": ({"model": {"name": "autoint", "anneal": 2}}, "another model.anneal (1 there, 2 here)"),
    "network": ({"network": {"hidden_features": 9, "num_layers": 2}}, "network.hidden_features (8 there, 9 here)"),
    "precision": ({"trainer": {"max_steps": 4, "precision": "64-true"}}, "another trainer.precision (32-true there"),
    "accumulate": ({"trainer": {"max_steps": 4, "accumulate_grad_batches": 2}}, "accumulate_grad_batches (1 there"),
    "max_steps": ({"trainer": {"max_steps": 3}}, "trainer.max_steps=3: "),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_made_the_weights_is_refused_by_name(name, finished, tmp_path):
    overrides, words = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(words)):
        fit(again(finished, **overrides), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_every_key_is_applied_or_refused():
    """Each key of each task is one or the other, and those that are applied are known to be."""
    for config in (tiny_config(), function_config(), ct_config()):
        plain = config.to_plain()
        plain |= plain.pop("options")
        fixed = {key.partition(".")[0] for key, _ in resuming._fixed(config)}
        left = set(plain) - fixed - set(resuming.MAY_CHANGE)
        assert all(plain[key] == {} for key in left), left
        assert fixed & set(resuming.MAY_CHANGE) == {"trainer"}


def test_a_larger_budget_is_trained_and_the_schedule_follows_it(finished, tmp_path):
    """The cosine ends with the new budget, and the first step already has its rate."""
    seen = []

    class Rates(trainers.pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.append((trainer.global_step, optimizer.param_groups[0]["lr"]))

    config = again(finished, trainer={"max_steps": 8}, val_every=2)
    task, trainer = build.task(config), trainers.trainer(config, tmp_path)
    trainer.callbacks.insert(0, Rates())
    trainer.fit(task.module, task.data, ckpt_path=finished, weights_only=True)
    [scheduler] = [c.scheduler for c in trainer.lr_scheduler_configs]
    assert seen == [(step, 0.005 * scheduler.lr_lambdas[0](step)) for step in range(4, 8)]
    assert checkpoints.load(tmp_path / "checkpoints" / "last.ckpt")["autoint"]["config"]["trainer"]["max_steps"] == 8


def test_a_finished_run_keeps_its_result(finished, tmp_path, caplog):
    """In its own folder nothing happens; in another one it is the same result, with its metrics."""
    caplog.set_level("INFO")
    run_dir = finished.parent.parent
    before = (run_dir / "result.json").read_bytes()
    assert json.loads(before)["metrics"]["val/psnr"] > 0
    fit(again(finished), run_dir)
    assert "finished before, nothing to do" in caplog.text
    assert (run_dir / "result.json").read_bytes() == before
    assert fit(again(finished), tmp_path) == json.loads(before)
    assert (tmp_path / "result.json").read_bytes() == before


def test_a_result_stays_where_going_on_fails_before_it_begins(finished, monkeypatch):
    """As where the data are gone."""

    def nothing_there(config):
        raise ValueError("scene folder not found")

    run_dir = finished.parent.parent
    before = (run_dir / "result.json").read_bytes()
    monkeypatch.setattr(build, "task", nothing_there)
    with pytest.raises(ValueError, match="scene folder not found"):
        fit(again(finished, trainer={"max_steps": 8}), run_dir)
    assert (run_dir / "result.json").read_bytes() == before


def test_a_finished_object_goes_on_to_nothing(tmp_path):
    config = ct_config(fields=["object"], strength=1e-4)
    result = fit(config, tmp_path / "run")
    last = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    longer = ct_config(fields=["object"], strength=1e-4, ckpt_path=last, trainer={"max_steps": STEPS + 5})
    (tmp_path / "run" / "result.json").unlink()
    assert fit(longer, tmp_path / "run")["metrics"] == result["metrics"]


def test_a_command_line_that_names_the_budget_only_goes_on_as_before(finished):
    """``ckpt_path=last hydra.run.dir=RUN trainer.max_steps=9`` of a run that has nothing of the defaults."""
    stored = tiny_config(trainer={"max_steps": 4, "max_time": "1m"})
    typed = RunConfig.from_plain({"task": "volrend", "ckpt_path": "last", "trainer": {"max_steps": 9}})
    given = ["ckpt_path", "trainer.max_steps"]
    config = resuming.continued(typed, stored, given)
    assert config.trainer == {**stored.trainer, "max_steps": 9, "max_time": None}  # which would cut the steps
    stranger = tiny_config(trainer={"max_steps": 4, "fast_dev_run": True})  # which would train for nothing, and say so
    assert "fast_dev_run" not in resuming.continued(typed, stranger, given).trainer
    assert (config.batch_size, config.network, config.ckpt_path) == (stored.batch_size, stored.network, "last")
    assert resuming.continued(typed, stored, [*given, "optimizer.lr"]) is typed
    machine = RunConfig.from_plain({"task": "volrend", "trainer": {"max_steps": 20000, "accelerator": "gpu"}})
    assert resuming.continued(machine, stored, ["trainer", "val_images"]).trainer == {
        "max_steps": 4,
        "max_time": "1m",
        "accelerator": "gpu",
    }


def test_what_sends_or_serves_is_asked_for_by_this_command_line_alone(caplog):
    """A run of a stranger says ``logger=wandb`` without ``offline``, ``viewer=true`` and a registry of models."""
    trainer = {"max_steps": 4, "model_registry": "theirs/model"}
    wandb = {"name": "wandb", "project": "theirs", "offline": False}
    stored = tiny_config(logger=wandb, viewer=True, trainer=trainer)
    plain = {"task": "volrend", "ckpt_path": "last", "trainer": {"max_steps": 9}}
    typed = RunConfig.from_plain(plain)
    config = resuming.continued(typed, stored, ["ckpt_path", "trainer.max_steps"])
    assert (config.logger, config.options["viewer"]) == ({"name": "csv"}, False)
    assert "model_registry" not in config.trainer
    told = [record.getMessage().partition(" of the checkpoint is left out")[0] for record in caplog.records]
    assert told == ["logger=wandb", "viewer=true", "trainer.model_registry"]
    asked = RunConfig.from_plain({**plain, "logger": {"name": "wandb", "project": "mine"}, "viewer": True})
    config = resuming.continued(asked, stored, ["ckpt_path", "logger", "logger.project", "viewer"])
    assert (config.logger, config.options["viewer"]) == (asked.logger, True)
    beside = tiny_config(logger="tensorboard", trainer={"max_steps": 4})
    assert resuming.continued(typed, beside, ["ckpt_path"]).logger == {"name": "tensorboard"}


def test_so_many_processes_are_no_cpus(tmp_path):
    config = tiny_config(trainer={"max_steps": 4, "accelerator": "cpu", "devices": 1000, "strategy": "ddp"})
    with pytest.raises(ValueError, match=r"trainer\.devices=1000: processes on [0-9]+ CPU cores; use at most"):
        trainers.check_trainer(config)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(90, 90), ("90", 90), ("90s", 90), ("5m", 300), ("5min", 300), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800),
     ("00:00:10:00", 600), ("01:00:00", 3600), ("1:30", 90), ({"hours": 1, "minutes": 1}, 3660), ("1h 30m", 5400),
     ("1h30", 5400), ("1m30", 90)],
)  # fmt: skip
def test_a_time_is_read_as_people_write_it(given, seconds):
    assert seconds_of("trainer.max_time", given) == seconds
    assert trainers.time_limit(tiny_config(trainer={"max_time": given})) == seconds


@pytest.mark.parametrize(
    "given", ["soon", "", 0, -1, "-5m", "5x", "1.2.3s", True, "nan", float("inf"), [1], {"moons": 1}]
)
def test_what_is_no_time_is_refused_in_one_line(given):
    with pytest.raises(
        ValueError, match=r"^trainer.max_time=.* is no time to train for; give seconds, or as in 90s, 5m"
    ):
        trainers.trainer(tiny_config(trainer={"max_time": given}), Path("run"))


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("pytorch_lightning.callbacks.timer.time.monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("every", "expected", "end"),
    [(25, None, 60), (20, None, 54), (19, 9, 60), (59, 7, 60), (100, 7, 60), (59, None, 74)],
)
def test_the_last_validation_is_over_in_time(every, expected, end, monkeypatch):
    """Steps of 1 s and validations of 7 s within 60; where a second one would be late, that of the step is the last.

    The first may be late, unless the task expects how long it takes.
    """
    clock, timer = Clock(monkeypatch), Deadline(60.0)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_idx=-1))
    same = SimpleNamespace(broadcast=lambda value: value)
    trainer = SimpleNamespace(fit_loop=loop, strategy=same, val_check_batch=every, should_stop=False)
    timer.on_train_start(trainer, expected and SimpleNamespace(rehearsal=lambda: expected))
    while not trainer.should_stop:
        clock.now += 1
        loop.epoch_loop.batch_idx += 1
        timer.on_train_batch_end(trainer)
        if trainer.should_stop or (loop.epoch_loop.batch_idx + 1) % every == 0:
            timer.on_validation_start(trainer, None)
            clock.now += 7
            timer.on_validation_end(trainer, None)
    assert clock.now == end


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_files_have_the_rights_that_the_umask_leaves(mask, mode, finished, tmp_path, umask):
    umask(mask)
    checkpoints.WholeFileIO().save_checkpoint(checkpoints.load(finished), tmp_path / "run" / "last.ckpt")
    whole_files.write_json(tmp_path / "run" / "result.json", {})
    export(str(finished), str(tmp_path / "run" / "export"))
    for path in (tmp_path / "run").rglob("*"):
        assert path.stat().st_mode & 0o777 == (mode | (mode & 0o444) >> 2 if path.is_dir() else mode), path


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)
