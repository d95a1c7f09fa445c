"""Antiderivatives of functions, on the domain of one network or of several."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoint.integrals.base import AbstractAntiderivative, Corners, Part, inside
from autoint.integrals.definite import holds, integrate
from autoint.integrals.domains import Affine, Change, changes_of, numbers_of
from autoint.integrals.estimates import Estimate, stratified_mean
from autoint.integrals.integrands import Function, true_integrals, values
from autoint.networks.grad_nets import AbstractGradNet
from autoint.networks.integral_net import Choice, IntegralNet
from autoint.networks.product_net import ProductGradNet, ProductNet
from autoint.registry import GRAD_NETS

log = logging.getLogger(__name__)


class Antiderivative(AbstractAntiderivative):
    """An integral network on a box [lower, upper], in the coordinates of the user's function.

    With x = T(u), u in [−1, 1]ⁿ, the antiderivative is F(x) = c·Φ(u) and its integrand ∂ⁿF/∂x = c·Ψ(u)/Π T′(u), where
    Ψ = ∂ⁿΦ/∂u_0…∂u_{n−1} and c is the root mean square of f(T(u))·Π T′(u). T is (x − middle)/half undone on every axis,
    unless ``changes`` say otherwise. Parameters of a family are further inputs of Φ, scaled to [−1, 1].

    Args:
        net: the integral network Φ, n + m inputs, or a sum of products of networks; it is moved to float64.
        lower, upper: the corners of the box, n numbers each.
        squeeze: whether the function has a single output without an axis of its own.
        builder: of the grad network, unless Φ is a sum of products.
        parameters: the least and the largest parameters, m numbers each.
        changes: of the variables, one for every axis.
    """

    def __init__(
        self,
        net: IntegralNet | ProductNet,
        lower: Corners,
        upper: Corners,
        squeeze: bool = True,
        builder: Choice = "explicit",
        parameters: tuple[Corners, Corners] = ((), ()),
        changes: Sequence[Change] = (),
    ) -> None:
        super().__init__(lower, upper, parameters, squeeze)
        self.net = net.double()
        features = len(self.lower)
        self.grad_net: AbstractGradNet | ProductGradNet
        self._partials = {}
        if isinstance(self.net, ProductNet):
            self.grad_net = ProductGradNet(self.net)
        else:
            self.grad_net = psi = GRAD_NETS.build(builder, self.net, tuple(range(features)))
            # Made here, since torch.compile follows no module made on the way; not registered, for they own nothing.
            subsets = (s for k in range(1, features) for s in itertools.combinations(range(features), k))
            self._partials = {axes: _Partial(psi, axes) for axes in subsets}
        self.changes = () if all(isinstance(change, Affine) for change in changes) else tuple(changes)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    scale: Tensor

    @property
    def half_sides(self) -> Tensor:
        """Half the box's sides, (n,)."""
        return 0.5 * (self.upper - self.lower)

    def antiderivative(self, x: Any, parameters: Any = None) -> Tensor:
        """Return F(x), one of the antiderivatives: x (…, n), parameters (…, m) → (…) or (…, C)."""
        u, p = self._unit(self._coordinates("x", x)), self._of_family(parameters)
        return self._out(self.scale * self.net(self._inputs(u, p)))

    def integrand(self, x: Any, parameters: Any = None) -> Tensor:
        """Return ∂ⁿF/∂x_0…∂x_{n−1}, the fitted function: x (…, n), parameters (…, m) → (…) or (…, C)."""
        u, p = self._unit(self._coordinates("x", x)), self._of_family(parameters)
        return self._out(self.psi(u, p) / self.slopes(u).prod(-1, keepdim=True))

    def at_shares(self, shares: Tensor) -> Tensor:
        """Return the points at shares (…, n) in [0, 1] of the domain's sides, infinite ones by their changes."""
        return self.x(2 * shares - 1)

    def x(self, u: Tensor) -> Tensor:
        """Return T(u), (…, n)."""
        if not self.changes:
            return self.lower + (u + 1) / 2 * (self.upper - self.lower)
        return torch.stack([change.x(u[..., k]) for k, change in enumerate(self.changes)], -1)

    def slopes(self, u: Tensor) -> Tensor:
        """Return T′(u), (…, n)."""
        if not self.changes:
            return self.half_sides.expand_as(u)
        return torch.stack([change.slope(u[..., k]) for k, change in enumerate(self.changes)], -1)

    def psi(self, u: Tensor, p: Tensor | None) -> Tensor:
        """Return c·Ψ(u), the function times Π T′, (…, C)."""
        return self.scale * self.grad_net(self._inputs(u, p))

    def corners(self, lower: Tensor, upper: Tensor, axes: tuple[int, ...], method: str, p: Tensor | None) -> Tensor:
        """Return the integral of Ψ over boxes (…, n), (…, C)."""
        features = len(self.lower)
        a, b = self._unit(lower), self._unit(upper)
        fixed = tuple(axis for axis in range(features) if axis not in axes)
        net: nn.Module = self.net
        if 0 < len(fixed) < features:
            net = _PartialProduct(net, fixed) if isinstance(net, ProductNet) else self._partials[fixed]
        total = self.scale * integrate(net, self._inputs(a, p), self._inputs(b, p), axes, method)
        # One over T′ for every axis along which F is differentiated.
        return total / self.slopes(b)[..., list(fixed)].prod(-1, keepdim=True) if fixed else total

    def rounding(self, lower: Tensor, upper: Tensor, axes: tuple[int, ...], p: Tensor | None) -> Tensor:
        """Return the standard error that rounding makes in ``corners`` over boxes (…, n), (…, C)."""
        fixed = [axis for axis in range(len(self.lower)) if axis not in axes]
        a, b = self._unit(lower), self._unit(upper)
        ends = self._inputs(a, p), self._inputs(b, p)
        with torch.no_grad():
            if isinstance(self.net, ProductNet):
                error = self.net.rounding(*ends, axes, fixed)
            else:
                size = torch.maximum(*(self.net.magnitude(end) for end in ends))
                error = 2 ** (len(axes) / 2) * torch.finfo(size.dtype).eps * size
            return self.scale * error / self.slopes(b)[..., fixed].prod(-1, keepdim=True)

    def leftover(
        self,
        lower: Tensor,
        upper: Tensor,
        axes: tuple[int, ...],
        p: Tensor | None,
        samples: int,
        g: torch.Generator,
        subtract: bool = True,
    ) -> Estimate:
        """Return an estimate of ∫(f − Ψ) over boxes (B, n), or of ∫f unless ``subtract``, (B, C)."""
        a, b = self._unit(lower), self._unit(upper)
        sides = (b - a)[:, list(axes)]
        empty = (sides == 0).any(-1, keepdim=True)  # where a point may lie at the end of a domain

        def rest(points: Tensor, rows: slice) -> Tensor:
            shares = points.new_zeros(*points.shape[:-1], a.shape[-1])
            shares[..., list(axes)] = points
            u = a[rows, None] + (b - a)[rows, None] * shares.to(a)
            u = torch.where(empty[rows, None], 0.0, u)
            q = None if p is None else p[rows, None].expand(*u.shape[:2], -1)
            y, _ = values(self._function(), self.x(u).flatten(0, 1), None if q is None else q.flatten(0, 1))
            slopes = self.slopes(u)
            y = y.unflatten(0, u.shape[:2]) * slopes.prod(-1, keepdim=True)
            y = y - self.psi(u, q) if subtract else y
            return y / slopes[..., [axis for axis in range(a.shape[-1]) if axis not in axes]].prod(-1, keepdim=True)

        mean = stratified_mean(rest, len(a), len(axes), samples, g)
        volume = sides.prod(-1, keepdim=True)
        return Estimate(volume * mean.value, volume.abs() * mean.error, mean.degrees, mean.samples)

    def truth(self, lower: Tensor, upper: Tensor, p: Tensor | None) -> Tensor:
        """Return the integrals of the function itself over boxes (B, n) by Gauss-Legendre rules, (B, C)."""

        def changed(u: Tensor, *q: Tensor) -> Tensor:
            return values(self._function(), self.x(u), *q)[0] * self.slopes(u).prod(-1, keepdim=True)

        return true_integrals(changed, self._unit(lower), self._unit(upper), None, p)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.changes:
            destination[f"{prefix}variables"] = self.lower.new_tensor(numbers_of(self.changes), dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Take the changes of variables too: the weights are of another function without them."""
        super()._load_from_state_dict(state_dict, prefix, *rest)
        _, _, _, unexpected, errors = rest
        key = f"{prefix}variables"
        if key in state_dict:
            unexpected[:] = [name for name in unexpected if name != key]
            try:
                self.changes = tuple(changes_of(state_dict[key].tolist()))
            except (ValueError, TypeError, LookupError, ArithmeticError):
                errors.append(f"{key} must hold five numbers for every axis; take the state of a fit as it is")
        elif self.changes and f"{prefix}lower" in state_dict:
            log.warning("load_state_dict: the state has no %s, so that those of this fit stay; fit alike, or anew", key)
        for name in ("lower", "upper"):
            own = [getattr(change, name) for change in self.changes]
            theirs = state_dict.get(prefix + name, torch.tensor(own)).tolist()
            near = len(own) == len(theirs) and all(map(functools.partial(math.isclose, rel_tol=1e-6), own, theirs))
            if self.changes and not near:
                errors.append(f"{prefix}{name}={theirs}, but {own} by the changes of variables; fit on that domain")

    def _function(self) -> Function:
        assert self.function is not None
        return self.function

    def _parts(self, lower: Tensor, upper: Tensor, axes: tuple[int, ...]) -> list[Part]:
        return [(lower.new_ones(1), self, lower, upper)]

    def _inputs(self, u: Tensor, p: Tensor | None) -> Tensor:
        """Return the inputs of Φ, (…, n + m)."""
        if p is None:
            return u
        low, high = self.parameter_range
        w = (p - 0.5 * (low + high)) / (0.5 * (high - low))
        shape = torch.broadcast_shapes(u.shape[:-1], w.shape[:-1])
        return torch.cat([u.expand(*shape, -1), w.expand(*shape, -1)], -1)

    def _unit(self, x: Tensor) -> Tensor:
        if self.changes:
            within = _within(x, self.lower, self.upper)
            u = torch.stack([change.u(within[..., k]) for k, change in enumerate(self.changes)], -1)
        else:
            u = (x - 0.5 * (self.lower + self.upper)) / self.half_sides
        known = inside(x, self.lower, self.upper)
        if not holds(known):
            box = f"[{self.lower.tolist()}, {self.upper.tolist()}]"
            raise ValueError(f"there are points outside the fitted box {box}, or not finite; fit a larger box")
        return torch.where(known, u, torch.nan) if torch.compiler.is_compiling() else u


class Piecewise(AbstractAntiderivative):
    """Antiderivatives side by side: one for every cell of a grid that the domain is cut into.

    Args:
        pieces: of the grid's cells, the last axis running fastest.
        shape: of the grid.
        periodic: axes on which integrals go on outside of the domain, which is one period there.
    """

    def __init__(self, pieces: Sequence[Antiderivative], shape: Sequence[int], periodic: Sequence[int] = ()) -> None:
        first, last = pieces[0], pieces[-1]
        low, high = first.parameter_range.tolist()
        super().__init__(first.lower.tolist(), last.upper.tolist(), (low, high), first.squeeze)
        self.pieces, self.shape, self.periodic = nn.ModuleList(pieces), tuple(shape), tuple(periodic)

    pieces: nn.ModuleList

    def antiderivative(self, x: Any, parameters: Any = None) -> Tensor:
        """Return F(x), the integral from the lower corner: x (…, n), parameters (…, m) → (…) or (…, C)."""
        return self.integral(self.lower, x, parameters=parameters)

    def integrand(self, x: Any, parameters: Any = None) -> Tensor:
        """Return the fitted function, at a break its limit from above: x (…, n), parameters (…, m) → (…) or (…, C)."""
        x = self._coordinates("x", x)
        total = torch.zeros(())
        for c, piece, a, _ in self._parts(x, x, ()):
            y = piece.integrand(a, parameters)  # type: ignore[attr-defined]
            total = total + torch.where(c[..., 0] > 0 if self.squeeze else c > 0, y, 0.0)
        return total

    def at_shares(self, shares: Tensor) -> Tensor:
        """Return the points at shares (…, n) in [0, 1] of the domain's sides, every piece having an equal share."""
        counts = torch.tensor(self.shape, device=shares.device)
        cell = (shares * counts).floor().minimum(counts - 1)
        x = torch.zeros_like(shares)
        for index, piece in zip(itertools.product(*map(range, self.shape)), self._pieces(), strict=True):
            here = (cell == torch.tensor(index, device=cell.device)).all(-1, keepdim=True)
            x = torch.where(here, piece.at_shares((shares * counts - cell).clamp(0, 1)), x)
        return x

    def _pieces(self) -> list[Antiderivative]:
        return list(self.pieces)  # type: ignore[arg-type]

    def _parts(self, lower: Tensor, upper: Tensor, axes: tuple[int, ...]) -> list[Part]:
        """Return the parts in all cells: on every axis a cell has the rest of the interval, and whole periods."""
        bounded = [k for k in range(len(self.lower)) if k not in self.periodic]
        for x in (lower, upper):
            if not holds(inside(x, self.lower, self.upper)[..., bounded]):
                box = f"[{self.lower.tolist()}, {self.upper.tolist()}]"
                raise ValueError(f"there are points outside the fitted box {box}, or not finite; fit a larger box")
            if not holds(x[..., list(self.periodic)].isfinite()):
                raise ValueError(f"bounds of the periodic axes {self.periodic} must be finite")
        periodic = torch.tensor([k in self.periodic for k in range(len(self.lower))], device=lower.device)
        lower, upper = (torch.where(periodic, x, _within(x, self.lower, self.upper)) for x in (lower, upper))
        parts: list[Part] = []
        for index, piece in zip(itertools.product(*map(range, self.shape)), self._pieces(), strict=True):
            ways = [self._along(k, index[k], piece, lower[..., k], upper[..., k], k in axes) for k in range(len(index))]
            for way in itertools.product(*ways):
                factors, a, b = zip(*way, strict=True)
                factor = torch.stack(torch.broadcast_tensors(*factors), -1).prod(-1, keepdim=True)
                low, high = (torch.stack(torch.broadcast_tensors(*ends), -1) for ends in (a, b))
                parts.append((factor, piece, low, high))
        return parts

    def _along(
        self, axis: int, index: int, piece: Antiderivative, a: Tensor, b: Tensor, integrated: bool
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the parts of an interval along one axis that a piece has: factors and bounds."""
        low, high = piece.lower[axis], piece.upper[axis]
        turns = torch.zeros(())
        if axis in self.periodic:
            start, period = self.lower[axis], self.upper[axis] - self.lower[axis]
            turns_a, turns_b = (((v - start) / period).floor() for v in (a, b))
            a, b, turns = a - turns_a * period, b - turns_b * period, turns_b - turns_a
        last = index == self.shape[axis] - 1
        if not integrated:
            here = (a >= low) & ((a <= high) if last else (a < high))
            at = _within(a, low, high)
            return [(here.to(a), at, at)]
        # An end that two pieces share is that of the one above: the gradient by a bound there must not count twice.
        out = [(torch.ones_like(a), _within(a, low, high, last), _within(b, low, high, last))]
        if axis in self.periodic:
            out.append((turns, low.expand_as(turns), high.expand_as(turns)))
        return out


def _within(x: Tensor, low: Tensor, high: Tensor, closed: bool = True) -> Tensor:
    """Return x, or the nearer end: with the whole gradient at an end, of which ``clamp`` passes on a half.

    At ``high`` there is no gradient unless ``closed``.
    """
    above = x > high if closed else x >= high
    return torch.where(x < low, low, torch.where(above, high, x))


class _Partial(nn.Module):
    """The derivative along some axes of the integral network that a grad network belongs to."""

    def __init__(self, grad_net: AbstractGradNet, axes: Sequence[int]) -> None:
        super().__init__()
        self.grad_net, self.axes = grad_net, tuple(axes)

    def forward(self, x: Tensor) -> Tensor:
        """Return ∂ⁿΦ/∂x_{axes}."""
        return self.grad_net.by_axes(x, self.axes)


class _PartialProduct(nn.Module):
    """The derivative along some axes of a sum of products."""

    def __init__(self, net: ProductNet, axes: Sequence[int]) -> None:
        super().__init__()
        self.net, self.axes, self.plain = net, tuple(axes), net.plain

    def box_integral(self, lower: Tensor, upper: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the integral of ∂ⁿΦ/∂x_0…∂x_{n−1} along ``axes``."""
        return self.net.box_integral(lower, upper, axes, self.axes)
