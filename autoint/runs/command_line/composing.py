"""A configuration is data: what a YAML file may hold, how much may come of it, and how many jobs a sweep may have.

Hydra by itself imports and calls what ``_target_`` names and resolves ``${oc.env:SECRET}``, whoever wrote the file. The
command line may do so still; files may not. What they may set of Hydra itself :mod:`hydra_keys` lists.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.base import Container

from autoint.registry import fields_of
from autoint.runs.command_line import hydra_keys
from autoint.runs.command_line.folders import values_of
from autoint.runs.command_line.hydra_keys import MAX_JOBS
from autoint.runs.command_line.telling import check_choices
from autoint.runs.config import GROUPS, NESTED
from autoint.runs.labels import label
from autoint.runs.plain import CODE, MAX_TEXT

HARMLESS = re.compile(r"\$\{((hydra|label):[\w.]+|now:[^${}]*|[\w.]+)\}")
MAX_BYTES, MAX_VALUES = 2**20, 2000
"""How large a file may be. Hydra copies and merges each value some dozen times, a millisecond in all."""
MAX_FILES, MAX_LOOKUPS, MAX_LISTINGS = 1000, 2000, 2000
"""How many files, each time anew, and how many ``${…}`` one composition may take: both multiply in a few lines, as
folders do by links, of which so many are listed."""


_labelled: list[str] = []


def _label_of(key: str, *, _root_: Any) -> str:
    if key in _labelled:
        raise ValueError(f"${{label:{key}}} leads back to itself; write it out")
    _labelled.append(key)
    try:
        return label(str(OmegaConf.select(_root_, key)))
    finally:
        _labelled.pop()


OmegaConf.register_new_resolver("label", _label_of, replace=True)  # ${label:function} in the name of a folder


@contextlib.contextmanager
def as_data() -> Iterator[None]:
    """While it lasts, Hydra refuses files, compositions and sweeps by the functions of this module."""
    # Hydra imports its plugins by itself, so that these classes are not those that an import statement gives.
    sweeper: Any = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_sweeper.BasicSweeper"]
    source: Any = SourcesRegistry.instance().resolve("file")
    load, listed, split, compose = (
        source.load_config,
        source.list,
        sweeper.split_arguments,
        ConfigLoaderImpl.load_configuration,
    )
    fetch, look_up = CachingConfigRepository.load_config, Container._resolve_node_interpolation
    bounds = _Bounds()

    def checked_load(self: Any, config_path: str) -> Any:
        file = Path(self.path) / self._normalize_file_name(config_path)
        if file.is_file():
            check_file(file)
            bounds.last = str(file)
            bounds.files[config_path.removesuffix(".yaml")] = file
        return load(self, config_path)

    def counted_fetch(self: Any, config_path: str) -> Any:
        bounds.count(
            "files", MAX_FILES, f"its list of defaults leads back to itself, or to more than {MAX_FILES} files"
        )
        return fetch(self, config_path)

    def counted_look_up(self: Any, inter_key: str, memo: Any) -> Any:
        bounds.count("look-ups", MAX_LOOKUPS, f"its references, as ${{{inter_key:.40}}}, lead to ever more others")
        return look_up(self, inter_key, memo)

    def checked_compose(
        self: Any, config_name: str | None, overrides: list[str], run_mode: RunMode, *args: Any, **kwargs: Any
    ) -> Any:
        check_choices(self.repository.group_exists, overrides)
        with bounds.begun(config_name):
            config = compose(self, config_name, overrides, run_mode, *args, **kwargs)
            hydra_keys.check(self, config, overrides, run_mode)
        return config

    def checked_split(overrides: list[Any], max_batch_size: int | None) -> Any:
        check_jobs(overrides, max_batch_size)
        return split(overrides, max_batch_size)

    places = {
        (source, "load_config"): (load, checked_load),
        (source, "list"): (listed, bounds.lister(listed)),
        (ConfigLoaderImpl, "load_configuration"): (compose, checked_compose),
        (CachingConfigRepository, "load_config"): (fetch, counted_fetch),
        (Container, "_resolve_node_interpolation"): (look_up, counted_look_up),
        (sweeper, "split_arguments"): (staticmethod(split), staticmethod(checked_split)),
    }
    for (owner, name), (_, ours) in places.items():
        setattr(owner, name, ours)
    try:
        yield
    finally:
        for (owner, name), (theirs, _) in places.items():
            setattr(owner, name, theirs)


class _Bounds:
    """What one composition has taken so far, and the ``last`` file of it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last = ""
        self.files: dict[str, Path] = {}

    def count(self, what: str, most: int, found: str) -> None:
        """Count one more; ``ValueError`` where that is more than ``most``."""
        self.counts[what] += 1
        if self.counts[what] > most:
            raise ValueError(f"{self.last or 'the command line'}: {found}; write it out")

    def lister(self, listed: Any) -> Any:
        """Return ``listed``, which lists a folder, for all but links that lead back to where they are."""

        def bounded(source: Any, config_path: str, results_filter: Any) -> Any:
            parts = Path(config_path).parts
            places = [os.path.realpath(Path(source.path, *parts[:depth])) for depth in range(len(parts) + 1)]
            self.counts["listings"] += 1
            if places[-1] in places[:-1] or self.counts["listings"] > MAX_LISTINGS:
                return []
            return listed(source, config_path, results_filter)

        return bounded

    @contextlib.contextmanager
    def begun(self, name: str | None) -> Iterator[None]:
        """Begin anew, and explain what ends in too deep a recursion."""
        self.counts.clear()
        try:
            yield
        except RecursionError as error:
            found = "its list of defaults, or a reference ${…}, leads back to itself"
            raise ValueError(f"{self.last or name}: {found}; remove it") from error
        except ConfigCompositionException as error:
            found_in = re.match(r"In '([^']+)': .*\sCannot merge", str(error), re.DOTALL)
            if found_in is None or found_in[1] not in self.files:
                raise
            raise _of_other_kind(self.files[found_in[1]]) from error


def check_file(file: Path) -> None:
    """Refuse a YAML file that is damaged, that would grow without bounds, or that names code; ``file:line:column``."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{file}: {size} bytes; a configuration has at most {MAX_BYTES}")
    _check_text(file, file.read_bytes())


TOO_MANY = f"more than {MAX_VALUES} values, with every alias written out"


class _TooManyError(Exception):
    """Tells where the values of a file have become too many."""

    def __init__(self, start_mark: Any) -> None:
        self.start_mark = start_mark


class _Counting(get_yaml_loader()):  # type: ignore[misc]
    """Reads as OmegaConf does, but ends at the first value too many: a megabyte of them takes half a minute."""

    values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next value, and count it."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise _TooManyError(self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Make a value of what was composed; of what its tag cannot hold, say where it stands."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # whatever int(), float() and others make of a text
            found = f"{node.value!s:.40} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark) from error


@functools.lru_cache(maxsize=256)  # the jobs of a sweep are composed from the same files
def _check_text(file: Path, raw: bytes) -> None:
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{file}: begins with a byte-order mark; save it as UTF-8 without one")
    try:
        root = yaml.compose(raw.decode(), Loader=_Counting)
        if root is not None:
            _expanded(root, file, {})
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise _refusal(file, root, "no keys", "write KEY: VALUE")
        _check_for_hydra(file, raw.decode(), root)
        if root is not None:
            _Counting("").construct_object(root, deep=True)
    except _TooManyError as error:
        raise _refusal(file, error, TOO_MANY) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{file}: nested too deeply; mend the file") from error
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        place = f"{file}:{where.line + 1}:{where.column + 1}" if where else str(file)
        raise ValueError(f"{place}: malformed YAML: {error.problem or error.context}; mend the file") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: malformed YAML: {' '.join(str(error).split())}; mend the file") from error


def _expanded(node: Any, file: Path, sizes: dict[int, int]) -> int:
    """Return how many nodes there are from ``node`` on, every alias written out; refuse what is not plain data."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise _refusal(file, node, "an alias of what it stands in")
        return sizes[id(node)]
    sizes[id(node)] = 0
    if not node.tag.startswith("tag:yaml.org,2002:") or ":python/" in node.tag:
        raise _refusal(file, node, f"the tag {node.tag.removeprefix('tag:yaml.org,2002:')} names code")
    if node.tag.endswith((":set", ":omap", ":pairs")):
        raise _refusal(file, node, f"a {node.tag.rpartition(':')[2]}, which no key takes")
    below: list[Any] = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
        _check_keys([key for key, _ in node.value], file)
    elif isinstance(node, yaml.ScalarNode) and "${" in HARMLESS.sub("", node.value):
        raise _refusal(file, node, f"{node.value!r:.80} reads more than other keys, which only the command line may")
    elif isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_TEXT:
        raise _refusal(file, node, f"a text of {len(node.value)} characters, more than {MAX_TEXT}")
    size = 1 + sum(_expanded(child, file, sizes) for child in below)
    if size > MAX_VALUES:
        raise _refusal(file, node, TOO_MANY)
    sizes[id(node)] = size
    return size


def _check_keys(keys: Sequence[Any], file: Path) -> None:
    twice = {name for name, count in Counter(str(key.value) for key in keys).items() if count > 1}
    for key in keys:
        if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":null"):
            raise _refusal(file, key, "a key that is no text")
        if str(key.value) in twice:
            raise _refusal(file, key, f"the key '{key.value}' stands twice")
        if str(key.value).rpartition(".")[2] in CODE:
            raise _refusal(file, key, f"'{key.value}' names code or a place to read more from")


def _check_for_hydra(file: Path, text: str, root: Any) -> None:
    """Refuse a header or a list of defaults of which Hydra has no line."""
    try:
        ConfigSource._get_header_dict(text[:512])
    except ValueError as error:
        raise ValueError(f"{file}: {error!s:.200}; write # @package NAME, alone in its line") from error
    for key, defaults in root.value if root is not None else ():
        if key.value != "defaults":
            continue
        if not isinstance(defaults, yaml.SequenceNode):
            raise _refusal(file, defaults, "defaults is no list", "write defaults: [GROUP: NAME, _self_]")
        overridden = False
        for entry in defaults.value:
            pairs = entry.value if isinstance(entry, yaml.MappingNode) else [(entry, None)]
            names = [name for pair in pairs for name in pair if name is not None]
            lists = [name for name in names[1:] if isinstance(name, yaml.SequenceNode)]
            names = [*(name for name in names if name not in lists), *(name for part in lists for name in part.value)]
            tags = [name.tag.rpartition(":")[2] for name in names]
            none = isinstance(entry, yaml.MappingNode) and tags[1:] == ["null"]  # GROUP: null
            if len(pairs) != 1 or (set(tags) != {"str"} and not none):
                raise _refusal(file, entry, "no entry of defaults", "write NAME, GROUP: NAME or _self_")
            if lists and overridden:
                raise _refusal(file, entry, "an entry behind an override", "put the overrides last")
            overridden = overridden or names[0].value.startswith("override ")


def _of_other_kind(file: Path) -> ValueError:
    """Return the error of a file that has a list where a group has keys, or keys where a list is."""
    stack = [(yaml.compose(file.read_bytes().decode(), Loader=_Counting), "")]
    while stack:
        node, prefix = stack.pop()
        for name, value in node.value if isinstance(node, yaml.MappingNode) else []:
            key = f"{prefix}{name.value}"
            keys = [*fields_of(NESTED[key])] if key in NESTED else ["max_steps"] if key == "trainer" else ["name"]
            if isinstance(value, yaml.SequenceNode) and key in (*NESTED, *GROUPS, "trainer"):
                return _refusal(file, value, f"{key} holds keys, and no list", f"write {key}: {{{keys[0]}: VALUE}}")
            stack.append((value, f"{key}."))
    return ValueError(f"{file}: has a list where others have keys, or keys where others have a list; mend it")


def _refusal(file: Path, node: Any, found: str, mend: str = "remove it, a configuration is data") -> ValueError:
    mark = node.start_mark
    return ValueError(f"{file}:{mark.line + 1}:{mark.column + 1}: {found}; {mend}")


def check_jobs(overrides: Sequence[Any], max_batch_size: int | None) -> None:
    """Refuse a sweep without jobs, and one of so many that it must be a mistake, before they are made."""
    jobs = 1
    for override in overrides:
        if override.is_discrete_sweep():
            count = len(values_of(override, MAX_JOBS + 1))
            if not count:
                raise ValueError(f"{override.input_line}: an empty range, so that there is nothing to run; give values")
            jobs *= count
    if jobs > MAX_JOBS and max_batch_size is None:
        raise ValueError(
            f"the sweep has {jobs} jobs or more; narrow it, or say that you mean it by "
            f"hydra.sweeper.max_batch_size={MAX_JOBS}, which runs so many after each other"
        )
