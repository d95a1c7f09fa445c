"""Counts as absorption; what is wrong with views and can be mended or told: dead pixels and frames, turned views."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from scipy.ndimage import median_filter

log = logging.getLogger(__name__)
MOST_DEAD = 0.1  # share of detector columns that may be mended
SHOWN = 8


def listed(numbers: np.ndarray) -> str:
    """Return some numbers as text, the first few of them."""
    return ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")


def live_views(source: str, values: np.ndarray) -> np.ndarray:
    """Return the numbers of the views that see something; frames of zeros, or of one value, are told of."""
    dead = np.nanmax(values, axis=1) == np.nanmin(values, axis=1)
    if not dead.any():
        return np.arange(len(values))
    numbers = np.flatnonzero(dead)
    if dead.mean() > 0.5:
        raise ValueError(
            f"{source}: {len(numbers)} of {len(dead)} views are dead frames of one value, the first is view "
            f"{numbers[0]}; leave them out, with their angles"
        )
    log.warning("%s: views %s are dead frames of one value and were left out", source, listed(numbers))
    return np.flatnonzero(~dead)


def mended(source: str, values: np.ndarray) -> np.ndarray:
    """Return the views with dead detector columns interpolated from the others."""
    dead = dead_columns(values)
    if not dead.any():
        return values
    if dead.mean() > MOST_DEAD:
        raise ValueError(
            f"{source}: {dead.sum()} of {len(dead)} detector columns are dead (constant among columns that are not, or "
            f"white ≤ dark); at most {MOST_DEAD:.0%} can be interpolated"
        )
    shown = listed(np.flatnonzero(dead))
    log.warning("%s: dead detector columns %s were interpolated from their neighbours", source, shown)
    alive = np.flatnonzero(~dead)
    return np.stack([np.interp(np.arange(len(dead)), alive, view[alive]) for view in values])


def without_rings(source: str, values: np.ndarray, columns: int) -> np.ndarray:
    """Return views (A, P) without the stripes of pixels that answer differently, which become rings in the image.

    Each column is sorted, the sorted columns are smoothed by a median over ``columns`` of them, and what comes out is
    put back where it was (Vo, Atwood and Drakopoulos, Optics Express 26, 28396, 2018, algorithm 3).
    """
    if not 3 <= columns <= values.shape[1] or columns % 2 == 0:
        raise ValueError(
            f"phantom.rings={columns}: an odd number of columns for the median; give 3 to {values.shape[1]}"
        )
    order = np.argsort(values, axis=0, kind="stable")
    smooth = median_filter(np.take_along_axis(values, order, 0), (1, columns), mode="nearest")
    out = np.empty_like(values)
    np.put_along_axis(out, order, smooth, 0)
    change = float(np.abs(out - values).mean(0).max() / np.abs(values).max())
    log.info(
        "%s: rings removed by sorting, median over %d columns; at most %.2g %% of the largest value in a column",
        source,
        columns,
        100 * change,
    )
    return out


def without_spikes(source: str, values: np.ndarray, share: float) -> np.ndarray:
    """Return views (A, P) with single bad pixels replaced by the median of the 3 × 3 about them, and told of.

    Bad is what lies farther from that median than ``share`` of the values' 99th percentile.
    """
    if not 0 < share < 1:
        raise ValueError(
            f"phantom.spikes={share}: how far off a bad pixel is, as a share of the largest values; give 0.1"
        )
    middle = median_filter(values, 3, mode="nearest")
    bad = np.abs(values - middle) > share * np.percentile(values, 99)
    log.info("%s: %d bad pixels (%.2g %%) replaced by the median about them", source, bad.sum(), 100 * bad.mean())
    return np.where(bad, middle, values)


def dead_columns(values: np.ndarray) -> np.ndarray:
    """Return which columns of views (A, P) are dead: NaN, or constant where the columns beside them say otherwise.

    Constant alone is no sign: all columns are that see something round about the axis, or air without noise. A constant
    column is dead if in most views it lies beyond what the columns beside it lead to, and if it is zero or if both
    sides change from view to view, as noise makes every living column do.
    """
    dead = np.isnan(values).any(0)
    places = np.flatnonzero(~dead)
    v = values[:, places]
    if not v.size:
        return dead
    least = 1e-6 * float(np.abs(v).max())
    lively = (np.abs(v - np.median(v, axis=0)) > least).mean(0) > 0.5
    constant, end = np.ptp(v, axis=0) == 0, v.shape[1] - 1
    for first, last in _runs(constant, np.arange(end + 1)):
        inside = first > 0 and last < end
        if inside and lively[first - 1] and lively[last + 1]:
            beyond = [_beyond(v, k, first, last, least) for k in range(first, last + 1)]
        elif not inside and (first > 0 or last < end) and lively[first - 1 if first > 0 else last + 1]:
            # At an end of the detector this is air, unless the air at the other end has noise.
            noisy = lively[0 if first > 0 else end]
            beyond = [noisy and v[0, k] != 0 and _beyond(v, k, first, last, least) for k in range(first, last + 1)]
        else:
            continue
        dead[places[first : last + 1]] |= beyond
    for first, last in _runs(constant & (v[0] == 0), np.arange(end + 1)):
        if first > 0 and last < end and _beyond(v, first, first, last, least):
            dead[places[first : last + 1]] = True
    return dead


def _runs(chosen: np.ndarray, places: np.ndarray) -> list[tuple[int, int]]:
    """Return the first and the last place of every run of chosen ones."""
    edges = np.diff(chosen.astype(int), prepend=0, append=0)
    return list(zip(places[edges[:-1] == 1].tolist(), places[edges[1:] == -1].tolist(), strict=True))


def _beyond(v: np.ndarray, column: int, first: int, last: int, least: float) -> bool:
    """Return whether a column in a run lies in most views beyond what stands beside the run, continued linearly too."""
    beside = []
    for near, far in ((first - 1, first - 2), (last + 1, last + 2)):
        if 0 <= near < v.shape[1]:
            beside.append(v[:, near])
            if 0 <= far < v.shape[1]:
                beside.append(2 * v[:, near] - v[:, far])
    low, high = np.min(beside, axis=0), np.max(beside, axis=0)
    value = v[:, column]
    return bool(((value < low - least) | (value > high + least)).mean() > 0.5)


def looks_transposed(values: np.ndarray) -> bool:
    """Return whether columns rather than rows have a total that stays the same, as that of an object's views does."""
    if not np.isfinite(values).all():
        return False
    rows, columns = (totals[totals != 0] for totals in (values.sum(1), values.sum(0)))
    if min(len(rows), len(columns)) < 3:
        return False
    spread = [float(totals.std() / abs(totals.mean())) for totals in (rows, columns)]
    return spread[0] > 0.1 and spread[1] < min(0.1, spread[0] / 5)


def looks_like_transmission(values: np.ndarray) -> bool:
    """Return whether both edges of the detector see the largest values, and the middle less: light, not −log of it."""
    edge = max(1, values.shape[1] // 50)
    high = float(np.percentile(values, 99))
    edges = np.concatenate([values[:, :edge], values[:, -edge:]], 1)
    return bool(values.min() >= 0 and np.percentile(edges, 10) > 0.9 * high and values.mean() < 0.95 * edges.mean())


def absorption(file: Path, data: np.ndarray, white: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Return −log of the flat-field corrected transmission, (A, P).

    Columns with white ≤ dark are NaN, frames without any light are zero, and single pixels without light are mended.
    """
    for name, counts in (("data", data), ("data_white", white), ("data_dark", dark)):
        check_numbers(f"{file}[exchange/{name}]", counts)
        if counts.min() < 0:
            place = np.unravel_index(int(counts.argmin()), counts.shape)
            raise ValueError(
                f"{file}[exchange/{name}]: negative counts, {counts.min():g} at {tuple(map(int, place))}; "
                "give raw counts"
            )
    flat = white.mean(0) - dark.mean(0)
    if not (flat > 0).any():
        raise ValueError(
            f"{file}: white ≤ dark in every detector column; check exchange/data_white and exchange/data_dark"
        )
    transmission = (data - dark.mean(0)) / np.where(flat > 0, flat, np.nan)
    blocked = transmission <= 0
    lightless = (blocked | np.isnan(transmission)).all(1)
    blocked[lightless] = False
    if not (transmission > 0).any():
        raise ValueError(f"{file}: no light in any view (data − dark ≤ 0); check data, data_white and data_dark")
    if blocked.mean() > 0.2:
        raise ValueError(
            f"{file}: no light in {blocked.mean():.0%} of the pixels (data − dark ≤ 0); check data, data_white "
            "and data_dark"
        )
    if blocked.any():
        least = transmission[transmission > 0].min()
        log.warning(
            "%s: %d pixels without light count as having the least that was seen, %.2g", file, blocked.sum(), least
        )
        transmission = np.where(blocked, least, transmission)
    return np.where(lightless[:, None], 0.0, -np.log(np.where(lightless[:, None], 1.0, transmission)))


def check_numbers(source: str, values: np.ndarray) -> None:
    """Refuse what is not finite."""
    bad = ~np.isfinite(values)
    if bad.any():
        place = tuple(map(int, np.unravel_index(int(bad.argmax()), bad.shape)))
        raise ValueError(
            f"{source}: {int(bad.sum())} values are NaN or infinite, the first at {place}; mend the measurement"
        )
