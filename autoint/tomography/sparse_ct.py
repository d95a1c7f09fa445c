"""A table of sparse-view tomography after a sweep: every method on every scan, and how its parameters were chosen."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

from autoint.files.whole_files import write_whole
from autoint.reports import pictures
from autoint.reports.tables import markdown
from autoint.runs import restoring
from autoint.runs.config import RunConfig
from autoint.runs.sweeps import Sweep, report_layout
from autoint.tomography.evaluation import phantom_name
from autoint.tomography.task import Tomography

CHOSEN = {
    "AutoInt object": "prior by held-out measured views",
    "AutoInt line": "none: the network as configured",
    "TV": "strength by held-out measured views",
    "SART": "20 passes",
}
"""How parameters are chosen; what is not here has none."""
COLUMNS = {
    "scan": ("scan", ""),
    "views": ("views", ""),
    "noise": ("noise", ""),
    "method": ("method", ""),
    "psnr": ("sinogram PSNR, unseen views", ".2f"),
    "image_psnr": ("image PSNR", ".2f"),
    "image_ssim": ("image SSIM", ".4f"),
    "seconds": ("seconds", ".1f"),
    "chosen": ("parameters", ""),
}


@report_layout("sparse_ct", task="ct")
def write(sweep: Sweep) -> str:
    """Write table.md, table.csv and sparse_ct.png of a sweep's runs into its folder, evaluated where they were not.

    Returns the table.

    The seconds of ours are those of the training, of the classics those of their fit.
    """
    rows: list[dict[str, Any]] = []
    for file in sweep.files:
        try:
            rows += _rows(sweep, file)
        except ValueError as error:
            sweep.failures.append(f"{file.parent.parent}: {error}")
    if not rows:
        sweep.check()
        raise ValueError(f"{sweep.folder}: no run was finished, so there is no table; the same command goes on")
    rows.sort(key=lambda row: (row["scan"], -row["views"]))
    table = markdown(rows, COLUMNS, {})
    write_whole(sweep.folder / "table.md", table.encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(sweep.folder / "table.csv", text.getvalue().encode())
    _draw(sweep.folder / "sparse_ct.png", rows)
    return table


def _draw(file: Path, rows: list[dict[str, Any]]) -> None:
    """Draw a curve for each method over the noise: of sinograms above, of images below, a column for each scan."""
    from matplotlib.figure import Figure

    errors = {key: COLUMNS[key][0] for key in ("psnr", "image_psnr")}
    scans = list(dict.fromkeys((row["scan"], row["views"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(3.6 * len(scans) + 1.6, 6), layout="constrained")
    panels = figure.subplots(len(errors), len(scans), squeeze=False, sharey="row")
    for axes, (key, scan) in zip(panels.flat, itertools.product(errors, scans), strict=True):
        for number, method in enumerate(methods):
            own = [row for row in rows if (row["scan"], row["views"]) == scan and row["method"] == method]
            ours = {"lw": 2.5, "color": "black", "zorder": 3} if number == 0 else {}
            axes.plot([row["noise"] or "none" for row in own], [row[key] for row in own], "o-", label=method, **ours)
        axes.set_title(f"{scan[0]}, {scan[1]} views" if key == "psnr" else "")
        axes.tick_params(axis="x", labelrotation=20)
        axes.grid(alpha=0.3)
    for row, name in zip(panels, errors.values(), strict=True):
        row[0].set_ylabel(f"{name} / dB")
    figure.legend(*panels[-1, 0].get_legend_handles_labels(), loc="outside right center")
    pictures.write_figure(file, figure, dpi=100)


def _rows(sweep: Sweep, file: Path) -> list[dict[str, Any]]:
    """Return a row for every method of a run; what an evaluation after its last checkpoint has found is used again."""
    run_dir = file.parent.parent
    folder = run_dir / "evaluation"
    known = folder / "methods.json"
    if not known.is_file() or known.stat().st_mtime_ns < file.stat().st_mtime_ns:
        run, module = restoring.restored(file, sweep.config.code, data_dir=sweep.config.data_dir)
        if not isinstance(module, Tomography):
            raise ValueError("no run of task=ct")
        rows, _ = module.evaluate(sweep.config, run, folder)
        trained = json.loads((run_dir / "result.json").read_text(encoding="utf-8")).get("seconds")
        head = {"scan": phantom_name(run), "noise": _noise(run)}
        for row in rows:
            ours = row["method"].startswith("AutoInt")
            row |= head | {"chosen": CHOSEN.get(row["method"], "none")}
            row["seconds"] = trained if ours and trained is not None else row["seconds"]
        plain = [{key: None if row[key] != row[key] else row[key] for key in COLUMNS} for row in rows]
        write_whole(known, (json.dumps(plain) + "\n").encode())
    found: list[dict[str, Any]] = json.loads(known.read_text(encoding="utf-8"))
    return [{key: math.nan if value is None else value for key, value in row.items()} for row in found]


def _noise(run: RunConfig) -> str:
    """Return what was added to the views."""
    share, photons = run.options["gaussian"], run.options["photons"]
    return ", ".join([*([f"{share:.3g} of largest"] if share else []), *([f"{photons:g} photons"] if photons else [])])
