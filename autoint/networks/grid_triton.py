"""Interpolation on a grid over three coordinates, and its backward pass, as kernels that Triton compiles for a GPU.

Their twins are ``grid_kernel``, for a CPU, and what ``Grid._average`` does with torch alone: numbers and weights of all
corners, 16·S numbers a point that go to the memory and come back. Here they stay in registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128  # points of a program


class Interpolation(torch.autograd.Function):
    """``Grid._average`` of points x (P, S, 3) that ask for no gradient: (P, F); float32, on a GPU.

    The backward pass adds in whatever order the device takes, as ``index_add_`` does there.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor | None, x: Tensor, resolution: int) -> Tensor:
        ctx.save_for_backward(rows, x)
        ctx.shape, ctx.resolution = table.shape, resolution
        out = x.new_empty(len(x), table.shape[1])
        _launch(_interpolate, table, rows, x, out, resolution)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows, x = ctx.saved_tensors
        out = grad.new_zeros(ctx.shape)
        _launch(_scatter, out, rows, x, grad.contiguous(), ctx.resolution)
        return out, None, None, None


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
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there, feature = point < count, tl.arange(0, PADDED)
    both = there[:, None] & (feature < FEATURES)[None, :]
    total = tl.full((BLOCK, PADDED), 0.0, tl.float32)
    for node in range(NODES):
        at = x + (point * NODES + node) * 3
        i, u = _place(tl.load(at, mask=there, other=0.0), resolution)
        j, v = _place(tl.load(at + 1, mask=there, other=0.0), resolution)
        k, w = _place(tl.load(at + 2, mask=there, other=0.0), resolution)
        for corner in tl.static_range(8):
            row, weight = _corner(rows, i, j, k, u, v, w, there, resolution, corner, SHARED)
            total += weight[:, None] * tl.load(table + row[:, None] * FEATURES + feature[None, :], mask=both, other=0.0)
    tl.store(out + point[:, None] * FEATURES + feature[None, :], total / NODES, mask=both)


@triton.jit
def _scatter(
    table, rows, x, grad, count, resolution,
    NODES: tl.constexpr, FEATURES: tl.constexpr, PADDED: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there, feature = point < count, tl.arange(0, PADDED)
    both = there[:, None] & (feature < FEATURES)[None, :]
    share = tl.load(grad + point[:, None] * FEATURES + feature[None, :], mask=both, other=0.0) / NODES
    for node in range(NODES):
        at = x + (point * NODES + node) * 3
        i, u = _place(tl.load(at, mask=there, other=0.0), resolution)
        j, v = _place(tl.load(at + 1, mask=there, other=0.0), resolution)
        k, w = _place(tl.load(at + 2, mask=there, other=0.0), resolution)
        for corner in tl.static_range(8):
            row, weight = _corner(rows, i, j, k, u, v, w, there, resolution, corner, SHARED)
            tl.atomic_add(table + row[:, None] * FEATURES + feature[None, :], weight[:, None] * share, mask=both)
