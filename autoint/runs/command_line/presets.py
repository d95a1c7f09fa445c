"""Choices that set many keys at once, as ``experiment=figure5`` and ``method=nerf``: two of them must not disagree."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hydra.core.default_element import GroupDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from autoint.runs.config import flat

MOST = 5  # differences that are told


def check(loader: Any, overrides: Sequence[str]) -> None:
    """Refuse two choices of a command line that set the same key to different values, unless it gives the key itself.

    Hydra would let the one that stands later in ``conf/config.yaml`` win, without a word. What a choice takes along by
    its own defaults, as ``experiment=table1`` does ``scale=full``, is not named on the command line: that one wins.
    """
    given = [o for o in OverridesParser.create().parse_overrides(list(overrides)) if not o.is_sweep_override()]
    named = {str(o.key_or_group): o.value() for o in given if not o.is_delete()}
    found = {f"{group}={name}": _settings(loader, group, str(name)) for group, name in named.items()}
    for (first, some), (second, others) in itertools.combinations(found.items(), 2):
        keys = [key for key in some if key in others and some[key] != others[key] and key not in named]
        if keys:
            told = [f"{key} ({some[key]}, {others[key]})" for key in keys[:MOST]]
            told += [f"{len(keys) - MOST} more"] if len(keys) > MOST else []
            raise ValueError(
                f"{first} and {second} disagree about {', '.join(told)}; leave one of them out, or say which value you "
                f"mean, as in {keys[0]}={others[keys[0]]}"
            )


def _settings(loader: Any, group: str, name: str) -> dict[str, Any]:
    """Return the keys that a choice sets anywhere in a configuration, and the components that it chooses.

    That of the task is no such choice: the others are made upon it.
    """
    repository = loader.repository
    if group == "task" or not repository.group_exists(group) or not repository.config_exists(f"{group}/{name}"):
        return {}
    chosen = repository.load_config(f"{group}/{name}")
    if chosen.header.get("package") != "_global_":
        return {}
    plain: Any = OmegaConf.to_container(chosen.config, resolve=False)
    settings = dict(flat({key: value for key, value in plain.items() if key not in ("hydra", "defaults")}))
    for default in chosen.defaults_list or []:
        if isinstance(default, GroupDefault) and default.override:
            package = f"@{default.package}" if default.package else ""
            settings[f"{str(default.group).lstrip('/')}{package}"] = default.value
    return settings
