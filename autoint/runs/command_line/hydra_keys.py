"""What a file may set in the block ``hydra:``, which is a list of keys with their values, and nothing else.

Hydra by itself imports what a launcher, a sweeper, a callback or a log handler names, opens the storage of a search,
and writes wherever it is told. The command line may ask for all of that; a file may not, whoever overrides other keys
of the same block.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from autoint.files.reading import CONTROL
from autoint.runs import named_code
from autoint.runs.plain import CODE

MAX_JOBS = 1000
HYDRAS_OWN = ("runtime", "overrides")
"""What Hydra fills in while it composes."""
PLACES = ("run.dir", "sweep.dir", "sweep.subdir", "output_subdir", "job.name")
Path_ = tuple[str, ...]
PLAINLY = ConfigLoaderImpl.load_configuration
"""Composition as Hydra has it, without the checks that :mod:`autoint.runs.command_line.composing` adds."""


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(value is v or (isinstance(value, str) and value == v) for v in values)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _trials(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_JOBS


ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    r"mode": (_is("RUN", "MULTIRUN"), "RUN or MULTIRUN"),
    r"run\.dir|sweep\.dir|sweep\.subdir|job\.name": (_text, "a name or a place below the current folder"),
    r"output_subdir": (lambda value: value is None or _text(value), "a place below the current folder"),
    r"job\.chdir": (_is(True, False, None), "true or false"),
    r"verbose": (_is(True, False), "true or false"),
    r"job\.config\.override_dirname\.\w+": (lambda value: isinstance(value, (str, list)), "texts"),
    r"(hydra_)?help\.\w+": (_text, "a text"),
    r"(job|hydra)_logging\.formatters\.\w+\.format": (_text, "a text"),
    r"sweeper\.params": (_is(None), "ordinary keys"),
    r"sweeper\.direction": (_is("minimize", "maximize"), "minimize or maximize"),
    r"sweeper\.n_trials": (_trials, f"1 to {MAX_JOBS}"),
}
"""Keys that a file may set: whether a value will do, and what is said of one that will not."""
LISTED = (
    "mode, run.dir, sweep.dir, sweep.subdir, output_subdir, job.name, job.chdir, verbose, help, formats of logs, "
    "sweeper.params, sweeper.direction and sweeper.n_trials"
)


def check(loader: ConfigLoaderImpl, config: DictConfig, overrides: Sequence[str], run_mode: RunMode) -> None:
    """Refuse what files have set in ``config.hydra`` and may not, naming the key.

    That is what differs from the composition of Hydra's own files with the same words of the command line.
    """
    own, words = _of_command_line(overrides)
    before = _without_files(_providers(loader), words, run_mode)
    for path, value in _leaves(OmegaConf.to_container(config.hydra, resolve=False)):
        ours = path[0] in HYDRAS_OWN or path in _FILLED_IN or path in own
        if not ours and (path not in before or before[path] != value):
            _check_key(path, value)
    if len(config.hydra.overrides.task) + len(config.hydra.overrides.hydra) != len(overrides):
        raise ValueError("hydra.overrides: only the command line may set it; remove it from the file")
    probe = copy.deepcopy(config)
    with open_dict(probe):
        probe.hydra.job.num, probe.hydra.job.id = 0, "0"  # which a sweep's job learns later
    HydraConfig.instance().set_config(probe)
    raw = dict(_leaves(OmegaConf.to_container(config.hydra, resolve=False)))
    for key in PLACES:
        path = tuple(key.split("."))
        if path not in own and before.get(path) != raw.get(path):
            _check_place(key, OmegaConf.select(probe, f"hydra.{key}", default=None))


_FILLED_IN = {("job", key) for key in ("num", "id", "override_dirname", "config_name")}


def _check_place(key: str, place: Any) -> None:
    path = PurePath(str(place))
    if CONTROL.search(str(place)):
        raise ValueError(f"hydra.{key}={str(place)!r:.200}: no name of a folder; leave control characters out")
    here = not path.parts and key.endswith(".dir")
    if path.is_absolute() or ".." in path.parts or str(place).startswith("~") or here:
        raise ValueError(
            f"hydra.{key}={str(place)!s:.200}: a file may name places below the current folder only; set it yourself"
        )


def _check_key(path: Path_, value: Any) -> None:
    key, shown = ".".join(path), " ".join(f"{value!s:.80}".split())
    if key.startswith("job.env_set"):
        raise ValueError(f"hydra.{key}: a file may not set environment variables ({path[-1]}); set them yourself")
    if path[:2] == ("sweeper", "params") and len(path) > 2:
        _check_parameter(path[2:], value)
        return
    for pattern, (fits, wanted) in ALLOWED.items():
        if re.fullmatch(pattern, key):
            if not fits(value):
                raise ValueError(f"hydra.{key}={shown}: a file may give {wanted} only; set it yourself")
            return
    choice = {"launcher": "hydra/launcher=NAME", "sweeper": "hydra/sweeper=NAME and its options"}.get(path[0])
    raise ValueError(
        f"hydra.{key}={shown}: a file may not set this, of hydra only {LISTED}; remove it, or give "
        f"{choice or f'hydra.{key}'} on the command line"
    )


def _check_parameter(path: Path_, value: Any) -> None:
    """Refuse a swept key that is none of ours, or whose value names code: it counts as if the command line said it."""
    key = ".".join(path)
    words = re.split(r"[@./:]", key)
    if not re.fullmatch(r"[A-Za-z_][\w./@]*", key) or "hydra" in words or any(word in CODE for word in words):
        raise ValueError(f"hydra.sweeper.params.{key:.80}: a file may sweep ordinary keys only; remove it")
    for part in value if isinstance(value, list) else [value]:
        if part is not None and not isinstance(part, (str, int, float)):
            raise ValueError(f"hydra.sweeper.params.{key:.80}: {part!r:.80} is no value to sweep; give a text")
        if key.rpartition(".")[2] in named_code.KEYS and ":" in str(part):
            raise named_code.refusal(f"hydra.sweeper.params.{key}", key, str(part))


def _leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    else:
        yield path, getattr(value, "name", value)  # an enumeration's member is known by its name


def _of_command_line(overrides: Sequence[str]) -> tuple[set[Path_], tuple[str, ...]]:
    """Return what the command line says of Hydra: the keys with a plain value, and the words that say more than that.

    Of a sweep's job, that is what the command line has named itself. Values are forced upon keys that only a file
    knows; what the command line takes away is no matter here.
    """
    named = {override.key_or_group for override in named_code.command_line()}
    plain, words = set(), []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in named and not override.is_delete() and key != "hydra.searchpath":
            value = (override.input_line or "").partition("=")[2]
            if key.startswith("hydra.") and isinstance(override.value(), (str, int, float, QuotedString, type(None))):
                plain.add(tuple(key.split(".")[1:]))
            elif key.startswith("hydra."):
                words.append(f"++{key}={value}")
            elif key.startswith("hydra/"):
                words.append(str(override.input_line))
    return plain, tuple(words)


def _providers(loader: ConfigLoaderImpl) -> tuple[tuple[str, str], ...]:
    """Return where Hydra and its plugins keep their own files."""
    found = loader.config_search_path.get_path()
    return tuple((p.provider or "", p.path or "") for p in found if p.provider not in ("main", "command-line"))


@functools.cache
def _without_files(
    providers: tuple[tuple[str, str], ...], overrides: tuple[str, ...], run_mode: RunMode
) -> dict[Path_, Any]:
    """Return the leaves of ``hydra`` as they are without any file of the user's."""
    path = ConfigSearchPathImpl()
    for provider, place in providers:
        path.append(provider, place)
    try:
        composed = PLAINLY(ConfigLoaderImpl(path), None, list(overrides), run_mode, validate_sweep_overrides=False)
    except HydraException:  # of something that only a file knows
        if not overrides:
            raise
        kept: list[str] = []
        for one in overrides:
            try:
                PLAINLY(ConfigLoaderImpl(path), None, [*kept, one], run_mode, validate_sweep_overrides=False)
                kept.append(one)
            except HydraException:
                continue
        return _without_files(providers, tuple(kept), run_mode) if len(kept) < len(overrides) else {}
    return dict(_leaves(OmegaConf.to_container(composed.hydra, resolve=False)))
