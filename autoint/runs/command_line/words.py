"""A command line as people type it, put into the words that Hydra reads."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from autoint.files.reading import CONTROL
from autoint.runs.command_line.folders import quoted

TAKES_A_VALUE = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--package",
    "-p",
    "--cfg",
    "-c",
)


HYDRAS = re.compile(r"['\"\[{]|.*\$\{|(choice|range|interval|glob|sort|shuffle|tag)\(", re.DOTALL)
"""What is Hydra's in a value, which is then left as it was typed."""


def _from_home(text: str) -> str:
    """Return a path that begins with ``~/``, which many shells leave as it is behind a key, written out."""
    home = re.fullmatch(r"(['\"]?)(~/[^'\"]*)\1", text, re.DOTALL)
    return os.path.expanduser(home[2]) if home and not os.path.lexists("~") else text


def _readable(word: str) -> str:
    """Return an override that Hydra reads: in quotes where it cannot, as in ``data_dir=/home/jörg``."""
    override = re.fullmatch(r"(\+{0,2}[\w.@/-]+)=(.+)", word, re.DOTALL)
    if not override:
        return word
    key, text = override[1], _from_home(override[2])
    if text != override[2]:
        return f"{key}={quoted(text)}"
    if key.lstrip("+") == "function":
        return _quoted(override)
    if re.fullmatch(r"[\w./:%+-]*", text, re.ASCII) or HYDRAS.match(text) or CONTROL.search(text):
        return word
    if "," in text and os.path.exists(text):
        return f"{key}={quoted(text)}"
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return _quoted(override)
    return word


def _quoted(override: re.Match[str]) -> str:
    """Return an override whose values are formulas in quotes, for Hydra reads ``sin(x)`` as a function of its own."""
    key, text = override.groups()
    if HYDRAS.match(text):
        return override[0]
    parts = [""]  # at the commas outside of brackets, which stand between the values of a sweep
    for c in text:
        if c == "," and parts[-1].count("(") == parts[-1].count(")"):
            parts.append("")
        else:
            parts[-1] += c
    plain = re.compile(r"[A-Za-z0-9_.:-]*|'.*'|\".*\"", re.DOTALL)
    return f"{key}={','.join(part if plain.fullmatch(part) else quoted(part) for part in parts)}"


def in_hydras_order(arguments: list[str]) -> list[str]:
    """Return a command line with its flags behind all overrides, unless these stand in one row, as Hydra wants them.

    What it says of ``scene=lego -m sections=8,16`` is its usage, and that ``sections=8,16`` is unknown.
    """
    known = [name for action in get_args_parser()._actions for name in action.option_strings]
    flags: list[str] = []
    others: list[str] = []
    row = ""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        flag = argument.partition("=")[0]
        if flag.startswith("-") and before not in TAKES_A_VALUE and not any(name.startswith(flag) for name in known):
            close = difflib.get_close_matches(flag, known, 1, cutoff=0.75)
            key = flag.lstrip("-").replace("-", "_") or "KEY"
            mend = f"did you mean {close[0]}?" if close else f"keys are given as {key:.80}=VALUE, and --help lists them"
            raise ValueError(f"{flag:.80} is no flag; {mend}")
        of_info = before in ("--info", "-i") and "=" not in argument
        is_flag = argument.startswith("-") or before in TAKES_A_VALUE or of_info
        (flags if is_flag else others).append(argument)
        row += "f" if is_flag else "o"
    in_one_row = re.fullmatch("f*o*f*", row) and not {"--info", "-i"} & set(flags)  # which takes what follows it
    return arguments if in_one_row else [*others, *flags]


def as_typed(arguments: list[str]) -> list[str]:
    """Return a training's command line as Hydra reads it: ``faithful=true`` a choice, ``sin(x)`` no call of its own."""
    arguments = in_hydras_order(arguments)
    words = [re.sub(r"^faithful=(true|false)$", r"faithful='\1'", a, flags=re.IGNORECASE) for a in arguments]
    return [
        word if before in TAKES_A_VALUE else _readable(word) for before, word in zip(["", *words], words, strict=False)
    ]


def as_runs(arguments: list[str]) -> list[str]:
    """Return an evaluation's command line with all runs in one list: ``a b``, ``runs=a,b``, ``runs=[a,b]``."""
    arguments = in_hydras_order(arguments)
    if {"-m", "--multirun"} & set(arguments):
        return arguments  # where a comma is Hydra's
    paths: list[str] = []
    others: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        key, is_override, value = argument.partition("=")
        if is_override and key == "runs" and not re.match(r"[\['\"]|.*\$\{", value):
            paths += [value] if Path(value).exists() else map(_from_home, value.split(","))
        elif is_override or argument.startswith(("-", "~", "+")) or before in TAKES_A_VALUE:
            others.append(argument if before in TAKES_A_VALUE else _readable(argument))
        else:
            paths.append(argument)
    runs = ",".join(map(quoted, paths))
    return [*others, *([f"runs=[{runs}]" if len(paths) > 1 else f"runs={runs}"] if paths else [])]
