"""``viewer=true``: a scene in the browser as it is learned, by a process of its own at the lowest priority."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from safetensors.torch import save

import autoint
from autoint.files.whole_files import write_whole
from autoint.runs import checkpoints
from autoint.runs.config import RunConfig

log = logging.getLogger(__name__)
EVERY, SHARE = 2.0, 0.01
"""Seconds between two copies of the weights; more, where copying would take more than such a share of the time."""
PORTS = range(8080, 8100)
WATCHED, SAID = "watched", "said.txt"
"""The file that is there while a browser looks, and that of what the viewer has said before it ended."""
OF_A_TRAINING = "--of-a-training"


def check() -> None:
    """Refuse ``viewer=true`` where there is none."""
    if importlib.util.find_spec("viser") is None:
        raise ValueError("viewer=true needs viser, which is not installed; pip install 'autoint[viewer]'")


class LiveView(Callback):
    """Starts ``autoint view`` on the weights of a training, and hands it new ones while a browser looks.

    The viewer has one thread at the lowest priority, and the training waits for nothing of it: it writes a file.

    Args:
        config: of the run.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config, self.address = config, ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._due = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the viewer."""
        if not trainer.is_global_zero:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="autoint-view-")
        folder, port = Path(self._folder.name), free_port()
        about = {"format": checkpoints.FORMAT, "version": autoint.__version__, "config": self.config.to_plain()}
        (folder / checkpoints.CONFIG).write_text(json.dumps({**about, "global_step": 0}), encoding="utf-8")
        self._write(pl_module)
        command = [sys.executable, "-m", "autoint", "view", str(folder), "--port", str(port), OF_A_TRAINING]
        with (folder / SAID).open("wb") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        self.address = f"http://127.0.0.1:{port}"
        log.info("viewer: %s, in some seconds; autoint view RUN shows the run afterwards", self.address)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand over the weights, where it is time and somebody looks."""
        if self._process is None or time.monotonic() < self._due:
            return
        assert self._folder is not None
        folder, start = Path(self._folder.name), time.monotonic()
        if self._process.poll() is not None:
            lines = (folder / SAID).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            log.warning("the viewer has ended (%s); the training goes on", lines[0] if lines else "it said nothing")
            self._process = None
            return
        if (folder / WATCHED).exists():
            self._write(pl_module)
        now = time.monotonic()
        self._due = now + max(EVERY, (now - start) / SHARE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the viewer."""
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the viewer."""
        self.close()

    def close(self) -> None:
        """End the viewer, which would end by itself soon after the training's process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.terminate()
            self._process.stdin.close()
            self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _write(self, module: pl.LightningModule) -> None:
        assert self._folder is not None
        file = Path(self._folder.name) / checkpoints.WEIGHTS
        write_whole(file, save({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}))


def free_port() -> int:
    """Return the first of the viewer's ports that nobody listens at, or any other that is free."""
    for port in (*PORTS, 0):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(tried.getsockname()[1])
    raise ValueError("viewer=true: no port is free")


def serve_a_training(folder: Path, looked_at: Any, seconds: float) -> bool:
    """Wait in the viewer's process, and say to the training whether a browser looks; return whether it still trains.

    Args:
        folder: that the training has given.
        looked_at: whether a browser looks.
        seconds: how long to wait.
    """
    file = folder / WATCHED
    try:
        file.touch() if looked_at else file.unlink(missing_ok=True)
    except OSError:  # the folder is gone, and with it the training
        return False
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return not readable  # nothing is ever written: it is readable when the training is gone


def leave_to_the_training() -> None:
    """Leave Ctrl-C to the training, with which the viewer ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def step_back() -> None:
    """Take from now on what is left of the machine only, with every thread that there is: on Linux each has its own."""
    os.nice(19)
    for thread in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):  # of one that has just ended
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)
