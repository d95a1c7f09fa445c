"""What the benchmarks share: steps that take turns, peak memory, and results as JSON with their environment."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from autoint import memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def medians(actions: Mapping[str, Callable[[], Any]], rounds: int = 7) -> dict[str, float]:
    """Return the median seconds of every action; they take turns, so that a slow moment meets them all."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 2):
        for name, action in actions.items():
            synchronize()
            start = time.perf_counter()
            action()
            synchronize()
            if turn > 1:  # the first turns warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(action: Callable[[], Any]) -> int:
    """Return the bytes of tensors that ``action`` needs, after it has run once."""
    action()
    return memory.peak_memory(action, DEVICE)


def over(values: Mapping[str, float], reference: str) -> dict[str, float]:
    """Return every value as a ratio to that of ``reference``."""
    return {name: value / values[reference] for name, value in values.items()}


def report(name: str, tables: Mapping[str, Mapping[str, float]]) -> None:
    """Print tables of numbers, and write them to ``outputs/benchmarks/<name>.json`` with the environment."""
    environment = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    for title, numbers in tables.items():
        print(title)
        for key, number in numbers.items():
            print(f"  {key:28} {number:9.3g}")
    file = Path("outputs/benchmarks") / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"environment": environment, **tables}, indent=2) + "\n", encoding="utf-8")
    print(f"written to {file}")
