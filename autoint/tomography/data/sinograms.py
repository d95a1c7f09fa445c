"""Sinograms: what a scan measured, which of its views are seen, and how views are interpolated in angle."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline, interp1d

log = logging.getLogger(__name__)
SAME_ANGLE = 1e-9


@dataclass(frozen=True)
class Scan:
    """Line integrals s(ρ, θ) of one slice, parallel beam.

    Attributes:
        values: one row per view, (A, P), in units of absorption times the radius of the disc that the detector sees.
        theta: angle of each view's detector axis (cos θ, sin θ), in radians, ascending, (A,).
        center: where on the detector the axis of rotation falls, in pixels from the centre of the first.
        exact: the values without noise, where they are known; errors are measured against these.
        image: the object itself on the lattice of one detector pixel, rows from the top, where it is known.
    """

    values: np.ndarray
    theta: np.ndarray
    center: float | None = None
    exact: np.ndarray | None = None
    image: np.ndarray | None = None

    @property
    def radius(self) -> float:
        """The disc's radius in detector pixels: the farthest pixel from the axis sees its rim."""
        assert self.center is not None
        return max(self.center, self.values.shape[1] - 1 - self.center)

    @property
    def rho(self) -> np.ndarray:
        """Signed distance of each pixel's line from the axis, in units of the radius, (P,)."""
        assert self.center is not None
        return (np.arange(self.values.shape[1]) - self.center) / self.radius

    @property
    def truth(self) -> np.ndarray:
        """The values that a method is measured against."""
        return self.values if self.exact is None else self.exact

    def with_noise(self, gaussian: float, photons: float | None, seed: int) -> Scan:
        """Return the scan with noise: of ``gaussian`` times the largest value, and of counting ``photons`` per pixel.

        Counts are Poisson of photons·exp(−s); a pixel without any counts as having one.
        """
        if gaussian < 0 or (photons is not None and not photons > 0):
            raise ValueError(f"gaussian={gaussian} must not be negative, and photons={photons} must be positive")
        g, values = np.random.default_rng(seed), self.values
        if photons is not None:
            values = -np.log(np.maximum(g.poisson(photons * np.exp(-values)), 1) / photons)
        values = values + gaussian * self.values.max() * g.standard_normal(values.shape)
        return replace(self, values=values, exact=self.truth)

    def centred(self, seen: np.ndarray) -> Scan:
        """Return the scan with its centre of rotation, found in the seen views if it was not given."""
        if self.center is not None:
            return self
        center = find_center(self.values[seen], self.theta[seen])
        log.info("centre of rotation: pixel %.2f of %d (phantom.center=… sets it)", center, self.values.shape[1])
        return replace(self, center=center)


def find_center(values: np.ndarray, theta: np.ndarray) -> float:
    """Return the pixel of the axis of rotation, by the views' consistency (Helgason, Ludwig).

    The centre of mass of a view is ρ₀ + x̄ cos θ + ȳ sin θ for one point (x̄, ȳ), whatever the object; ρ₀ is fitted to
    all views, the mean of a view's ends being taken for background.
    """
    pixels = np.arange(values.shape[1])
    edge = max(1, values.shape[1] // 50)
    ramp = np.linspace(0, 1, values.shape[1])
    left, right = (np.median(part, axis=1)[:, None] for part in (values[:, :edge], values[:, -edge:]))
    mass = values - left * (1 - ramp) - right * ramp
    first = (mass * pixels).sum(1) / mass.sum(1)
    waves = np.stack([np.ones_like(theta), np.cos(theta), np.sin(theta)], 1)
    if len(theta) < 3:
        raise ValueError(f"{len(theta)} views do not tell the centre of rotation; give it by phantom.center=PIXEL")
    center = float(np.linalg.lstsq(waves, first, rcond=None)[0][0])
    if not 0 < center < values.shape[1] - 1:
        raise ValueError(
            f"the centre of rotation was found at pixel {center:.1f}, off the detector; give it by phantom.center=PIXEL"
        )
    return center


def seen_views(count: int, views: int | None, subsample: int | None) -> np.ndarray:
    """Return which of ``count`` views are measured: ``views`` evenly spaced ones, or every ``subsample``-th."""
    if (views is None) == (subsample is None):
        raise ValueError(f"views={views}, subsample={subsample}: give one of them, as in views=16 or subsample=8")
    chosen = count if views is None else views
    if views is not None and not 2 <= views <= count:
        raise ValueError(f"views={views}: the scan has {count} views; give 2 to {count}")
    if subsample is not None and not 1 <= subsample <= count // 2:
        raise ValueError(f"subsample={subsample}: the scan has {count} views; give 1 to {count // 2}")
    return np.arange(0, count, subsample) if subsample else np.arange(chosen) * count // chosen


def interpolated(
    values: np.ndarray, theta: np.ndarray, rho: np.ndarray, at: np.ndarray, kind: str = "linear"
) -> np.ndarray:
    """Return views (A', P) at the angles ``at``, interpolated in angle; s(ρ, θ + π) = s(−ρ, θ) closes the circle.

    Args:
        values: measured views, (A, P).
        theta: their angles, (A,), within one turn.
        rho: the pixels' lines, (P,).
        at: the angles wanted, (A',).
        kind: ``linear`` or ``cubic`` (a spline).
    """
    mirrored = np.stack([np.interp(-rho, rho, view) for view in values])
    turns = range(-3, 4)
    angles = np.concatenate([theta + k * math.pi for k in turns])
    rows = np.concatenate([mirrored if k % 2 else values for k in turns])
    order = np.argsort(angles, kind="stable")
    angles, rows = angles[order], rows[order]
    fresh = np.flatnonzero(np.diff(angles, prepend=-np.inf) > SAME_ANGLE)
    angles, rows = angles[fresh], np.add.reduceat(rows, fresh) / np.diff(fresh, append=len(rows))[:, None]
    curve = CubicSpline(angles, rows) if kind == "cubic" else interp1d(angles, rows, axis=0)
    return np.asarray(curve(at))
