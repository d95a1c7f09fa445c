"""Configuration becomes objects here, and nowhere else."""

from __future__ import annotations

import inspect
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger

from autoint import checkpoints
from autoint.config import RunConfig
from autoint.encodings import AbstractEncoding
from autoint.grad_nets import AbstractGradNet
from autoint.networks import IntegralNet
from autoint.registry import GRAD_NETS, LOGGERS, TASKS, nearest

NOISE = (  # what Lightning says of choices that are ours, and would say in every run
    ".*does not have many workers.*",
    ".*Experiment logs directory.*",
    ".*The `srun` command is available.*",
)
OURS = ("callbacks", "default_root_dir", "logger", "max_epochs", "plugins")
"""Arguments of Lightning's Trainer that are objects, or that folders and exact resuming rest on."""


@dataclass(frozen=True)
class Task:
    """What a task factory returns: the module, and its data unless only the module was asked for."""

    module: pl.LightningModule
    data: pl.LightningDataModule | None


def integral_net(
    config: RunConfig, in_features: int, out_features: int, condition: AbstractEncoding | None = None
) -> IntegralNet:
    """Build an integral network of the configured size, activation and encoding."""
    size = config.network
    return IntegralNet(
        in_features,
        out_features,
        hidden_features=size.hidden_features,
        num_layers=size.num_layers,
        activation=config.activation,
        encoding=config.encoding,
        condition=condition,
    )


def grad_net(config: RunConfig, net: IntegralNet) -> AbstractGradNet:
    """Build the configured grad network of ``net``."""
    return GRAD_NETS.build(config.grad_net, net)


def task(config: RunConfig, with_data: bool = True) -> Task:
    """Build the task's module, with initial weights from the seed, and its data."""
    if with_data:
        _check_trainer(config)  # now, rather than after the data was read
    torch.manual_seed(config.seed)
    return TASKS[config.task](config, with_data, **config.options)


def restored(checkpoint: str | Path, **overrides: Any) -> tuple[RunConfig, pl.LightningModule]:
    """Rebuild the module of a checkpoint from the configuration stored in it, in evaluation mode on the CPU."""
    contents = checkpoints.load(checkpoint)
    config = RunConfig.from_plain({**contents["autoint"]["config"], **overrides})
    module = task(config, with_data=False).module
    module.load_state_dict(contents["state_dict"])
    return config, module.eval()


def total_steps(config: RunConfig) -> int:
    """Return the number of training steps: ``trainer.max_steps``."""
    steps = config.trainer.get("max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"trainer.max_steps={steps!r} must be an integer of at least 1")
    return steps


def trainer(config: RunConfig, run_dir: Path) -> pl.Trainer:
    """Build the Trainer: one epoch of ``max_steps`` batches, which is what makes a resumed run exact."""
    _check_trainer(config)
    options = dict(config.trainer)
    steps = options.pop("max_steps")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    save_last = checkpoints.SaveLast(run_dir / "checkpoints", config.save_every, config.to_plain())
    bar = [TQDMProgressBar(refresh_rate=20)] if options.get("enable_progress_bar", True) else []
    defaults: dict[str, Any] = {
        "default_root_dir": run_dir,
        "max_epochs": 1,
        "val_check_interval": min(config.val_every, steps),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": min(50, steps),
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "callbacks": [save_last, *bar],
        "logger": [CSVLogger(run_dir, name="", version=""), *LOGGERS.build(config.logger, run_dir)],
        "plugins": [checkpoints.WholeFileIO()],
    }
    try:
        return pl.Trainer(**{**defaults, **options})
    except Exception as error:  # Lightning raises many kinds
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error


def _check_trainer(config: RunConfig) -> None:
    """Refuse unknown keys, those that are not the user's to set, and processes on devices that are not there.

    Refuses 16-bit numbers on a CPU, too, where Lightning would silently take others.
    """
    total_steps(config)
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
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpus and not torch.backends.mps.is_available())
    precision = options.get("precision")
    if on_cpu and precision in ("16", 16, "16-mixed", "16-true"):
        raise ValueError(
            f"trainer.precision={precision} needs a GPU; on a CPU use trainer.precision=32-true or bf16-mixed"
        )
