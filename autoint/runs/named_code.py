"""Code is named by the person at the command line alone.

What a file of configuration, a checkpoint or an export says is a *name*, ``package.module:callable``, that is compared
with what the command line gives. Nothing is imported before they are found equal.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

KEYS = ("function",)
"""Keys whose values may name code."""
NAME = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def is_code(value: Any) -> bool:
    """Return whether a value of one of ``KEYS`` names code, rather than something registered or an expression."""
    return isinstance(value, str) and ":" in value


_instead: ContextVar[Sequence[str] | None] = ContextVar("_instead", default=None)


@contextlib.contextmanager
def instead_of_a_command_line(words: Sequence[str]) -> Iterator[None]:
    """While it lasts, these words of a Python program count as typed: what its own command line says is its own."""
    token = _instead.set(words)
    try:
        yield
    finally:
        _instead.reset(token)


def command_line() -> list[Override]:
    """Return what the command line of this program gives.

    In a process that a launcher has started for a job of a sweep, what the job was given: the process that composed the
    sweep has refused by then what a file may not add to it.
    """
    if (words := _instead.get()) is not None:
        return OverridesParser.create().parse_overrides(list(words))
    job = HydraConfig.instance().cfg is not None and not HydraConfig.get().launcher._target_.endswith(".BasicLauncher")
    alone = job and not any(word.startswith(("hydra/launcher", "-m", "--multirun")) for word in sys.argv[1:])
    given = HydraConfig.get().overrides.task if alone else get_args_parser().parse_args(sys.argv[1:]).overrides
    return OverridesParser.create().parse_overrides(list(given))


def named() -> frozenset[str]:
    """Return the code that the command line names."""
    return frozenset(
        text
        for override in command_line()
        if override.key_or_group in KEYS and not override.is_delete()
        for text in _texts(override)
        if is_code(text)
    )


def _texts(override: Override) -> Iterator[str]:
    found = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    for value in found:
        yield from (str(part) for part in (value if isinstance(value, list) else [value]))


def of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of these options that name code, with the names."""
    return {key: options[key] for key in KEYS if is_code(options.get(key))}


def check(options: Mapping[str, Any], given: Collection[str], whose: str, command: str | None = None) -> None:
    """Refuse options that name code other than ``given``, with the line by which the person may name it.

    Args:
        options: as configured.
        given: what the person has named.
        whose: the file that they are from, for the message.
        command: the line that is to be completed; None takes the one that was typed.
    """
    for key, value in of(options).items():
        if value not in given:
            raise refusal(whose, key, value, command, given)


def refusal(whose: str, key: str, value: str, command: str | None = None, given: Collection[str] = ()) -> ValueError:
    """Return the error of code that a file names and the command line does not."""
    if not NAME.fullmatch(value):
        return ValueError(f"{whose}: {key}={value!r:.80} is not of the form package.module:callable; mend it")
    wanted = value if not given else f"[{','.join(sorted({*given, value}))}]"
    line = f"{typed() if command is None else command} {shlex.quote(f'{key}={wanted}')}"
    return ValueError(
        f"{whose}: {key}={value} names code, and only the command line names code to run; if you trust "
        f"{value.partition(':')[0]}, say so: {line}"
    )


def typed() -> str:
    """Return the command line that was typed."""
    program = Path(sys.argv[0])
    start = f"python {program.name}" if program.suffix == ".py" else program.name
    return " ".join([start, *map(shlex.quote, sys.argv[1:])])


def word(key: str, value: object) -> str:
    """Return ``key=value`` as it is to be typed, so that neither the shell nor Hydra takes the value for more."""
    text = str(value)
    if not re.fullmatch(r"[\w./:-]+( [\w./:-]+)*", text):
        text = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return shlex.quote(f"{key}={text}")
