"""Input encodings γ, each with its derivatives along tangents."""

from __future__ import annotations

import abc
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn

from autoint.registry import ENCODINGS, at_least_one


class AbstractEncoding(nn.Module, abc.ABC):
    """A map γ: (…, in_features) → (…, out_features) that also knows its derivatives along tangents."""

    in_features: int
    out_features: int

    @abc.abstractmethod
    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        """Return γ(x)."""

    @abc.abstractmethod
    def jet(self, x: Float[Tensor, "*n d"], tangents: Sequence[Tensor]) -> list[Tensor | None]:
        """Return γ(x) and its mixed derivatives along every subset of ``tangents``, each broadcastable to ``x``.

        Entry S of the 2ᵏ is ∂^|S| γ / Π_{i ∈ S} ∂v_i, where bit i of the number S says that tangent i belongs to the
        subset: entry 0 is γ(x) itself. None stands for a derivative that is zero everywhere.
        """

    @abc.abstractmethod
    def difference(self, x: Float[Tensor, "*n d"], delta: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        """Return γ(x + delta) − γ(x), to relative accuracy however small ``delta`` is."""

    def mean(self, a: Float[Tensor, "*n d"], b: Float[Tensor, "*n d"], cut: bool = False) -> Float[Tensor, "*n e"]:
        """Return the mean of γ over the straight segments from a to b, ∫₀¹ γ(a + s·(b − a)) ds, in any precision.

        An encoding that has no rule of its own gets ``NODES`` Gauss-Legendre nodes, which is exact for polynomials
        of degree 2·``NODES`` − 1 only; ``mean_rule`` says which rule an encoding has.

        Args:
            a: where the segments begin.
            b: where they end; a segment of no length has γ(a) as its mean.
            cut: for an encoding in pieces, cut the segments where the pieces meet, so that the mean is exact.
        """
        return _gauss_legendre(self, a, b, NODES)

    mean_rule = "quadrature"
    """Of ``mean``: ``closed form``, ``closed form in each cell``, or ``quadrature``."""


NODES = 16
"""Gauss-Legendre nodes of a mean that has no closed form."""


def _gauss_legendre(function: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, count: int) -> Tensor:
    """Return the mean of ``function`` over the segments from a to b (…, D), by ``count`` Gauss-Legendre nodes."""
    total: Any = 0.0
    for node, weight in zip(*leggauss(count), strict=True):
        total = total + 0.5 * float(weight) * function(a + (0.5 + 0.5 * float(node)) * (b - a))
    return cast(Tensor, total)


@ENCODINGS.register("identity")
class Identity(AbstractEncoding):
    """γ(x) = x."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.in_features = self.out_features = in_features

    def forward(self, x: Tensor) -> Tensor:
        return x

    def jet(self, x: Tensor, tangents: Sequence[Tensor]) -> list[Tensor | None]:
        out: list[Tensor | None] = [None] * 2 ** len(tangents)
        out[0] = x
        for i, tangent in enumerate(tangents):
            out[1 << i] = tangent.expand_as(x)
        return out

    def difference(self, x: Tensor, delta: Tensor) -> Tensor:
        return delta

    mean_rule = "closed form"

    def mean(self, a: Tensor, b: Tensor, cut: bool = False) -> Tensor:
        return a + 0.5 * (b - a)


class Positional(AbstractEncoding):
    """γ(p) = (a_i sin ω_i p, a_i cos ω_i p), i < L, for each coordinate p, with ω_i = 2ⁱπ (paper, eq. 14 and 15).

    The amplitudes a_i are 1 (eq. 14) or 1/ω_i (eq. 15): then ∂γ/∂p has amplitude 1 in every band, which is what the
    grad network sees. π is included in ω_i (``pi=False`` gives ω_i = 2ⁱ, as NeRF's code has it); the raw input stands
    first (``include_input=False`` leaves it out), because every band is 2-periodic and ±1 would be one point.
    """

    def __init__(self, in_features: int, num_frequencies: int, pi: bool, include_input: bool, normalized: bool) -> None:
        super().__init__()
        if num_frequencies < 1 and not include_input:
            raise ValueError(f"encoding.num_frequencies={num_frequencies} leaves no feature; it must be at least 1")
        if not 0 <= num_frequencies <= 32:
            raise ValueError(f"encoding.num_frequencies={num_frequencies} must be between 0 and 32")
        self.in_features, self.include_input, self.normalized = in_features, include_input, normalized
        self.unit = math.pi if pi else 1.0
        self.out_features = in_features * (2 * num_frequencies + include_input)
        # Powers of two survive every cast, so ω_i and 1/ω_i agree in whatever precision the network is moved to.
        self.register_buffer("octaves", 2.0 ** torch.arange(num_frequencies), persistent=False)

    octaves: Tensor

    def _waves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return sin(ω_i x) and cos(ω_i x), (…, D, L)."""
        phase = x.unsqueeze(-1) * self.octaves
        if self.unit == math.pi:
            # 2ⁱx is exact, and so is its remainder modulo the period 2: the rounding of π·2ⁱx, which at L = 10 in
            # float32 costs three digits of the derivative, never happens.
            phase = phase - 2 * torch.round(phase / 2).detach()
        phase = phase * self.unit
        return torch.sin(phase), torch.cos(phase)

    def _pack(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        bands = torch.cat([sin, cos], dim=-1).flatten(-2)
        return torch.cat([x, bands], dim=-1) if self.include_input else bands

    def forward(self, x: Tensor) -> Tensor:
        value = self.jet(x, ())[0]
        assert value is not None
        return value

    def jet(self, x: Tensor, tangents: Sequence[Tensor]) -> list[Tensor | None]:
        waves = self._waves(x)
        out: list[Tensor | None] = []
        for subset in range(2 ** len(tangents)):
            chosen = [tangent.expand_as(x) for i, tangent in enumerate(tangents) if subset >> i & 1]
            order = len(chosen)
            # Derivatives run through sin, cos, −sin, −cos, each bringing an ω_i; the normalised form has a 1/ω_i.
            sin, cos = waves if order % 2 == 0 else (waves[1], -waves[0])
            sign: Any = -1 if order % 4 in (2, 3) else 1
            factor = functools.reduce(operator.mul, [t.unsqueeze(-1) for t in chosen], sign)
            power = order - self.normalized
            if power:
                factor = factor * (self.unit * self.octaves) ** power
            raw = x if order == 0 else chosen[0] if order == 1 else torch.zeros_like(x)
            out.append(self._pack(raw, factor * sin, factor * cos))
        return out

    def difference(self, x: Tensor, delta: Tensor) -> Tensor:
        sin, cos = self._waves(x + 0.5 * delta)
        factor = 2 * self._waves(0.5 * delta)[0]
        if self.normalized:
            factor = factor / (self.unit * self.octaves)
        return self._pack(delta, factor * cos, -factor * sin)

    mean_rule = "closed form"

    def mean(self, a: Tensor, b: Tensor, cut: bool = False) -> Tensor:
        """Return the mean of γ, for each wave that at the middle times sinc(ω_i·(b − a)/2): one evaluation."""
        middle, half = a + 0.5 * (b - a), 0.5 * (b - a)
        sin, cos = self._waves(middle)
        factor = torch.sinc(half.unsqueeze(-1) * self.octaves * (self.unit / math.pi))
        if self.normalized:
            factor = factor / (self.unit * self.octaves)
        return self._pack(middle, factor * sin, factor * cos)


@ENCODINGS.register("positional")
def positional(
    in_features: int, *, num_frequencies: int = 10, pi: bool = True, include_input: bool = True
) -> AbstractEncoding:
    """NeRF's positional encoding (paper, eq. 14), π and the raw input included by default.

    Args:
        in_features: of the coordinates.
        num_frequencies: L, how many bands.
        pi: whether the frequencies are multiples of π.
        include_input: whether the raw coordinates stand before the bands.
    """
    return Positional(in_features, num_frequencies, pi, include_input, normalized=False)


@ENCODINGS.register("normalized_positional")
def normalized_positional(
    in_features: int, *, num_frequencies: int = 10, pi: bool = True, include_input: bool = True
) -> AbstractEncoding:
    """The normalised positional encoding (paper, eq. 15), π and the raw input included by default.

    Args:
        in_features: of the coordinates.
        num_frequencies: L, how many bands.
        pi: whether the frequencies are multiples of π.
        include_input: whether the raw coordinates stand before the bands.
    """
    return Positional(in_features, num_frequencies, pi, include_input, normalized=True)


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


@ENCODINGS.register("grid")
class Grid(AbstractEncoding):
    """Learned features, interpolated multilinearly on dense grids over [−1, 1]ᴰ, beside the normalised positional ones.

    Each level has ``resolution``ᴰ cells and ``features`` at every corner; outside of the cube a point gets those of the
    nearest point in it. The derivatives along tangents are those within a cell; across its walls they jump.

    Args:
        in_features: D, at most 3.
        resolutions: cells per axis of each level.
        features: learned features per level.
        num_frequencies: bands of the normalised positional encoding; the raw input is always there.
    """

    def __init__(
        self,
        in_features: int,
        *,
        resolutions: list[int] = [16, 32, 64],  # noqa: B006
        features: int = 4,
        num_frequencies: int = 4,
    ) -> None:
        super().__init__()
        if in_features > 3:
            raise ValueError(f"encoding=grid is for up to 3 coordinates, not {in_features}; use normalized_positional")
        if not resolutions or not all(1 <= r <= 256 for r in resolutions):
            raise ValueError(f"encoding.resolutions={resolutions} must be a list of integers from 1 to 256")
        at_least_one(**{"encoding.features": features})
        self.positional = Positional(in_features, num_frequencies, pi=True, include_input=True, normalized=True)
        self.in_features, self.resolutions = in_features, tuple(resolutions)
        self.out_features = self.positional.out_features + len(resolutions) * features
        self.tables = nn.ParameterList(1e-2 * torch.randn((r + 1) ** in_features, features) for r in resolutions)
        corners = torch.cartesian_prod(*[torch.arange(2)] * in_features).view(-1, in_features)
        self.register_buffer("corners", corners, persistent=False)

    corners: Tensor

    def _cell(self, x: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
        """Return the lower corner (…, D) of the cell that x is in, and where in the cell x is, in [0, 1]."""
        place = (0.5 * (x + 1)).clamp(0, 1) * resolution
        cell = place.detach().floor().clamp_max(resolution - 1)
        return cell.long(), place - cell

    def _numbers(self, cell: Tensor, resolution: int) -> Tensor:
        """Return the numbers in the level's table of a cell's corners, (…, 2ᴰ)."""
        strides = (resolution + 1) ** torch.arange(self.in_features - 1, -1, -1, device=cell.device)
        return (cell * strides).sum(-1, keepdim=True) + (self.corners * strides).sum(-1)

    def _value(self, table: Tensor, x: Tensor, resolution: int) -> Tensor:
        """Return the interpolated features at x, (…, F)."""
        cell, fraction = self._cell(x, resolution)
        weights = self._weights(fraction, ())
        if x.requires_grad or torch._C._are_functorch_transforms_active():
            return (weights[..., None] * F.embedding(self._numbers(cell, resolution), table)).sum(-2)
        numbers = self._numbers(cell, resolution).reshape(-1, len(self.corners))
        out = _Interpolation.apply(table, numbers, weights.reshape(-1, len(self.corners)))
        assert isinstance(out, Tensor)
        return out.reshape(*x.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        levels = zip(self.tables, self.resolutions, strict=True)
        return torch.cat([self.positional(x), *(self._value(table, x, r) for table, r in levels)], dim=-1)

    def jet(self, x: Tensor, tangents: Sequence[Tensor]) -> list[Tensor | None]:
        out = [cast(Tensor, stream) for stream in self.positional.jet(x, tangents)]
        for resolution, table in zip(self.resolutions, self.tables, strict=True):
            cell, fraction = self._cell(x, resolution)
            values = F.embedding(self._numbers(cell, resolution), table) if tangents else None
            scale = torch.where(x.detach().abs() <= 1, 0.5 * resolution, 0.0)
            features = [self._value(table, x, resolution)]
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
        for resolution, table in zip(self.resolutions, self.tables, strict=True):
            here, fraction = self._cell(x, resolution)
            within = inside & (here == self._cell(end, resolution)[0]).all(-1, keepdim=True)
            # Within a cell the interpolation is a polynomial: its Taylor series along delta ends at order D.
            step, weights = delta * (0.5 * resolution), torch.zeros_like(fraction[..., :1])
            for order in range(1, self.in_features + 1):
                weights = weights + self._weights(fraction, [step] * order) / math.factorial(order)
            series = (weights[..., None] * F.embedding(self._numbers(here, resolution), table)).sum(-2)
            jump = self._value(table, end, resolution) - self._value(table, x, resolution)
            out.append(torch.where(within, series, jump))
        return torch.cat(out, dim=-1)

    mean_rule = "closed form in each cell"

    def mean(self, a: Tensor, b: Tensor, cut: bool = False) -> Tensor:
        """Return the mean of γ: along a line a cell's interpolation is a cubic, of which two nodes give the integral.

        A segment that crosses a wall of a grid meets a kink there, and the two nodes err in proportion to its length
        and to the change of slope; with ``cut`` each level is cut at its own walls, and the mean is exact.
        """
        out = [self.positional.mean(a, b)]
        for resolution, table in zip(self.resolutions, self.tables, strict=True):
            value = functools.partial(self._value, table, resolution=resolution)
            if not cut:
                out.append(_gauss_legendre(value, a, b, 2))
                continue
            shares = _crossings(a, b, resolution)
            left, right = (
                a[..., None, :] + s[..., None] * (b - a)[..., None, :] for s in (shares[..., :-1], shares[..., 1:])
            )
            out.append((shares.diff(dim=-1)[..., None] * _gauss_legendre(value, left, right, 2)).sum(-2))
        return torch.cat(out, dim=-1)


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
