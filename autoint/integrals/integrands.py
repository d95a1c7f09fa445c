"""How a user's function is asked, and integrated where no antiderivative is known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoint.integrals.definite import integrate
from autoint.integrals.quadrature import gauss_legendre

Function = Callable[..., Tensor]
# Panels and nodes per axis of the rule that integrates a function without a known antiderivative.
SOBOL = 2**15  # points of it where products would be too many
REFERENCE = {1: (16, 32), 2: (2, 32), 3: (1, 32), 4: (1, 12), 5: (1, 8), 6: (1, 7)}


def values(function: Function, x: Tensor, parameters: Tensor | None = None) -> tuple[Tensor, bool]:
    """Return f(x) as (P, C) in float64, and whether the function gave it without that axis; x (P, n).

    ``parameters`` (P, m) are those of a family f(x, p).

    Raises:
        ValueError: where the function fails, returns something of another shape, or values that are not finite.
    """
    given = f"x of shape {tuple(x.shape)}" + ("" if parameters is None else f" and p of {tuple(parameters.shape)}")
    try:
        out = function(x) if parameters is None else function(x, parameters)
    except Exception as error:
        raise ValueError(f"the function failed at {given}: {error}") from error
    wanted = f"a tensor of shape ({len(x)},) or ({len(x)}, C) for {given}"
    if not isinstance(out, Tensor):
        raise ValueError(f"the function returned a {type(out).__name__}; it must return {wanted}")
    if out.is_complex():
        raise ValueError("the function returned complex numbers; give the real and imaginary parts as two columns")
    if out.shape[:1] != x.shape[:1] or out.dim() not in (1, 2):
        raise ValueError(f"the function returned a tensor of shape {tuple(out.shape)}; it must return {wanted}")
    if not out.numel():
        raise ValueError(f"the function returned a tensor of shape {tuple(out.shape)}; it must return {wanted}")
    flat, y = out.dim() == 1, out.to(x.dtype).reshape(len(x), -1)
    bad = ~y.isfinite().all(-1)
    if bad.any():
        where = f"x={x[bad][0].tolist()}" + ("" if parameters is None else f", p={parameters[bad][0].tolist()}")
        raise ValueError(f"the function is {y[bad][0].tolist()} at {where}; it must be finite on the whole box")
    return y, flat or (x.shape[1] == 1 and y.shape[1] == 1)


def true_integrals(
    function: Function,
    lower: Tensor,
    upper: Tensor,
    exact: Function | None = None,
    parameters: Tensor | None = None,
) -> Tensor:
    """Return the integrals of f over boxes, (B, n) and (B, n), parameters (B, m) → (B, C).

    From F with ∂ⁿF/∂x = f by its corners if ``exact`` is given, else by a tensor product of Gauss-Legendre rules, or by
    Sobol points above 6 dimensions.
    """
    features = lower.shape[1]
    if exact is not None:
        return integrate(_Module(exact), lower, upper)
    grid, weights = (part.to(lower) for part in _rule(features))
    out = []
    for k, (a, b) in enumerate(zip(lower, upper, strict=True)):
        p = None if parameters is None else parameters[k].expand(len(grid), -1)
        y, _ = values(function, a + (b - a) * grid, p)
        out.append((b - a).prod() * weights @ y)
    return torch.stack(out)


def _rule(features: int) -> tuple[Tensor, Tensor]:
    """Return points in the unit cube (P, n), and their weights (P,)."""
    if features not in REFERENCE:
        grid = torch.quasirandom.SobolEngine(features, scramble=True, seed=0).draw(SOBOL, dtype=torch.float64)
        return grid, grid.new_full((SOBOL,), 1 / SOBOL)
    panels, nodes = REFERENCE[features]
    t, w = gauss_legendre(torch.linspace(0, 1, panels + 1, dtype=torch.float64), nodes)
    grid = torch.cartesian_prod(*[t.flatten()] * features).reshape(-1, features)
    return grid, torch.cartesian_prod(*[w.repeat(panels) / panels] * features).reshape(-1, features).prod(-1)


class _Module(nn.Module):
    """A function (P, n) → (P, C) as an integral network."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's values."""
        try:
            return self.function(x).reshape(*x.shape[:-1], -1)
        except Exception as error:
            raise ValueError(f"exact= failed at x of shape {tuple(x.shape)}: {error}") from error
