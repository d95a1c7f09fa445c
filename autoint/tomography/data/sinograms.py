"""Sinograms: what a scan measured, which of its views are seen, and how views are interpolated in angle."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline, interp1d

from autoint.tomography.data import fans
from autoint.tomography.data.center import find_center
from autoint.tomography.data.fans import Fan

log = logging.getLogger(__name__)
SAME_ANGLE = 1e-9


@dataclass(frozen=True)
class Scan:
    """Line integrals of one slice, by parallel rays or by a fan: s(ρ_j, θ_i − γ_j), γ being zero for parallel ones.

    Attributes:
        values: one row per view, (A, P), in units of absorption times the radius of the disc that the detector sees.
        theta: angle of each view's detector axis (cos θ, sin θ), in radians, ascending, (A,).
        center: where on the detector the axis of rotation falls, in pixels from the centre of the first.
        exact: the values without noise, where they are known; errors are measured against these.
        image: the object itself on the lattice of one detector pixel, rows from the top, where it is known.
        pixel_size: of the detector, at the axis, in any unit of length; None where it is not known.
        fan: the rays' source; None for parallel rays.
        padding: how much farther than the detector sees the object may reach, as a share of the radius.
    """

    values: np.ndarray
    theta: np.ndarray
    center: float | None = None
    exact: np.ndarray | None = None
    image: np.ndarray | None = None
    pixel_size: float | None = None
    fan: Fan | None = None
    padding: float = 0.0

    @property
    def radius(self) -> float:
        """The disc's radius in detector pixels at the axis: without padding the outermost pixel's line is its rim."""
        assert self.center is not None
        outermost = max(self.center, self.values.shape[1] - 1 - self.center)
        if self.fan is not None:
            outermost = self.fan.source * math.sin(float(self.fan.gamma(np.array(outermost))))
        return outermost * (1 + self.padding)

    @property
    def gamma(self) -> np.ndarray | None:
        """What each pixel's ray is turned by against that through the axis, radians, (P,); None: they are parallel."""
        assert self.center is not None
        return None if self.fan is None else self.fan.gamma(np.arange(self.values.shape[1]) - self.center)

    @property
    def rho(self) -> np.ndarray:
        """Signed distance of each pixel's line from the axis, in units of the radius, (P,)."""
        assert self.center is not None
        gamma = self.gamma
        if self.fan is None or gamma is None:
            return (np.arange(self.values.shape[1]) - self.center) / self.radius
        return self.fan.source * np.sin(gamma) / self.radius

    def turn(self, count: int) -> np.ndarray:
        """Return angles (count,), evenly over what tells all of an object: half a turn, of a fan a whole one."""
        return np.arange(count) * ((math.pi if self.fan is None else 2 * math.pi) / count)

    @property
    def truth(self) -> np.ndarray:
        """The values that a method is measured against."""
        return self.values if self.exact is None else self.exact

    @property
    def pixel_units(self) -> tuple[float, str]:
        """What an image in units of this scan's values is to be multiplied by, and the unit that it then has.

        s = ∫Ψ dt is a pure number, so Ψ is per length: per pixel, or per unit of ``pixel_size`` where that is known.
        """
        if self.pixel_size is None:
            return 1 / self.radius, "attenuation per pixel"
        return 1 / (self.radius * self.pixel_size), f"attenuation per length, pixels of {self.pixel_size:g}"

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
        if self.fan is None:
            center = find_center(self.values[seen], self.theta[seen])
        else:
            center = fans.find_center(self.values[seen], self.theta[seen], self.fan)
        log.info("centre of rotation: pixel %.2f of %d (phantom.center=… sets it)", center, self.values.shape[1])
        return replace(self, center=center)


def noise_level(values: np.ndarray) -> float:
    """Return the standard deviation of the noise in views (A, P), white along the detector, estimated from themselves.

    By the median of fourth differences along the detector, which leave little of an object's smooth parts and most of
    the noise: √70·σ of white noise of σ.
    """
    if values.shape[1] < 5:
        return 0.0
    return float(np.median(np.abs(np.diff(values, 4, axis=1)))) / (0.6745 * math.sqrt(70))


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
    values: np.ndarray, theta: np.ndarray, rho: np.ndarray, at: np.ndarray, kind: str = "linear", fan: bool = False
) -> np.ndarray:
    """Return views (A', P) at the angles ``at``, interpolated in angle; s(ρ, θ + π) = s(−ρ, θ) closes the circle.

    Views of a fan have no mirror images among each other: a whole turn closes theirs. Of parallel views
    over more than half a turn, pixels without a mirror image on the detector take their own alone.

    Args:
        values: measured views, (A, P).
        theta: their angles, (A,), within one turn.
        rho: the pixels' lines, (P,).
        at: the angles wanted, (A',).
        kind: ``linear`` or ``cubic`` (a spline).
        fan: whether the views are a fan's.
    """
    if fan:
        return _joined(values, values, theta, at, kind, range(-4, 5, 2))
    mirrored = np.stack([np.interp(-rho, rho, view) for view in values])
    alone = (-rho < rho[0] - 1e-9) | (-rho > rho[-1] + 1e-9)
    if np.ptp(theta) > math.pi + SAME_ANGLE and alone.any():
        whole = _joined(values, mirrored, theta, at, kind, range(-3, 4))
        return np.where(alone, _joined(values, values, theta, at, kind, range(-4, 5, 2)), whole)
    return _joined(values, mirrored, theta, at, kind, range(-3, 4))


def _joined(
    values: np.ndarray, mirrored: np.ndarray, theta: np.ndarray, at: np.ndarray, kind: str, turns: range
) -> np.ndarray:
    """Return views at ``at``, interpolated between those of these half turns, of which the odd ones are mirrored."""
    angles = np.concatenate([theta + k * math.pi for k in turns])
    rows = np.concatenate([mirrored if k % 2 else values for k in turns])
    order = np.argsort(angles, kind="stable")
    angles, rows = angles[order], rows[order]
    at = np.where((at < angles[0]) | (at > angles[-1]), theta[0] + (at - theta[0]) % (2 * math.pi), at)
    fresh = np.flatnonzero(np.diff(angles, prepend=-np.inf) > SAME_ANGLE)
    angles, rows = angles[fresh], np.add.reduceat(rows, fresh) / np.diff(fresh, append=len(rows))[:, None]
    curve = CubicSpline(angles, rows) if kind == "cubic" else interp1d(angles, rows, axis=0)
    return np.asarray(curve(at))
