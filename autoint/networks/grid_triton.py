"""Interpolation on a grid over three coordinates, and its backward pass, as kernels that Triton compiles for a GPU.

Their twins are ``grid_kernel``, for a CPU, and what ``Grid._average`` does with torch alone: numbers and weights of all
corners, 16·S numbers a point that go to the memory and come back. Here they stay in registers.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # points of a program


def interpolate(table: Tensor, rows: Tensor | None, x: Tensor, resolution: int, out: Tensor) -> None:
    """As ``grid_kernel.interpolate``."""
    _launch(_interpolate, table, rows, x, out, resolution)


def scatter(grad: Tensor, rows: Tensor | None, x: Tensor, resolution: int, out: Tensor) -> None:
    """As ``grid_kernel.scatter``, adding in whatever order the device takes, as ``index_add_`` does there."""
    _launch(_scatter, out, rows, x, grad, resolution)


def _launch(kernel: Any, table: Tensor, rows: Tensor | None, x: Tensor, values: Tensor, resolution: int) -> None:
    """Run a kernel over the points x (P, S, 3), between ``table`` (T, F) and their ``values`` (P, F)."""
    if len(x):
        features = table.shape[1]
        kernel[(triton.cdiv(len(x), BLOCK),)](
            table,
            table if rows is None else rows,
            x,
            values,
            len(x),
            resolution,
            NODES=x.shape[1],
            FEATURES=features,
            PADDED=triton.next_power_of_2(features),
            SHARED=rows is not None,
            BLOCK=BLOCK,
        )


@triton.jit
def _place(value, resolution):
    """Return the cell of a coordinate in [−1, 1], and where in the cell it is; of NaN the latter is NaN too."""
    place = 0.5 * (value + 1.0)
    scaled = tl.minimum(tl.maximum(tl.where(place == place, place, 0.0), 0.0), 1.0) * resolution
    cell = tl.minimum(scaled.to(tl.int32), resolution - 1)
    return cell, tl.where(place == place, scaled - cell.to(tl.float32), place)


@triton.jit
def _block(count, FEATURES: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    """Return the points of a program, which of them there are, the features (1, F), and which of both there are."""
    point, feature = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED)[None, :]
    there = point < count
    return point, there, feature, there[:, None] & (feature < FEATURES)


@triton.jit
def _cell(x, number, there, resolution):
    """Return the cells of the points of these numbers along x, y and z, and where in the cells they are."""
    i, u = _place(tl.load(x + 3 * number, mask=there, other=0.0), resolution)
    j, v = _place(tl.load(x + 3 * number + 1, mask=there, other=0.0), resolution)
    k, w = _place(tl.load(x + 3 * number + 2, mask=there, other=0.0), resolution)
    return i, j, k, u, v, w


@triton.jit
def _corner(
    rows, x, y, z, u, v, w, there, resolution, K: tl.constexpr, SHARED: tl.constexpr
):  # fmt: skip
    """Return the rows (B,) of the K-th corners of the cells x, y, z, and their weights (B,)."""
    number = ((x + K // 4) * (resolution + 1) + y + K // 2 % 2) * (resolution + 1) + z + K % 2
    weight = (u if K // 4 else 1.0 - u) * (v if K // 2 % 2 else 1.0 - v) * (w if K % 2 else 1.0 - w)
    if SHARED:
        number = tl.load(rows + number, mask=there, other=0)
    return number.to(tl.int64), weight


@triton.jit
def _interpolate(
    table, rows, x, out, count, resolution,
    NODES: tl.constexpr, FEATURES: tl.constexpr, PADDED: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point, there, feature, both = _block(count, FEATURES, PADDED, BLOCK)
    total = tl.full((BLOCK, PADDED), 0.0, tl.float32)
    for node in range(NODES):
        i, j, k, u, v, w = _cell(x, point * NODES + node, there, resolution)
        for corner in tl.static_range(8):
            row, weight = _corner(rows, i, j, k, u, v, w, there, resolution, corner, SHARED)
            total += weight[:, None] * tl.load(table + row[:, None] * FEATURES + feature, mask=both, other=0.0)
    tl.store(out + point[:, None] * FEATURES + feature, total / NODES, mask=both)


@triton.jit
def _scatter(
    table, rows, x, grad, count, resolution,
    NODES: tl.constexpr, FEATURES: tl.constexpr, PADDED: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point, there, feature, both = _block(count, FEATURES, PADDED, BLOCK)
    share = tl.load(grad + point[:, None] * FEATURES + feature, mask=both, other=0.0) / NODES
    for node in range(NODES):
        i, j, k, u, v, w = _cell(x, point * NODES + node, there, resolution)
        for corner in tl.static_range(8):
            row, weight = _corner(rows, i, j, k, u, v, w, there, resolution, corner, SHARED)
            tl.atomic_add(table + row[:, None] * FEATURES + feature, weight[:, None] * share, mask=both)
