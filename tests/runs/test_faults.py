"""What ends a training before its time: signals, errors, a full disk, numbers that are none. Nothing is lost by it."""

import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from autoint.files.whole_files import write_whole
from autoint.registry import COMMANDS
from autoint.runs import callbacks, checkpoints, loggers, trainers
from autoint.runs.command_line.telling import one_line
from autoint.runs.signals import STATUS, importing
from autoint.runs.training import fit
from tests.conftest import ROOT
from tests.runs.test_resume import WHOLE, assert_same_run, function_config, volrend_config, whole  # noqa: F401

COMMAND = ("save_every=4", "val_every=3", "background=random", "trainer.max_steps=12", "+trainer.log_every_n_steps=2")


@pytest.fixture(autouse=True)
def _signals_are_heard():
    """Also under nohup, or in the background of a shell, where some are ignored."""
    defaults = {n: signal.default_int_handler if n == signal.SIGINT else signal.SIG_DFL for n in STATUS}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def during(monkeypatch):
    """Have something done while a training runs: ``during(hook, batch, action)``."""
    real = trainers.trainer

    def inject(hook, batch, action):
        class Injected(pl.Callback):
            pass

        def run(self, trainer, module, *args):
            if trainer.fit_loop.epoch_loop.batch_idx == batch:
                action(trainer)

        setattr(Injected, hook, run)

        def trainer(*args):
            made = real(*args)
            made.callbacks.insert(0, Injected())
            return made

        monkeypatch.setattr(trainers, "trainer", trainer)
        return lambda: monkeypatch.setattr(trainers, "trainer", real)

    return inject


def send(*numbers):
    def action(trainer):
        for number in numbers:
            os.kill(os.getpid(), number)

    return action


@pytest.fixture
def whole_command(program, tiny, tmp_path_factory):
    """Return the folder of a run of the command that is left alone, made once."""
    if "command" not in WHOLE:
        WHOLE["command"] = tmp_path_factory.mktemp("command")
        assert program("train", *tiny, *COMMAND, f"hydra.run.dir={WHOLE['command']}")[0] == 0
    return WHOLE["command"]


def step_of(checkpoint: Path) -> int:
    return checkpoints.load(checkpoint)["global_step"]


LESS_OFTEN = (signal.SIGHUP, signal.SIGUSR1)
SIGNALS = [pytest.param(n, marks=[pytest.mark.slow] * (n in LESS_OFTEN), id=n.name) for n in STATUS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_after_the_step_and_says_how_to_go_on(number, whole_command, during, program, tiny):
    calm = during("on_before_backward", 5, send(number))
    before = signal.getsignal(number)
    status, _, err = program("train", *tiny, *COMMAND, "hydra.run.dir=run")
    assert status == {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 75}[number.name]
    assert f"stopped by {number.name} at step 6; {Path.cwd()}/run/checkpoints/last.ckpt is whole" in err
    assert f"the same command with ckpt_path=last hydra.run.dir={Path.cwd()}/run goes on from there" in err
    assert "Traceback" not in err
    assert step_of(Path("run/checkpoints/last.ckpt")) == 6
    assert signal.getsignal(number) == before
    calm()
    assert program("train", *tiny, *COMMAND, "hydra.run.dir=run", "ckpt_path=last")[0] == 0
    assert_same_run(Path("run"), whole_command)


def test_a_signal_while_validating_waits_for_its_end(during, program, tiny):
    during("on_validation_batch_start", 5, send(signal.SIGTERM))
    status, _, err = program("train", *tiny, *COMMAND, "hydra.run.dir=run")
    assert status == 143
    assert "stopped by SIGTERM at step 6; " in err
    assert Path("run/metrics.csv").read_text().count("\n") == 1 + 3 + 2


def test_a_second_ctrl_c_leaves_at_once(during, program, tiny):
    during("on_before_backward", 5, send(signal.SIGINT, signal.SIGINT))
    status, _, err = program("train", *tiny, *COMMAND, "hydra.run.dir=run")
    assert status == 130
    assert "stopped by SIGINT at step 5; " in err
    assert step_of(Path("run/checkpoints/last.ckpt")) == 4


def test_an_ignored_signal_stays_ignored(during, tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        during("on_before_backward", 5, send(signal.SIGHUP))
        assert fit(volrend_config(), tmp_path)["steps"] == 12
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_ends_a_sweep_and_tells_what_is_left(during, program, tiny):
    during("on_before_backward", 5, send(signal.SIGTERM))
    sweep = [x for x in tiny if not x.startswith("sections")]
    status, _, err = program("train", "-m", *sweep, *COMMAND, "sections=4,2", "seed=0,1", "hydra.sweep.dir=sweep")
    assert status == 143
    lines = err.strip().splitlines()
    assert lines[-5] == "3 of 4 jobs of the sweep were not begun:"
    assert lines[-1].startswith("stopped by SIGTERM at step 6")
    assert lines[-4:-1] == ["sections=4 seed=1", "sections=2 seed=0", "sections=2 seed=1"]
    assert len(list(Path("sweep").rglob("last.ckpt"))) == 1


class BrokenError(RuntimeError):
    pass


def fail(trainer):
    raise BrokenError("out of order")


HOOKS = ("on_before_backward", "on_after_backward", "on_train_batch_end")


@pytest.mark.parametrize("hook", [*(pytest.param(h, marks=pytest.mark.slow) for h in HOOKS), "on_validation_end"])
def test_an_error_leaves_a_whole_checkpoint_and_says_so(hook, during, tmp_path, caplog, whole):  # noqa: F811
    calm = during(hook, 8, fail)
    with pytest.raises(BrokenError):
        fit(volrend_config(), tmp_path)
    assert f"{tmp_path}/checkpoints/last.ckpt is whole, the same command with ckpt_path=last" in caplog.text
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 8
    calm()
    fit(volrend_config(ckpt_path="last"), tmp_path)
    assert_same_run(tmp_path, whole("integral_net"))


def test_an_error_where_batches_are_made(monkeypatch, tmp_path, caplog, whole):  # noqa: F811
    from autoint.scenes.data.batches import Pixels

    real = Pixels.__call__
    monkeypatch.setattr(Pixels, "__call__", lambda self, step: fail(None) if step == 6 else real(self, step))
    with pytest.raises(BrokenError):
        fit(volrend_config(), tmp_path)
    assert "the training failed at step 6" in caplog.text
    monkeypatch.setattr(Pixels, "__call__", real)
    fit(volrend_config(ckpt_path="last"), tmp_path)
    assert_same_run(tmp_path, whole("integral_net"))


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path, during):
    steps = []
    during("on_train_batch_start", 0, lambda trainer: steps.append(0))
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(ValueError, match=r"checkpoints: checkpoints cannot be written there \(.*choose another folder"):
        fit(volrend_config(), tmp_path)
    assert not steps
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match="cannot be written there"):
            callbacks.probe(locked / "checkpoints")
    finally:
        if root:
            os.seteuid(0)


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".tmp-x.part").write_bytes(b"half")
    callbacks.probe(folder)
    assert not folder.exists()


def test_a_full_disk_leaves_the_checkpoint_before(whole_command, monkeypatch, program, tiny):
    """The system refuses files beyond a size, as it does where no room is left."""
    real, limits = checkpoints.WholeFileIO.save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(self, contents, path, storage_options=None):
        small = contents["global_step"] == 8
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000 if small else limits[0], limits[1]))
        try:
            real(self, contents, path, storage_options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(checkpoints.WholeFileIO, "save_checkpoint", save)
    status, out, err = program("train", *tiny, *COMMAND, "hydra.run.dir=run")
    assert status == 2
    [line], last = err.strip().splitlines(), Path.cwd() / "run/checkpoints/last.ckpt"
    assert line.startswith(f"error: {last}: the checkpoint could not be saved ([Errno 27]")
    assert f"MB are free); the one before it is whole: {last}; make room, then resume" in line
    assert f"the same command with ckpt_path=last hydra.run.dir={Path.cwd()}/run goes on from there" in out
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["last.ckpt"]
    assert step_of(Path("run/checkpoints/last.ckpt")) == 4
    monkeypatch.setattr(checkpoints.WholeFileIO, "save_checkpoint", real)
    assert program("train", *tiny, *COMMAND, "hydra.run.dir=run", "ckpt_path=last")[0] == 0
    assert_same_run(Path("run"), whole_command)


def can_mount():
    """Whether a small disk of its own can be had without being root."""
    return (
        bool(shutil.which("unshare")) and not subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs user namespaces, for a small disk")
def test_a_small_disk_that_fills_up_leaves_the_checkpoint_before(whole_command, program, tiny, tmp_path):
    """A tmpfs with room for two checkpoints and a half: the third, of step 12, does not fit beside them."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    others = [p for p in whole_command.rglob("*") if p.is_file() and p.suffix != ".ckpt"]
    room = sum(-(-p.stat().st_size // 4096) * 4096 for p in others) + 16 * 4096
    room += int(2.5 * (whole_command / "checkpoints/last.ckpt").stat().st_size)
    train = shlex.join([sys.executable, str(ROOT / "train.py"), *tiny, *COMMAND, f"hydra.run.dir={disk}/run"])
    script = f"mount -t tmpfs -o size={room} tmpfs {disk}; {train}; code=$?; cp -r {disk} {kept}; exit $code"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    last = disk / "run/checkpoints/last.ckpt"
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert told[0].startswith(f"error: {last}: the checkpoint could not be saved ([Errno 28] No space left on device")
    assert f"the one before it is whole: {last}; make room, then resume" in told[0]
    assert sorted(p.name for p in (kept / "run/checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert [step_of(kept / f"run/checkpoints/{name}.ckpt") for name in ("previous", "last")] == [4, 8]
    assert program("train", *tiny, *COMMAND, f"hydra.run.dir={kept}/run", "ckpt_path=last")[0] == 0
    assert_same_run(kept / "run", whole_command)


def poison_gradient(trainer):
    next(trainer.lightning_module.parameters()).grad[0] = float("inf")


@torch.no_grad()
def poison_weights(trainer):
    next(trainer.lightning_module.parameters())[0] = float("nan")


@pytest.mark.parametrize(
    ("hook", "batch", "poison", "what"),
    [
        ("on_train_batch_start", 6, poison_weights, "the loss is nan at step 6 (batch 6 of seed=0)"),
        ("on_after_backward", 6, poison_gradient, "is not finite at step 6 (batch 6 of seed=0)"),
        ("on_train_batch_end", 7, poison_weights, "is not finite at step 7 (batch 7 of seed=0)"),
    ],
    ids=["loss", "gradient", "weights"],
)
def test_numbers_that_are_none_stop_the_training(hook, batch, poison, what, during, program, tiny):
    during(hook, batch, poison)
    status, _, err = program("train", *tiny, *COMMAND, "hydra.run.dir=run")
    assert status == 2
    [line] = err.strip().splitlines()
    assert line.startswith("error: training diverged: ")
    assert what in line
    assert "lower optimizer.lr or add +trainer.gradient_clip_val=1" in line
    assert line.endswith(f"last good checkpoint: {Path.cwd()}/run/checkpoints/last.ckpt")
    last = checkpoints.load("run/checkpoints/last.ckpt")
    assert last["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())


def test_a_diverged_run_stops_before_its_first_step(tmp_path, monkeypatch):
    from autoint.scenes.models.integral_volume import IntegralVolume

    real = IntegralVolume.integral
    monkeypatch.setattr(
        IntegralVolume, "integral", lambda self, rays, t, seen=None: real(self, rays, t, seen) * float("nan")
    )
    with pytest.raises(ValueError, match=r"training diverged: the loss is nan at step 0 .*good checkpoint: none yet"):
        fit(volrend_config(), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_diverged_fit_of_a_function_stops(tmp_path, monkeypatch):
    from autoint.integrals.least_squares import LeastSquares

    real = LeastSquares.residuals
    monkeypatch.setattr(LeastSquares, "residuals", lambda self: real(self) * float("inf"))
    with pytest.raises(ValueError, match=r"training diverged: the loss is (inf|nan) at step 0"):
        fit(function_config(), tmp_path)
    with pytest.raises(ValueError, match=r"training diverged: the error is (inf|nan) at step 0"):
        fit(function_config(adam_steps=0), tmp_path)


def test_a_clipped_gradient_does_not_stop_it(tmp_path):
    assert fit(volrend_config(trainer={"gradient_clip_val": 1e-3}), tmp_path)["steps"] == 12


def test_a_server_out_of_reach_does_not_hold_up_the_training(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(loggers, "PATIENCE", 0.2)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    [logger] = loggers.wandb(tmp_path, offline=False)
    assert logger.inner._offline
    assert "http://127.0.0.1:9 does not answer: logging offline; later, wandb sync" in caplog.text
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not loggers.answers(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_logger_that_fails_does_not_stop_the_training(monkeypatch, tmp_path, caplog):
    class Inner:
        experiment = property(fail)
        log_metrics = save = finalize = lambda *args, **kwargs: fail(None)

    real = trainers.LOGGERS.build
    monkeypatch.setattr(trainers.LOGGERS, "build", lambda *args: [*real(*args), loggers.Tolerant(Inner, "mine")])
    assert fit(volrend_config(), tmp_path)["steps"] == 12
    assert caplog.text.count("logger=mine fails (out of order); the training goes on") == 1
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 11


def test_a_file_for_which_there_is_no_room_is_named_and_not_left_in_part(tmp_path):
    """The limit of ``ulimit -f``, which ends in an error without a name, as a full disk and a quota do."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "a.png").write_bytes(b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_whole(tmp_path / "a.png", bytes(200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert one_line(caught.value, []) == f"{tmp_path}/a.png: File too large; check the path, its rights and the disk"
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_no_room_for_a_file_that_another_library_writes(program, monkeypatch):
    """As Hydra does its own record of a run."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
    try:
        status, _, err = program("train", "trainer.max_steps=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    assert err == (
        "error: a file could not be written: File too large; make room on the disk or in your quota (ulimit -f)\n"
    )


def test_ctrl_c_while_libraries_are_imported_ends_the_process():
    with importing():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # no library can swallow it, or show where it was
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with importing():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_in_a_command_is_a_line(program, monkeypatch):
    def stopped(arguments):
        raise KeyboardInterrupt

    COMMANDS["export"]
    monkeypatch.setitem(COMMANDS._factories, "export", stopped)
    assert program("autoint", "export", "x") == (130, "", "stopped by Ctrl-C; the same command begins anew\n")
