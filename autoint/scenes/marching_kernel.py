"""``marching.march`` as loops over rays that numba compiles for a CPU, and its gradient."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autoint.files.machine import on_threads
from autoint.scenes.marching import CORNERS, SIDE, TRANSPARENT, told

SHARED = 2**10  # rays that are worth a second thread
ROW, PLANE = SIDE + 1, (SIDE + 1) ** 2
ONE = np.float32(1)  # a plain 1 would make all that it meets float64
CARRIED = 0.02
"""One colour is looked up for successive samples that weigh so much together."""
OPTIONS: dict[str, Any] = {
    "fastmath": {"contract", "arcp", "nsz", "reassoc"}, "cache": True, "boundscheck": False, "nogil": True,
}  # fmt: skip


def march(
    skip: Tensor, density: Tensor, color: Tensor, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor,
    step: float, shift: Tensor, carried: float = CARRIED,
) -> Tensor:  # fmt: skip
    """As ``marching.march``, with ``marching.distances(index)`` as ``skip``; tensors are float32, on a CPU.

    Without a gradient, the colours of successive samples whose weights are less than ``carried`` together are taken as
    that of the last.
    """
    rays = origins, directions, near, far, shift
    if torch.is_grad_enabled():
        sums = _March.apply(skip, density, color, rays, step)
        assert isinstance(sums, Tensor)
        return told(sums, directions)
    return told(_sums(skip, density, color, rays, step, carried), directions)


def _sums(
    skip: Tensor, density: Tensor, color: Tensor, rays: tuple[Tensor, ...], step: float, carried: float
) -> Tensor:
    out = torch.empty(len(rays[0]), 2 + color.shape[-1])
    cells = skip.numpy(), density.flatten().numpy(), color.flatten(0, 1).numpy()
    march_rays: Any = _march
    on_threads(lambda *ray: march_rays(*cells, *ray, step, carried), (*rays, out), SHARED)
    return out


class _March(torch.autograd.Function):
    """Σ w, Σ w·t and Σ w·c (R, 2 + 3·K), with a gradient by density and colour."""

    @staticmethod
    def forward(
        ctx: Any, skip: Tensor, density: Tensor, color: Tensor, rays: tuple[Tensor, ...], step: float
    ) -> Tensor:
        out = _sums(skip, density, color, rays, step, 0.0)
        ctx.save_for_backward(skip, density, color, out, *rays)
        ctx.step = step
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        skip, density, color, out, *rays = ctx.saved_tensors
        by_density, by_color = torch.zeros_like(density), torch.zeros_like(color)
        of_rays = [value.contiguous().numpy() for value in (*rays, grad, (grad * out).sum(-1))]
        cells = skip.numpy(), density.flatten().numpy(), color.flatten(0, 1).numpy()
        backward: Any = _backward  # on one thread: rays share cells
        backward(*cells, *of_rays, ctx.step, by_density.flatten().numpy(), by_color.flatten(0, 1).numpy())
        return None, by_density, by_color, None, None


@numba.njit(**OPTIONS)
def _next(skip: np.ndarray, ray: tuple[Any, ...], start: Any, end: Any, step: float, k: int) -> tuple[Any, ...]:
    """Return the first sample from number k on that is in a block: its number, where its cell begins, and where in it.

    Where there is none before ``end``, the place is −1. ``skip`` has, where nothing is, minus the number of blocks up
    to the nearest one: all that are nearer are passed at once.
    """
    ox, oy, oz, dx, dy, dz = ray
    most = skip.shape[0] * SIDE
    while True:
        t = start + k * step
        if t >= end:
            return k, -1, ox, oy, oz
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        if x < 0 or y < 0 or z < 0 or x >= most or y >= most or z >= most:
            k += 1
            continue
        cx, cy, cz = int(x), int(y), int(z)
        bx, by, bz = cx // SIDE, cy // SIDE, cz // SIDE
        number = skip[bx, by, bz]
        if number >= 0:
            here = number * CORNERS + (cx - bx * SIDE) * PLANE + (cy - by * SIDE) * ROW + (cz - bz * SIDE)
            return k, here, x - cx, y - cy, z - cz
        reach, leave = -number, end  # on to the last sample before the walls of what is empty
        if dx != 0:
            leave = min(leave, ((bx + reach if dx > 0 else bx + 1 - reach) * SIDE - ox) / dx)
        if dy != 0:
            leave = min(leave, ((by + reach if dy > 0 else by + 1 - reach) * SIDE - oy) / dy)
        if dz != 0:
            leave = min(leave, ((bz + reach if dz > 0 else bz + 1 - reach) * SIDE - oz) / dz)
        k = max(k + 1, int((leave - start) / step))


@numba.njit(inline="always", **OPTIONS)
def trilinear(values: np.ndarray, here: int, gx: Any, gy: Any, gz: Any) -> Any:
    """Return what is interpolated between the corners of a cell."""
    hx, hy, hz = ONE - gx, ONE - gy, ONE - gz
    return hx * (
        hy * (hz * values[here] + gz * values[here + 1])
        + gy * (hz * values[here + ROW] + gz * values[here + ROW + 1])
    ) + gx * (
        hy * (hz * values[here + PLANE] + gz * values[here + PLANE + 1])
        + gy * (hz * values[here + PLANE + ROW] + gz * values[here + PLANE + ROW + 1])
    )  # fmt: skip


@numba.njit(inline="always", **OPTIONS)
def add_color(color: np.ndarray, here: int, gx: Any, gy: Any, gz: Any, weight: Any, sums: np.ndarray) -> None:
    """Add ``weight`` times the coefficients that are interpolated between the corners of a cell to ``sums`` (3·K,)."""
    hx, hy, hz = ONE - gx, ONE - gy, ONE - gz
    low, high, back, far = here, here + ROW, here + PLANE, here + PLANE + ROW
    a, b, c, d = weight * hx * hy * hz, weight * hx * hy * gz, weight * hx * gy * hz, weight * hx * gy * gz
    e, f, g, h = weight * gx * hy * hz, weight * gx * hy * gz, weight * gx * gy * hz, weight * gx * gy * gz
    for n in range(len(sums)):  # all corners at once, so that sums stay in registers
        sums[n] += (
            a * color[low, n] + b * color[low + 1, n] + c * color[high, n] + d * color[high + 1, n]
            + e * color[back, n] + f * color[back + 1, n] + g * color[far, n] + h * color[far + 1, n]
        )  # fmt: skip


@numba.njit(**OPTIONS)
def _march(
    skip: np.ndarray, density: np.ndarray, color: np.ndarray, origins: np.ndarray, directions: np.ndarray,
    near: np.ndarray, far: np.ndarray, shift: np.ndarray, out: np.ndarray, step: float, carried: float,
) -> None:  # fmt: skip
    """Write Σ w, Σ w·t and Σ w·c, as ``marching.march`` composites them, into ``out`` (R, 2 + 3·K).

    The colour is looked up once for successive samples whose weights are ``carried`` together, at the last of them.
    """
    terms = color.shape[1]
    for r in range(len(near)):
        ray = origins[r, 0], origins[r, 1], origins[r, 2], directions[r, 0], directions[r, 1], directions[r, 2]
        start, end = near[r] + shift[r] * step, far[r]
        passed, pending, seen, depth = 1.0, 0.0, 0.0, 0.0
        k, at, fx, fy, fz = 0, -1, 0.0, 0.0, 0.0
        for n in range(terms):
            out[r, 2 + n] = 0.0
        while True:
            here = -1
            if passed > TRANSPARENT:
                k, here, gx, gy, gz = _next(skip, ray, start, end, step, k)
            if here >= 0:
                sigma = trilinear(density, here, gx, gy, gz)
                k += 1
                if sigma <= 0:
                    continue
                at, fx, fy, fz = here, gx, gy, gz
                weight = passed * (1 - math.exp(-sigma * step))
                pending += weight
                depth += weight * (start + (k - 1) * step)
                passed -= weight
            if pending > carried or (here < 0 and pending > 0):
                add_color(color, at, fx, fy, fz, pending, out[r, 2:])
                seen += pending
                pending = 0.0
            if here < 0:
                break
        out[r, 0], out[r, 1] = seen, depth


@numba.njit(**OPTIONS)
def _backward(
    skip: np.ndarray, density: np.ndarray, color: np.ndarray, origins: np.ndarray, directions: np.ndarray,
    near: np.ndarray, far: np.ndarray, shift: np.ndarray, grad: np.ndarray, total: np.ndarray, step: float,
    by_density: np.ndarray, by_color: np.ndarray,
) -> None:  # fmt: skip
    """Add what density and colour are to have of the gradient (R, 2 + 3·K), which is ``total`` times what was written.

    With v_i what a weight of 1 at sample i would add to the loss, ∂/∂w_i = v_i and
    ∂/∂(σ_i·step) = T_{i+1} v_i − Σ_{j>i} w_j v_j, where the sum is what is left of the total.
    """
    terms = color.shape[1]
    for r in range(len(near)):
        ray = origins[r, 0], origins[r, 1], origins[r, 2], directions[r, 0], directions[r, 1], directions[r, 2]
        start, end = near[r] + shift[r] * step, far[r]
        passed, left, k = 1.0, total[r], 0
        while passed > TRANSPARENT:
            k, here, gx, gy, gz = _next(skip, ray, start, end, step, k)
            if here < 0:
                break
            sigma = trilinear(density, here, gx, gy, gz)
            t = start + k * step
            k += 1
            if sigma <= 0:
                continue
            weight = passed * (1 - math.exp(-sigma * step))
            passed -= weight
            value = grad[r, 0] + grad[r, 1] * t
            for corner in range(8):
                i, j, m = corner >> 2, (corner >> 1) & 1, corner & 1
                share = (gx if i else 1 - gx) * (gy if j else 1 - gy) * (gz if m else 1 - gz)
                place = here + i * PLANE + j * ROW + m
                seen = 0.0
                for n in range(terms):
                    seen += grad[r, 2 + n] * color[place, n]
                    by_color[place, n] += weight * share * grad[r, 2 + n]
                value += share * seen
            left -= weight * value
            slope = step * (passed * value - left)
            for corner in range(8):
                i, j, m = corner >> 2, (corner >> 1) & 1, corner & 1
                share = (gx if i else 1 - gx) * (gy if j else 1 - gy) * (gz if m else 1 - gz)
                by_density[here + i * PLANE + j * ROW + m] += share * slope
