"""The configuration of a run from Python: what ``train.py`` would compose of the same keys, without a command line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from autoint.runs import named_code
from autoint.runs.command_line import cli, presets, recipe
from autoint.runs.command_line.composing import as_data
from autoint.runs.command_line.folders import conf_dir, quoted
from autoint.runs.command_line.scene_folders import with_scene_folders
from autoint.runs.command_line.telling import one_line
from autoint.runs.command_line.words import as_typed
from autoint.runs.config import RunConfig

PLAIN = re.compile(r"[A-Za-z_][\w./-]*|\d+[smh]")
LITERALS = ("null", "true", "false", "inf", "nan")


def composed(words: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Return the configuration that ``train.py`` composes of ``words``, and the lines that it would tell of it.

    Args:
        words: as on the command line, ``key=value`` each.

    Raises:
        ValueError: naming the key, what was found and what is allowed, in the words of the command line.
    """
    cli.store_groups()
    conf = conf_dir()
    words = with_scene_folders(as_typed(list(words)), conf)
    try:
        with (
            _apart(),
            named_code.instead_of_a_command_line(words),
            as_data(),
            initialize_config_dir(str(conf.absolute()), **cli.VERSION),
        ):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            config = hydra.compose_config("config", list(words), RunMode.RUN, from_shell=False)
            presets.check(hydra.config_loader, words)
            HydraConfig.instance().set_config(config)
            told = recipe.told(config, config.hydra)
            with open_dict(config):
                del config["hydra"]
        return RunConfig.from_hydra(config), told
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(one_line(error, cli.known_keys())) from error


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Set aside what Hydra holds for the program that runs already, and bring it back."""
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().hydra, HydraConfig.instance().cfg = None, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before


def words_of(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield settings of Python as words of the command line: ``{"optimizer": {"lr": 1e-3}}`` as ``optimizer.lr=0.001``.

    ``{"name": "grid", "features": 4}`` is a component and its options.
    """
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if not prefix and "name" in value:
                yield f"{name}={_text(value['name'], name)}"
            yield from words_of({k: v for k, v in value.items() if prefix or k != "name"}, f"{name}.")
        else:
            new = "++" if name.startswith("trainer.") else ""  # Lightning's own keys, of which few are known
            yield f"{new}{name}={_text(value, name)}"


def _text(value: Any, name: str) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_text(v, name) for v in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(v, name)}" for key, v in value.items()) + "}"
    text = str(value)
    return text if PLAIN.fullmatch(text) and text.lower() not in LITERALS else quoted(text)
