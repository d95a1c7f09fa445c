"""Loggers beside ``metrics.csv``, which is always written."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning.loggers import Logger

from autoint.registry import LOGGERS


@LOGGERS.register("csv")
def csv(run_dir: Path) -> list[Logger]:
    """Nothing but ``metrics.csv``."""
    return []


@LOGGERS.register("tensorboard")
def tensorboard(run_dir: Path) -> list[Logger]:
    """TensorBoard events in ``tensorboard/``; look at them by ``tensorboard --logdir outputs``."""
    from pytorch_lightning.loggers import TensorBoardLogger

    return [TensorBoardLogger(run_dir, name="tensorboard", version="")]


@LOGGERS.register("wandb")
def wandb(run_dir: Path, *, project: str = "autoint", offline: bool = True) -> list[Logger]:
    """Weights & Biases; offline unless ``logger.offline=false``, so that no account and no network are needed."""
    from pytorch_lightning.loggers import WandbLogger

    return [WandbLogger(project=project, offline=offline, save_dir=run_dir, name=run_dir.name)]
