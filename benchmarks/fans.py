"""Fan beams against parallel rays: the same ellipses by as many rays, at several sizes.

At one size the sinogram's PSNR hangs on where edges lie between the lattice's nodes: from 41.1 to 42.8 dB by parallel
rays alone. An object that fills the detector is also smaller in a flat fan, whose outermost ray is nearer to the axis
than its pixel is. So all three see an object of the same size in pixels at the axis, and the mean over sizes counts.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

import autoint
from autoint.tomography.data.fans import Fan
from autoint.tomography.data.phantoms import SHEPP_LOGAN, absorption, line_integrals
from autoint.tomography.data.sinograms import Scan
from autoint.tomography.evaluation import psnr, true_image
from benchmarks.measure import Tables

PIXELS, VIEWS, SUBSAMPLE, SOURCE = 128, 360, 8, 320.0
RADII = (64.0, 64.5, 65.0, 65.5, 66.0)  # of the object's disc in pixels at the axis
KINDS = {"parallel": None, "flat": Fan(SOURCE), "curved": Fan(SOURCE, curved=True)}


def scan_of(fan: Fan | None, radius: float) -> Scan:
    """Return the ellipses in a disc of this radius, by evenly spaced views of half a turn, or of a fan's whole one."""
    scan = Scan(np.zeros((VIEWS, PIXELS)), np.zeros(VIEWS), center=float(PIXELS // 2), fan=fan)
    scan = replace(scan, theta=scan.turn(VIEWS), padding=radius / scan.radius - 1)
    lines = scan.theta if scan.gamma is None else scan.theta[:, None] - scan.gamma
    image = absorption(SHEPP_LOGAN, np.arange(-int(radius), int(radius) + 1) / scan.radius)
    return replace(scan, values=line_integrals(SHEPP_LOGAN, scan.rho, lines), image=image)


def found(fan: Fan | None, radius: float, passes: int = 60) -> tuple[float, float]:
    """Return the PSNR of the unseen views and of the image, as :func:`autoint.reconstruct` finds them by itself."""
    scan, options = scan_of(fan, radius), {} if fan is None else {"source": fan.source, "curved": fan.curved}
    seen = np.arange(0, VIEWS, SUBSAMPLE)
    unseen, truth = np.setdiff1d(np.arange(VIEWS), seen), true_image(scan)
    assert truth is not None
    ours = autoint.reconstruct(
        scan.values[seen], scan.theta[seen], unit="radians", angles=scan.theta[unseen], center=scan.center,
        padding=scan.padding, passes=passes, progress=False, **options,
    )  # fmt: skip
    views = psnr(ours.sinogram, scan.values[unseen], float(scan.values.max()))
    return views, psnr(ours.image / scan.pixel_units[0], truth, float(truth.max()))


def run(quick: bool = False) -> Tables:
    """Return the tables."""
    radii, passes = (RADII[:1], 10) if quick else (RADII, 60)
    every = {name: [found(fan, radius, passes) for radius in radii] for name, fan in KINDS.items()}
    tables: dict[str, dict[str, float]] = {}
    for place, what in enumerate(("unseen views", "image")):
        for number, radius in enumerate(radii):
            tables[f"PSNR in dB, {what}, radius {radius:g}"] = {k: v[number][place] for k, v in every.items()}
        tables[f"PSNR in dB, {what}, mean"] = {k: math.fsum(p[place] for p in v) / len(v) for k, v in every.items()}
    return tables
