"""How large a run may be: bounds of what is counted, and modules that take no memory before their sizes are known.

A configuration that somebody else wrote may ask for any number. Those that size no tensor of the checkpoint (sections,
samples, images) have bounds that say themselves; those that do are compared with the checkpoint's tensors, on a module
whose large tensors are made without memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from autoint.files.machine import installed_memory

LIMITS = {
    "network.hidden_features": 2**18,
    "network.num_layers": 1024,
    "batch_size": 10**10,
    "scene.num_solids": 1000,
    "report.chunk_size": 2**30,
    "image_size": 2**13,
    "sections": 2**13,
    "samples": 2**16,
    "val_images": 2**20,
    "images_per_batch": 2**20,
    "teacher_views": 2**16,
    "rho": 2**12,
    "theta": 2**14,
    "passes": 10**6,
    "points": 2**20,
    "num_points": 10**7,
    "resolution": 1024,
    "adam_steps": 10**9,
    "model.nodes": 1024,
    "model.coarse": 2**13,
    "model.fine": 2**13,
    "model.most": 2**13,
    "model.anneal": 1024,
    "placement.steps": 2**13,
    "placement.hidden_features": 2**13,
    "placement.num_layers": 64,
    "color.features": 2**13,
    "color.hidden_features": 2**13,
    "encoding.features": 2**10,
    "direction_encoding.features": 2**10,
}
"""The largest values that make sense of keys that size what no checkpoint holds, or the number of its tensors."""
MOST_ITEMS = 64
"""Items of a list."""
SLACK = 2**26
"""Bytes that a module may take beside the tensors of its checkpoint."""


def check(values: Mapping[str, Any]) -> None:
    """Refuse numbers above ``LIMITS``, beyond all integers, and lists too long; ``values`` by their dotted keys."""
    for key, value in values.items():
        most = LIMITS.get(key, 2**63 - 1)
        if isinstance(value, int) and abs(value) > most:
            raise ValueError(f"{key}={value}: must be at most {most}" if value > 0 else f"{key}={value}: too small")
        if isinstance(value, list) and len(value) > MOST_ITEMS:
            raise ValueError(f"{key}: a list of {len(value)} items; at most {MOST_ITEMS}")
    width, layers = values.get("network.hidden_features", 1), values.get("network.num_layers", 1)
    needed, there = 16 * width * width * layers, installed_memory()
    if isinstance(needed, int) and needed > there:
        raise ValueError(
            f"network.hidden_features={width}, network.num_layers={layers}: the weights, with what Adam remembers of "
            f"them, take {needed / 2**30:.1f} GiB, and this machine has {there / 2**30:.1f} GiB; take a smaller network"
        )


class _Sparing(TorchDispatchMode):
    """Makes tensors on the meta device, without memory, once they or their sum are larger than a checkpoint's."""

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.left, self.refused = budget, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(t, Tensor) and t.is_meta for t in args):
            return func(*args, **kwargs)
        sizes = [a for a in args[:1] if isinstance(a, (list, tuple)) and all(isinstance(n, int) for n in a)]
        if sizes and "device" in {argument.name for argument in func._schema.arguments}:
            taken = 8 * torch.Size(sizes[0]).numel()
            if taken > self.left:
                self.refused = self.refused or f"a tensor of shape {tuple(sizes[0])}"
                kwargs = {**kwargs, "device": torch.device("meta")}
            else:
                self.left -= taken
        return func(*args, **kwargs)


@contextlib.contextmanager
def expecting(state: Mapping[str, Tensor], whose: str) -> Iterator[None]:
    """While it lasts, what is built takes hardly more memory than the tensors ``state`` of the file ``whose``."""
    held = sum(t.numel() * t.element_size() for t in state.values() if isinstance(t, Tensor))
    mode = _Sparing(4 * held + SLACK)
    try:
        with mode:
            yield
    except (RuntimeError, NotImplementedError) as error:  # of what cannot be computed without memory
        if mode.refused:
            raise ValueError(
                f"{whose}: its configuration asks for {mode.refused}, and the file holds {held} bytes in all; "
                "restore the configuration that belongs to it"
            ) from error
        raise
