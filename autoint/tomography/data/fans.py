"""Fan beams: the rays of a source that turns about the axis, their opposite rays, and where their axis falls."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

log = logging.getLogger(__name__)
WIDEST = math.radians(60)  # from the axis' ray to the outermost: beyond it a distance is in the wrong unit
PLACES = 200  # of the axis on the detector that are tried


@dataclass(frozen=True)
class Fan:
    """Rays from a point at (R sin β, −R cos β) to a detector on the other side of the axis, along (cos β, sin β).

    A pixel at u sees the line (ρ, θ) = (R sin γ, β − γ), with tan γ = u/R on a flat detector and γ = u/R on one that is
    curved about the source.

    Attributes:
        source: R, in pixels of the size that they have at the axis: the distance from the source to the detector in
            pixels of the detector.
        curved: whether the detector is an arc about the source.
    """

    source: float
    curved: bool = False

    def gamma(self, u: np.ndarray) -> np.ndarray:
        """Return the angle between a pixel's ray and that through the axis, in radians; u in pixels from the latter."""
        return u / self.source if self.curved else np.arctan2(u, self.source)

    def place(self, gamma: np.ndarray) -> np.ndarray:
        """Return the u of rays, the inverse of :meth:`gamma`."""
        return self.source * (gamma if self.curved else np.tan(gamma))

    def checked(self, outermost: float) -> Fan:
        """Return this fan, or refuse one that would open too wide for a detector that reaches to u = ``outermost``."""
        opening = float(self.gamma(np.array(outermost)))
        if not (self.source > 0 and opening <= WIDEST):
            raise ValueError(
                f"phantom.source: seen from {self.source:g} pixels away, the detector's farther edge is "
                f"{math.degrees(opening):.0f} degrees off the axis, and 60 are the most; give the distances from the "
                "source in pixels, or in the unit of phantom.pixel_size"
            )
        return self


def at_lines(
    values: np.ndarray, beta: np.ndarray, center: float, fan: Fan, rho: np.ndarray, theta: np.ndarray
) -> np.ndarray:
    """Return what views (A, P) at the angles β have on the lines (ρ, θ), bilinear; NaN where no view sees them.

    Args:
        values: the views.
        beta: their angles, ascending, (A,).
        center: pixel of the ray through the axis.
        fan: the rays.
        rho, theta: of the lines, in pixels and radians, of one shape.
    """
    gamma = np.arcsin(np.clip(rho / fan.source, -1, 1))
    pixel = fan.place(gamma) + center
    whole = beta[-1] - beta[0] > 2 * math.pi - 2 * float(np.diff(beta).max())
    turned = (theta + gamma - beta[0]) % (2 * math.pi) + beta[0]
    angles = np.concatenate([beta, beta[:1] + 2 * math.pi]) if whole else beta
    rows = np.concatenate([values, values[:1]]) if whole else values
    view = np.interp(turned, angles, np.arange(len(angles)), right=math.nan)
    found = map_coordinates(rows, [np.nan_to_num(view, nan=-1.0), pixel], order=1, mode="nearest")
    seen = np.isfinite(view) & (pixel >= 0) & (pixel <= values.shape[1] - 1)
    return np.where(seen, found, math.nan)


def parallel(
    values: np.ndarray, beta: np.ndarray, center: float, fan: Fan, rho: np.ndarray, theta: np.ndarray
) -> np.ndarray:
    """Return parallel views (A', P') of a fan's, at these angles and lines in pixels; zero where nothing was seen.

    Every line is met from both sides in a whole turn; the mean of both is taken.
    """
    r, t = np.broadcast_arrays(rho, theta[:, None])
    both = np.stack([at_lines(values, beta, center, fan, r, t), at_lines(values, beta, center, fan, -r, t + math.pi)])
    seen = np.isfinite(both)
    return np.asarray(np.where(seen, both, 0).sum(0) / np.maximum(seen.sum(0), 1))


def find_center(values: np.ndarray, beta: np.ndarray, fan: Fan) -> float:
    """Return the pixel of the ray through the axis: where rays agree best with those that meet them on the same line.

    ``ValueError`` for views of less than a whole turn, in which few lines are seen from both sides.
    """
    pixels = values.shape[1]
    if beta[-1] - beta[0] < 2 * math.pi - 2 * float(np.diff(beta).max()):
        raise ValueError(
            "views of a fan over less than a whole turn do not tell where the axis falls on the detector; give the "
            "pixel by phantom.center=PIXEL"
        )

    def mismatch(center: float, turned: np.ndarray = beta) -> float:
        gamma = fan.gamma(np.arange(pixels) - center)
        r, t = np.broadcast_arrays(fan.source * np.sin(gamma), turned[:, None] - gamma)
        there = at_lines(values, beta, center, fan, -r, t + math.pi)
        seen = np.isfinite(there)
        apart = np.square(np.where(seen, there - values, 0)).sum()
        return float(apart / np.square(values[seen]).sum()) if seen.any() else math.inf

    tried = np.linspace(pixels / 4, 3 * pixels / 4, PLACES)
    best = float(tried[int(np.argmin([mismatch(c) for c in tried]))])
    step = float(tried[1] - tried[0])
    fine = np.linspace(best - step, best + step, 41)
    errors = [mismatch(c) for c in fine]
    log.info("opposite rays of the fan agree to %.2g of what they see", math.sqrt(min(errors)))
    return float(fine[int(np.argmin(errors))])
