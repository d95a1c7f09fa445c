"""Antiderivatives of functions on a box, and how far they are from the truth."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoint.integrals.definite import bound, holds, integrate
from autoint.integrals.quadrature import gauss_legendre
from autoint.networks.grad_nets import AbstractGradNet
from autoint.networks.integral_net import Choice, IntegralNet
from autoint.registry import GRAD_NETS, at_least_one
from autoint.runs.seeding import generator

Function = Callable[[Tensor], Tensor]
# Panels and nodes per axis of the rule that integrates a function without a known antiderivative.
REFERENCE = {1: (16, 32), 2: (2, 32), 3: (1, 32), 4: (1, 12), 5: (1, 8), 6: (1, 7)}


class Antiderivative(nn.Module):
    """An integral network on a box [lower, upper], in the coordinates of the user's function.

    With u = (x − middle)/half, the antiderivative is F(x) = c·Φ(u) and its integrand ∂ⁿF/∂x = c/Π half · Ψ(u), where
    Ψ = ∂ⁿΦ/∂u_0…∂u_{n−1} and c/Π half is the root mean square of the function.

    Args:
        net: the integral network Φ, n inputs; it is moved to float64.
        lower, upper: the corners of the box, n numbers each.
        squeeze: whether the function has a single output without an axis of its own.
        builder: of the grad network.

    Attributes:
        function: the function that was fitted, for ``error_report``; None after loading a checkpoint, and in a
            stored copy where it is one that can only be stored with its code, as a lambda.
        fitted: what the fit has reached, or None.
    """

    def __init__(
        self,
        net: IntegralNet,
        lower: Sequence[float],
        upper: Sequence[float],
        squeeze: bool = True,
        builder: Choice = "explicit",
    ) -> None:
        super().__init__()
        self.net = net.double()
        self.grad_net = GRAD_NETS.build(builder, self.net, tuple(range(net.in_features)))
        self.squeeze, self.function, self.fitted = squeeze, None, None
        # Made here, since torch.compile follows no module made on the way; not registered, for they own nothing.
        subsets = (s for k in range(1, net.in_features) for s in itertools.combinations(range(net.in_features), k))
        self._partials = {axes: _Partial(self.grad_net, axes) for axes in subsets}
        low, high = (torch.as_tensor(v, dtype=torch.float64) for v in (lower, upper))
        self.register_buffer("lower", low)
        self.register_buffer("upper", high)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    lower: Tensor
    upper: Tensor
    scale: Tensor
    function: Function | None
    fitted: Fitted | None

    def __getstate__(self) -> dict[str, Any]:
        function = self.function
        if inspect.isfunction(function):
            found: Any = sys.modules.get(function.__module__)
            for part in function.__qualname__.split("."):
                found = getattr(found, part, None)
            function = function if found is function else None
        return {**self.__dict__, "function": function}

    def __deepcopy__(self, memo: dict[int, Any]) -> Antiderivative:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    @property
    def half_sides(self) -> Tensor:
        """Half the box's sides, (n,)."""
        return 0.5 * (self.upper - self.lower)

    def antiderivative(self, x: Any) -> Tensor:
        """Return F(x), one of the antiderivatives: x (…, n) → (…) or (…, C)."""
        return self._out(self.scale * self.net(self._unit(x)))

    def integrand(self, x: Any) -> Tensor:
        """Return ∂ⁿF/∂x_0…∂x_{n−1}, the fitted function: x (…, n) → (…) or (…, C)."""
        return self._out(self.scale / self.half_sides.prod() * self.grad_net(self._unit(x)))

    def integral(self, lower: Any, upper: Any, axes: Sequence[int] | None = None, method: str = "corners") -> Tensor:
        """Return the definite integral over boxes inside the fitted one, differentiable in everything.

        Args:
            lower, upper: corners, (…, n) each, numbers for n = 1; they broadcast, and may be swapped or equal.
            axes: the integrated axes, all by default; on the others the two bounds are the same fixed coordinate.
            method: as for ``integrate``.

        Returns:
            (…), or (…, C) for a function with C outputs.

        Raises:
            ValueError: for bounds outside the box, and as ``integrate``.
        """
        bounds = self._unit(lower, "lower"), self._unit(upper, "upper")
        features = self.net.in_features
        axes = tuple(range(features)) if axes is None else tuple(axes)
        fixed = tuple(axis for axis in range(features) if axis not in axes)
        net = self._partials[fixed] if fixed else self.net
        # One over half a side for every axis along which F is differentiated.
        factor = self.scale / self.half_sides[list(fixed)].prod()
        return self._out(factor * integrate(net, *bounds, axes, method))

    def error_report(self, num_boxes: int = 1000, seed: int = 0, exact: Function | None = None) -> ErrorReport:
        """Compare with the function at fresh points, and with its integrals over random boxes.

        Args:
            num_boxes: number of boxes, and of points.
            seed: of both.
            exact: F with ∂ⁿF/∂x = f, if it is known; otherwise Gauss-Legendre rules give the integrals.
        """
        if self.function is None:
            raise ValueError("error_report: there is no function to compare with; set .function first")
        at_least_one(num_boxes=num_boxes)
        g = generator(seed, "boxes")
        ends = torch.rand(2, num_boxes, len(self.lower), generator=g, dtype=torch.float64).to(self.lower.device)
        a, b = self.lower + ends * (self.upper - self.lower)
        with torch.no_grad():
            error = (self.integrand(a) - self._out(values(self.function, a)[0])).abs()
            truth = true_integrals(self.function, a, b, exact)
            integral_error = (self.integral(a, b) - self._out(truth)).abs()
        return ErrorReport(
            integrand_max=float(error.max()),
            integrand_rms=float(error.square().mean().sqrt()),
            integral_max=float(integral_error.max()),
            integral_rms=float(integral_error.square().mean().sqrt()),
            boxes=num_boxes,
            against="the exact antiderivative" if exact else "Gauss-Legendre quadrature",
        )

    def _unit(self, x: Any, key: str = "x") -> Tensor:
        x = bound(key, x, self)
        features = len(self.lower)
        if features == 1 and x.shape[-1:] != (1,):
            x = x[..., None]
        if x.shape[-1:] != (features,):
            raise ValueError(
                f"{key} has shape {tuple(x.shape)}; the last size must be the number of coordinates, {features}"
            )
        u = (x - 0.5 * (self.lower + self.upper)) / self.half_sides
        inside = u.abs() <= 1 + 1e-9
        if not holds(inside):
            box = f"[{self.lower.tolist()}, {self.upper.tolist()}]"
            raise ValueError(f"there are points outside the fitted box {box}, or not finite; fit a larger box")
        return torch.where(inside, u, torch.nan) if torch.compiler.is_compiling() else u

    def _out(self, y: Tensor) -> Tensor:
        return y[..., 0] if self.squeeze else y


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a fit has reached: the root mean square of Ψ − f as a share of that of f, after so many steps, and why."""

    error: float
    tolerance: float
    steps: int
    seconds: float
    end: str

    def __str__(self) -> str:
        kept = "met" if self.error <= self.tolerance else "not met"
        return (
            f"relative error {self.error:.1e} after {self.steps} steps and {self.seconds:.0f} s; tolerance "
            f"{self.tolerance:.0e} {kept} ({self.end})"
        )


@dataclasses.dataclass(frozen=True)
class ErrorReport:
    """Absolute errors of an antiderivative: of its integrand, and of its integrals over random boxes."""

    integrand_max: float
    integrand_rms: float
    integral_max: float
    integral_rms: float
    boxes: int
    against: str

    def __str__(self) -> str:
        return (
            f"integrand error {self.integrand_max:.1e} at most, {self.integrand_rms:.1e} rms, at {self.boxes} points; "
            f"integral error {self.integral_max:.1e} at most, {self.integral_rms:.1e} rms, over {self.boxes} random "
            f"boxes (against {self.against})"
        )


def values(function: Function, x: Tensor) -> tuple[Tensor, bool]:
    """Return f(x) as (P, C) in float64, and whether the function gave it without that axis; x (P, n).

    Raises:
        ValueError: where the function fails, returns something of another shape, or values that are not finite.
    """
    try:
        out = function(x)
    except Exception as error:
        raise ValueError(f"the function failed at x of shape {tuple(x.shape)}: {error}") from error
    wanted = f"a tensor of shape ({len(x)},) or ({len(x)}, C) for x of shape {tuple(x.shape)}"
    if not isinstance(out, Tensor):
        raise ValueError(f"the function returned a {type(out).__name__}; it must return {wanted}")
    if out.is_complex():
        raise ValueError("the function returned complex numbers; give the real and imaginary parts as two columns")
    if out.shape[:1] != x.shape[:1] or out.dim() not in (1, 2):
        raise ValueError(f"the function returned a tensor of shape {tuple(out.shape)}; it must return {wanted}")
    flat, y = out.dim() == 1, out.to(x.dtype).reshape(len(x), -1)
    bad = ~y.isfinite().all(-1)
    if bad.any():
        where = x[bad][0].tolist()
        raise ValueError(f"the function is {y[bad][0].tolist()} at x={where}; it must be finite on the whole box")
    return y, flat or (x.shape[1] == 1 and y.shape[1] == 1)


def true_integrals(function: Function, lower: Tensor, upper: Tensor, exact: Function | None = None) -> Tensor:
    """Return the integrals of f over boxes, (B, n) and (B, n) → (B, C).

    From F with ∂ⁿF/∂x = f by its corners if ``exact`` is given, else by a tensor product of Gauss-Legendre rules.
    """
    features = lower.shape[1]
    if exact is not None:
        return integrate(_Module(exact), lower, upper)
    panels, nodes = REFERENCE[features]
    unit = torch.linspace(0, 1, panels + 1, dtype=lower.dtype, device=lower.device)
    t, w = gauss_legendre(unit, nodes)
    grid = torch.cartesian_prod(*[t.flatten()] * features).reshape(-1, features)
    weights = torch.cartesian_prod(*[w.repeat(panels) / panels] * features).reshape(-1, features).prod(-1)
    out = []
    for a, b in zip(lower, upper, strict=True):
        y, _ = values(function, a + (b - a) * grid)
        out.append((b - a).prod() * weights @ y)
    return torch.stack(out)


class _Partial(nn.Module):
    """The derivative along some axes of the integral network that a grad network belongs to."""

    def __init__(self, grad_net: AbstractGradNet, axes: Sequence[int]) -> None:
        super().__init__()
        self.grad_net, self.axes = grad_net, tuple(axes)

    def forward(self, x: Tensor) -> Tensor:
        """Return ∂ⁿΦ/∂x_{axes}."""
        return self.grad_net.by_axes(x, self.axes)


class _Module(nn.Module):
    """A function (P, n) → (P, C) as an integral network."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's values."""
        return self.function(x).reshape(*x.shape[:-1], -1)
