"""How much arithmetic something takes, and how much the device could do."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@torch.inference_mode(False)
@torch.no_grad()
def flops(action: Callable[[], Any]) -> int:
    """Return how many floating-point operations the matrix products of ``action`` take, two per multiplication."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


@functools.cache
def peak_flops(device: torch.device, size: int = 1024, rounds: int = 8) -> float:
    """Return how many floating-point operations per second the device does in a product of large float32 matrices."""
    a, b = torch.rand(2, size, size, device=device)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
