"""Input encodings γ, each with its derivatives along tangents."""

from __future__ import annotations

import abc
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn

from autoint.registry import ENCODINGS


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
        return gauss_legendre(self, a, b, NODES)

    mean_rule = "quadrature"
    """Of ``mean``: ``closed form``, ``closed form in each cell``, or ``quadrature``."""

    def restrict(self, inside: Callable[[Tensor], Tensor]) -> None:
        """Be told which points (P, in_features) will be asked for: ``inside`` returns (P,) of bool."""

    def total_variation(self, x: Tensor) -> Tensor | float:
        """Return the total variation of what is learned around points x (P, D), a mean over them; 0 if nothing is."""
        return 0.0


NODES = 16
"""Gauss-Legendre nodes of a mean that has no closed form."""


def gauss_legendre(function: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, count: int) -> Tensor:
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
