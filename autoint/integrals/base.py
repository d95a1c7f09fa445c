"""What every antiderivative answers: its integrals with or without error bars, and how far it is from the truth."""

from __future__ import annotations

import abc
import copy
import inspect
import sys
from collections.abc import Sequence
from typing import Any, Protocol, overload

import torch
from torch import Tensor, nn

from autoint.integrals.accuracy import ErrorReport, Fitted
from autoint.integrals.definite import axes_of, bound, holds
from autoint.integrals.estimates import Estimate, allotted, combined, per_box
from autoint.integrals.integrands import Function, true_integrals, values
from autoint.registry import at_least_one, integer
from autoint.runs.seeding import generator

Corners = Sequence[float]


class Piece(Protocol):
    """A domain on which one network is the antiderivative."""

    def corners(self, lower: Tensor, upper: Tensor, axes: tuple[int, ...], method: str, p: Tensor | None) -> Tensor:
        """Return the integral of Ψ over boxes (…, n), (…, C)."""

    def rounding(self, lower: Tensor, upper: Tensor, axes: tuple[int, ...], p: Tensor | None) -> Tensor:
        """Return the standard error that rounding makes in ``corners`` over boxes (…, n), (…, C)."""

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

    def truth(self, lower: Tensor, upper: Tensor, p: Tensor | None) -> Tensor:
        """Return the integrals of the function itself over boxes (B, n) by Gauss-Legendre rules, (B, C)."""


# A share of an integral: a factor (…, 1), the piece that it belongs to, and the bounds there.
Part = tuple[Tensor, Piece, Tensor, Tensor]


class AbstractAntiderivative(nn.Module, abc.ABC):
    """F with ∂ⁿF/∂x_0…∂x_{n−1} = f(x), or = f(x, p) for a family with parameters p.

    Attributes:
        lower, upper: the corners of its domain, (n,).
        parameter_range: the least and the largest parameters, (m,) each, m = 0 for a single function.
        function: the function that was fitted, for ``residual`` and ``error_report``; None after loading a checkpoint,
            and in a stored copy where it is one that can only be stored with its code, as a lambda.
        fitted: what the fit has reached, or None.
    """

    def __init__(self, lower: Corners, upper: Corners, parameters: tuple[Corners, Corners], squeeze: bool) -> None:
        super().__init__()
        self.squeeze, self.function, self.fitted = squeeze, None, None
        for name, value in (("lower", lower), ("upper", upper)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float64))
        ranges = torch.tensor([list(end) for end in parameters], dtype=torch.float64)
        self.register_buffer("parameter_range", ranges, persistent=ranges.numel() > 0)

    lower: Tensor
    upper: Tensor
    parameter_range: Tensor
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

    def __deepcopy__(self, memo: dict[int, Any]) -> AbstractAntiderivative:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    @abc.abstractmethod
    def antiderivative(self, x: Any, parameters: Any = None) -> Tensor:
        """Return F(x), one of the antiderivatives: x (…, n), parameters (…, m) → (…) or (…, C)."""

    @abc.abstractmethod
    def integrand(self, x: Any, parameters: Any = None) -> Tensor:
        """Return ∂ⁿF/∂x_0…∂x_{n−1}, the fitted function: x (…, n), parameters (…, m) → (…) or (…, C)."""

    @abc.abstractmethod
    def at_shares(self, shares: Tensor) -> Tensor:
        """Return the points at shares (…, n) in [0, 1] of the domain's sides, infinite ones by their changes."""

    @abc.abstractmethod
    def _parts(self, lower: Tensor, upper: Tensor, axes: tuple[int, ...]) -> list[Part]:
        """Return an integral as a sum of integrals over boxes of single networks."""

    @overload
    def integral(
        self,
        lower: Any,
        upper: Any,
        axes: Sequence[int] | None = None,
        method: str = "corners",
        *,
        parameters: Any = None,
    ) -> Tensor: ...

    @overload
    def integral(
        self,
        lower: Any,
        upper: Any,
        axes: Sequence[int] | None = None,
        method: str = "corners",
        *,
        parameters: Any = None,
        residual: int,
        total: int | None = None,
        seed: int = 0,
    ) -> Estimate: ...

    def integral(
        self,
        lower: Any,
        upper: Any,
        axes: Sequence[int] | None = None,
        method: str = "corners",
        *,
        parameters: Any = None,
        residual: int | None = None,
        total: int | None = None,
        seed: int = 0,
    ) -> Tensor | Estimate:
        """Return the definite integral over boxes inside the domain, differentiable in everything.

        With ``residual`` it is unbiased whatever the network is: ∫f = ∫Ψ + ∫(f − Ψ), the first from Φ, the second from
        random points, two in every cell of a grid over the box, which also tell how wrong it may be.

        Args:
            lower, upper: corners, (…, n) each, numbers for n = 1; they broadcast, and may be swapped or equal. Periodic
                axes go on outside of the box.
            axes: the integrated axes, all by default; on the others the two bounds are the same fixed coordinate.
            method: as for ``integrate``.
            parameters: of a family, (…, m), numbers for m = 1; they broadcast with the bounds.
            residual: ask the function at so many points of every box at most (of every piece of it), from 4.
            total: so many points for all boxes together: ``residual`` in each say where f − Ψ varies, and the rest go
                there, in proportion to its deviation times the volume (Neyman). Only the rest makes the estimate, for
                points that decide how many come after them would bias it.
            seed: of the points; integrals with the same seed are not independent.

        Returns:
            (…), or (…, C) for a function with C outputs; with ``residual`` an ``Estimate`` of such.

        Raises:
            ValueError: for bounds and parameters outside the domain, no function to take a residual from, and as
                ``integrate``.
        """
        a, b = self._coordinates("lower", lower), self._coordinates("upper", upper)
        p = self._of_family(parameters)
        axes = axes_of(axes, len(self.lower))
        shapes = [t.shape[:-1] for t in (a, b, p) if t is not None]
        try:
            shape = torch.broadcast_shapes(*shapes)
        except RuntimeError as error:
            raise ValueError(
                f"bounds and parameters of shapes {[tuple(s) for s in shapes]} do not broadcast"
            ) from error
        if residual is None:
            if total is not None:
                raise ValueError(f"total={total}: say by residual= how many points of every box come first, such as 16")
            shares = [c * piece.corners(u, v, axes, method, p) for c, piece, u, v in self._parts(a, b, axes)]
            return self._out(sum(shares[1:], shares[0]))
        self._asked(residual=residual)
        integer(seed=seed)
        at_least_one(total=total)
        a, b = (t.expand(*shape, -1).reshape(-1, len(self.lower)) for t in (a, b))
        p = None if p is None else p.expand(*shape, -1).reshape(-1, p.shape[-1])
        found = self._estimate(self._parts(a, b, axes), axes, method, p, residual, total, seed)
        value, deviation, degrees = (self._out(t.reshape(*shape, -1)) for t in (*found, found.degrees))
        return Estimate(value, deviation, degrees, found.samples)

    def _estimate(
        self,
        parts: list[Part],
        axes: tuple[int, ...],
        method: str,
        p: Tensor | None,
        residual: int,
        total: int | None,
        seed: int,
    ) -> Estimate:
        """Return the estimate for flat boxes (B, n) and parameters (B, m), as (B, C)."""
        g = generator(seed, "residual")
        counts = [torch.full((len(a),), residual) for _, _, a, _ in parts]
        if total is not None:
            with torch.no_grad():
                first = [piece.leftover(a, b, axes, p, residual, g) for _, piece, a, b in parts]
            spread = torch.stack([(c * e.error).norm(dim=-1) for (c, *_), e in zip(parts, first, strict=True)])
            counts = list(allotted(spread, total, sum(e.samples for e in first)))
        estimates = []
        for (c, piece, a, b), count in zip(parts, counts, strict=True):
            empty = (a == b)[:, list(axes)].any(-1).cpu()
            count = torch.where(empty, 4, count)

            def leftover(rows: Tensor, samples: int, piece: Piece = piece, a: Tensor = a, b: Tensor = b) -> Estimate:
                return piece.leftover(a[rows], b[rows], axes, None if p is None else p[rows], samples, g)

            rest = per_box(leftover, count)
            value = piece.corners(a, b, axes, method, p) + rest.value
            error = torch.hypot(rest.error, piece.rounding(a, b, axes, p))
            estimates.append((c, Estimate(value, error, rest.degrees, rest.samples)))
        return combined(estimates)

    def error_report(
        self, num_boxes: int = 1000, seed: int = 0, exact: Function | None = None, samples: int = 64
    ) -> ErrorReport:
        """Compare with the function at fresh points, and with its integrals over random boxes.

        Args:
            num_boxes: number of boxes, and of points.
            seed: of both.
            exact: F with ∂ⁿF/∂x = f, if it is known; otherwise Gauss-Legendre rules give the integrals.
            samples: of the residual in a box, whose variance is compared with that of plain Monte Carlo.
        """
        self._asked(num_boxes=num_boxes, samples=samples)
        integer(seed=seed)
        assert self.function is not None
        g = generator(seed, "boxes")
        shares = torch.rand(2, num_boxes, len(self.lower), generator=g, dtype=torch.float64).to(self.lower.device)
        a, b = self.at_shares(shares)
        n = len(self.lower)
        p, axes = self.drawn(num_boxes, g), tuple(range(n))
        with torch.no_grad():
            error = (self.integrand(a, p) - self._out(values(self.function, a, p)[0])).abs()
            parts = self._parts(a, b, axes)
            if exact is None:
                truth = sum((c * piece.truth(u, v, p) for c, piece, u, v in parts), torch.zeros(()))
            else:
                truth = true_integrals(self.function, a, b, exact)
                if truth.shape[1:] != error.reshape(len(a), -1).shape[1:]:
                    raise ValueError(
                        f"exact= returned {truth.shape[1]} numbers for a point, the function another count"
                    )
            integral_error = (self.integral(a, b, parameters=p) - self._out(truth)).abs()
            ours = self._estimate(parts, axes, "corners", p, samples, None, seed).error.square().mean()
            pairs = [(c, piece.leftover(u, v, axes, p, 2, g, subtract=False)) for c, piece, u, v in parts]
            plain = combined(pairs).error.square().mean() * 2 / samples
        return ErrorReport(
            integrand_max=float(error.max()),
            integrand_rms=float(error.square().mean().sqrt()),
            integral_max=float(integral_error.max()),
            integral_rms=float(integral_error.square().mean().sqrt()),
            boxes=num_boxes,
            against="the exact antiderivative" if exact else "Gauss-Legendre quadrature" if n <= 6 else "Sobol points",
            variance_ratio=float(plain / ours),
            samples=samples,
        )

    def _asked(self, **counts: int) -> None:
        if self.function is None:
            raise ValueError("there is no function to compare with; set .function first")
        at_least_one(**counts)
        if counts.get("residual", 4) < 4:
            raise ValueError(f"residual={counts['residual']} must be at least 4: two points in each of two cells")

    def drawn(self, count: int, g: torch.Generator) -> Tensor | None:
        """Return random parameters, (count, m), or None."""
        low, high = self.parameter_range
        shares = torch.rand(count, len(low), generator=g, dtype=torch.float64).to(low.device)
        return low + shares * (high - low) if len(low) else None

    def _coordinates(self, key: str, x: Any) -> Tensor:
        return last_of(key, bound(key, x, self), len(self.lower), "coordinates")

    def _of_family(self, parameters: Any) -> Tensor | None:
        count = self.parameter_range.shape[1]
        if parameters is None:
            if count:
                raise ValueError(f"parameters= must be given, {count} of them: this is a family of functions")
            return None
        if not count:
            raise ValueError("parameters= is for families; this function was fitted without parameters")
        p = last_of("parameters", bound("parameters", parameters, self), count, "parameters")
        low, high = self.parameter_range
        if not holds(inside(p, low, high)):
            ranges = f"[{low.tolist()}, {high.tolist()}]"
            raise ValueError(f"there are parameters outside the fitted range {ranges}; fit a larger one")
        return p

    def _out(self, y: Tensor) -> Tensor:
        return y[..., 0] if self.squeeze else y


def inside(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return where low ≤ x ≤ high, up to a rounding of their ends to float32: 0.3 there is above 0.3."""
    ends = torch.stack([low, high])
    slack = torch.where(ends.isfinite(), ends.abs(), 0.0).amax(0) * torch.finfo(torch.float32).eps
    return (x >= low - slack) & (x <= high + slack)


def last_of(key: str, x: Tensor, count: int, of: str) -> Tensor:
    """Return x as (…, count); numbers are those of one coordinate or parameter."""
    if count == 1 and x.shape[-1:] != (1,):
        x = x[..., None]
    if x.shape[-1:] != (count,):
        raise ValueError(f"{key} has shape {tuple(x.shape)}; the last size must be the number of {of}, {count}")
    return x
