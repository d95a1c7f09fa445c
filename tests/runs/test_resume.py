"""A run that was interrupted, however often, is the same run: its weights and its logs, to the last bit."""

import random
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from autoint.registry import MODELS
from autoint.runs import build, checkpoints, restoring, trainers
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from tests.scenes.test_task import digest, read_csv, tiny_config

STEPS = 12
TRAINER = {"max_steps": STEPS, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 3}


def function_config(**overrides) -> RunConfig:
    trainer = {**TRAINER, **overrides.pop("trainer", {})}
    return RunConfig.from_plain(
        {
            "task": "function",
            "fit": "grad_net",
            "activation": {"name": "sine", "omega_0": 10.0},
            "encoding": "identity",
            "network": {"hidden_features": 4, "num_layers": 2},
            "points": 32,
            "adam_steps": 5,
            "save_every": 4,
            "trainer": trainer,
            **overrides,
        }
    )


def volrend_config(**overrides) -> RunConfig:
    trainer = {"max_steps": STEPS, "log_every_n_steps": 2, **overrides.pop("trainer", {})}
    return tiny_config(**{"save_every": 4, "val_every": 3, "background": "random", "trainer": trainer, **overrides})


def accumulating(**overrides) -> RunConfig:
    trainer = {"accumulate_grad_batches": 3, **overrides.pop("trainer", {})}
    return volrend_config(**{"save_every": 1, "trainer": trainer, **overrides})


def ct_config(**overrides) -> RunConfig:
    trainer = {**TRAINER, **overrides.pop("trainer", {})}
    return RunConfig.from_plain(
        {
            "task": "ct",
            "rho": 16,
            "theta": 16,
            "passes": 3,
            "views": 4,
            "exponent": 1.0,
            "batch_size": 16,
            "samples": 4,
            "network": {"hidden_features": 8, "num_layers": 2},
            "encoding": {"name": "normalized_positional", "num_frequencies": 2},
            "save_every": 4,
            "trainer": trainer,
            **overrides,
        }
    )


# Every task, fit and model, and what else has a state of its own: a line more covers another task.
RUNS = {
    "integral_net": volrend_config,
    "grad_net": lambda **kw: volrend_config(fit="grad_net", **kw),
    "accumulated": accumulating,
    "occupied": lambda **kw: volrend_config(placement="occupied", encoding={"name": "grid"}, **kw),
    "function": function_config,
    "ct": ct_config,
    "ct_grad_net": lambda **kw: ct_config(fit="grad_net", strength=1e-4, **kw),
    **{name: lambda name=name, **kw: volrend_config(model=name, **kw) for name in MODELS.names() if name != "autoint"},
}
every_run = pytest.mark.parametrize("name", RUNS)


class KilledError(Exception):
    pass


class Kill(pl.Callback):
    """Ends a training in the middle of the batch after so many, as if the process had been killed."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.batches:
            raise KilledError


def interrupt_after(config: RunConfig, run_dir: Path, batches: int, resumed: Path | None = None) -> None:
    task, trainer = build.task(config), with_kill(trainers.trainer(config, run_dir), batches)
    with pytest.raises(KilledError):
        trainer.fit(task.module, task.data, ckpt_path=resumed, weights_only=True)


WHOLE: dict[str, Path] = {}


@pytest.fixture
def whole(tmp_path_factory):
    """Return the folder of a run that is left alone, each made once."""

    def get(name: str) -> Path:
        if name not in WHOLE:
            WHOLE[name] = tmp_path_factory.mktemp(name)
            fit(RUNS[name](), WHOLE[name])
        return WHOLE[name]

    return get


def assert_same_run(one: Path, other: Path) -> None:
    files = [folder / "checkpoints" / "last.ckpt" for folder in (one, other)]
    first, second = (checkpoints.load(file) for file in files)
    assert digest(files[0]) == digest(files[1])
    for key in ("global_step", "loops", "lr_schedulers"):
        assert first[key] == second[key]
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()


@every_run
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_chains_of_resumes_are_the_same_run(name, seed, whole, tmp_path):
    """Killed within any batch, two to six times in a row (three at most unless slow), every other in its own folder."""
    draw = random.Random(f"{name} {seed}")
    config = RUNS[name]()
    batches = STEPS * trainers.accumulated(config)
    run_dir, path = tmp_path / "run", None
    for number, stop in enumerate(sorted(draw.sample(range(1, batches), draw.randint(2, 6 if seed else 3)))):
        if path is not None and stop <= checkpoints.load(path)["global_step"] * trainers.accumulated(config):
            continue
        interrupt_after(config, run_dir, stop, path)
        last = run_dir / "checkpoints" / "last.ckpt"
        if last.exists():
            path = last
            run_dir = tmp_path / f"run{number}" if seed % 2 else run_dir
    fit(RUNS[name](ckpt_path=str(path) if path else None), run_dir)
    assert_same_run(run_dir, whole(name))


@pytest.mark.slow
@every_run
def test_every_checkpoint_leads_to_the_same_run(name, whole, tmp_path):
    config = RUNS[name]()
    stops = range(config.save_every, STEPS, config.save_every)
    for stop in list(stops)[:3]:
        interrupt_after(config, tmp_path / str(stop), stop * trainers.accumulated(config))
        # The checkpoint of this very step is written as the next batch begins, and the kill is what comes before.
        interrupt_after(config, tmp_path / str(stop), stop * trainers.accumulated(config) + 1)
        last = tmp_path / str(stop) / "checkpoints" / "last.ckpt"
        assert checkpoints.load(last)["global_step"] == stop
        fit(RUNS[name](ckpt_path="last"), tmp_path / str(stop))
        assert_same_run(tmp_path / str(stop), whole(name))


def test_two_trainings_with_the_same_seed_log_the_same_bytes(whole, tmp_path):
    fit(volrend_config(), tmp_path)
    metrics = (tmp_path / "metrics.csv").read_bytes()
    assert metrics == (whole("integral_net") / "metrics.csv").read_bytes()
    rows = read_csv(tmp_path / "metrics.csv")
    assert [int(r["step"]) for r in rows if r["train/loss"]] == [1, 3, 5, 7, 9, 11]
    assert [int(r["step"]) for r in rows if r["val/psnr"]] == [2, 5, 8, 11]
    fit(volrend_config(seed=1), tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() != metrics


def test_accumulated_batches_make_one_step(whole):
    """Three batches of 32 rays a step: as many steps, validations and rows, and a schedule that comes to its end."""
    last = checkpoints.load(whole("accumulated") / "checkpoints" / "last.ckpt")
    assert last["global_step"] == STEPS
    assert last["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"step": 3 * STEPS}]
    assert last["lr_schedulers"][0]["last_epoch"] == STEPS
    rows = read_csv(whole("accumulated") / "metrics.csv")
    assert [int(r["step"]) for r in rows if r["val/psnr"]] == [2, 5, 8, 11]


def test_a_resumed_run_may_go_on_for_longer(tmp_path):
    fit(tiny_config(), tmp_path / "first")
    path = str(tmp_path / "first" / "checkpoints" / "last.ckpt")
    result = fit(tiny_config(trainer={"max_steps": 20}, ckpt_path=path), tmp_path / "second")
    assert result["steps"] == 20
    contents = checkpoints.load(tmp_path / "second" / "checkpoints" / "last.ckpt")
    assert contents["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"step": 20}]


def test_a_finished_run_that_is_resumed_stays_as_it_is(whole, tmp_path):
    path = whole("integral_net") / "checkpoints" / "last.ckpt"
    assert fit(volrend_config(ckpt_path=str(path)), tmp_path)["steps"] == STEPS
    assert_same_run(tmp_path, whole("integral_net"))


def test_time_does_not_stop_in_the_middle_of_a_step(tmp_path):
    limit = {"max_steps": 10**6, "max_time": "00:00:00:01", "accumulate_grad_batches": 3}
    result = fit(tiny_config(trainer=limit), tmp_path)
    last = checkpoints.load(tmp_path / "checkpoints" / "last.ckpt")
    assert 1 < result["steps"] == last["global_step"] < 10**6
    assert last["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"step": 3 * result["steps"]}]


def damaged_run(folder: Path, whole: Path) -> Path:
    """A run that was killed after its second checkpoint, with a bit flipped in the last."""
    interrupt_after(volrend_config(), folder, 9)
    last = folder / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    return last


def test_auto_takes_the_newest_good_checkpoint(whole, tmp_path, caplog):
    last = damaged_run(tmp_path, whole("integral_net"))
    with pytest.raises(ValueError, match=r"last.ckpt: damaged checkpoint .*; use .*previous.ckpt, or ckpt_path=auto"):
        fit(volrend_config(ckpt_path="last"), tmp_path)
    with pytest.raises(ValueError, match="damaged checkpoint"):
        fit(volrend_config(resume=True), tmp_path)
    caplog.set_level("INFO")
    fit(volrend_config(ckpt_path="auto"), tmp_path)
    assert f"{last}: damaged checkpoint" in caplog.text
    assert f"going on from {last.with_name('previous.ckpt')}, of step 4" in caplog.text
    assert_same_run(tmp_path, whole("integral_net"))
    assert (tmp_path / "checkpoints" / "damaged.ckpt").exists()


def test_the_good_one_outlives_the_first_save_after_a_damage(whole, tmp_path):
    """Between resuming from previous.ckpt and the next save but one, it stays what it is."""
    damaged_run(tmp_path, whole("integral_net"))
    path = checkpoints.newest(tmp_path / "checkpoints")
    interrupt_after(volrend_config(), tmp_path, 9, path)
    steps = [checkpoints.load(tmp_path / "checkpoints" / f"{n}.ckpt")["global_step"] for n in ("previous", "last")]
    assert steps == [4, 8]


def test_auto_never_starts_from_zero_where_something_was_saved(tmp_path, caplog):
    caplog.set_level("INFO")
    fit(volrend_config(ckpt_path="auto", trainer={"max_steps": 9}), tmp_path)
    assert "nothing was saved in" in caplog.text
    for file in (tmp_path / "checkpoints").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"last.ckpt: damaged .*previous.ckpt: damaged .*; to start from zero, remove"):
        fit(volrend_config(ckpt_path="auto"), tmp_path)


def test_a_new_run_in_an_old_folder_does_not_go_on_from_it(monkeypatch, tmp_path):
    """Killed before it has saved anything, it has nothing to go on from, and is not finished."""
    fit(volrend_config(), tmp_path)
    (tmp_path / "report.html").write_text("of the first run")
    real = trainers.trainer
    monkeypatch.setattr(trainers, "trainer", lambda *args: with_kill(real(*args), 2))
    with pytest.raises(KilledError):
        fit(volrend_config(seed=1), tmp_path)
    monkeypatch.setattr(trainers, "trainer", real)
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "checkpoints_0" / "report.html").read_text() == "of the first run"
    assert checkpoints.load(tmp_path / "checkpoints_0" / "last.ckpt")["global_step"] == STEPS
    assert fit(volrend_config(seed=1, resume=True), tmp_path)["steps"] == STEPS


def with_kill(trainer: pl.Trainer, batches: int) -> pl.Trainer:
    trainer.callbacks.insert(0, Kill(batches))
    return trainer


def test_an_empty_path_starts_nothing(tmp_path):
    with pytest.raises(ValueError, match="ckpt_path is empty; give last, auto or a checkpoint"):
        fit(volrend_config(ckpt_path=""), tmp_path)


def test_last_is_that_of_the_runs_folder(tmp_path):
    with pytest.raises(ValueError, match=r"ckpt_path=last: there is no .*give the folder of the run .* hydra.run.dir"):
        fit(volrend_config(ckpt_path="last"), tmp_path)


def test_a_torn_row_of_the_logs_is_dropped(whole, tmp_path):
    interrupt_after(volrend_config(), tmp_path, 9)
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("0,1")  # of a row that a killed process has not finished
    fit(volrend_config(ckpt_path="last"), tmp_path)
    assert_same_run(tmp_path, whole("integral_net"))


def test_what_cannot_be_resumed_is_refused_by_name(whole, tmp_path):
    good = whole("integral_net") / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"last.ckpt: it is of task=volrend, not of task=function"):
        fit(function_config(ckpt_path=str(good)), tmp_path)
    contents = checkpoints.load(good)
    cases = {
        r"its weights are not this model's \(Unexpected key": lambda c: c["state_dict"].update(x=torch.ones(2)),
        r"optimizer belongs to another model": lambda c: c["optimizer_states"][0]["state"][0].update(
            exp_avg=torch.ones(9, 9)
        ),
        "weights alone": lambda c: c.pop("optimizer_states"),
    }
    for words, change in cases.items():
        changed = checkpoints.load(good)
        change(changed)
        checkpoints.WholeFileIO().save_checkpoint(changed, tmp_path / "changed.ckpt")
        with pytest.raises(ValueError, match=words):
            fit(volrend_config(ckpt_path=str(tmp_path / "changed.ckpt")), tmp_path / "run")
    contents["autoint"]["config"]["task"] = "tomography"
    checkpoints.WholeFileIO().save_checkpoint(contents, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt: its configuration does not fit .*'tomography' is unknown"):
        restoring.restored(tmp_path / "other.ckpt")
