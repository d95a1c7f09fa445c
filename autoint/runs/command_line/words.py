"""A command line as people type it, put into the words that Hydra reads."""

from __future__ import annotations

import re
from pathlib import Path

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


def _quoted(override: re.Match[str]) -> str:
    """Return an override whose values are formulas in quotes, for Hydra reads ``sin(x)`` as a function of its own."""
    key, text = override.groups()
    if (
        text[:1] in ("'", '"', "[", "{")
        or "${" in text
        or re.match(r"(choice|range|interval|glob|sort|shuffle|tag)\(", text)
    ):
        return override[0]
    parts = [""]  # at the commas outside of brackets, which stand between the values of a sweep
    for c in text:
        if c == "," and parts[-1].count("(") == parts[-1].count(")"):
            parts.append("")
        else:
            parts[-1] += c
    plain = re.compile(r"[\w.:-]*|'.*'|\".*\"", re.DOTALL)
    return f"{key}={','.join(part if plain.fullmatch(part) else quoted(part) for part in parts)}"


def as_typed(arguments: list[str]) -> list[str]:
    """Return a training's command line as Hydra reads it: ``faithful=true`` a choice, ``sin(x)`` no call of its own."""
    words = [re.sub(r"^faithful=(true|false)$", r"faithful='\1'", a, flags=re.IGNORECASE) for a in arguments]
    return [re.sub(r"^(\+*function)=(.*)", _quoted, word, flags=re.DOTALL) for word in words]


def as_runs(arguments: list[str]) -> list[str]:
    """Return an evaluation's command line with all runs in one list: ``a b``, ``runs=a,b``, ``runs=[a,b]``."""
    if {"-m", "--multirun"} & set(arguments):
        return arguments  # where a comma is Hydra's
    paths: list[str] = []
    others: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        key, is_override, value = argument.partition("=")
        if is_override and key == "runs" and not re.match(r"[\['\"]|.*\$\{", value):
            paths += [value] if Path(value).exists() else value.split(",")
        elif is_override or argument.startswith(("-", "~", "+")) or before in TAKES_A_VALUE:
            others.append(argument)
        else:
            paths.append(argument)
    runs = ",".join(map(quoted, paths))
    return [*others, *([f"runs=[{runs}]" if len(paths) > 1 else f"runs={runs}"] if paths else [])]
