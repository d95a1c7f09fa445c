"""``torch.compile``, block by block, and with a way back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)
BLOCK = 2**19  # numbers of a layer at a time on a CPU: what lies between two layers stays in its caches
FIRST = threading.RLock()
"""Held while something runs for the first time: threads would compile it one after another."""


class Compiled:
    """``function(x, *others)`` through ``torch.compile``: points x (R, …, D), and others of R rows, of none, or None.

    The first calls take up to a minute. Where nothing can be compiled, for want of a C++ compiler for instance, one
    warning says so, and ``function`` is called as it is.

    Args:
        function: maps rows to rows, of a tensor or of a tuple of them.
        width: of the layers in it.
    """

    def __init__(self, function: Callable[..., Any], width: int) -> None:
        self.function, self.width = function, width
        self.compiled: Callable[..., Any] = torch.compile(function)
        self.ran = False

    def __call__(self, x: Tensor, *others: Tensor | None) -> Any:
        """Return ``function(x, *others)``."""
        numbers = x.numel() // x.shape[-1] * self.width
        count = -(-numbers // BLOCK) if x.device.type == "cpu" else 1
        if count <= 1 or len(x) < 2:
            return self._call(x, *others)
        rows = [part.clone() for part in x.chunk(count)]  # forward mode in compiled code stumbles over views
        parts = [
            o.chunk(count) if o is not None and o.ndim > 1 and len(o) == len(x) else [o] * len(rows) for o in others
        ]
        return _joined([self._call(*block) for block in zip(rows, *parts, strict=True)])

    def _call(self, *inputs: Tensor | None) -> Any:
        if self.ran:
            return self._tried(*inputs)
        with FIRST:
            out = self._tried(*inputs)
        self.ran = True
        return out

    def _tried(self, *inputs: Tensor | None) -> Any:
        compiled = self.compiled
        try:
            return compiled(*inputs)
        except Exception as error:
            from torch._dynamo.exc import TorchDynamoException  # which takes as long to import as all of torch

            if compiled is self.function or not isinstance(error, TorchDynamoException):
                raise
            log.warning("compile=true: %s; going on without", _reason(error))
            self.compiled = self.function
        return self.function(*inputs)


def _reason(error: Exception) -> str:
    """Return the line of an error that says what is wrong: the first, or what follows a head that announces it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def _joined(blocks: list[Any]) -> Any:
    if isinstance(blocks[0], Tensor):
        return torch.cat(blocks)
    return tuple(None if part[0] is None else torch.cat(part) for part in zip(*blocks, strict=True))
