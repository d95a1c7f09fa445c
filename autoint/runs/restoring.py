"""Checkpoints back to configurations and modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

import autoint
from autoint.runs import build, checkpoints
from autoint.runs.config import RunConfig


def restored(checkpoint: str | Path, **overrides: Any) -> tuple[RunConfig, pl.LightningModule]:
    """Rebuild the module of a checkpoint from the configuration stored in it, in evaluation mode on the CPU."""
    contents = checkpoints.load(checkpoint)
    config = stored_config(checkpoint, contents, **overrides)
    module = build.task(config, with_data=False).module
    checkpoints.load_weights(Path(checkpoint), contents, module)
    return config, module.eval()


def stored_config(checkpoint: str | Path, contents: dict[str, Any], **overrides: Any) -> RunConfig:
    """Return the configuration stored in a checkpoint; ``ValueError`` names the file if this version lacks a part."""
    try:
        return RunConfig.from_plain({**contents["autoint"]["config"], **overrides})
    except ValueError as error:
        raise ValueError(
            f"{checkpoint}: its configuration does not fit AutoInt {autoint.__version__}: {error}"
        ) from error
