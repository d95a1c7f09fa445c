"""Checkpoints back to configurations and modules."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

import autoint
from autoint.runs import build, checkpoints, named_code, sizes
from autoint.runs.config import RunConfig


def restored(
    checkpoint: str | Path, code: Collection[str] = (), command: str = "", **overrides: Any
) -> tuple[RunConfig, pl.LightningModule]:
    """Rebuild the module of a checkpoint from the configuration stored in it, in evaluation mode on the CPU.

    Args:
        checkpoint: the file.
        code: names, ``package.module:callable``, that the person has given: the only ones that may be imported.
        command: the line by which one more is to be given, for the message of a refusal.
        **overrides: keys of the configuration that are other than stored.

    Raises:
        ValueError: for a file that is damaged, names other code, or whose tensors are not those of its configuration.
    """
    contents = checkpoints.load(checkpoint)
    config = stored_config(checkpoint, contents, **overrides)
    run = Path(checkpoint).parent.parent if Path(checkpoint).name == "last.ckpt" else checkpoint
    line = command or f"python evaluate.py {named_code.word('runs', run)}"
    named_code.check(config.options, code, str(checkpoint), line)
    with sizes.expecting(contents["state_dict"], str(checkpoint)):
        module = build.task(config, with_data=False).module
        checkpoints.check_weights(Path(checkpoint), contents, module)
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
