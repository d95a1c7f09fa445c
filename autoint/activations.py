"""Activations of the integral network, with the derivatives that its grad network needs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

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
        derivative: ``derivative(x, order)`` = NL^(order)(x), ``order`` from 1 to ``smooth``.
        init: initialises a layer in place, ``init(linear, is_first)``.
        smooth: how often NL may be differentiated with a useful result; ``math.inf`` for analytic functions.
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor, int], Tensor]
    init: Init
    smooth: float = math.inf


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


def _swish_derivative(x: Tensor, order: int) -> Tensor:
    s = torch.sigmoid(x)
    if order == 1:
        return s * (1 + x * (1 - s))
    return x * sigmoid_derivative(s, order) + order * sigmoid_derivative(s, order - 1)


@ACTIVATIONS.register("swish")
def swish() -> Activation:
    """Swish, x·sigmoid(x): the paper's choice for grad networks (Sec. 3.4)."""
    return Activation(F.silu, _swish_derivative, he_init)


@ACTIVATIONS.register("softplus")
def softplus() -> Activation:
    """Softplus, log(1 + eˣ), whose derivatives are those of the logistic function."""
    return Activation(
        # The built-in switches to the identity at x = 20, which costs 2e-9: too much for float64.
        lambda x: torch.logaddexp(x, x.new_zeros(())),
        lambda x, order: sigmoid_derivative(torch.sigmoid(x), order - 1),
        he_init,
    )


@ACTIVATIONS.register("relu")
def relu() -> Activation:
    """ReLU; its grad network is piecewise constant between kinks, so it can be differentiated once only."""
    return Activation(F.relu, lambda x, order: (x > 0).to(x.dtype), he_init, smooth=1)


@ACTIVATIONS.register("sine")
def sine(*, omega_0: float = 30.0) -> Activation:
    """Sine, sin(ω₀x), initialised as in SIREN: U(±1/fan_in) first, then U(±√(6/fan_in)/ω₀)."""
    if not omega_0 > 0:
        raise ValueError(f"activation.omega_0={omega_0} must be positive; SIREN uses 30")

    def init(linear: nn.Linear, is_first: bool) -> None:
        bound = 1 / linear.in_features if is_first else math.sqrt(6 / linear.in_features) / omega_0
        nn.init.uniform_(linear.weight, -bound, bound)
        if linear.bias is not None:
            nn.init.uniform_(linear.bias, -bound, bound)

    def derivative(x: Tensor, order: int) -> Tensor:
        wave = (torch.cos, torch.sin)[(order + 1) % 2]
        sign = -1 if order % 4 in (2, 3) else 1
        return sign * omega_0**order * wave(omega_0 * x)

    return Activation(lambda x: torch.sin(omega_0 * x), derivative, init)
