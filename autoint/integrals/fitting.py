"""``autoint.fit``: from a function to its antiderivative, by least squares in float64."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from tqdm import tqdm

from autoint.integrals.antiderivatives import Antiderivative, Fitted, Function, values
from autoint.integrals.definite import bound
from autoint.integrals.functions import target
from autoint.integrals.levenberg_marquardt import LevenbergMarquardt, Linearization
from autoint.networks.grad_nets.automatic import DoubleBackward
from autoint.networks.integral_net import Choice, IntegralNet
from autoint.registry import at_least_one

log = logging.getLogger(__name__)
SLOW_SINE = {"name": "sine", "omega_0": 10.0}  # SIREN's 30 is for images; at 10 nothing oscillates between the points
MAX_JACOBIAN = 2**28  # numbers, 2 GiB in float64


def box_of(lower: Any, upper: Any) -> tuple[list[float], list[float]]:
    """Return the corners of a box as lists; ``ValueError`` unless lower < upper everywhere, in 1 to 6 dimensions."""
    given = (("lower", lower), ("upper", upper))
    low, high = (bound(k, v, dtype=torch.float64).detach().reshape(-1).tolist() for k, v in given)
    if len(low) != len(high) or not 1 <= len(low) <= 6:
        raise ValueError(f"lower={lower!r}, upper={upper!r}: they must have the same length, from 1 to 6")
    if not all(math.isfinite(h - a) and a < h for a, h in zip(low, high, strict=True)):
        raise ValueError(f"lower={lower!r}, upper={upper!r}: they must be finite, and lower below upper on every axis")
    if any(h - a < 1e-12 * max(abs(a), abs(h)) for a, h in zip(low, high, strict=True)):
        raise ValueError(
            f"lower={lower!r}, upper={upper!r}: float64 has hardly a number between them; move the box to the origin"
        )
    return low, high


def chebyshev_points(count: int, features: int, seed: int = 0) -> Tensor:
    """Return points u = −cos(πv) in [−1, 1]ⁿ, (count, n): dense at the faces, where polynomials need it.

    For n = 1 the v are the middles of equal parts (Chebyshev nodes), above that a scrambled Sobol sequence.
    """
    if features == 1:
        v = (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) / count
    else:
        v = torch.quasirandom.SobolEngine(features, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return -torch.cos(torch.pi * v)


def samples(
    function: Function, lower: Sequence[float], upper: Sequence[float], points: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor, bool]:
    """Return what a fit is made from: u (M, n) in the unit box, y = f (M, C) there, and whether f has no axis for C.

    ``points`` is M: by default 512 for n = 1 and 2048 above, enough to see between them, few enough to be fast.
    """
    at_least_one(points=points)
    u = chebyshev_points(points or (512 if len(lower) == 1 else 2048), len(lower), seed)
    low, high = torch.tensor([lower, upper], dtype=torch.float64)
    x = low + (u + 1) / 2 * (high - low)
    y, squeeze = values(function, x)
    again, _ = values(function, x[:16])
    if not torch.allclose(y[:16], again, rtol=1e-4, atol=1e-6 * float(y.abs().max())):
        raise ValueError("the function gives other values when called again at the same points; make it deterministic")
    return u, y, squeeze


class LeastSquares:
    """The fit of Ψ to samples of a function as residuals r_i = Ψ(u_i) − f(x_i)/rms f, with their Jacobian.

    Args:
        model: its ``scale`` is set to that of the samples.
        u: where in the unit box, (M, n).
        y: the function there, (M, C).
    """

    def __init__(self, model: Antiderivative, u: Tensor, y: Tensor) -> None:
        if isinstance(model.grad_net, DoubleBackward):
            raise ValueError(
                "grad_net=double_backward does not bear the function transforms by which Levenberg-Marquardt takes its "
                "Jacobian; use grad_net=explicit, graph or jvp"
            )
        self.psi, self.u = model.grad_net, u
        self.parameters = dict(self.psi.named_parameters())
        size = y.numel() * sum(p.numel() for p in self.parameters.values())
        if size > MAX_JACOBIAN:
            raise ValueError(
                f"{y.numel()} samples and {size // y.numel()} parameters make a Jacobian of {size:.1e} numbers, "
                f"{MAX_JACOBIAN:.1e} are allowed; take a smaller network or fewer points"
            )
        rms = y.square().mean().sqrt()
        rms = torch.where(rms > 0, rms, 1.0)
        model.scale.copy_(rms * model.half_sides.prod())
        self.y = y / rms

    def residuals(self) -> Tensor:
        """Return the residuals, (M·C,)."""
        return (self.psi(self.u) - self.y).flatten()

    def linearization(self) -> Linearization:
        """Return the residuals, and a function that gives their Jacobian by the parameters, (M·C, P)."""
        return self.residuals(), self._jacobian

    def _jacobian(self) -> Tensor:
        def at_one_point(parameters: Mapping[str, Tensor], u: Tensor) -> Tensor:
            return functional_call(self.psi, dict(parameters), (u[None],))[0]

        detached = {name: p.detach() for name, p in self.parameters.items()}
        blocks = vmap(jacrev(at_one_point), in_dims=(None, 0))(detached, self.u)
        return torch.cat([block.flatten(2) for block in blocks.values()], dim=-1).flatten(0, 1)


def fit(
    function: Function | str,
    lower: Any,
    upper: Any,
    *,
    hidden_features: int = 16,
    num_layers: int = 2,
    activation: Choice = SLOW_SINE,
    encoding: Choice = "identity",
    points: int | None = None,
    adam_steps: int = 300,
    tolerance: float = 1e-8,
    max_time: float = 60.0,
    seed: int = 0,
    progress: bool = True,
) -> Antiderivative:
    """Fit an integral network to a function on a box, and return its antiderivative.

    Ψ = ∂ⁿΦ/∂x_0…∂x_{n−1} is fitted to the function at Chebyshev-distributed points in float64: by Adam first, to get
    near, then by Levenberg-Marquardt, to get all digits. What it has reached is in ``fitted`` of what it returns, and
    is logged, as a warning where the tolerance is not met.

    Args:
        function: f, x (P, n) → (P,) or (P, C), smooth and finite on the box; or an expression of x, y, z or x0 … x9,
            such as ``"sin(x)*exp(-y**2)"``, or another name that ``task=function`` knows.
        lower, upper: the box's corners: n numbers each, n ≤ 6, or one that counts for every axis of an expression.
        hidden_features, num_layers, activation, encoding: of the ``IntegralNet``.
        points: how many; 512 for n = 1 and 2048 above by default.
        adam_steps: steps of Adam before Levenberg-Marquardt takes over.
        tolerance: stop when the root mean square of Ψ − f is below this share of that of f.
        max_time: stop after so many seconds; it stops sooner where the error no longer falls.
        seed: of the initial weights and of the points.
        progress: show a progress bar.

    Raises:
        ValueError: for a box that is none, for a function that fails, is not finite, or has the wrong shape, and for a
            network too large for a second-order method.

    Examples:
        >>> F = fit(lambda x: torch.exp(-(x**2).sum(-1)), -1, 1, tolerance=1e-5, progress=False)
        >>> abs(F.integral(0, 1).item() - 0.746824) < 1e-4  # √π/2·erf(1)
        True
    """
    if isinstance(function, str):
        goal = target(function)
        function, n = goal.integrand, goal.features or 1
        numbers = [getattr(v, "ndim", 1 - isinstance(v, (int, float))) == 0 for v in (lower, upper)]
        lower, upper = (bound(key, v, dtype=torch.float64) for key, v in (("lower", lower), ("upper", upper)))
        lower, upper = (v.expand(n) if number else v for v, number in zip((lower, upper), numbers, strict=True))
        if goal.features and {lower.numel(), upper.numel()} != {n}:
            raise ValueError(f"lower={lower.tolist()}, upper={upper.tolist()}: the function has {n} coordinates")
    low, high = box_of(lower, upper)
    u, y, squeeze = samples(function, low, high, points, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = IntegralNet(len(low), y.shape[1], hidden_features, num_layers, activation, encoding)
    model = Antiderivative(net, low, high, squeeze)
    model.function = function
    problem = LeastSquares(model, u, y)
    adam = torch.optim.Adam(net.parameters(), lr=5e-3)
    second = LevenbergMarquardt(net.parameters())
    bar = tqdm(unit="step", disable=None if progress else True, desc="fit")
    start = time.monotonic()
    for step in itertools.count():
        if step < adam_steps:
            adam.zero_grad()
            value = problem.residuals().square().mean()
            value.backward()
            adam.step()
            loss = float(value.detach())
        else:
            loss = float(second.step(problem.linearization))
        bar.update()
        bar.set_postfix_str(f"relative error {math.sqrt(loss):.1e}", refresh=False)
        fitted = Fitted(math.sqrt(loss), tolerance, step + 1, time.monotonic() - start, "")
        if end := ended(fitted, second, f"max_time={max_time:g}" if fitted.seconds > max_time else ""):
            break
    bar.close()
    model.fitted = dataclasses.replace(fitted, end=end)
    tell(model.fitted)
    return model


def ended(fitted: Fitted, second: LevenbergMarquardt, out_of_time: str) -> str:
    """Return why a fit is over, or an empty string: there is nothing left to do, nothing it could do, or no time."""
    if fitted.error <= fitted.tolerance:
        return "done"
    return "it no longer falls" if second.stalled else out_of_time


def tell(fitted: Fitted) -> None:
    """Log what a fit has reached, as a warning where that is not what was asked for."""
    met = fitted.error <= fitted.tolerance
    mend = "" if met else "; more time, a larger network or more points may help, or a larger tolerance"
    log.log(logging.INFO if met else logging.WARNING, "fit: %s%s", fitted, mend)
