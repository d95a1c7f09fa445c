"""Interpolation on a grid over three coordinates, and its backward pass, as loops that numba compiles for a CPU."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from torch import Tensor

from autoint.files.machine import on_threads

ONE, HALF = np.float32(1), np.float32(0.5)
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "cache": True, "boundscheck": False, "nogil": True}
SHARED = 2**12  # points that are worth a second thread


def interpolate(table: Tensor, rows: Tensor | None, x: Tensor, resolution: int, out: Tensor) -> None:
    """Write the means over the S of the points x (P, S, 3) of what is interpolated of ``table`` into ``out`` (P, F).

    What torch does of it in passes over the corners' numbers and weights, 8·S a point, is done here in registers.
    """
    cells = table.numpy(), _numbers(rows)
    on_threads(lambda some, its: _interpolate(*cells, some, resolution, its), (x, out), SHARED)


def scatter(grad: Tensor, rows: Tensor | None, x: Tensor, resolution: int, out: Tensor) -> None:
    """Add to ``out``, like the table, what it is to have of the gradient (P, F) of :func:`interpolate`'s result."""
    _scatter(grad.numpy(), _numbers(rows), x.numpy(), resolution, out.numpy())


def _numbers(rows: Tensor | None) -> np.ndarray:
    return np.empty(0, np.int32) if rows is None else rows.numpy()


@numba.njit(inline="always")
def _place(value: Any, resolution: int) -> tuple[Any, Any]:
    """Return the cell of a coordinate in [−1, 1], and where in the cell it is; of NaN the latter is NaN too."""
    place = HALF * (value + ONE)
    if place != place:
        return 0, place
    place = min(max(place, np.float32(0)), ONE) * np.float32(resolution)
    cell = min(int(place), resolution - 1)
    return cell, place - np.float32(cell)


@numba.njit(inline="always")
def _corners(x: np.ndarray, rows: np.ndarray, resolution: int, p: int, s: int) -> tuple[Any, ...]:
    """Return the rows of the corners of a point's cell, and their weights: all at once, to wait for memory once."""
    i, u = _place(x[p, s, 0], resolution)
    j, v = _place(x[p, s, 1], resolution)
    k, w = _place(x[p, s, 2], resolution)
    plane = (resolution + 1) * (resolution + 1)
    n = i * plane + j * (resolution + 1) + k
    m = n + resolution + 1
    numbers: Any = n, n + 1, m, m + 1, n + plane, n + plane + 1, m + plane, m + plane + 1
    if len(rows):
        numbers = (
            np.int64(rows[numbers[0]]), np.int64(rows[numbers[1]]), np.int64(rows[numbers[2]]),
            np.int64(rows[numbers[3]]), np.int64(rows[numbers[4]]), np.int64(rows[numbers[5]]),
            np.int64(rows[numbers[6]]), np.int64(rows[numbers[7]]),
        )  # fmt: skip
    share = ONE / np.float32(x.shape[1])
    r, q = (ONE - u) * share, u * share
    rr, rq, qr, qq = r * (ONE - v), r * v, q * (ONE - v), q * v
    z = ONE - w
    return numbers, (rr * z, rr * w, rq * z, rq * w, qr * z, qr * w, qq * z, qq * w)


@numba.njit(**OPTIONS)
def _interpolate(table: np.ndarray, rows: np.ndarray, x: np.ndarray, resolution: int, out: np.ndarray) -> None:
    for p in range(len(x)):
        for f in range(table.shape[1]):
            out[p, f] = 0
        for s in range(x.shape[1]):
            n, w = _corners(x, rows, resolution, p, s)
            for f in range(table.shape[1]):
                out[p, f] += (
                    w[0] * table[n[0], f] + w[1] * table[n[1], f] + w[2] * table[n[2], f] + w[3] * table[n[3], f]
                    + w[4] * table[n[4], f] + w[5] * table[n[5], f] + w[6] * table[n[6], f] + w[7] * table[n[7], f]
                )  # fmt: skip


@numba.njit(**OPTIONS)
def _scatter(grad: np.ndarray, rows: np.ndarray, x: np.ndarray, resolution: int, out: np.ndarray) -> None:
    for p in range(len(x)):
        for s in range(x.shape[1]):
            n, w = _corners(x, rows, resolution, p, s)
            for f in range(out.shape[1]):
                g = grad[p, f]
                out[n[0], f] += w[0] * g
                out[n[1], f] += w[1] * g
                out[n[2], f] += w[2] * g
                out[n[3], f] += w[3] * g
                out[n[4], f] += w[4] * g
                out[n[5], f] += w[5] * g
                out[n[6], f] += w[6] * g
                out[n[7], f] += w[7] * g
