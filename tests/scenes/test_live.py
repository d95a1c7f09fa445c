"""A training that is looked at: a viewer beside it, which gets new weights while somebody looks, and can do no harm."""

import logging
import os
import shlex
import sys
import types
from pathlib import Path

import pytest
import torch

import autoint
from autoint.scenes import live


class Process:
    """Stands for the viewer's process."""

    made = None

    def __init__(self, command, stdin, stdout, stderr, env):
        self.command, self.env, self.said, self.status = command, env, stdout, None
        self.stdin, self.ended = types.SimpleNamespace(close=lambda: None), False
        Process.made = self

    def poll(self):
        return self.status

    def terminate(self):
        self.ended = True

    def wait(self):
        assert self.ended


@pytest.fixture
def training(monkeypatch, tmp_path, trained):
    """Train a few steps with a viewer, and call something after each: the steps, and the run."""
    monkeypatch.setattr(live.subprocess, "Popen", Process)
    monkeypatch.setattr(live, "EVERY", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)

    def train(after, steps=3):
        of_lightning = live.LiveView.on_train_batch_end

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            of_lightning(self, trainer, module, outputs, batch, batch_idx)
            after(batch_idx, self, Path(Process.made.command[4]), module)

        monkeypatch.setattr(live.LiveView, "on_train_batch_end", on_train_batch_end)
        plain = trained.config.to_plain()
        settings = {key: plain[key] for key in ("network", "encoding", "batch_size")}
        settings |= {key: plain["options"][key] for key in ("image_size", "sections", "samples", "val_images", "model")}
        settings["trainer"] = {"accelerator": "cpu", "enable_progress_bar": False}
        return autoint.train("procedural", steps=steps, folder=tmp_path / "run", viewer=True, **settings)

    return train


def test_a_browser_that_looks_gets_new_weights(training):
    seen = []

    def after(step, view, folder, module):
        found = autoint.load(folder)
        theirs, ours = found.module.state_dict(), module.state_dict()
        seen.append(all(torch.equal(theirs[key], ours[key]) for key in ours))
        (folder / live.WATCHED).touch() if step < 1 else (folder / live.WATCHED).unlink(missing_ok=True)
        assert found.config == view.config

    run = training(after)
    assert seen == [False, True, False]  # nobody looked; somebody; nobody
    made = Process.made
    assert made.ended
    assert not Path(made.command[4]).exists()
    assert made.env["OMP_NUM_THREADS"] == "1"
    line = shlex.join(made.command[1:])
    assert line.startswith("-m autoint view ")
    assert line.endswith(live.OF_A_TRAINING)
    assert run.result["steps"] == 3
    assert autoint.load(run.folder).config.options["viewer"] is True


def test_a_viewer_that_ends_is_told_once_and_the_training_goes_on(training, caplog):
    def after(step, view, folder, module):
        (folder / live.SAID).write_text("Traceback\nOSError: no more room\n")
        Process.made.status = 1

    with caplog.at_level(logging.WARNING):
        assert training(after).result["steps"] == 3
    assert [r.message for r in caplog.records if "viewer" in r.message] == [
        "the viewer has ended (OSError: no more room); the training goes on"
    ]


def test_without_viser_it_is_refused_in_a_line(monkeypatch, tmp_path, tiny, program):
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: None)
    status, _, err = program("train", *tiny, "viewer=true", "trainer.max_steps=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert status != 0
    assert err.strip().endswith("viewer=true needs viser, which is not installed; pip install 'autoint[viewer]'")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_viewer_s_process_tells_whether_anybody_looks_and_ends_with_the_training(tmp_path, monkeypatch):
    with (tmp_path / "in").open("w"):
        pass
    with (tmp_path / "in").open() as gone:  # at its end, as the pipe of a training that is gone
        monkeypatch.setattr(sys, "stdin", gone)
        assert not live.serve_a_training(tmp_path, True, 0.0)
        assert (tmp_path / live.WATCHED).exists()
        assert not live.serve_a_training(tmp_path, False, 0.0)
        assert not (tmp_path / live.WATCHED).exists()
        assert not live.serve_a_training(tmp_path / "absent", True, 0.0)


def test_the_viewer_takes_what_is_left_of_the_machine(elsewhere):
    def stepped_back():
        live.step_back()
        print(*{os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in Path("/proc/self/task").iterdir()})

    assert elsewhere(stepped_back)[:2] == (0, "19\n")


def test_a_port_is_one_that_nobody_listens_at():
    import socket

    with socket.socket() as taken:
        port = live.free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert live.free_port() != port
