"""Tomography: sinograms of the Shepp-Logan phantom against the classics, and the time of filling one in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from skimage.transform import radon

from autoint.reports.tables import markdown
from autoint.runs import restoring
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from autoint.tomography import evaluation as sinogram_evaluation
from autoint.tomography.classics import projected
from autoint.tomography.data.sinograms import Scan
from autoint.tomography.task import Tomography, load_scan
from benchmarks.measure import Tables, fastest, over

SIZE, SAMPLES = 128, 64
SUBSAMPLES = (4, 8, 16)


def configuration(subsample: int, quick: bool) -> RunConfig:
    """Return the configuration of ``task=ct`` as ``conf/task/ct.yaml`` has it, or a smaller one."""
    plain: dict[str, Any] = {
        "task": "ct",
        "encoding": {"name": "normalized_positional", "num_frequencies": 2},
        "batch_size": 1024,
        "save_every": 10000,
        "optimizer": {"lr": 0.003},
        "trainer": {"max_steps": 400 if quick else 3000, "accelerator": "cpu", "devices": 1},
        "subsample": subsample,
    }
    return RunConfig.from_plain({**plain, **({"rho": 64, "theta": 64, "passes": 20} if quick else {})})


def quality(subsample: int, quick: bool) -> tuple[dict[str, float], Tomography, Scan]:
    """Train; return the PSNR of every method on unseen angles, the trained module, and the scan."""
    config = configuration(subsample, quick)
    with tempfile.TemporaryDirectory() as folder:
        fit(config, Path(folder))
        _, module = restoring.restored(Path(folder) / "checkpoints" / "last.ckpt")
        assert isinstance(module, Tomography)
        scan, seen = load_scan(config)
        rows = sinogram_evaluation.write(module.fields, scan, seen, Path(folder), sinogram_evaluation.CLASSICS)
    return {row["method"]: row["psnr"] for row in rows if row["psnr"] == row["psnr"]}, module, scan


def filling(module: Tomography, scan: Scan) -> dict[str, float]:
    """Return the seconds of a whole sinogram by every way."""
    line = module.line
    assert line is not None
    image = sinogram_evaluation.true_image(scan)
    assert image is not None
    rho, theta = (torch.as_tensor(v).float() for v in (scan.rho, scan.theta))
    lines = rho.repeat(len(theta)), theta.repeat_interleave(len(rho))
    u = torch.full((len(lines[0]), 1, SAMPLES), 0.5)

    def by_samples() -> None:
        with torch.no_grad():
            for parts in zip(*(v.split(256) for v in (*lines, u)), strict=True):
                line.estimate(*parts)

    ways: dict[str, Callable[[], Any]] = {
        "Φ(t₊) − Φ(t₋)": lambda: line.sinogram(scan.rho, scan.theta),
        f"{SAMPLES} samples of Ψ": by_samples,
        "closed-form projector": lambda: projected(image, scan),
        "scikit-image's radon": lambda: radon(image, scan.theta * 57.29577951308232, circle=True),
    }
    return fastest(ways, rounds=3)


def run(quick: bool = False) -> Tables:
    """Return the tables."""
    tables: dict[str, dict[str, float]] = {}
    for subsample in SUBSAMPLES[1:2] if quick else SUBSAMPLES:
        found, module, scan = quality(subsample, quick)
        tables[f"PSNR in dB on unseen angles, {len(scan.theta) // subsample} views"] = found
    seconds = filling(module, scan)
    tables[f"milliseconds per sinogram of {len(scan.theta)}x{len(scan.rho)}"] = {k: v * 1e3 for k, v in seconds.items()}
    tables["ratio to Φ(t₊) − Φ(t₋)"] = over(seconds, "Φ(t₊) − Φ(t₋)")
    return tables


def quoted(tables: Tables) -> str:
    """Return what docs/benchmarks.md quotes."""
    quality = {title.rsplit(", ", 1)[1]: table for title, table in tables.items() if title.startswith("PSNR")}
    methods = list(next(iter(quality.values())))
    rows = [{"": views, **{m: f"{table[m]:.2f}" for m in methods}} for views, table in quality.items()]
    text = markdown(rows, {"": ("", ""), **{m: (m, "") for m in methods}}, {})
    [(title, times)] = [(t, v) for t, v in tables.items() if t.startswith("milliseconds")]
    listed = ", ".join(f"{name} {value:.0f}" for name, value in times.items())
    return f"{text}\n{title[0].upper()}{title[1:]}: {listed}.\n"
