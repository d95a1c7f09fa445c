"""The paper's Figure 3 after a sweep: how networks of different activations fill the sinogram between the views."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoint.files.whole_files import write_whole
from autoint.reports import pictures
from autoint.reports.tables import markdown
from autoint.runs import checkpoints
from autoint.runs.config import RunConfig
from autoint.runs.sweeps import Sweep, report_layout
from autoint.tomography.evaluation import phantom_name

LINE, OTHERS = "AutoInt line", ("AutoInt object", "linear")


@dataclass(frozen=True)
class Run:
    """A finished run: its activation, the errors of its methods, and its sinograms."""

    activation: str
    phantom: str
    errors: dict[str, float]
    arrays: dict[str, np.ndarray]

    @property
    def views(self) -> int:
        """How many views were measured."""
        return len(self.arrays["seen"])


@report_layout("figure3", task="ct")
def write(sweep: Sweep) -> str:
    """Write table.md and figure3.png of a sweep's runs into its folder; return the table."""
    folder = sweep.folder
    runs = [run for file in sweep.files if (run := _read(file)) is not None]
    if not runs:
        raise ValueError(f"{folder}: no run of task=ct was finished, so there is no table; the same command goes on")
    phantoms, tables = list(dict.fromkeys(run.phantom for run in runs)), []
    for phantom in phantoms:
        own = [run for run in runs if run.phantom == phantom]
        tables.append(f"## {phantom}: sinogram PSNR (dB) on unseen angles\n\n{_table(own)}")
        name = "figure3.png" if len(phantoms) == 1 else f"figure3_{phantom}.png"
        _draw(folder / name, own)
    table = "\n".join(tables)
    write_whole(folder / "table.md", table.encode())
    return table


def _read(file: Path) -> Run | None:
    folder = file.parent.parent
    if not (folder / "errors.json").is_file():
        return None
    config = RunConfig.from_plain(checkpoints.load(file)["autoint"]["config"])
    rows: list[dict[str, Any]] = json.loads((folder / "errors.json").read_text(encoding="utf-8"))
    with np.load(folder / "sinograms.npz", allow_pickle=False) as contents:
        arrays = {name: contents[name] for name in contents.files}
    errors = {row["method"]: row["psnr"] for row in rows if row["psnr"] is not None}
    return Run(config.activation["name"], phantom_name(config), errors, arrays)


def _table(runs: list[Run]) -> str:
    """Return a table with a row for each activation and for the other methods, a column for each number of views."""
    views = sorted({run.views for run in runs}, reverse=True)
    rows: dict[str, dict[str, str]] = {}
    for run in runs:
        for method, error in run.errors.items():
            name = f"line, {run.activation}" if method == LINE else method
            rows.setdefault(name, {})[str(run.views)] = f"{error:.2f}"
    order = sorted(rows, key=lambda name: (name in OTHERS, name))
    lines = [{"": name, **{str(v): rows[name].get(str(v), "–") for v in views}} for name in order]
    return markdown(lines, {"": ("", ""), **{str(v): (f"{v} views", "") for v in views}}, {})


def _draw(file: Path, runs: list[Run]) -> None:
    """Draw, for each number of views, the sinograms side by side and the scan line through the centre."""
    from matplotlib.figure import Figure

    views = sorted({run.views for run in runs}, reverse=True)
    names = list(dict.fromkeys(run.activation for run in runs if "line" in run.arrays))
    figure = Figure(figsize=(2.3 * (len(names) + 2) + 5, 2.7 * len(views)), layout="constrained")
    grid = figure.add_gridspec(len(views), len(names) + 3, width_ratios=[1.0] * (len(names) + 2) + [2.4])
    for row, count in enumerate(views):
        of = {run.activation: run for run in runs if run.views == count}
        arrays = next(iter(of.values())).arrays
        panels = {"all views": arrays["sinogram"], "linear": arrays["linear"]}
        panels |= {name: of[name].arrays["line"] for name in names if name in of and "line" in of[name].arrays}
        middle, degrees = int(np.abs(arrays["rho"]).argmin()), np.degrees(arrays["theta"])
        curve = figure.add_subplot(grid[row, -1])
        for number, (name, values) in enumerate(panels.items()):
            axes = figure.add_subplot(grid[row, number])
            axes.imshow(values, cmap="gray", vmin=0, vmax=float(arrays["sinogram"].max()), aspect="auto")
            error = of[name].errors.get(LINE) if name in of else of[next(iter(of))].errors.get(name)
            axes.set_title(name if error is None else f"{name}, {error:.1f} dB", fontsize=9)
            axes.set(xticks=[], yticks=[], ylabel=f"{count} views" if number == 0 else "")
            black = {"color": "black", "lw": 2.5} if number == 0 else {"lw": 1.1}
            curve.plot(degrees, values[:, middle], label=name, **black)
        curve.plot(degrees[arrays["seen"]], arrays["sinogram"][arrays["seen"], middle], "o", color="black", ms=4)
        curve.set_title("scan line through the centre", fontsize=9)
        curve.grid(alpha=0.3)
        if row == 0:
            curve.legend(fontsize=7, ncols=2)
    pictures.write_figure(file, figure, dpi=100)
