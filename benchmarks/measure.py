"""What the benchmarks share: steps that take turns, peak memory, and results as JSON and as a plot."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from autoint.files import machine as memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FOLDER = Path("outputs/benchmarks")
Tables = Mapping[str, Mapping[str, float]]
"""{title: {what: number}}; where every ``what`` is a number itself, the table is a curve."""


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def fastest(actions: Mapping[str, Callable[[], Any]], rounds: int = 7) -> dict[str, float]:
    """Return the least seconds of every action: what else a machine does only adds to them.

    They take turns, so that a slow moment meets them all; the first turn warms up. With one thread on a CPU it is the
    processor's time that counts, which others on a busy machine do not enter: ``OMP_NUM_THREADS=1``.
    """
    alone = DEVICE.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for name, action in actions.items():
            synchronize()
            start = clock()
            action()
            synchronize()
            if turn > 0:
                seconds[name].append(clock() - start)
    return {name: min(values) for name, values in seconds.items()}


def peak_memory(action: Callable[[], Any]) -> int:
    """Return the bytes of tensors that ``action`` needs, after it has run once."""
    action()
    return memory.peak_memory(action, DEVICE)


def over(values: Mapping[str, float], reference: str) -> dict[str, float]:
    """Return every value as a ratio to that of ``reference``."""
    return {name: value / values[reference] for name, value in values.items()}


def linearity(curve: Mapping[str, float]) -> float:
    """Return R² of the straight line through a curve {x: y}: 1 where it is one."""
    x, y = (torch.tensor([float(v) for v in values], dtype=torch.float64) for values in (curve, curve.values()))
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1] ** 2)


def environment() -> dict[str, Any]:
    """Return what the numbers depend on beside the program."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def report(name: str, tables: Tables, quick: bool = False) -> None:
    """Print tables of numbers, and write them as ``<name>.json``, with the environment, and as ``<name>.png``."""
    for title, numbers in tables.items():
        print(title)
        for key, number in numbers.items():
            print(f"  {key:34} {number:9.3g}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    contents = {"environment": environment() | {"quick": quick}, **tables}
    (FOLDER / f"{name}.json").write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    draw(FOLDER / f"{name}.png", name, tables)
    print(f"written to {FOLDER / name}.json and .png")


def draw(file: Path, title: str, tables: Tables) -> None:
    """Draw a curve or bars of every table, as a PNG."""
    from matplotlib.figure import Figure

    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    figure.suptitle(title)
    for axes, (name, numbers) in zip(figure.subplots(rows, columns, squeeze=False).flat, tables.items(), strict=False):
        axes.set_title(name, fontsize=9)
        if all(_is_number(key) for key in numbers):
            axes.plot([float(key) for key in numbers], list(numbers.values()), "o-")
            axes.set(xlim=(0, None), ylim=(0, None))
            axes.grid(alpha=0.3)
        else:
            axes.barh(list(numbers), list(numbers.values()))
            axes.invert_yaxis()
            axes.tick_params(labelsize=7)
            for place, value in enumerate(numbers.values()):
                axes.text(value, place, f" {value:.3g}", va="center", fontsize=7)
    figure.savefig(file, dpi=110)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
