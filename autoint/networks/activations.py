"""Activations of the integral network, with the derivatives that its grad network needs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.registry import ACTIVATIONS

Init = Callable[[nn.Linear, bool], None]


@dataclass(frozen=True)
class Activation:
    """A pointwise nonlinearity NL and its derivatives (paper, eq. 2 and 3).

    Attributes:
        function: NL itself, any shape to the same shape.
        jet: ``jet(x, order)`` = [NL(x), NL'(x), …, NL^(order)(x)], each in memory of its own, for ``order`` up to
            ``smooth`` + 1, since the gradient of Ψ takes one more. One function, because they share their costly parts.
        init: initialises a layer in place, ``init(linear, is_first)``.
        smooth: how often NL may be differentiated with a useful result; ``math.inf`` for analytic functions.
        difference: ``difference(x, delta)`` = NL(x + delta) − NL(x), to relative accuracy however small ``delta`` is;
            None where no such formula is known.
        bend: ``bend(a, slope)`` = (c, t) with NL''(x) = c·t, from a = NL(x) and slope = NL'(x), where t may be a:
            the differential equation that NL solves, so that NL'' need not be kept; None where there is none.
        choice: what the registry has built it from; a copy in a file holds this, since functions cannot be stored.
    """

    function: Callable[[Tensor], Tensor]
    jet: Callable[[Tensor, int], Sequence[Tensor]]
    init: Init
    smooth: float = math.inf
    difference: Callable[[Tensor, Tensor], Tensor] | None = None
    bend: Callable[[Tensor, Tensor], tuple[float, Tensor]] | None = None
    choice: str | Mapping[str, Any] | None = field(default=None, init=False, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Activation:
        return self  # nothing in it can change

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.choice is None else (activation_of, (self.choice,))


def activation_of(choice: str | Mapping[str, Any]) -> Activation:
    """Return the registered activation of that name, or of that name and options."""
    activation: Activation = ACTIVATIONS.build(choice)
    object.__setattr__(activation, "choice", choice if isinstance(choice, str) else dict(choice))
    return activation


def he_init(linear: nn.Linear, is_first: bool) -> None:
    """Draw weights from U(±√(6/fan_in)), which keeps the variance under ReLU-like activations; biases are zero."""
    nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


@functools.cache
def _sigmoid_polynomial(order: int) -> tuple[int, ...]:
    """Coefficients p_k with sigmoid^(order) = Σ_k p_k s^k, from s' = s − s²."""
    if order == 0:
        return (0, 1)
    previous = _sigmoid_polynomial(order - 1)
    out = [0] * (len(previous) + 1)
    for k, p in enumerate(previous):
        out[k] += k * p
        out[k + 1] -= k * p
    return tuple(out)


def sigmoid_derivative(s: Tensor, order: int) -> Tensor:
    """Return the ``order``-th derivative of the logistic function, from its value ``s``."""
    out = torch.zeros_like(s)
    for p in reversed(_sigmoid_polynomial(order)):
        out = out * s + p
    return out


def _swish_jet(x: Tensor, order: int) -> list[Tensor]:
    s = torch.sigmoid(x)
    out = [x * s]
    if order >= 1:
        r = torch.addcmul(s, s, out[0], value=-1)  # s·(1 − NL)
        out.append(out[0] + r)
    if order >= 2:
        r.add_(out[1])
        out.append(torch.addcmul(r, r, s, value=-1))  # NL'' = (1 − s)·(NL' + s·(1 − NL))
    out += [x * sigmoid_derivative(s, k) + k * sigmoid_derivative(s, k - 1) for k in range(3, order + 1)]
    return out


def _sigmoid_difference(x: Tensor, delta: Tensor) -> Tensor:
    """Return σ(x + δ) − σ(x) = σ(−x) σ(x + δ) (1 − e^−δ), from the lower of the two, so that nothing overflows."""
    low, step, sign = _upwards(x, delta)
    return sign * torch.sigmoid(-low) * torch.sigmoid(low + step) * -torch.expm1(-step)


def _upwards(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return min(x, x + δ), |δ| and the sign of δ, which is 1 at δ = 0: there all derivatives are those of δ > 0."""
    sign = torch.where(delta < 0, -1.0, 1.0).to(delta.dtype)
    return torch.where(delta < 0, x + delta, x), sign * delta, sign


def _swish_difference(x: Tensor, delta: Tensor) -> Tensor:
    return delta * torch.sigmoid(x + delta) + x * _sigmoid_difference(x, delta)


@ACTIVATIONS.register("swish")
def swish() -> Activation:
    """Swish, x·sigmoid(x): the paper's choice for grad networks (Sec. 3.4)."""
    return Activation(F.silu, _swish_jet, he_init, difference=_swish_difference)


def _softplus_difference(x: Tensor, delta: Tensor) -> Tensor:
    """Return log(1 + σ(x)(e^δ − 1)), from the lower of the two points, and from the value itself where δ is large."""
    low, step, sign = _upwards(x, delta)
    small = torch.log1p(torch.sigmoid(low) * torch.expm1(step.clamp_max(1.0)))
    return sign * torch.where(step < 1, small, F.softplus(low + step, 1, EXACT) - F.softplus(low, 1, EXACT))


EXACT = 40.0
"""Where softplus may become the identity: the built-in does so at 20, which costs 2e-9, too much for float64."""


@ACTIVATIONS.register("softplus")
def softplus(*, beta: float = 1.0) -> Activation:
    """Softplus, log(1 + exp(βx))/β, whose derivatives are those of the logistic function.

    Args:
        beta: β, how sharply it bends; 100 is nearly a ReLU, as networks of distances have it (IGR, Sec. 5).
    """
    if not 0 < beta <= 1e4:
        raise ValueError(f"activation.beta={beta} must be above 0 and at most 10000; distances take 100")

    def function(x: Tensor) -> Tensor:
        return F.softplus(x, beta, EXACT)

    def jet(x: Tensor, order: int) -> list[Tensor]:
        if order == 0:
            return [function(x)]
        s = torch.sigmoid(beta * x)
        below = torch.log(torch.abs(s - 0.5) + 0.5)  # −log(1 + exp(−β|x|)), at half the price of the function
        out = [torch.sub(F.relu(x), below, alpha=1 / beta), s]
        if order >= 2:
            out.append(bend(out[0], s)[1].mul_(beta))
        return out + [beta**k * sigmoid_derivative(s, k) for k in range(2, order)]

    def difference(x: Tensor, delta: Tensor) -> Tensor:
        return _softplus_difference(beta * x, beta * delta) / beta

    def bend(a: Tensor, slope: Tensor) -> tuple[float, Tensor]:
        return beta, torch.addcmul(slope, slope, slope, value=-1)

    return Activation(function, jet, he_init, difference=difference, bend=bend)


@ACTIVATIONS.register("relu")
def relu() -> Activation:
    """ReLU; its grad network is piecewise constant between kinks, so it can be differentiated once only."""

    def difference(x: Tensor, delta: Tensor) -> Tensor:
        return torch.where(x > 0, torch.where(delta > -x, delta, -x), F.relu(x + delta))

    def jet(x: Tensor, order: int) -> list[Tensor]:
        step = (x > 0).to(x.dtype)
        return [F.relu(x), step, *(torch.zeros_like(x) for _ in range(order - 1))][: order + 1]

    return Activation(F.relu, jet, he_init, smooth=1, difference=difference)


@ACTIVATIONS.register("sine")
def sine(*, omega_0: float = 30.0) -> Activation:
    """Sine, sin(ω₀x), initialised as in SIREN: U(±1/fan_in) first, then U(±√(6/fan_in)/ω₀).

    Args:
        omega_0: ω₀, how fast it oscillates.
    """
    if not omega_0 > 0:
        raise ValueError(f"activation.omega_0={omega_0} must be positive; SIREN uses 30")

    def init(linear: nn.Linear, is_first: bool) -> None:
        bound = 1 / linear.in_features if is_first else math.sqrt(6 / linear.in_features) / omega_0
        nn.init.uniform_(linear.weight, -bound, bound)
        if linear.bias is not None:
            nn.init.uniform_(linear.bias, -bound, bound)

    def jet(x: Tensor, order: int) -> list[Tensor]:
        phase = omega_0 * x
        if order == 0:
            return [torch.sin(phase)]
        waves = [torch.sin(phase), torch.cos(phase)]
        signs = (1, 1, -1, -1)  # sin, cos, −sin, −cos
        higher = [signs[k % 4] * omega_0**k * waves[k % 2] for k in range(2, order + 1)]
        return [waves[0], waves[1].mul_(omega_0), *higher]

    def difference(x: Tensor, delta: Tensor) -> Tensor:
        half = 0.5 * omega_0 * delta
        return 2 * torch.cos(omega_0 * x + half) * torch.sin(half)

    def bend(a: Tensor, slope: Tensor) -> tuple[float, Tensor]:
        return -(omega_0**2), a

    return Activation(lambda x: torch.sin(omega_0 * x), jet, init, difference=difference, bend=bend)
