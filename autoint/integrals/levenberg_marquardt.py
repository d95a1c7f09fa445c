"""Levenberg-Marquardt, for least squares with a few thousand parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

# The residuals r(θ), (M,), and a function that gives their Jacobian ∂r/∂θ, (M, P), at the same θ.
Linearization = tuple[Tensor, Callable[[], Tensor]]
AHEAD = 0.1  # of a step: where the residuals are looked at for their curvature along it
WINDOW, LEAST = 100, 0.01  # stalled: so many steps have lowered the residuals by less than this share


class LevenbergMarquardt(torch.optim.Optimizer):
    """Minimises mean(r²) by θ ← θ − s − a/2, every step a trial that is kept only if it lowers the loss.

    s = (JᵀJ + λI)⁻¹ Jᵀr, and a = (JᵀJ + λI)⁻¹ Jᵀr″ with the second derivative r″ of the residuals along s, from one
    more evaluation: where 2|a| ≤ ¾|s| it follows the bend of a narrow valley, along which s alone creeps (geodesic
    acceleration, Transtrum and Sethna 2012). λ follows the ratio of actual to predicted decrease (Nielsen's rule):
    towards Gauss-Newton where the linear model is trusted, towards short gradient steps where it is not. Costs
    O(M·P·min(M, P)) per step and M·P numbers of memory; use it in float64. The residuals must be the same function of θ
    in every step.

    Args:
        params: the parameters θ, all in one group.
        damping: λ at the start, in units of the largest diagonal element of JᵀJ.

    Attributes:
        stalled: whether no step lowers the loss any further, or the last hundred have by nearly nothing.
    """

    def __init__(self, params: Iterable[Tensor], damping: float = 1e-3) -> None:
        super().__init__(params, {"damping": damping, "growth": 2.0, "absolute": False, "taken": 0, "mark": math.inf})
        if len(self.param_groups) != 1:
            raise ValueError("LevenbergMarquardt takes its parameters in one group")
        self.stalled = False
        self._here: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Tensor:  # type: ignore[override]
        """Try one step; return the loss mean(r²) at the parameters that are kept."""
        group, params = self.param_groups[0], cast(list[Tensor], self.param_groups[0]["params"])
        if self._here is None:
            residuals, derivative = closure()
            jacobian = derivative()
            self._here = residuals, jacobian, _gram(jacobian)
        residuals, jacobian, gram = self._here
        if not group["absolute"]:
            group["damping"] *= float(jacobian.square().sum(0).max())
            group["absolute"] = True
        loss, start = residuals.square().sum(), parameters_to_vector(params)
        solve = _solver(jacobian, gram, group["damping"])
        decrease = -torch.inf
        if solve is not None:
            step = solve(residuals)
            vector_to_parameters(start - AHEAD * step, params)
            bend = solve(2 / AHEAD * ((closure()[0] - residuals) / AHEAD + jacobian @ step))
            bent = 2 * bend.norm() <= 0.75 * step.norm()
            vector_to_parameters(start - step - 0.5 * bend if bent else start - step, params)
            residuals_there, jacobian_there = closure()
            predicted = (step * (group["damping"] * step + jacobian.T @ residuals)).sum()
            decrease = float((loss - residuals_there.square().sum()) / predicted)
        if decrease > 0:
            group["damping"] *= max(1 / 3, 1 - (2 * min(decrease, 1.0) - 1) ** 3)
            group["growth"] = 2.0
            jacobian = jacobian_there()
            self._here, loss = (residuals_there, jacobian, _gram(jacobian)), residuals_there.square().sum()
        else:  # NaN included
            vector_to_parameters(start, params)
            group["damping"] *= group["growth"]
            group["growth"] *= 2
        self.stalled = group["growth"] > 2.0**12 or self._creeps(float(loss))
        return loss / len(residuals)

    def _creeps(self, loss: float) -> bool:
        """Return at the end of every window whether the loss has hardly fallen within it."""
        group = self.param_groups[0]
        group["taken"] = group.get("taken", 0) + 1  # which checkpoints of before do not have
        if group["taken"] % WINDOW:
            return False
        before, group["mark"] = group.get("mark", math.inf), loss
        return loss > (1 - LEAST) ** 2 * before


def _gram(jacobian: Tensor) -> Tensor:
    """Return the smaller of JᵀJ and JJᵀ, of which only the lower triangle counts: half of the work on a CPU."""
    tall = jacobian.shape[0] > jacobian.shape[1]
    if jacobian.device.type != "cpu":
        return jacobian.T @ jacobian if tall else jacobian @ jacobian.T
    from scipy.linalg import get_blas_funcs

    transposed = jacobian.detach().numpy().T  # in the order of BLAS without a copy
    (syrk,) = get_blas_funcs(("syrk",), (transposed,))
    return torch.as_tensor(syrk(1.0, transposed, trans=not tall, lower=1))


def _solver(jacobian: Tensor, gram: Tensor, damping: float) -> Callable[[Tensor], Tensor] | None:
    """Return r ↦ (JᵀJ + λI)⁻¹ Jᵀr from the gram matrix of J, or None where rounding makes that indefinite."""
    tall, damped = jacobian.shape[0] > jacobian.shape[1], gram.clone()
    damped.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        return None

    def solve(residuals: Tensor) -> Tensor:
        right = jacobian.T @ residuals if tall else residuals
        solution = torch.cholesky_solve(right[:, None], factor)[:, 0]
        return solution if tall else jacobian.T @ solution

    return solve
