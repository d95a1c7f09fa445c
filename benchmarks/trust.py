"""Whether integrals say truly how wrong they may be: coverage of 95 % intervals, and variance against Monte Carlo.

Coverage is that of the exact integrals over 1,000 random boxes, by networks that were trained well and by some that are
bad on purpose: 4 units wide, and left as soon as half of the function is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import autoint
from autoint.integrals.functions import target
from autoint.integrals.integrands import true_integrals
from benchmarks.genz import SMOOTH, Genz, boxes, genz
from benchmarks.measure import Tables

BAD: dict[str, Any] = {"hidden_features": 4, "points": 256, "adam_steps": 30, "tolerance": 0.5, "max_time": 5.0}
SAMPLES = 64
Exact = Callable[[Tensor, Tensor], Tensor]


def functions() -> dict[str, tuple[Any, Exact, int]]:
    """Return five functions by name: each with its exact integrals over boxes, and its dimension."""
    cos = target("cos")

    def cos_exact(a: Tensor, b: Tensor) -> Tensor:
        return true_integrals(cos.integrand, a, b, cos.antiderivative)[:, 0]

    found: dict[str, tuple[Any, Exact, int]] = {"cos(10x)": (cos.integrand, cos_exact, 1)}
    for family, n in (("continuous", 1), ("gaussian", 2), ("discontinuous", 2), ("product peak", 3)):
        one = genz(family, n)
        found[f"{family}, {n}-D"] = (one, one.exact, n)
    return found


@torch.no_grad()
def coverage(model: Any, exact: Exact, n: int, count: int = 1000, samples: int = SAMPLES) -> float:
    """Return in how many percent of random boxes the exact integral is in the 95 % interval."""
    a, b = boxes(count, n)
    low, high = model.integral(a, b, residual=samples).interval()
    truth = exact(a, b)
    return 100 * float(((low <= truth) & (truth <= high)).double().mean())


@torch.no_grad()
def variance_ratio(model: Any, one: Genz, count: int = 1000, samples: int = SAMPLES) -> float:
    """Return the mean variance of plain Monte Carlo over the mean squared error of ours, against exact integrals."""
    n = len(one.c)
    a, b = boxes(count, n)
    x = (
        a[:, None]
        + (b - a)[:, None] * torch.rand(count, samples, n, generator=torch.Generator().manual_seed(1)).double()
    )
    y = one(x.reshape(-1, n)).reshape(count, samples) * (b - a).prod(-1, keepdim=True)
    plain = y.var(-1).mean() / samples
    ours = (model.integral(a, b, residual=samples).value - one.exact(a, b)).square().mean()
    return float(plain / ours)


def run(quick: bool) -> Tables:
    """Fit and measure."""
    seconds, count = (2.0, 200) if quick else (60.0, 1000)
    covered: dict[str, float] = {}
    for name, (function, exact, n) in functions().items():
        for kind, given in (("trained", {"max_time": seconds / 4}), ("bad", BAD)):
            model = autoint.fit(function, [0.0] * n, [1.0] * n, progress=False, **given)
            covered[f"{name}, {kind}"] = coverage(model, exact, n, count)
    ratios = {}
    for n in (2, 3):
        for family in (*SMOOTH, "continuous", "discontinuous"):
            one = genz(family, n)
            model = autoint.fit(one, [0.0] * n, [1.0] * n, progress=False, max_time=seconds)
            ratios[f"{family}, {n}-D"] = variance_ratio(model, one, count)
    return {"coverage of 95 % intervals, in %": covered, f"variance of Monte Carlo over ours, K={SAMPLES}": ratios}
