"""What a configuration may hold: plain data, a tree of bounded size, that names no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CODE = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_", "()", "searchpath")
"""Keys by which Hydra and Python's logging call what a file names, or read from elsewhere."""
MAX_NODES, MAX_TEXT, MAX_KEY, MAX_DEPTH = 10_000, 10_000, 200, 50


def check_plain(value: Any) -> None:
    """Refuse what is not plain data, names code, or is still to be resolved, anywhere in a configuration.

    Plain are dicts with short texts as keys, lists, texts of one line, numbers and None: a tree of at most so many.
    """
    stack: list[tuple[Any, str, int]] = [(value, "", 0)]
    seen = 0
    while stack:
        item, where, depth = stack.pop()
        seen += 1
        if seen > MAX_NODES or depth > MAX_DEPTH:
            most = f"{MAX_NODES} values, {MAX_DEPTH} deep"
            raise ValueError(f"{where[:80]}: a configuration has at most {most}; write less")
        if isinstance(item, Mapping):
            for key, below in item.items():
                if not isinstance(key, str) or not key.isprintable() or len(key) > MAX_KEY:
                    raise ValueError(f"{where}{key!r:.80}: no key of a configuration; remove it")
                if key in CODE:
                    found = f"{where}{key}={_shown(below)}"
                    raise ValueError(f"{found}: a configuration names no code to call; remove the key")
                stack.append((below, f"{where}{key}.", depth + 1))
        elif isinstance(item, (list, tuple)):
            stack += [(below, f"{where}{i}.", depth + 1) for i, below in enumerate(item[: MAX_NODES + 1])]
        else:
            _check_value(item, where[:-1])


def _shown(value: Any) -> str:
    return f"{value!r:.80}" if isinstance(value, (str, int, float)) else type(value).__name__


def _check_value(value: Any, where: str) -> None:
    if isinstance(value, str):
        if "${" in value:
            raise ValueError(f"{where}={value!r:.80}: only the command line's values are resolved; write it out")
        if not value.isprintable() or len(value) > MAX_TEXT:
            raise ValueError(f"{where}={value!r:.80}: a text of one line is needed, of at most {MAX_TEXT} characters")
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise ValueError(f"{where}={type(value).__name__}: a configuration holds texts and numbers only; write it out")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{where}: an integer of {value.bit_length()} bits; at most 63 are understood")
