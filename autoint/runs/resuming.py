"""Going on with a run: from which checkpoint, with which configuration, and what of it may be another than before.

What says how long, where and how watched a run trains may change, and is applied: ``MAY_CHANGE``. The schedule follows
the present budget: the cosine decay ends with ``trainer.max_steps`` or ``trainer.max_time`` as they are now, of which
the steps and the seconds trained before are a part. All else made the weights what they are, and is refused by name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autoint.files import reading
from autoint.runs import checkpoints, named_code, trainers
from autoint.runs.config import RunConfig, flat

log = logging.getLogger(__name__)
MAY_CHANGE = (
    "data_dir",
    "ckpt_path",
    "resume",
    "report",
    "logger",
    "compile",
    "grad_net",  # how a derivative is computed, not what it is
    "val_every",
    "save_every",
    "val_images",
    "viewer",
    "tolerance",
    "trainer",  # without the keys below
)
FIXED_OF_TRAINER = {"precision": "32-true", "accumulate_grad_batches": 1}
"""Keys of the trainer on which the stored numbers and their counters rest, with their defaults."""
SHORT = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
BUDGET = ("max_steps", "max_time")
BESIDE_THE_RUN = ("csv", "tensorboard")
"""Loggers that write into the run's folder, and send nothing anywhere."""
LIFTED = {"trainer.max_steps": "trainer.max_time", "image_size": "max_image_size"}
"""Limits that a key lifts where it is named and they are not: it would be cut by them."""


def start_from(config: RunConfig, run_dir: Path) -> Path | None:
    """Return the checkpoint to go on from: the one that ``ckpt_path`` means, or with ``resume`` that of the folder.

    ``last`` is the last.ckpt of the run's folder, ``auto`` the newest good one there, or none if nothing was saved yet.
    """
    folder, given = run_dir / "checkpoints", config.ckpt_path
    last = folder / "last.ckpt"
    if given == "":  # as of a variable of a shell that is not set: nothing starts from zero unasked
        raise ValueError("ckpt_path is empty; give last, auto or a checkpoint, or leave it out to begin anew")
    if given == "auto":
        path = checkpoints.newest(folder)
        if path is None:
            log.info("ckpt_path=auto: nothing was saved in %s yet; the training starts", folder)
        return path
    if given == "last" and not last.exists():
        raise ValueError(
            f"ckpt_path=last: there is no {last}; `last` is that of the run's folder: give the folder of the run that "
            "is to go on, hydra.run.dir=RUN"
        )
    if given == "last" or (config.resume and any(folder.glob("*.ckpt"))):
        return last
    return Path(given) if given else None


def continued(config: RunConfig, stored: RunConfig, given: Sequence[str]) -> RunConfig:
    """Return the configuration to go on with, after a command line that has set the keys ``given``.

    Where these may all change, as in ``ckpt_path=last hydra.run.dir=RUN trainer.max_steps=40000``, all others are those
    of the checkpoint; otherwise the command line describes the whole run. What would send something elsewhere, or
    serve it, is none of theirs: a run may come from somebody else, and only this command line asks for that.
    """
    same = [key for key in named_code.KEYS if config.options.get(key) == stored.options.get(key)]
    allowed = {*MAY_CHANGE, *(["task", *same] if config.task == stored.task else [])}
    if not allowed >= {key.partition(".")[0] for key in given}:
        return config
    plain, here = stored.to_plain(), config.to_plain()
    plain["trainer"].pop("fast_dev_run", None)  # with which nothing is saved: no run that has saved something had it
    _leave_out_what_sends(plain, given)
    lifted = [LIFTED[key] for key in given if key in LIFTED]
    for key in ["ckpt_path", *lifted, *given]:
        head, _, leaf = key.partition(".")
        into, source = (plain, here) if head in here else (plain["options"], here["options"])
        if leaf and head != "logger":
            into[head][leaf] = source[head].get(leaf)
        elif head == "trainer":  # a group, chosen for the machine
            into[head] = source[head] | {k: v for k, v in into[head].items() if k in BUDGET}
        else:
            into[head] = source[head]
    return RunConfig.from_plain(plain)


def _leave_out_what_sends(plain: dict[str, Any], given: Sequence[str]) -> None:
    """Take out of a stored configuration what would tell others of the training, and say so in a line for each."""
    heads = {key.partition(".")[0] for key in given}
    found = []
    if plain["logger"]["name"] not in BESIDE_THE_RUN and "logger" not in heads:
        found.append(f"logger={plain['logger']['name']}")
        plain["logger"] = {"name": "csv"}
    if plain["options"].get("viewer") and "viewer" not in heads:
        found.append("viewer=true")
        plain["options"]["viewer"] = False
    if plain["trainer"].pop("model_registry", None) is not None:  # to which Lightning sends checkpoints
        found.append("trainer.model_registry")
    for words in found:
        log.warning("%s of the checkpoint is left out: give it here if you want it", words)


def check_same(config: RunConfig, path: Path, stored: RunConfig) -> None:
    """Refuse to go on as another run, naming every key that differs and is none of those that may."""
    if stored.task != config.task:
        raise ValueError(f"ckpt_path={path}: it is of task={stored.task}, not of task={config.task}")
    there, here = (dict(_fixed(c)) for c in (stored, config))
    keys = [k for k in {**there, **here} if there.get(k) != here.get(k)]
    named = {k.removesuffix(".name") for k in keys if k.endswith(".name")}  # whose options go with it
    keys = [k for k in keys if k.endswith(".name") or k.rpartition(".")[0] not in named]
    if not keys:
        return
    differing = ", ".join(f"{k.removesuffix('.name')} ({there.get(k)} there, {here.get(k)} here)" for k in keys)
    if config.ckpt_path is None:
        mend = "remove the folder, or give another one by hydra.sweep.dir or hydra.run.dir"
        raise ValueError(f"resume=true: {path.parent.parent} holds a run with another {differing}; {mend}")
    mend = "leave them out to go on as before; the budget (trainer.max_steps, trainer.max_time) and how the run is"
    raise ValueError(
        f"ckpt_path={config.ckpt_path}: it was trained with another {differing}; {mend} watched may change"
    )


def check_budget(config: RunConfig, path: Path, contents: dict[str, Any], stored: RunConfig) -> None:
    """Refuse a budget that is new and smaller than what the checkpoint has used of it already."""
    steps, before = config.trainer.get("max_steps"), stored.trainer.get("max_steps")
    if steps != before and int(steps or 0) < contents["global_step"]:
        raise ValueError(f"trainer.max_steps={steps}: {path} is of step {contents['global_step']} already; give more")
    limit, timer = trainers.time_limit(config), contents.get("callbacks", {}).get("Timer", {})
    elapsed = float(timer.get("time_elapsed", {}).get("train", 0.0))
    if limit is not None and limit != trainers.time_limit(stored) and limit < elapsed:
        given = config.trainer["max_time"]
        raise ValueError(f"trainer.max_time={given}: {path} has trained for {elapsed:.0f} s already; give more")


def has_more_to_do(config: RunConfig, stored: RunConfig) -> bool:
    """Return whether the configuration lets a run that was finished as ``stored`` train for longer."""

    def budget(of: RunConfig) -> tuple[float, float, float]:
        limit = trainers.time_limit(of)
        return of.trainer.get("max_steps", 0), math.inf if limit is None else limit, -of.options.get("tolerance", 0.0)

    return any(now > then for now, then in zip(budget(config), budget(stored), strict=True))


def result_of(path: Path, contents: dict[str, Any]) -> dict[str, Any] | None:
    """Return the ``result.json`` of the run whose end a checkpoint is, or None where the run was not finished."""
    result = reading.remembered(path.parent.parent / "result.json")
    if not isinstance(result, dict) or result.get("steps") != contents.get("global_step"):
        return None
    metrics = result.get("metrics")
    whole = isinstance(metrics, dict) and all(isinstance(value, (int, float)) for value in metrics.values())
    return result if whole and reading.is_number(result.get("seconds")) else None


def _fixed(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a configuration that may not change, under the keys that a user would give."""
    plain = config.to_plain()
    for key, otherwise in FIXED_OF_TRAINER.items():
        value = plain["trainer"].get(key) or otherwise
        yield f"trainer.{key}", SHORT.get(str(value), value)
    plain |= plain.pop("options")
    yield from flat({key: value for key, value in plain.items() if key not in MAY_CHANGE})
