"""``marching.march`` without gradients, as a loop over rays that numba compiles for a CPU."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from autoint.files.machine import on_threads
from autoint.scenes.marching import CORNERS, SIDE, TRANSPARENT, told

SHARED = 2**10  # rays that are worth a second thread
ROW, PLANE = SIDE + 1, (SIDE + 1) ** 2
CARRIED = 0.02
"""One colour is looked up for successive samples that weigh so much together."""


def march(
    skip: Tensor, density: Tensor, color: Tensor, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor,
    step: float, shift: Tensor, carried: float = CARRIED,
) -> Tensor:  # fmt: skip
    """As ``marching.march``, with ``marching.distances(index)`` as ``skip``; tensors are float32, on a CPU.

    The colours of successive samples whose weights are less than ``carried`` together are taken as that of the last.
    """
    out = torch.empty(len(near), 2 + color.shape[-1])
    cells = skip.numpy(), density.flatten().numpy(), color.flatten(0, 1).numpy()
    march_rays: Any = _march
    on_threads(
        lambda *ray: march_rays(*cells, *ray, step, carried), (origins, directions, near, far, shift, out), SHARED
    )
    return told(out, directions)


@numba.njit(fastmath={"contract", "arcp", "nsz", "reassoc"}, cache=True, boundscheck=False, nogil=True)
def _march(  # noqa: C901
    skip: np.ndarray, density: np.ndarray, color: np.ndarray, origins: np.ndarray, directions: np.ndarray,
    near: np.ndarray, far: np.ndarray, shift: np.ndarray, out: np.ndarray, step: float, carried: float,
) -> None:  # fmt: skip
    """Write Σ w, Σ w·t and Σ w·c, as ``marching.march`` composites them, into ``out`` (R, 2 + 3·K).

    ``skip`` is its index with, where nothing is, minus the number of blocks up to the nearest one, as
    ``marching.distances`` counts them: all that are nearer are passed at once. The colour is looked up once for
    successive samples whose weights are ``carried`` together, at the last of them.
    """
    size, terms = skip.shape[0], color.shape[1]
    most = size * SIDE
    for r in range(len(near)):
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        start, end = near[r] + shift[r] * step, far[r]
        passed, pending, seen, depth = 1.0, 0.0, 0.0, 0.0
        k, at, fx, fy, fz = 0, 0, 0.0, 0.0, 0.0
        for n in range(terms):
            out[r, 2 + n] = 0.0
        while True:
            t = start + k * step
            over = t >= end or passed <= TRANSPARENT
            alpha = 0.0
            if not over:
                k += 1
                x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                if x < 0 or y < 0 or z < 0 or x >= most or y >= most or z >= most:
                    continue
                cx, cy, cz = int(x), int(y), int(z)
                bx, by, bz = cx // SIDE, cy // SIDE, cz // SIDE
                number = skip[bx, by, bz]
                if number < 0:  # on to the last sample before the walls of what is empty
                    reach, leave = -number, end
                    if dx != 0:
                        leave = min(leave, ((bx + reach if dx > 0 else bx + 1 - reach) * SIDE - ox) / dx)
                    if dy != 0:
                        leave = min(leave, ((by + reach if dy > 0 else by + 1 - reach) * SIDE - oy) / dy)
                    if dz != 0:
                        leave = min(leave, ((bz + reach if dz > 0 else bz + 1 - reach) * SIDE - oz) / dz)
                    k = max(k, int((leave - start) / step))
                    continue
                gx, gy, gz = x - cx, y - cy, z - cz
                here = number * CORNERS + (cx - bx * SIDE) * PLANE + (cy - by * SIDE) * ROW + (cz - bz * SIDE)
                sigma = (1 - gx) * (
                    (1 - gy) * ((1 - gz) * density[here] + gz * density[here + 1])
                    + gy * ((1 - gz) * density[here + ROW] + gz * density[here + ROW + 1])
                ) + gx * (
                    (1 - gy) * ((1 - gz) * density[here + PLANE] + gz * density[here + PLANE + 1])
                    + gy * ((1 - gz) * density[here + PLANE + ROW] + gz * density[here + PLANE + ROW + 1])
                )
                if sigma <= 0:
                    continue
                at, fx, fy, fz = here, gx, gy, gz
                alpha = 1 - math.exp(-sigma * step)
                pending += passed * alpha
                depth += passed * alpha * t
                passed *= 1 - alpha
            if pending > carried or (over and pending > 0):
                for corner in range(8):
                    i, j, m = corner >> 2, (corner >> 1) & 1, corner & 1
                    share = pending * (fx if i else 1 - fx) * (fy if j else 1 - fy) * (fz if m else 1 - fz)
                    place = at + i * PLANE + j * ROW + m
                    for n in range(terms):
                        out[r, 2 + n] += share * color[place, n]
                seen += pending
                pending = 0.0
            if over:
                break
        out[r, 0], out[r, 1] = seen, depth
