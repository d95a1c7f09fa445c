"""What a user reads of an error: one line, which says what was given, what is allowed, and what to type."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import ListConfig
from omegaconf.errors import OmegaConfBaseException

from autoint.files.reading import FindingsError, escaped
from autoint.registry import TASKS, nearest, unknown
from autoint.runs.command_line.folders import conf_dir
from autoint.runs.config import GROUPS, keyed, nearest_key, owners, renamed

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""Of which the operating system does not say which file it is."""

LONG = 300
"""Characters of one of Hydra's lines, which may repeat a value of any length."""


class JobFailedError(Exception):
    """What a job of a sweep in another process tells of its error: one line."""


def one_line(error: BaseException, known: list[str]) -> str | None:
    """Return what a user should read of ``error``, or None where the error is not the user's.

    It is one line, but for a :class:`~autoint.files.reading.FindingsError`, which has a line for each finding.
    """
    if isinstance(error, (JobFailedError, FindingsError)):
        return str(error)
    line = _line(error, known)
    return None if line is None else escaped(line)


def _line(error: BaseException, known: list[str]) -> str | None:
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _of_hydra(error, known)
    if isinstance(error, ValueError):
        frames = list(traceback.walk_tb(error.__traceback__))
        raised_in = frames[-1][0].f_globals.get("__name__", "") if frames else ""
        if raised_in.startswith("autoint") or raised_in == "__main__":
            return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check the path, its rights and the disk"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"a file could not be written: {error.strerror}; make room on the disk or in your quota (ulimit -f)"
    return None


def check_choices(is_group: Callable[[str], bool], overrides: Sequence[str]) -> None:
    """Refuse what names no choice of a group, as ``scene=3`` or ``activation=[sine]``, of which Hydra has no line."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, value = str(override.key_or_group), override.value()
        if override.is_delete() or override.is_sweep_override() or isinstance(value, (str, dict)):
            continue
        if not is_group(group):
            continue
        several = list(value) if isinstance(value, list) and group not in {*GROUPS, "task", "trainer"} else [None]
        if all(isinstance(name, str) for name in several):  # experiment=[a,b]
            continue
        shown = override.input_line or f"{group}={value}"
        raise ValueError(f"{shown:.200}: a name is needed; give one that --help lists for {group}")


def _of_hydra(error: Any, known: list[str]) -> str:
    text = str(error)
    options = getattr(error, "options", None)
    if options:
        group, _, name = getattr(error, "missing_cfg_file", "").rpartition("/")
        shown = [o for o in options if not o.endswith("_keys")]
        return unknown(group, name, shown, " or ".join(_homes(name, group)))
    override = getattr(error, "override", None)
    if override is not None and getattr(override, "input_line", None) is None:
        return f"cannot read '{override}': {text.splitlines()[0]}"
    key = _overridden_key(text)
    if key is None:
        lines = [line.strip()[:LONG] for line in text.splitlines() if line.strip()]
        lines = lines or [f"the configuration cannot be read ({type(error).__name__}); check its files"]
        # Of a file that does not fit, Hydra says the place first, and then what is wrong with which key.
        return " ".join(lines[:3] if lines[0].endswith(":") else lines[:1]).rstrip(".")
    cause: Any = error.__cause__
    parent, full_key = getattr(cause, "parent_node", None), getattr(cause, "full_key", None) or key
    if text.startswith("Error merging override"):
        return _of_value(text.partition("override ")[2], full_key, cause)
    if full_key.startswith(f"{key}."):  # activation={omega: 3}
        key = full_key
    head, _, leaf = key.rpartition(".")
    if head and head.split(".")[0] in known and parent is not None:
        siblings = [str(k) for k in parent if k != "name"]
        chosen = parent.get("name") if not isinstance(parent, ListConfig) and hasattr(parent, "get") else None
        near = owners(key) or renamed(key) or nearest(leaf, siblings) or _in_other_choices(key) or nearest_key(key, [])
        none = f"{head}={chosen} has no keys" if chosen else f"{head} holds none"
        return f"unknown key '{key}'{near} ({'available: ' + ', '.join(siblings) if siblings else none})"
    if key in known and "optimizer" in known:
        tasks = [name for name in TASKS.names() if key in TASKS.fields(name)]
        return f"unknown key '{key}', which is of task={', '.join(tasks)}; name the task (see --help)"
    near = nearest_key(key, known) if "optimizer" in known else nearest(key, known)
    return f"unknown key '{key}'{near} (see --help)"


def _of_value(override: str, key: str, cause: Any) -> str:
    """Return the line of a value that a key cannot take: a list in the place of keys, or keys in that of a list."""
    node = getattr(cause, "parent_node", None)
    if "Cannot merge DictConfig with ListConfig" not in str(cause) or node is None:
        return f"{override:.200} does not fit: {str(cause).partition(chr(10))[0]}"
    if isinstance(node, ListConfig):
        return f"{override:.200} does not fit: {key} is a list, as [{','.join(map(str, node))}]"
    return f"{override:.200} does not fit: {keyed(key, [str(k) for k in node])}"


def _homes(name: str, but: str) -> list[str]:
    """Return the groups that have a choice of this name, as ``model=nerf``."""
    found = [group for group, registry in {**GROUPS, "task": TASKS}.items() if name in registry.names()]
    found += [file.parent.name for file in conf_dir().glob("*/*.yaml") if file.stem == name]
    return [f"{group}={name}" for group in dict.fromkeys(found) if group not in (but, "direction_encoding")]


def _in_other_choices(key: str) -> str:
    """Return ``; did you mean activation=sine activation.omega_0=…?`` for a key that other choices nearly have."""
    group, _, leaf = key.partition(".")
    choices = {n: list(GROUPS[group].fields(n)) for n in GROUPS[group].names()} if group in GROUPS else {}
    near = nearest(leaf, [field for fields in choices.values() for field in fields])
    field = near.partition("'")[2].partition("'")[0]
    name = next((name for name, fields in choices.items() if field in fields), "")
    return f"; did you mean {group}={name} {group}.{field}=VALUE?" if name else ""


def _overridden_key(text: str) -> str | None:
    found = re.search(r"Could not override '([^'=]+)|Error merging override \+*([^=\s]+)", text)
    return (found[1] or found[2]) if found else None
