"""A configuration is data: what a YAML file may hold, where Hydra may write, and how many jobs a sweep may have.

Hydra by itself imports and calls what ``_target_`` and the ``class`` of a log handler name, resolves
``${oc.env:SECRET}`` and writes wherever ``hydra.run.dir`` says, whoever wrote the file. The command line may do so
still; files may not.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, open_dict

CODE = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_", "()", "searchpath")
"""Keys by which Hydra and Python's logging call what a file names, or read from elsewhere."""
HARMLESS = re.compile(r"\$\{((hydra|label):[\w.]+|now:[^${}]*|[\w.]+)\}")
HANDLERS = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
FOLDERS = ("run.dir", "sweep.dir", "sweep.subdir", "output_subdir", "job.name")
MAX_BYTES, MAX_NODES, MAX_JOBS = 2**20, 10_000, 1000


def label(text: str) -> str:
    """Return a text as part of a folder's name: letters, digits, ``_``, ``-``, ``+`` and ``.``, at most 60 of them."""
    return re.sub(r"[^\w.+-]+", "_", text.replace(":", "."))[:60].strip("_.-+") or "unnamed"


def _label_of(key: str, *, _root_: Any) -> str:
    return label(str(OmegaConf.select(_root_, key)))


OmegaConf.register_new_resolver("label", _label_of, replace=True)  # ${label:function} in the name of a folder


@contextlib.contextmanager
def as_data() -> Iterator[None]:
    """While it lasts, Hydra refuses files, compositions and sweeps by the functions of this module."""
    # Hydra imports its plugins by itself, so that these classes are not those that an import statement gives.
    sweeper: Any = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_sweeper.BasicSweeper"]
    source: Any = SourcesRegistry.instance().resolve("file")
    load, split, compose = source.load_config, sweeper.split_arguments, ConfigLoaderImpl.load_configuration

    def checked_load(self: Any, config_path: str) -> Any:
        file = Path(self.path) / self._normalize_file_name(config_path)
        if file.is_file():
            check_file(file)
        return load(self, config_path)

    def checked_compose(self: Any, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any) -> Any:
        config = compose(self, config_name, overrides, *args, **kwargs)
        check_composed(config, overrides)
        return config

    def checked_split(overrides: list[Any], max_batch_size: int | None) -> Any:
        check_jobs(overrides, max_batch_size)
        return split(overrides, max_batch_size)

    places = {
        (source, "load_config"): (load, checked_load),
        (ConfigLoaderImpl, "load_configuration"): (compose, checked_compose),
        (sweeper, "split_arguments"): (staticmethod(split), staticmethod(checked_split)),
    }
    for (owner, name), (_, ours) in places.items():
        setattr(owner, name, ours)
    try:
        yield
    finally:
        for (owner, name), (theirs, _) in places.items():
            setattr(owner, name, theirs)


def check_file(file: Path) -> None:
    """Refuse a YAML file that is damaged, that would grow without bounds, or that names code; ``file:line:column``."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{file}: {size} bytes; a configuration has at most {MAX_BYTES}")
    raw = file.read_bytes()
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{file}: begins with a byte-order mark; save it as UTF-8 without one")
    try:
        root = yaml.compose(raw.decode(), Loader=yaml.SafeLoader)
        if root is not None:
            _expanded(root, file, {})
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
    below: list[Any] = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
        _check_keys([key for key, _ in node.value], file)
    elif isinstance(node, yaml.ScalarNode) and "${" in HARMLESS.sub("", node.value):
        raise _refusal(file, node, f"{node.value!r:.80} reads more than other keys, which only the command line may")
    size = 1 + sum(_expanded(child, file, sizes) for child in below)
    if size > MAX_NODES:
        raise _refusal(file, node, f"more than {MAX_NODES} values, with every alias written out")
    sizes[id(node)] = size
    return size


def _check_keys(keys: Sequence[Any], file: Path) -> None:
    names = [key.value for key in keys if isinstance(key, yaml.ScalarNode)]
    for key in keys:
        if names.count(key.value) > 1:
            raise _refusal(file, key, f"the key '{key.value}' stands twice")
        if str(key.value).rpartition(".")[2] in CODE:
            raise _refusal(file, key, f"'{key.value}' names code or a place to read more from")


def _refusal(file: Path, node: Any, found: str) -> ValueError:
    mark = node.start_mark
    return ValueError(f"{file}:{mark.line + 1}:{mark.column + 1}: {found}; remove it, a configuration is data")


def check_composed(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse folders outside the current one, log handlers and environment variables that files have set.

    What ``overrides``, the command line, gives itself is the user's own.
    """
    given = {override.lstrip("+~").partition("=")[0] for override in overrides}
    probe = copy.deepcopy(config)
    with open_dict(probe):
        probe.hydra.job.num, probe.hydra.job.id = 0, "0"  # which a sweep's job learns later
    HydraConfig.instance().set_config(probe)
    for key in FOLDERS:
        place = OmegaConf.select(probe, f"hydra.{key}", default=None)
        if f"hydra.{key}" in given or place is None:
            continue
        path = PurePath(str(place))
        if path.is_absolute() or ".." in path.parts or str(place).startswith("~"):
            raise ValueError(
                f"hydra.{key}={place}: a file may name places below the current folder only; set it yourself"
            )
    if probe.hydra.job.env_set and not any(key.startswith("hydra.job.env_set") for key in given):
        names = ", ".join(map(str, probe.hydra.job.env_set))
        raise ValueError(f"hydra.job.env_set: a file may not set environment variables ({names}); set them yourself")
    for key in ("job_logging", "hydra_logging"):
        if not any(name.startswith(f"hydra.{key}") for name in given):
            _check_logging(OmegaConf.to_container(probe.hydra[key], resolve=False), f"hydra.{key}")


def _check_logging(value: Any, where: str) -> None:
    """Refuse what Python's logging would import and call, and files outside the run's folder."""
    if isinstance(value, dict):
        for key, item in value.items():
            allowed = {"class": HANDLERS, "filename": (LOG_FILE,)}.get(str(key))
            if allowed and item not in allowed:
                raise ValueError(f"{where}.{key}={item}: a file may give {' or '.join(allowed)} only; remove it")
            _check_logging(item, f"{where}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_logging(item, f"{where}[{i}]")
    elif isinstance(value, str) and "://" in value and value not in STREAMS:
        raise ValueError(f"{where}={value}: a file may give {' or '.join(STREAMS)} only; remove it")


def check_jobs(overrides: Sequence[Any], max_batch_size: int | None) -> None:
    """Refuse a sweep without jobs, and one of so many that it must be a mistake, before they are made."""
    jobs = 1
    for override in overrides:
        if override.is_discrete_sweep():
            count = sum(1 for _ in itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1))
            if not count:
                raise ValueError(f"{override.input_line}: an empty range, so that there is nothing to run; give values")
            jobs *= count
    if jobs > MAX_JOBS and max_batch_size is None:
        raise ValueError(
            f"the sweep has {jobs} jobs or more; narrow it, or say that you mean it by "
            f"hydra.sweeper.max_batch_size={MAX_JOBS}, which runs so many after each other"
        )


def check_plain(value: Any, where: str = "") -> None:
    """Refuse what names code, or is still to be resolved, anywhere in a configuration that is to be plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        if key in CODE:
            raise ValueError(f"{where}{key}={item!r:.80}: a configuration names no code to call; remove the key")
        check_plain(item, f"{where}{key}.")
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"{where[:-1]}={value!r:.80}: only the command line's values are resolved; write it out")
