"""Signals that ask a training to stop: it finishes its step, saves, and leaves with a status that says so."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

# 128 + number, as a shell has it; SIGUSR1 is what schedulers send before the time is up: 75 is "try again".
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 75}


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process without a word: a library may swallow the exception, or show where it was read."""
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:  # in the background it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


class Stopped(SystemExit):
    """A training was asked to stop; ``code`` is the exit status, ``message`` is for the user."""

    def __init__(self, number: int, message: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(STATUS.get(signal.Signals(number), 128 + number))
        self.number, self.message = number, message or f"stopped by {name}"


class Listener:
    """Notes the first signal while ``busy``; a second SIGINT, or any signal while not busy, stops at once."""

    def __init__(self) -> None:
        self.busy, self.received = False, 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the context lasts, and restore what was there before."""
        before = {number: signal.getsignal(number) for number in STATUS}
        try:
            self.listen()
            yield
        finally:
            self.busy = False
            for number, handler in before.items():
                if handler is not None and threading.current_thread() is threading.main_thread():
                    signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals over, except those that whoever started the process wants ignored, as nohup does."""
        if threading.current_thread() is threading.main_thread():
            for number in STATUS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        if not self.busy or (self.received and number == signal.SIGINT):
            raise Stopped(number)
        if not self.received:
            os.write(2, f"\n{signal.Signals(number).name}: saving after this step; Ctrl-C leaves at once\n".encode())
        self.received = self.received or number
