"""AutoInt: integrals of neural networks, by training their derivatives."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Looked up on first use, so that `import autoint` and the command line's help need no torch.
_HOMES = {
    "IntegralNet": "autoint.networks",
    "draw": "autoint.drawing",
    "fit": "autoint.fitting",
    "grad_net": "autoint.grad_nets",
    "integrate": "autoint.integrals",
}
__all__ = ["IntegralNet", "draw", "fit", "grad_net", "integrate"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autoint' has no attribute '{name}'")
