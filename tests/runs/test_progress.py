"""Progress: one line where there is a terminal, a plain line a minute where there is none, and an honest time left."""

import io
import logging
from types import SimpleNamespace

import pytest

from autoint.runs import progress
from autoint.runs.schedule import Deadline


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when it is told to."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def trainer(step, batches=1000, timer=None, **shown):
    return SimpleNamespace(
        is_global_zero=True,
        global_step=step,
        num_training_batches=batches,
        accumulate_grad_batches=1,
        callbacks=[timer] if timer else [],
        progress_bar_metrics=shown,
        callback_metrics={"val/psnr": 21.5, "val/acc": 0.5},
    )


def test_without_a_terminal_there_is_a_plain_line_a_minute(clock, caplog, capfd):
    """Ten minutes of steps of 10 ms: one after five seconds, nine more, and not a carriage return."""
    caplog.set_level(logging.INFO)
    shown = progress.Progress()
    shown.on_train_start(trainer(0), None)
    for step in range(1, 60_001):
        clock.seconds = step / 100
        shown.on_train_batch_end(trainer(step, 120_000, **{"train/psnr": 24.314}), None, None, None, step)
    shown.on_train_end(trainer(60_000), None)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 10
    assert lines[0] == "step 500 of 120,000, 100 steps/s, psnr 24.31, val/psnr 21.5, 19 min 55 s left"
    assert "\r" not in capfd.readouterr().err


def test_the_time_left_is_that_of_the_budget_that_ends_first(clock):
    timer = Deadline(600)
    timer._start_time["train"] = 0.0
    shown = progress.Progress()
    shown.on_train_start(trainer(0), None)
    clock.seconds = 10.0
    shown._seen.append((10.0, 100))
    assert shown.text(trainer(100, 150_000, timer)) == "step 100, 10 steps/s, val/psnr 21.5, 9 min 50 s left"
    assert shown.text(trainer(100, 1000, timer)).endswith(
        "step 100 of 1,000, 10 steps/s, val/psnr 21.5, 1 min 30 s left"
    )
    shown.on_train_start(trainer(100), SimpleNamespace(most_steps=150))  # which ends by itself
    assert shown.text(trainer(100, 1000)).startswith("step 100 of 150, ")


def test_on_a_terminal_the_line_gives_way_to_what_is_logged(clock, capfd):
    root, handler = logging.getLogger(), logging.StreamHandler(progress.sys.stderr)
    root.addHandler(handler)
    try:
        line = progress.Line(terminal=True)
        line.show("step 1")
        assert not line.due()
        line.show("step 2")
        root.warning("said meanwhile")
        line.show("step 3")
        line.close()
    finally:
        root.removeHandler(handler)
    clear = progress.CLEAR
    err = capfd.readouterr().err
    assert err == f"{clear}step 1{clear}step 2{clear}said meanwhile\n{clear}step 3{clear}"


def test_images_are_counted_too(clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in progress.tracked(range(5), "lego", "image"):
        clock.seconds += 4
    assert [r.getMessage() for r in caplog.records] == ["lego: 2 of 5 images, 12 s left"]


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42 s"), (221, "3 min 41 s"), (7500, "2 h 5 min"), (-3, "0 s")])
def test_durations_are_for_people(seconds, text):
    assert progress.duration(seconds) == text


def test_what_is_said_of_many_things_is_said_once(caplog):
    root, handler = logging.getLogger(), logging.StreamHandler(stream := io.StringIO())
    root.addHandler(handler)
    try:
        with progress.Once({"said before"}) as once:
            for text in ("said before", "new", "new", "other"):
                root.warning(text)
        assert once.told == {"said before", "new", "other"}
        root.warning("new")  # all is as it was
    finally:
        root.removeHandler(handler)
    assert stream.getvalue().split() == ["new", "other", "new"]
