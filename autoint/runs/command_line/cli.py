"""What ``train.py`` and ``evaluate.py`` share: Hydra with the registries' groups, and errors of one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal import hydra as hydra_program
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from autoint.runs.command_line import helping, presets, recipe
from autoint.runs.command_line.composing import as_data
from autoint.runs.command_line.folders import claiming, conf_dir, remove_empty
from autoint.runs.command_line.scene_folders import with_scene_folders
from autoint.runs.command_line.telling import JobFailedError, one_line
from autoint.runs.command_line.words import as_runs, as_typed
from autoint.runs.signals import Stopped

TRACE = "HYDRA_FULL_ERROR"
# Hydra 1.4 does without `version_base`; 1.3 warns where it is missing.
VERSION = {} if tuple(map(int, version("hydra-core").split(".")[:2])) >= (1, 4) else {"version_base": "1.3"}


def store_groups() -> None:
    """Make available to ``conf/``: a group of every registry, the shared and each task's own keys, and the recipe."""
    from autoint.registry import TASKS
    from autoint.runs.config import GROUPS, shared_fields

    store = ConfigStore.instance()
    # Hydra copies it for every group that it lists: seconds of --help, and a tenth of every other start.
    vars(store)["__deepcopy__"] = _the_store
    for group, registry in GROUPS.items():
        if group == "direction_encoding":
            continue  # chosen as encoding@direction_encoding
        for name in registry.names():
            defaults = {key: default for key, (_, default) in registry.fields(name).items()}
            for choice in (name, *(alias for alias, of in registry.aliases.items() if of == name)):
                store.store(group=group, name=choice, node={"name": name, **defaults})
    shared = {k: d for k, (_, d) in shared_fields().items() if k not in GROUPS and k != "task"}
    store.store(name="shared_keys", node=shared)
    for name in TASKS.names():
        own = {k: d for k, (_, d) in TASKS.fields(name).items() if k not in GROUPS}
        store.store(group="task", name=f"{name}_keys", node=own, package="_global_")
    recipe.install()


def _the_store(memo: Any) -> ConfigStore:
    return ConfigStore.instance()


def store_evaluation() -> None:
    """Make the keys that tasks declare for their evaluation available to ``conf/evaluate.yaml``."""
    from autoint.runs.evaluation import own_fields

    own = {key: default for key, (_, default) in own_fields().items()}
    ConfigStore.instance().store(name="task_keys", node=own)


def known_keys() -> list[str]:
    """Return every key at the top of a configuration, of all tasks."""
    from autoint.registry import TASKS
    from autoint.runs.config import shared_fields

    return sorted({*shared_fields(), *(key for name in TASKS.names() for key in TASKS.fields(name))})


def evaluation_keys() -> list[str]:
    """Return every key of an evaluation."""
    from autoint.runs.evaluation import own_fields, shared_fields

    return sorted({*shared_fields(), *own_fields()})


def typed() -> list[str]:
    """Return the overrides of the present job as they were typed, without what they refer to."""
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return list(overrides)


def keys_of(overrides: Iterable[str]) -> list[str]:
    """Return the keys that overrides set."""
    return [str(o.key_or_group) for o in OverridesParser.create().parse_overrides(list(overrides))]


Job = Callable[[DictConfig], Any]


def entry(
    config_name: str, groups: bool, after: Callable[[DictConfig, Path], None] | None = None
) -> Callable[[Job], Callable[[], None]]:
    """Turn ``function(config)`` into a Hydra program, with the registries as groups if ``groups``.

    ``after`` is called once after a sweep, with the last job's configuration and the sweep's folder.

    Bad input ends with one line on stderr and exit status 2; ``HYDRA_FULL_ERROR=1`` shows the traceback instead. A run
    folder in which nothing has happened yet is removed again.
    """

    def decorate(function: Job) -> Callable[[], None]:
        def main() -> None:
            wants_trace = os.environ.get(TRACE, "0") != "0"
            os.environ[TRACE] = "1"  # so that errors reach us, instead of being printed by Hydra
            _bear_with_terminals()
            known: list[str] = []
            errors: list[Exception] = []
            sweeps: list[tuple[DictConfig, Path]] = []
            conf = conf_dir()
            program = hydra.main(config_path=str(conf), config_name=config_name, **VERSION)
            try:
                sys.argv[1:] = as_typed(sys.argv[1:]) if groups else as_runs(sys.argv[1:])
                if any(argument.startswith("--experimental-rerun") for argument in sys.argv[1:]):
                    raise ValueError("--experimental-rerun reads a pickle, which is code; give the overrides anew")
                (store_groups if groups else store_evaluation)()
                if groups:
                    sys.argv[1:] = with_scene_folders(sys.argv[1:], conf)
                known += known_keys() if groups else evaluation_keys()
                try:
                    with as_data(), claiming(), _our_words():
                        program(_collecting(function, errors, sweeps, known))()
                except SystemExit:  # of --help
                    sys.stdout.flush()
                    raise
                if after is not None and sweeps:
                    after(*sweeps[-1])
                sys.stdout.flush()
            except (KeyboardInterrupt, Stopped) as stop:
                print(*([stop.message] if isinstance(stop, Stopped) else stop.args), file=sys.stderr)
                sys.exit(stop.code if isinstance(stop, Stopped) else 130)
            except BrokenPipeError:
                reader_left()
            except Exception as error:
                errors.append(error)
            _tell(errors, known, wants_trace)

        return main

    return decorate


@contextlib.contextmanager
def _our_words() -> Iterator[None]:
    """While it lasts, Hydra's help is ours, and a single run is composed once and checked by :mod:`presets`."""
    theirs: Any = hydra_program.Hydra
    get_help, get_mode, compose = theirs.get_help, theirs.get_mode, theirs.compose_config
    kept: list[tuple[list[str], DictConfig]] = []

    def our_help(self: Any, help_cfg: DictConfig, cfg: DictConfig, *args: Any, **kwargs: Any) -> str:
        loader = self.config_loader
        groups = {g: sorted(loader.get_group_options(g)) for g in sorted(self.list_all_config_groups())}
        folders = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
        ours = {group: names for group, names in groups.items() if group.partition("/")[0] != "hydra"}
        return helping.text(help_cfg.template, cfg, ours, folders)

    def our_mode(self: Any, config_name: str | None, overrides: list[str]) -> Any:
        """Return whether files ask for a sweep, and keep for a single run what was composed to learn it."""
        if {"-m", "--multirun"} & set(sys.argv):
            return None
        if any(override.is_sweep_override() for override in OverridesParser.create().parse_overrides(overrides)):
            return get_mode(self, config_name, overrides)
        try:
            composed = self.config_loader.load_configuration(config_name, overrides, RunMode.RUN)
        except ConfigCompositionException as error:
            if "You must specify" not in str(error):  # which a sweep may do
                raise
            return get_mode(self, config_name, overrides)
        kept.append((overrides.copy(), composed))
        return composed.hydra.mode

    def our_compose(self: Any, config_name: str | None, overrides: list[str], run_mode: RunMode, **kwargs: Any) -> Any:
        words, known = kept.pop() if kept else ([], None)
        if run_mode == RunMode.RUN and words == overrides and known is not None:
            vars(self.config_loader)["load_configuration"] = lambda **_: known
        composed = compose(self, config_name, overrides, run_mode, **kwargs)
        vars(self.config_loader).pop("load_configuration", None)
        if run_mode == RunMode.RUN:  # the jobs of a sweep are checked one by one
            presets.check(self.config_loader, overrides)
        return composed

    theirs.get_help, theirs.get_mode, theirs.compose_config = our_help, our_mode, our_compose
    try:
        yield
    finally:
        theirs.get_help, theirs.get_mode, theirs.compose_config = get_help, get_mode, compose


def reader_left() -> NoReturn:
    """End as programs do whose output nobody reads any more (``| head``): what is still to be flushed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _bear_with_terminals() -> None:
    """Take a terminal that knows ASCII only, and a log that nobody reads any more, as no error."""
    logging.raiseExceptions = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _tell(errors: list[Exception], known: list[str], wants_trace: bool) -> None:
    """End with exit status 2 and a line for each error; raise it where a traceback is due."""
    lines = []
    for failure in errors:
        line = one_line(failure, known)
        if line is None or wants_trace:
            raise failure
        lines += [f"error: {finding}" for finding in line.split("\n")]
    if lines:
        print(*dict.fromkeys(lines), sep="\n", file=sys.stderr)
        sys.exit(2)


def _collecting(function: Job, errors: list[Exception], sweeps: list[tuple[DictConfig, Path]], known: list[str]) -> Job:
    """Return ``function`` as a job that notes its error instead of raising it: the other jobs of a sweep go on.

    A job of a sweep notes its configuration and the sweep's folder too. In a process of its own, which a launcher other
    than Hydra's has started, there is nobody to read the notes: there the error is raised, as one line.
    """

    def job(composed: DictConfig) -> Any:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            sweeps.append((composed, Path(HydraConfig.get().sweep.dir)))
        os.environ.pop(TRACE, None)  # for the processes that the job may start
        try:
            if GlobalHydra.instance().is_initialized():
                presets.check(GlobalHydra.instance().config_loader(), typed())
            return function(composed)
        except BaseException as error:
            _remove_if_unused(HydraConfig.get())
            if not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
                if not isinstance(error, Exception):
                    print(*_not_begun(len(sweeps)), sep="\n", end="", file=sys.stderr)
                raise
            if not HydraConfig.get().launcher._target_.endswith(".BasicLauncher"):
                line = one_line(error, known)
                raise error if line is None else JobFailedError(line) from error
            errors.append(error)
            return None
        finally:
            os.environ[TRACE] = "1"

    return job


def _not_begun(begun: int) -> list[str]:
    """Return a line per job that is left of the sweep this job belongs to."""
    if not begun:
        return []
    params, arguments = HydraConfig.get().sweeper.get("params") or {}, [a for a in sys.argv[1:] if a[:1] != "-"]
    hydra_ = GlobalHydra.instance()
    parser = OverridesParser.create(hydra_.config_loader() if hydra_.is_initialized() else None)
    overrides = parser.parse_overrides([*(f"{k}={v}" for k, v in params.items()), *arguments])
    [jobs] = BasicSweeper.split_arguments(overrides, None)
    shared = set.intersection(*map(set, jobs))
    left = [" ".join(part for part in job if part not in shared) for job in jobs[begun:]]
    return [f"{len(left)} of {len(jobs)} jobs of the sweep were not begun:", *left, ""] if left else []


def _remove_if_unused(config: Any) -> None:
    """Remove the job's folder if it holds nothing but what Hydra has put there."""
    folder, log_file = Path(config.runtime.output_dir), f"{config.job.name}.log"
    if not folder.is_dir() or {p.name for p in folder.iterdir()} - {".hydra", log_file}:
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    (folder / log_file).unlink(missing_ok=True)
    remove_empty(folder)
