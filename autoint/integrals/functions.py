"""Functions to integrate, with their exact antiderivatives."""

from __future__ import annotations

import importlib
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoint.integrals.expressions import CONSTANTS, COORDINATES, Expression
from autoint.registry import FUNCTIONS, nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A function f of n coordinates, x (P, n) → (P,) or (P, C).

    Attributes:
        integrand: f.
        antiderivative: F with ∂ⁿF/∂x_0…∂x_{n−1} = f, or None where it is not known.
        features: n, or None for any.
        formula: f as people write it, for tables, titles and help; empty where its name says all.
    """

    integrand: Callable[[Tensor], Tensor]
    antiderivative: Callable[[Tensor], Tensor] | None = None
    features: int | None = 1
    formula: str = ""


@FUNCTIONS.register("cos")
def cos() -> Target:
    """cos(10x), with antiderivative sin(10x)/10."""
    return Target(lambda x: torch.cos(10 * x), lambda x: torch.sin(10 * x) / 10, formula="cos(10x)")


@FUNCTIONS.register("polynomial")
def polynomial() -> Target:
    """0.1x⁵ − 0.2x⁴ + 0.2x³ − 0.4x² + 0.1x."""
    coefficients = (0.1, -0.2, 0.2, -0.4, 0.1)  # of x⁵ down to x¹

    def antiderivative(x: Tensor) -> Tensor:
        return sum((c / k * x**k for c, k in zip(coefficients, (6, 5, 4, 3, 2), strict=True)), torch.zeros_like(x))

    return Target(
        lambda x: sum((c * x**k for c, k in zip(coefficients, (5, 4, 3, 2, 1), strict=True)), torch.zeros_like(x)),
        antiderivative,
        formula="0.1x⁵ − 0.2x⁴ + 0.2x³ − 0.4x² + 0.1x",
    )


@FUNCTIONS.register("sinc")
def sinc() -> Target:
    """sin(20x)/(20x), 1 at 0, with antiderivative Si(20x)/20."""

    def antiderivative(x: Tensor) -> Tensor:
        from scipy.special import sici

        return torch.as_tensor(sici((20 * x).detach().cpu().numpy())[0] / 20).to(x)

    return Target(lambda x: torch.sinc(20 / math.pi * x), antiderivative, formula="sin(20x)/(20x)")


@FUNCTIONS.register("linear")
def linear() -> Target:
    """x, with antiderivative x²/2."""
    return Target(lambda x: 1.0 * x, lambda x: 0.5 * x**2, formula="x")


@FUNCTIONS.register("xcosx")
def xcosx() -> Target:
    """x·cos x, with antiderivative x·sin x + cos x."""
    return Target(lambda x: x * torch.cos(x), lambda x: x * torch.sin(x) + torch.cos(x), formula="x·cos(x)")


def _gaussian(features: int) -> Target:
    """exp(−4|x|²), with antiderivative Π √π/4·erf(2x_i)."""
    return Target(
        lambda x: torch.exp(-4 * x.square().sum(-1)),
        lambda x: (math.sqrt(math.pi) / 4 * torch.erf(2 * x)).prod(-1),
        features,
        f"exp(−4({' + '.join(f'{axis}²' for axis in 'xyz'[:features])}))",
    )


@FUNCTIONS.register("gaussian2d")
def gaussian2d() -> Target:
    """exp(−4(x² + y²)), with antiderivative π/16·erf(2x)·erf(2y)."""
    return _gaussian(2)


@FUNCTIONS.register("gaussian3d")
def gaussian3d() -> Target:
    """exp(−4(x² + y² + z²)), with antiderivative (√π/4)³·erf(2x)·erf(2y)·erf(2z)."""
    return _gaussian(3)


def target(name: str) -> Target:
    """Return the function of that name, the one that an expression describes, or ``package.module:callable``.

    Raises:
        ValueError: for a name that is not registered, for text that is no expression, and for a callable that cannot be
            imported.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        known = FUNCTIONS.names()
        if name in known:
            return FUNCTIONS[name]()
        if re.fullmatch(r"[^\W\d]\w*", name) and name not in COORDINATES and name not in CONSTANTS:
            raise ValueError(
                f"function='{name:.80}' is unknown{nearest(name, known)} (available: {', '.join(known)}, an expression "
                "such as 'sin(x)*exp(-y**2)', or your own as function=package.module:callable)"
            )
        expression = Expression(name)
        return Target(expression, None, expression.features)
    if not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", name):
        raise ValueError(f"function={name!r:.80} is not of the form package.module:callable")
    log.warning("function=%s: importing %s, which runs the code in it", name, module)
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ValueError(
            f"function={name}: {error}; the module must be installed, beside train.py or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ValueError(f"function={name}: it is a {type(found).__name__}, and must be callable, x (P, n) → (P,)")
    return Target(found, None, None)
