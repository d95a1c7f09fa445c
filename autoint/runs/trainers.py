"""Lightning's Trainer from configuration, with the processes that it may start."""

from __future__ import annotations

import datetime
import inspect
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from autoint.registry import LOGGERS, nearest
from autoint.runs import callbacks, checkpoints
from autoint.runs.config import RunConfig
from autoint.runs.loggers import MetricsFile
from autoint.runs.progress import Progress
from autoint.runs.schedule import Deadline, seconds_of

log = logging.getLogger(__name__)
NOISE = (  # what Lightning says of choices that are ours, and would say in every run
    ".*does not have many workers.*",
    ".*Experiment logs directory.*",
    ".*The `srun` command is available.*",
    ".*LeafSpec.*is deprecated.*",  # what torch says of Lightning's own code
)
PATIENCE = datetime.timedelta(minutes=5)  # of processes that train together, with one of them; torch's is half an hour
OURS = ("callbacks", "default_root_dir", "logger", "max_epochs", "plugins")
"""Arguments of Lightning's Trainer that are objects, or that folders and exact resuming rest on."""
ON_A_CPU = ("32-true", "32", "64-true", "64", "bf16-mixed", "bf16")
"""Precisions, by both of Lightning's names for each."""
ON_A_GPU = (*ON_A_CPU, "16-mixed", "16")


def accumulated(config: RunConfig) -> int:
    """Return how many batches make a step: ``trainer.accumulate_grad_batches``."""
    batches = config.trainer.get("accumulate_grad_batches", 1)
    if not isinstance(batches, int) or batches < 1:
        raise ValueError(f"trainer.accumulate_grad_batches={batches!r} must be an integer of at least 1")
    return batches


def total_steps(config: RunConfig) -> int:
    """Return the number of training batches: ``trainer.max_steps``, times as many as are accumulated for a step."""
    steps = config.trainer.get("max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"trainer.max_steps={steps!r} must be an integer of at least 1")
    return steps * accumulated(config)


def time_limit(config: RunConfig) -> float | None:
    """Return ``trainer.max_time`` in seconds, or None where only the steps are limited."""
    given = config.trainer.get("max_time")
    return None if given is None else seconds_of("trainer.max_time", given)


def trainer(config: RunConfig, run_dir: Path) -> pl.Trainer:
    """Build the Trainer: one epoch of ``max_steps`` batches, which is what makes a resumed run exact."""
    check_trainer(config)
    options = dict(config.trainer)
    batches, steps = total_steps(config), int(options.pop("max_steps"))
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    save_last = callbacks.SaveLast(run_dir / "checkpoints", config.save_every, config.to_plain())
    watching: list[Any] = [Progress()] if options.pop("enable_progress_bar", True) else []
    limit = time_limit(config)
    options.pop("max_time", None)
    watching += [] if limit is None else [Deadline(limit)]
    defaults: dict[str, Any] = {
        "default_root_dir": run_dir,
        "max_epochs": 1,
        "val_check_interval": min(config.val_every * accumulated(config), batches),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": min(50, steps),
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,
        "callbacks": [callbacks.Finite(), save_last, *watching],
        "logger": [MetricsFile(run_dir), *LOGGERS.build(config.logger, run_dir)],
        "plugins": [checkpoints.WholeFileIO()],
    }
    if options.get("strategy") == "ddp" and config.fit == "grad_net" and config.activation["name"] == "relu":
        options["strategy"] = "ddp_find_unused_parameters_true"  # a bias that only shifts Φ gets no gradient
    try:
        built = pl.Trainer(**{**defaults, **options})
        if hasattr(built.strategy, "_timeout"):  # of several processes; a strategy given by its name has no other way
            built.strategy._timeout = PATIENCE
    except Exception as error:  # Lightning raises many kinds
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error
    _check_processes(config, built)
    _convert_batches(built)
    return built


def _convert_batches(trainer: pl.Trainer) -> None:
    """Let a batch that knows how to go ``to`` a precision do so; Lightning would write into its frozen fields."""
    plugin: Any = trainer.precision_plugin
    of_lightning = plugin.convert_input
    dtype = of_lightning(torch.empty(())).dtype
    plugin.convert_input = lambda batch: batch.to(dtype) if hasattr(batch, "to") else of_lightning(batch)


def _check_processes(config: RunConfig, trainer: pl.Trainer) -> None:
    """Refuse several processes where they cannot work together; say what they share."""
    count = trainer.num_devices * trainer.num_nodes
    if count == 1:
        return
    if config.task in ("function", "image", "ct", "surface"):
        raise ValueError(f"trainer.devices={trainer.num_devices}: task={config.task} trains in one process; use 1")
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep and isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        raise ValueError(
            f"-m with {trainer.num_devices} devices: every process would begin the sweep anew; use trainer.devices=1, "
            "one command per run, or hydra/launcher=submitit_slurm with a task per device"
        )
    if trainer.global_rank == 0:
        log.info(
            "%d processes: every step takes %d rays together, %d each; optimizer.lr=%g is that of the whole batch",
            count,
            config.batch_size,
            config.batch_size // count,
            config.optimizer.lr,
        )


def check_trainer(config: RunConfig) -> None:
    """Refuse unknown keys, those that are not the user's to set, and processes on devices that are not there.

    Refuses 16-bit numbers on a CPU, too, where Lightning would silently take others.
    """
    total_steps(config)
    time_limit(config)
    options, known = config.trainer, inspect.signature(pl.Trainer).parameters
    for key in options:
        if key not in known and key != "max_steps":
            raise ValueError(f"unknown key 'trainer.{key}'{nearest(key, known)} (see Lightning's Trainer)")
        if key in OURS:
            raise ValueError(f"trainer.{key}={options[key]!r:.80}: this program sets it itself; remove the key")
    accelerator, devices = options.get("accelerator", "auto"), options.get("devices", "auto")
    gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and not gpus:
        raise ValueError(f"trainer.accelerator={accelerator}: this machine has no GPU; use trainer.accelerator=cpu")
    if accelerator == "auto" and not gpus and isinstance(devices, int) and devices > 1:
        raise ValueError(
            f"trainer.devices={devices}: this machine has no GPU; use trainer.devices=1, or "
            "trainer.accelerator=cpu for so many processes on the CPU"
        )
    cores = os.cpu_count() or 1
    if accelerator == "cpu" and isinstance(devices, int) and devices > max(8, cores):
        raise ValueError(f"trainer.devices={devices}: processes on {cores} CPU cores; use at most {max(8, cores)}")
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpus and not torch.backends.mps.is_available())
    precision = str(options.get("precision") or "32-true")
    if precision not in (ON_A_CPU if on_cpu else ON_A_GPU):
        raise ValueError(
            f"trainer.precision={precision} is not to be had{' on a CPU' if on_cpu else ''} (available: 32-true, "
            "64-true, bf16-mixed, and on a GPU 16-mixed; weights are never shorter, for differences of Φ need them)"
        )
