"""The folders that the program names itself: each of one process alone, with names that every file system can hold."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core import utils
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

import autoint
from autoint.files.reading import escaped
from autoint.files.whole_files import check_written
from autoint.runs.labels import portable

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
SUBDIR = "${hydra.job.num}"
MAX_VALUES = 1000


def conf_dir() -> Path:
    """Return the folder of the configuration files: beside the package in a clone, inside it where it is installed."""
    package = Path(autoint.__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@contextlib.contextmanager
def claiming() -> Iterator[None]:
    """While it lasts, a folder named by the time belongs to the process that has made it; others append ``_1``, …

    A folder that a file names is not taken either where it holds another run. One that the command line gives is taken
    as it is, but for links in it through which Hydra would write elsewhere. What was claimed and not used is removed in
    the end.
    """
    claimed: list[Path] = []
    places = {"on_run_start": "run.dir", "on_multirun_start": "sweep.dir"}
    theirs = {name: getattr(Callbacks, name) for name in places}
    configure_log = utils.configure_log

    def before(name: str) -> Any:
        def hook(self: Callbacks, config: Any, **kwargs: Any) -> None:
            claimed.extend(_claim(config, places[name]))
            if name == "on_multirun_start":
                check_written(Path(str(config.hydra.sweep.dir)))
            theirs[name](self, config=config, **kwargs)

        return hook

    def checked_log(log_config: Any, *args: Any, **kwargs: Any) -> None:
        """The first that Hydra writes into the folder of a run, or of a sweep's job."""
        job = HydraConfig.get()
        folder, file = Path(job.runtime.output_dir), OmegaConf.select(log_config, "handlers.file.filename")
        names = [job.output_subdir, os.path.relpath(file, folder) if file else None]
        names += ["images"] if job.job.config_name == "evaluate" else []
        check_written(folder, *(name for name in names if name and not name.startswith("..")))
        configure_log(log_config, *args, **kwargs)
        for handler in logging.getLogger().handlers:
            handler.addFilter(_escaping)

    for name in places:
        setattr(Callbacks, name, before(name))
    utils.configure_log = checked_log
    try:
        yield
    finally:
        for name, method in theirs.items():
            setattr(Callbacks, name, method)
        utils.configure_log = configure_log
        for folder in claimed:
            remove_empty(folder)


def _escaping(record: logging.LogRecord) -> bool:
    """Let a record pass in which names from a stranger's files move no cursor; its lines are those of its writer."""
    with contextlib.suppress(Exception):  # of a library's record that does not fit, for which logging has its own way
        lines = record.getMessage().split("\n")
        clean = [escaped(line) for line in lines]
        if lines != clean:
            record.msg, record.args = "\n".join(clean), ()
    return True


def _claim(config: Any, key: str) -> list[Path]:
    """Give the configuration a folder of its own at ``hydra.key``; return it, or nothing where it has a name."""
    raw = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(raw, dict)
    section, leaf = key.split(".")
    given = {override.lstrip("+").partition("=")[0] for override in raw["overrides"]["hydra"]}
    if section == "sweep" and raw["sweep"]["subdir"] == SUBDIR and "hydra.sweep.subdir" not in given:
        _name_jobs(config, raw)
    if f"hydra.{key}" in given or any(_rank(name) for name in RANKS):
        return []
    wanted = Path(str(config.hydra[section][leaf]))
    if "${now:" in str(raw[section][leaf]):
        root, parts = Path(wanted.anchor), [p for p in wanted.parts if p != wanted.anchor]
        wanted = root.joinpath(*(p if p == ".." else portable(p) or "_" for p in parts))
    elif not _holds_another(wanted, config, raw["overrides"]["task"]):
        return []
    folder = first_free(wanted)
    with open_dict(config):
        config.hydra[section][leaf] = str(folder)
        if section == "sweep":  # whose jobs are composed anew
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
    return [folder]


def _holds_another(folder: Path, config: Any, overrides: list[str]) -> bool:
    """Return whether a folder that a file has named holds what this run, or this sweep, would not go on with.

    Only the command line may say that a run is to be replaced.
    """
    if (
        not folder.is_dir()
        or not any(folder.iterdir())
        or any(word.lstrip("+").startswith("ckpt_path=") for word in overrides)
    ):
        return False
    saved = (folder / "multirun.yaml").is_file() or any((folder / "checkpoints").glob("*.ckpt"))
    begun = (folder / ".hydra").is_dir() and not (folder / "result.json").exists()
    return not (config.get("resume") and (saved or begun))


def first_free(wanted: Path) -> Path:
    """Make the first of ``wanted``, ``wanted_1``, … that is not there yet, and return it."""
    for number in itertools.count():
        folder = wanted.with_name(f"{wanted.name}_{number}") if number else wanted
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("endless")


def remove_empty(folder: Path) -> None:
    """Remove a folder and those above it, up to three, as far as there is nothing in them."""
    for empty in [folder, *list(folder.parents)[:3]]:
        if empty.absolute() == Path.cwd() or not empty.is_dir() or any(empty.iterdir()):
            break
        empty.rmdir()


def _rank(name: str) -> bool:
    """Return whether this process is another than the first of a training of several, as the environment says."""
    return os.environ.get(name, "0") not in ("0", "")


def quoted(value: str) -> str:
    """Return a value as Hydra's command line reads it, whatever is in it."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _name_jobs(config: Any, raw: dict[Any, Any]) -> None:
    """Let the folders of a sweep's jobs be named by their number and by what is swept: ``3_model-nerf_sections-8``.

    Where a value is none that a folder's name can hold, as a path or a list, by the number alone.
    """
    params = raw["sweeper"].get("params") or {}
    try:
        tasks = [*(f"{key}={value}" for key, value in params.items()), *raw["overrides"]["task"]]
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # which knows what glob(*) means
        overrides = {str(o.key_or_group): o for o in parser.parse_overrides(tasks)}  # the last counts
    except HydraException:  # Hydra itself will tell of it
        return
    swept = {key: o for key, o in overrides.items() if o.is_sweep_override()}
    if not swept or not all(_is_plain(key, o) for key, o in swept.items()):
        return
    choices = config.hydra.runtime.choices
    name = "".join(
        f"_{key}-${{hydra.runtime.choices.{key}}}" if key in choices else f"_{key}-${{{key}}}" for key in swept
    )
    with open_dict(config):
        config.hydra.sweep.subdir = SUBDIR + name
        config.hydra.overrides.hydra.append(f"hydra.sweep.subdir={quoted(SUBDIR + name)}")


def _is_plain(key: str, override: Any) -> bool:
    """Return whether a swept key and all its values can be parts of a folder's name."""
    if not re.fullmatch(r"[\w.]+", key) or override.is_delete() or override.is_add():
        return False
    if not override.is_discrete_sweep():  # numbers of an interval
        return True
    return all(re.fullmatch(r"[\w.+-]{1,40}", value) for value in values_of(override, MAX_VALUES))


def values_of(override: Any, most: int) -> list[str]:
    """Return the first values of a swept key as texts; ``ValueError`` for a range that is none."""
    value = override.value()
    try:
        if isinstance(value, RangeSweep):  # Hydra would make a list of all that it shuffles
            return [str(number) for number in itertools.islice(value.range(), most)]
        return list(itertools.islice(override.sweep_string_iterator(), most))
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{override.input_line:.200}: no range; give range(START,STOP,STEP), all finite") from error
