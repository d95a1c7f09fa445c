"""Where on the detector the axis of rotation falls, from the views themselves."""

from __future__ import annotations

import logging
import math

import numpy as np

log = logging.getLogger(__name__)
FAINT = 0.05  # edges of the detector at more than this share of the largest value see the object
PAIRS, PLACES = 32, 400  # pairs of views and pixels that are compared: more say nothing new


def find_center(values: np.ndarray, theta: np.ndarray) -> float:
    """Return the pixel of the axis of rotation, from the views (A, P) at the angles (A,).

    By the centres of mass of the views, or where the object leaves the detector by what two lines that are the same
    line must have in common; that comes with a warning, which says how sure it is.
    """
    if len(theta) < 3:
        raise ValueError(f"{len(theta)} views do not tell the centre of rotation; give it by phantom.center=PIXEL")
    share = seen_at_edges(values)
    if share <= FAINT:
        return by_mass(values, theta)
    told = f"the detector's edges are at {share:.0%} of the largest value: the object leaves the detector"
    found = by_mirror(values, theta)
    if found is None:
        center = by_mass(values, theta)
        log.warning(
            "%s, and no views half a turn apart tell the centre of rotation; pixel %.1f may be far off: give it by "
            "phantom.center=PIXEL",
            told,
            center,
        )
        return center
    center, unsure = found
    log.warning(
        "%s; the centre of rotation by views half a turn apart is pixel %.2f ± %.1f (phantom.center=PIXEL sets it)",
        told,
        center,
        unsure,
    )
    return center


def seen_at_edges(values: np.ndarray) -> float:
    """Return the share of the largest value that either edge of the detector sees in a tenth of the views."""
    edge = max(1, values.shape[1] // 50)
    means = np.abs([values[:, :edge].mean(1), values[:, -edge:].mean(1)])
    high = float(np.percentile(np.abs(values), 99))
    return float(np.percentile(means, 90, axis=1).max()) / high if high > 0 else 0.0


def by_mass(values: np.ndarray, theta: np.ndarray) -> float:
    """Return the axis by the views' consistency (Helgason, Ludwig), of an object that stays on the detector.

    The centre of mass of a view is ρ₀ + x̄ cos θ + ȳ sin θ for one point (x̄, ȳ), whatever the object; ρ₀ is fitted to
    all views, the mean of a view's ends being taken for background.
    """
    pixels = np.arange(values.shape[1])
    edge = max(1, values.shape[1] // 50)
    ramp = np.linspace(0, 1, values.shape[1])
    left, right = (np.median(part, axis=1)[:, None] for part in (values[:, :edge], values[:, -edge:]))
    mass = values - left * (1 - ramp) - right * ramp
    total = mass.sum(1)
    if not (total != 0).all():
        raise ValueError("views without mass do not tell the centre of rotation; give it by phantom.center=PIXEL")
    waves = np.stack([np.ones_like(theta), np.cos(theta), np.sin(theta)], 1)
    center = float(np.linalg.lstsq(waves, (mass * pixels).sum(1) / total, rcond=None)[0][0])
    if not 0 < center < values.shape[1] - 1:
        raise ValueError(
            f"the centre of rotation was found at pixel {center:.1f}, off the detector; give it by phantom.center=PIXEL"
        )
    return center


def by_mirror(values: np.ndarray, theta: np.ndarray) -> tuple[float, float] | None:
    """Return the axis by s(ρ, θ + π) = s(−ρ, θ), and how far off it may be; None without views to compare.

    Every view beside which there are mirrored views of the other half turn is compared with what these and its own
    neighbours interpolate at its angle, on the pixels that both sides of the axis see. The error in terms of the signal
    is least at the axis; any pixel at which it is less than twice as large may be the axis as well.
    """
    pixels = values.shape[1]
    padded = np.pad(values, ((0, 0), (1, 1)), mode="edge")
    smooth = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    compared = _neighbours(theta)
    if not compared:
        return None
    own, weights, sides = zip(*compared[:: math.ceil(len(compared) / PAIRS)], strict=True)
    least = max(2.0, pixels / 40)
    grid = np.linspace(least, pixels - 1 - least, min(2 * pixels, 2 * PLACES))
    errors = np.array([_mirror_error(smooth, own, weights, sides, c) for c in grid])
    best, step = int(errors.argmin()), float(grid[1] - grid[0])
    fine = np.linspace(max(least, grid[best] - step), min(pixels - 1 - least, grid[best] + step), 81)
    closer = np.array([_mirror_error(smooth, own, weights, sides, c) for c in fine])
    center, error = float(fine[closer.argmin()]), float(closer.min())
    alike = np.concatenate([grid[errors <= 2 * error], fine[closer <= 2 * error]])
    return center, max(0.1, float(np.abs(alike - center).max()))


Neighbours = tuple[int, tuple[float, float], tuple[tuple[int, bool], tuple[int, bool]]]
"""A view, the weights of the two beside it, and these: their numbers, and whether they are mirrored."""


def _neighbours(theta: np.ndarray) -> list[Neighbours]:
    """Return the views that stand beside a mirrored one, on the circle that their angles and those plus π make."""
    count = len(theta)
    usual = float(np.median(np.diff(theta)))
    turns = np.arange(-3, 4)
    angles = (theta + math.pi * turns[:, None]).ravel()
    numbers, odd = np.tile(np.arange(count), len(turns)), np.repeat(turns % 2 == 1, count)
    found: list[Neighbours] = []
    for i, angle in enumerate(theta):
        off = angles - angle
        same = np.flatnonzero((np.abs(off) < 1e-6) & odd)
        if len(same):
            there = int(numbers[same[0]]), True
            found.append((i, (0.5, 0.5), (there, there)))
            continue
        apart = np.abs(off) >= 1e-6
        a = int(np.where(apart & (off < 0), off, -np.inf).argmax())
        b = int(np.where(apart & (off > 0), off, np.inf).argmin())
        gap = float(off[b] - off[a])
        if (odd[a] or odd[b]) and gap <= 3 * usual:
            pair = (int(numbers[a]), bool(odd[a])), (int(numbers[b]), bool(odd[b]))
            found.append((i, (float(off[b]) / gap, float(-off[a]) / gap), pair))
    return found


def _mirror_error(
    values: np.ndarray,
    own: tuple[int, ...],
    weights: tuple[tuple[float, float], ...],
    sides: tuple[tuple[tuple[int, bool], tuple[int, bool]], ...],
    center: float,
) -> float:
    """Return how far views are from what their neighbours make of them if this pixel is the axis, 0 to 2 or so."""
    pixels = values.shape[1]
    first, last = max(0, math.ceil(2 * center) - pixels + 1), min(pixels - 1, math.floor(2 * center))
    x = np.arange(first, last + 1)
    at = np.clip(2 * center - x, 0, pixels - 1)
    low = np.minimum(at.astype(int), pixels - 2)
    part = at - low
    predicted = np.zeros((len(own), len(x)))
    for side in (0, 1):
        numbers = np.array([pair[side][0] for pair in sides])
        mirrored = np.array([pair[side][1] for pair in sides])
        weight = np.array([w[side] for w in weights])
        rows = values[numbers]
        turned = rows[:, low] * (1 - part) + rows[:, low + 1] * part
        predicted += weight[:, None] * np.where(mirrored[:, None], turned, rows[:, x])
    here = values[list(own)][:, x]
    signal = float(np.square(here).sum() + np.square(predicted).sum())
    return float(np.square(here - predicted).sum()) / signal if signal > 0 else math.inf
