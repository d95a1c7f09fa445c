"""Learned features on grids, interpolated multilinearly."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autoint.files.machine import has_triton, numba_takes
from autoint.networks.encodings import AbstractEncoding, Positional, gauss_legendre
from autoint.registry import ENCODINGS, at_least_one

GL2 = (0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12))
"""Two Gauss-Legendre nodes on [0, 1], of equal weight: exact for cubics."""
AT_ONCE = 2**20  # corners of a grid that are numbered together


class _Interpolation(torch.autograd.Function):
    """Weighted sums of rows of a table: ``embedding_bag``, with a backward pass that is several times faster."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(numbers, weights)
        ctx.shape = table.shape
        return F.embedding_bag(numbers, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        numbers, weights = ctx.saved_tensors
        shares = (weights[..., None] * grad[:, None]).flatten(0, 1)
        return grad.new_zeros(ctx.shape).index_add_(0, numbers.flatten(), shares), None, None


class _Compiled(torch.autograd.Function):
    """``Grid._average`` of points x (P, S, 3) that ask for no gradient, by ``loops``: (P, F)."""

    @staticmethod
    def forward(ctx: Any, loops: Any, table: Tensor, rows: Tensor | None, x: Tensor, resolution: int) -> Tensor:
        ctx.save_for_backward(rows, x)
        ctx.loops, ctx.shape, ctx.resolution = loops, table.shape, resolution
        out = x.new_empty(len(x), table.shape[1])
        loops.interpolate(table, rows, x, resolution, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None, None]:
        rows, x = ctx.saved_tensors
        out = grad.new_zeros(ctx.shape)
        ctx.loops.scatter(grad.contiguous(), rows, x, ctx.resolution, out)
        return None, out, None, None, None


@ENCODINGS.register("grid")
class Grid(AbstractEncoding):
    """Learned features, interpolated multilinearly on grids over [−1, 1]ᴰ, beside the normalised positional ones.

    Each level has ``resolution``ᴰ cells and ``features`` at every corner; outside of the cube a point gets those of the
    nearest point in it. The derivatives along tangents are those within a cell; across its walls they jump.

    A level whose corners are more than ``entries`` has that many rows, whatever its resolution. Where ``restrict`` has
    told which corners are asked for, each of them has a row of its own as long as they are fewer, and all others share
    one; else corners share rows by a hash of their number, as in Müller et al. 2022, and the networks that follow tell
    them apart.

    Args:
        in_features: D, at most 3.
        resolutions: cells per axis of each level.
        features: learned features per level.
        num_frequencies: bands of the normalised positional encoding; the raw input is always there.
        entries: rows of a level at most; None for as many as it has corners.
    """

    def __init__(
        self,
        in_features: int,
        *,
        resolutions: list[int] = [16, 32, 64],  # noqa: B006
        features: int = 4,
        num_frequencies: int = 4,
        entries: int | None = None,
    ) -> None:
        super().__init__()
        if in_features > 3:
            raise ValueError(f"encoding=grid is for up to 3 coordinates, not {in_features}; use normalized_positional")
        if not resolutions or not all(1 <= r <= 256 for r in resolutions):
            raise ValueError(f"encoding.resolutions={resolutions} must be a list of integers from 1 to 256")
        at_least_one(**{"encoding.features": features})
        if entries is not None and not 2 <= entries <= 2**26:
            raise ValueError(f"encoding.entries={entries} must be an integer from 2 to {2**26}, or null")
        self.positional = Positional(in_features, num_frequencies, pi=True, include_input=True, normalized=True)
        self.in_features, self.resolutions = in_features, tuple(resolutions)
        self.out_features = self.positional.out_features + len(resolutions) * features
        corners = [(r + 1) ** in_features for r in resolutions]
        rows = [count if entries is None else min(count, entries) for count in corners]
        self.tables = nn.ParameterList(1e-2 * torch.randn(n, features) for n in rows)
        for level, (count, n) in enumerate(zip(corners, rows, strict=True)):
            of_corners = _hashed(torch.empty(count, dtype=torch.int32), n) if n < count else None
            self.register_buffer(f"rows_{level}", of_corners, persistent=False)
        sides = torch.cartesian_prod(*[torch.arange(2)] * in_features).view(-1, in_features)
        self.register_buffer("corners", sides, persistent=False)

    corners: Tensor

    @torch.no_grad()
    def restrict(self, inside: Callable[[Tensor], Tensor]) -> None:
        """Give rows to the corners of cells that have a corner ``inside``, and one row to all the others together."""
        for level, resolution in enumerate(self.resolutions):
            rows, table = getattr(self, f"rows_{level}"), self.tables[level]
            if rows is None or rows.is_meta:
                continue
            axis = torch.linspace(-1, 1, resolution + 1, device=rows.device)
            others = [axis] * (self.in_features - 1)
            asked = torch.stack([inside(_points(at, others)) for at in axis.split(1)])
            asked = asked.view((resolution + 1,) * self.in_features)
            for k in range(self.in_features):  # and the neighbours, with which they share a cell
                padded = F.pad(asked.movedim(k, -1), (1, 1))
                asked = (padded[..., :-2] | padded[..., 1:-1] | padded[..., 2:]).movedim(-1, k)
            asked = asked.flatten()
            if int(asked.count_nonzero()) < len(table):
                torch.cumsum(asked, 0, dtype=rows.dtype, out=rows)
            else:
                _hashed(rows, len(table) - 1).add_(1)
            rows.masked_fill_(~asked, 0)

    def _cell(self, x: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
        """Return the lower corner (…, D) of the cell that x is in, and where in the cell x is, in [0, 1]."""
        place = (0.5 * (x + 1)).clamp(0, 1) * resolution
        cell = place.detach().floor().clamp_max(resolution - 1)
        return cell.long(), place - cell

    def _rows(self, cell: Tensor, level: int) -> Tensor:
        """Return the rows in the level's table of a cell's corners, (…, 2ᴰ)."""
        count = self.resolutions[level] + 1
        strides = count ** torch.arange(self.in_features - 1, -1, -1, device=cell.device)
        numbers = (cell * strides).sum(-1, keepdim=True) + (self.corners * strides).sum(-1)
        rows = getattr(self, f"rows_{level}")
        # A look-up by `embedding` is several times faster than by an index; sums over rows want 64-bit ones.
        return numbers if rows is None else F.embedding(numbers, rows[:, None])[..., 0].long()

    def _average(self, level: int, x: Tensor) -> Tensor:
        """Return the mean (…, F) of the interpolated features over the points x (…, S, D)."""
        table = self.tables[level]
        loops = self._kernel(x, table)
        if loops is not None:
            points = x.reshape(-1, *x.shape[-2:]).contiguous()
            found = _Compiled.apply(loops, table, getattr(self, f"rows_{level}"), points, self.resolutions[level])
            return cast(Tensor, found).view(*x.shape[:-2], -1)
        cell, fraction = self._cell(x, self.resolutions[level])
        weights, rows = self._weights(fraction, ()) / x.shape[-2], self._rows(cell, level)
        if x.requires_grad or torch._C._are_functorch_transforms_active():
            return (weights[..., None] * F.embedding(rows, table)).sum((-3, -2))
        in_all = x.shape[-2] * len(self.corners)
        out = _Interpolation.apply(table, rows.reshape(-1, in_all), weights.reshape(-1, in_all))
        assert isinstance(out, Tensor)
        return out.reshape(*x.shape[:-2], -1)

    def _kernel(self, x: Tensor, table: Tensor) -> ModuleType | None:
        """The compiled loops that can do it, if any: numba's on a CPU (``autoint[fast]``), Triton's on a GPU."""
        plain = x.dtype == table.dtype == torch.float32 and self.in_features == 3 and type(x) is Tensor
        twice = x.requires_grad or torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
        if not plain or twice:
            return None
        if numba_takes(x):
            from autoint.networks import grid_kernel

            return grid_kernel
        if x.device.type == "cuda" and has_triton() and not torch.are_deterministic_algorithms_enabled():
            from autoint.networks import grid_triton

            return grid_triton
        return None

    def _value(self, level: int, x: Tensor) -> Tensor:
        """Return the interpolated features at x, (…, F)."""
        return self._average(level, x[..., None, :])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.positional(x), *(self._value(k, x) for k in range(len(self.tables)))], dim=-1)

    def jet(self, x: Tensor, tangents: Sequence[Tensor]) -> list[Tensor | None]:
        out = [cast(Tensor, stream) for stream in self.positional.jet(x, tangents)]
        for level, (resolution, table) in enumerate(zip(self.resolutions, self.tables, strict=True)):
            cell, fraction = self._cell(x, resolution)
            values = F.embedding(self._rows(cell, level), table) if tangents else None
            scale = torch.where(x.detach().abs() <= 1, 0.5 * resolution, 0.0)
            features = [self._value(level, x)]
            for subset in range(1, len(out)):
                chosen = [tangent * scale for i, tangent in enumerate(tangents) if subset >> i & 1]
                features.append((self._weights(fraction, chosen)[..., None] * cast(Tensor, values)).sum(-2))
            out = [torch.cat(pair, dim=-1) for pair in zip(out, features, strict=True)]
        return list(out)

    def _weights(self, fraction: Tensor, tangents: Sequence[Tensor]) -> Tensor:
        """The mixed derivative along ``tangents`` of the corners' weights Π_d w_d, (…, 2ᴰ): w_d is linear in x_d."""
        if not tangents:
            columns = [torch.ones_like(fraction[..., 0])]
            for upper in fraction.unbind(-1):
                columns = [w * side for w in columns for side in (1 - upper, upper)]
            return torch.stack(columns, dim=-1)  # column by column: innermost axes of two are slow
        value = torch.where(self.corners.bool(), fraction[..., None, :], 1 - fraction[..., None, :])
        total = torch.zeros_like(value[..., 0])
        slope = 2.0 * self.corners - 1
        for axes in itertools.permutations(range(self.in_features), len(tangents)):
            factors = [value[..., d] for d in range(self.in_features) if d not in axes]
            factors += [slope[:, d] * v[..., d, None] for d, v in zip(axes, tangents, strict=True)]
            total = total + functools.reduce(operator.mul, factors)
        return total

    def difference(self, x: Tensor, delta: Tensor) -> Tensor:
        out, end = [self.positional.difference(x, delta)], x + delta
        inside = (torch.maximum(x.abs(), end.abs()) <= 1).all(-1, keepdim=True)
        for level, (resolution, table) in enumerate(zip(self.resolutions, self.tables, strict=True)):
            here, fraction = self._cell(x, resolution)
            within = inside & (here == self._cell(end, resolution)[0]).all(-1, keepdim=True)
            # Within a cell the interpolation is a polynomial: its Taylor series along delta ends at order D.
            step, weights = delta * (0.5 * resolution), torch.zeros_like(fraction[..., :1])
            for order in range(1, self.in_features + 1):
                weights = weights + self._weights(fraction, [step] * order) / math.factorial(order)
            series = (weights[..., None] * F.embedding(self._rows(here, level), table)).sum(-2)
            jump = self._value(level, end) - self._value(level, x)
            out.append(torch.where(within, series, jump))
        return torch.cat(out, dim=-1)

    def total_variation(self, x: Tensor) -> Tensor:
        """Return Σ over levels and axes of the mean |difference| of the features along the edges of x's cells."""
        total = x.new_zeros(())
        for level, (resolution, table) in enumerate(zip(self.resolutions, self.tables, strict=True)):
            rows = self._rows(self._cell(x, resolution)[0], level)
            corners = F.embedding(rows, table).unflatten(1, (2,) * self.in_features)
            total = total + sum(corners.diff(dim=1 + axis).abs().mean() for axis in range(self.in_features))
        return total

    mean_rule = "closed form in each cell"

    def mean(self, a: Tensor, b: Tensor, cut: bool = False) -> Tensor:
        """Return the mean of γ: along a line a cell's interpolation is a cubic, of which two nodes give the integral.

        A segment that crosses a wall of a grid meets a kink there, and the two nodes err in proportion to its length
        and to the change of slope; with ``cut`` each level is cut at its own walls, and the mean is exact.
        """
        out = [self.positional.mean(a, b)]
        nodes = torch.stack([a + s * (b - a) for s in GL2], dim=-2)
        for level, resolution in enumerate(self.resolutions):
            if not cut:
                out.append(self._average(level, nodes))
                continue
            shares = _crossings(a, b, resolution)
            left, right = (
                a[..., None, :] + s[..., None] * (b - a)[..., None, :] for s in (shares[..., :-1], shares[..., 1:])
            )
            value = gauss_legendre(functools.partial(self._value, level), left, right, 2)
            out.append((shares.diff(dim=-1)[..., None] * value).sum(-2))
        return torch.cat(out, dim=-1)


def _points(first: Tensor, others: list[Tensor]) -> Tensor:
    """Return all points (P, D) whose coordinates are in ``first`` and ``others``."""
    return torch.cartesian_prod(first, *others).view(-1, 1 + len(others))


def _hashed(of_corners: Tensor, rows: int) -> Tensor:
    """Fill (count,) of int32 with one of ``rows`` for each number below its length, spread as if at random."""
    for start in range(0, len(of_corners), AT_ONCE):
        some = of_corners[start : start + AT_ONCE]
        numbers = torch.arange(start, start + len(some), device=of_corners.device)
        # Knuth's multiplicative hash: the golden ratio's share of 2³².
        some.copy_(numbers.mul_(2654435761).bitwise_and_(2**32 - 1).mul_(rows).bitwise_right_shift_(32))
    return of_corners


def _crossings(a: Tensor, b: Tensor, resolution: int) -> Tensor:
    """Return where segments (…, D) meet the walls of a grid over [−1, 1]ᴰ, as shares of their length: (…, K), rising.

    The first is 0 and the last is 1; K is that of the segment with the most walls, the others are filled with ones.
    """
    here, there = (0.5 * (x.detach() + 1) * resolution for x in (a, b))
    first, last = torch.minimum(here, there).clamp(0, resolution), torch.maximum(here, there).clamp(0, resolution)
    count = int((last.floor() - first.ceil()).max().clamp_min(-1)) + 1 if a.numel() else 0
    walls = first.ceil()[..., None] + torch.arange(count, dtype=a.dtype, device=a.device)
    shares = (walls - here[..., None]) / (there - here)[..., None]
    inside = (walls <= last[..., None]) & (here != there)[..., None]
    shares = torch.where(inside, shares, 1.0).flatten(-2).clamp(0, 1).sort(dim=-1).values
    ends = torch.zeros_like(shares[..., :1]) if shares.shape[-1] else a.new_zeros(*a.shape[:-1], 1)
    return torch.cat([ends, shares, ends + 1], dim=-1)
