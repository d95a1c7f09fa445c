"""Domains beyond a box with a smooth function: changes of variables x = T(u), u in [−1, 1], and their pieces."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Singular = tuple[float, float]
HALF_PI = 0.5 * math.pi
POWERS = range(1, 13)


class Change(Protocol):
    """A growing function T of [−1, 1] onto [``lower``, ``upper``], with which ∫f(x)dx = ∫f(T(u))·T′(u)du."""

    @property
    def lower(self) -> float:
        """T(−1)."""

    @property
    def upper(self) -> float:
        """T(1)."""

    def x(self, u: Tensor) -> Tensor:
        """Return T(u)."""

    def u(self, x: Tensor) -> Tensor:
        """Return T⁻¹(x)."""

    def slope(self, u: Tensor) -> Tensor:
        """Return T′(u)."""


@dataclasses.dataclass(frozen=True)
class Affine:
    """x = lower + (u + 1)/2·(upper − lower), for a function that is smooth up to both ends."""

    lower: float
    upper: float

    def x(self, u: Tensor) -> Tensor:
        """Return T(u)."""
        return self.lower + (u + 1) / 2 * (self.upper - self.lower)

    def u(self, x: Tensor) -> Tensor:
        """Return T⁻¹(x)."""
        return (x - 0.5 * (self.lower + self.upper)) / (0.5 * (self.upper - self.lower))

    def slope(self, u: Tensor) -> Tensor:
        """Return T′(u)."""
        return torch.full_like(u, 0.5 * (self.upper - self.lower))


@dataclasses.dataclass(frozen=True)
class WholeLine:
    """x = centre + scale·tan(πu/2), for a function that falls like x⁻² or faster at both ends."""

    centre: float
    scale: float
    lower: float = -math.inf
    upper: float = math.inf

    def x(self, u: Tensor) -> Tensor:
        """Return T(u)."""
        return self.centre + self.scale * torch.tan(HALF_PI * u)

    def u(self, x: Tensor) -> Tensor:
        """Return T⁻¹(x)."""
        return torch.atan((x - self.centre) / self.scale) / HALF_PI

    def slope(self, u: Tensor) -> Tensor:
        """Return T′(u)."""
        return self.scale * HALF_PI / torch.cos(HALF_PI * u).square()


@dataclasses.dataclass(frozen=True)
class HalfLine:
    """x = end ± scale·(t^−power − 1), with t from 1 at ``end`` to 0 at infinity, for f like |x|^(−1 − k/power)."""

    end: float
    sign: int
    scale: float
    power: int = 1

    @property
    def lower(self) -> float:
        """T(−1)."""
        return self.end if self.sign > 0 else -math.inf

    @property
    def upper(self) -> float:
        """T(1)."""
        return math.inf if self.sign > 0 else self.end

    def x(self, u: Tensor) -> Tensor:
        """Return T(u)."""
        return self.end + self.sign * self.scale * (((1 - self.sign * u) / 2) ** -self.power - 1)

    def u(self, x: Tensor) -> Tensor:
        """Return T⁻¹(x)."""
        return self.sign * (1 - 2 * (1 + self.sign * (x - self.end) / self.scale) ** (-1 / self.power))

    def slope(self, u: Tensor) -> Tensor:
        """Return T′(u)."""
        return 0.5 * self.scale * self.power * ((1 - self.sign * u) / 2) ** (-self.power - 1)


@dataclasses.dataclass(frozen=True)
class EndPoint:
    """x = end ± length·t^power, with t from 0 at ``end``, for a function like |x − end|^(k/power − 1)."""

    end: float
    other: float
    power: int

    @property
    def lower(self) -> float:
        """T(−1)."""
        return min(self.end, self.other)

    @property
    def upper(self) -> float:
        """T(1)."""
        return max(self.end, self.other)

    @property
    def _sign(self) -> int:
        return 1 if self.end < self.other else -1

    def x(self, u: Tensor) -> Tensor:
        """Return T(u)."""
        return self.end + (self.other - self.end) * ((1 + self._sign * u) / 2) ** self.power

    def u(self, x: Tensor) -> Tensor:
        """Return T⁻¹(x)."""
        share = ((x - self.end) / (self.other - self.end)).clamp_min(0)
        return self._sign * (2 * share ** (1 / self.power) - 1)

    def slope(self, u: Tensor) -> Tensor:
        """Return T′(u)."""
        t = (1 + self._sign * u) / 2
        return 0.5 * abs(self.other - self.end) * self.power * t ** (self.power - 1)


KINDS: tuple[type[Any], ...] = (Affine, WholeLine, HalfLine, EndPoint)


def numbers_of(changes: Sequence[Change]) -> list[list[float]]:
    """Return changes of variables as numbers, five each: which of ``KINDS``, and its fields."""
    rows = [[KINDS.index(type(change)), *dataclasses.astuple(change)] for change in changes]  # type: ignore[call-overload]
    return [[float(v) for v in row] + [0.0] * (5 - len(row)) for row in rows]


def changes_of(numbers: Sequence[Sequence[float]]) -> list[Change]:
    """Return the changes of variables of ``numbers_of``."""
    out = []
    for which, *given in numbers:
        kind = KINDS[int(which)]
        fields = zip(dataclasses.fields(kind), given, strict=False)
        out.append(kind(*(int(v) if field.type == "int" else v for field, v in fields)))
    return out


@dataclasses.dataclass(frozen=True)
class Domain:
    """What is declared of a domain, axis by axis.

    Attributes:
        lower, upper: corners; infinite where the domain has no end.
        singular: per axis, places and exponents: f ~ |x − place|^exponent there, f ~ |x|^exponent at an infinite one.
        breaks: per axis, places where f or one of its derivatives jumps.
        periodic: axes along which f repeats itself outside of the box.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    singular: tuple[tuple[Singular, ...], ...]
    breaks: tuple[tuple[float, ...], ...]
    periodic: tuple[int, ...] = ()

    @property
    def infinite(self) -> bool:
        """Whether an axis has no end."""
        return not all(math.isfinite(v) for v in (*self.lower, *self.upper))

    def changes(self, centres: Sequence[float], scales: Sequence[float]) -> list[list[Change]]:
        """Return the pieces of every axis, from the lower to the upper end.

        ``centres`` and ``scales`` say where on an axis without end the function is.
        """
        return [self._axis(axis, *where) for axis, where in enumerate(zip(centres, scales, strict=True))]

    def _axis(self, axis: int, centre: float, scale: float) -> list[Change]:
        powers = {place: _power(exponent, math.isinf(place)) for place, exponent in self.singular[axis]}
        inner = {v for v in (*self.breaks[axis], *powers) if self.lower[axis] < v < self.upper[axis]}
        edges = [self.lower[axis], *sorted(inner), self.upper[axis]]
        out: list[Change] = []
        for low, high in itertools.pairwise(edges):
            ends = [end for end in (low, high) if math.isinf(end) or end in powers]
            if ends == [-math.inf, math.inf] and not powers.keys() & set(ends):
                out.append(WholeLine(centre, scale))
            elif len(ends) == 2:
                middle = _middle(low, high, centre, scale)
                out += [_towards(low, middle, scale, powers), _towards(high, middle, scale, powers)]
            else:
                other = high if ends == [low] else low
                out.append(_towards(ends[0], other, scale, powers) if ends else Affine(low, high))
        return out


def _towards(end: float, other: float, scale: float, powers: Mapping[float, int]) -> Change:
    """Return the change of variables between a special end and a smooth one."""
    if math.isinf(end):
        return HalfLine(other, 1 if end > 0 else -1, scale, powers.get(end, 1))
    return EndPoint(end, other, powers[end])


def _middle(low: float, high: float, centre: float, scale: float) -> float:
    if math.isfinite(low) and math.isfinite(high):
        return 0.5 * (low + high)
    if math.isfinite(low):
        return low + scale
    return high - scale if math.isfinite(high) else centre


def _power(exponent: float, infinite: bool) -> int:
    """Return the power q of the change of variables after which |x|^exponent is a whole power of t.

    x = t^q gives t^(q(1 + exponent) − 1), and x = t^−q gives t^(−q(1 + exponent) − 1): q makes q(1 + exponent) whole,
    or is so large that what remains of the singularity is in a high derivative, as of a logarithm, for which the
    exponent is whole.
    """
    if exponent >= 0 and exponent == round(exponent):
        return 6
    rate = -(1 + exponent) if infinite else 1 + exponent
    for q in POWERS:
        if abs(q * rate - round(q * rate)) < 1e-9 and round(q * rate) >= 1:
            return q
    return min(POWERS[-1], math.ceil(6 / rate))


def domain_of(lower: Any, upper: Any, singular: Any, breaks: Any, periodic: Any) -> Domain:
    """Return the domain that a user describes, in 1 to 6 dimensions; ``ValueError`` names what is wrong with it."""
    n = len(lower)
    places = _per_axis("breaks", breaks, n, "breaks=[0.3]")
    pairs = _per_axis("singular", singular, n, "singular=[(0, -0.5)]")
    for axis in range(n):
        for place in places[axis]:
            if not isinstance(place, (int, float)) or not lower[axis] < place < upper[axis]:
                raise ValueError(f"breaks: {place!r} must be a number between {lower[axis]:g} and {upper[axis]:g}")
        for pair in pairs[axis]:
            _check_singular(pair, lower[axis], upper[axis])
        if len({place for place, _ in pairs[axis]}) < len(pairs[axis]):
            raise ValueError(f"singular: {pairs[axis]!r} has a place twice")
    axes: Sequence[Any] = range(n) if periodic is True else periodic or ()
    if not isinstance(axes, (list, tuple, range)) or not all(
        axis in range(n) and math.isfinite(upper[axis] - lower[axis]) for axis in axes
    ):
        raise ValueError(f"periodic={periodic!r}: give axes from 0 to {n - 1} whose box is one finite period")
    return Domain(
        tuple(lower), tuple(upper), tuple(map(tuple, pairs)), tuple(map(tuple, places)), tuple(sorted(set(axes)))
    )


def _per_axis(key: str, value: Any, n: int, example: str) -> list[Sequence[Any]]:
    """Return a list for every axis; one axis needs no dictionary."""
    if isinstance(value, Mapping):
        if not all(axis in range(n) for axis in value):
            raise ValueError(f"{key}: the axes {sorted(map(str, value))} must be numbers from 0 to {n - 1}")
        found = [value.get(axis, ()) for axis in range(n)]
    elif n == 1 or not value:
        found = [value or ()] + [()] * (n - 1)
    else:
        raise ValueError(f"{key}={value!r}: say for which axis, as {key}={{0: [...]}}; there are {n}")
    if not all(isinstance(part, (list, tuple)) for part in found):
        raise ValueError(f"{key}={value!r} must be a list, such as {example}")
    return found


def _check_singular(pair: Any, lower: float, upper: float) -> None:
    try:
        place, exponent = (float(v) for v in pair)
    except (TypeError, ValueError) as error:
        raise ValueError(f"singular: {pair!r} must be a place and an exponent, such as (0, -0.5)") from error
    if not lower <= place <= upper:
        raise ValueError(f"singular: {place:g} is not between {lower:g} and {upper:g}")
    if math.isinf(place) and not exponent < -1:
        raise ValueError(f"singular: |x|^{exponent:g} has no integral up to {place:g}; the exponent must be below -1")
    if math.isfinite(place) and not exponent > -1:
        raise ValueError(f"singular: |x - {place:g}|^{exponent:g} has no integral; the exponent must be above -1")


def located(
    function: Callable[[Tensor], Tensor], lower: Sequence[float], upper: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return where |f| has its mass on every axis: its median, and its interquartile range.

    From 2¹⁴ quasi-random points that are spread over all magnitudes up to 4 million on the axes without end. A half
    line's length is twice that from its end to the median. For these scales Gaussians, exponentials and powers take the
    fewest polynomials, in u, together.
    """
    n = len(lower)
    v = 2 * torch.quasirandom.SobolEngine(n, scramble=True, seed=0).draw(2**14, dtype=torch.float64) - 1
    x, weight = torch.empty_like(v), torch.ones(len(v), dtype=torch.float64)
    for k, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if math.isfinite(low) and math.isfinite(high):
            x[:, k] = low + (v[:, k] + 1) / 2 * (high - low)
            continue
        half = math.isfinite(low) or math.isfinite(high)
        share = v[:, k].abs() if half else v[:, k]
        x[:, k] = torch.sinh(16 * share)
        if half:
            x[:, k] = low + x[:, k] if math.isfinite(low) else high - x[:, k]
        weight *= torch.cosh(16 * share)
    size = function(x).detach().reshape(len(x), -1).abs().sum(-1).double() * weight
    size = torch.where(size.isfinite(), size, 0.0)
    centres, scales = [0.0] * n, [1.0] * n
    for k in range(n if float(size.sum()) > 0 else 0):
        order = x[:, k].argsort()
        share = size[order].cumsum(0) / size.sum()
        quarter, middle, three = (
            float(x[order, k][(share < q).sum().clamp_max(len(x) - 1)]) for q in (0.25, 0.5, 0.75)
        )
        finite = [end for end in (lower[k], upper[k]) if math.isfinite(end)]
        centres[k] = middle
        scales[k] = max(2 * abs(middle - finite[0]) if finite else three - quarter, 1e-6)
    for k, end in itertools.product(range(n), (-math.inf, math.inf)):
        if end in (lower[k], upper[k]):
            _check_decay(function, torch.tensor(centres, dtype=torch.float64), k, math.copysign(scales[k], end))
    return centres, scales


def _check_decay(function: Callable[[Tensor], Tensor], centre: Tensor, axis: int, scale: float) -> None:
    """Refuse a function of which |x·f| does not fall from 10² to 10⁶ scales towards an end of an axis."""
    sizes = []
    for decade in (2, 5):
        far = scale * torch.logspace(decade, decade + 1, 64, dtype=torch.float64)
        x = centre.repeat(len(far), 1)
        x[:, axis] = far
        y = function(x).detach().reshape(len(x), -1).abs().sum(-1).double() * far.abs()
        sizes.append(float(torch.where(y.isfinite(), y, 0.0).mean()))
    if sizes[1] > 0.9 * sizes[0] > 0:
        end = "upper=inf" if scale > 0 else "lower=-inf"
        raise ValueError(
            f"{end}: the function does not fall faster than 1/|x| along axis {axis}, so that it has no integral; "
            "take a finite bound"
        )
