"""Whether integrals are as right as they say: error bars, tolerances, hard domains and densities.

Coverage is that of the exact integrals over 20,000 random boxes, as 1,000 would leave 0.7 % to chance, by networks
that were trained well and by some that are bad on purpose: 4 units wide, and left as soon as half of the function is in
them. Errors of fits with a tolerance are shares of rms f · volume, which is what a tolerance is of, and those on hard
domains are absolute, over 1,000 intervals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from scipy import stats
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
def coverage(model: Any, exact: Exact, n: int, count: int = 20_000, samples: int = SAMPLES) -> float:
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


@torch.no_grad()
def largest_error(model: Any, exact: Exact, count: int) -> float:
    """Return the largest error over random boxes of a domain; infinite ones begin or end at infinity, too."""
    shares = torch.rand(2, count, len(model.lower), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    shares[:, 0] = torch.tensor([[0.0], [1.0]])
    a, b = (model.at_shares(ends) for ends in (shares.amin(0), shares.amax(0)))
    return float((model.integral(a, b) - exact(a, b)).abs().max())


def tolerances(tolerance: float, seconds: float, count: int) -> dict[str, float]:
    """Return errors as shares of rms f · volume, and seconds, of fits that were given a tolerance."""
    goals: dict[str, tuple[Any, Exact, float, float, int]] = {}
    for name in ("cos", "polynomial", "sinc", "linear", "xcosx"):
        goal = target(name)

        def exact(a: Tensor, b: Tensor, goal: Any = goal) -> Tensor:
            return true_integrals(goal.integrand, a, b, goal.antiderivative)[:, 0]

        goals[name] = goal.integrand, exact, -1.0, 1.0, 1
    goals |= {f"{family}, 2-D": (one := genz(family, 2), one.exact, 0.0, 1.0, 2) for family in SMOOTH}
    found = {}
    for name, (function, exact, low, high, n) in goals.items():
        start = time.perf_counter()
        model = autoint.fit(function, [low] * n, [high] * n, tolerance=tolerance, max_time=seconds, progress=False)
        found[f"{name}: seconds"] = time.perf_counter() - start
        x = low + (high - low) * torch.rand(2**16, n, generator=torch.Generator().manual_seed(4)).double()
        size = float(function(x).square().mean().sqrt()) * (high - low) ** n
        found[f"{name}: error"] = largest_error(model, exact, count) / size
    return found


# Functions of one variable by name, with a domain, an antiderivative, and what has to be declared.
DOMAINS: dict[str, tuple[str, float, float, Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "exp(-x^2)": ("line", -math.inf, math.inf, lambda x: math.sqrt(math.pi) / 2 * torch.erf(x), {}),
    "exp(-x)": ("half line", 0.0, math.inf, lambda x: -torch.exp(-x), {}),
    "1/(1+x^2)": ("half line", -math.inf, 1.0, torch.atan, {}),
    "x^(-1/2)": ("end point", 0.0, 1.0, lambda x: 2 * x.sqrt(), {"singular": [(0, -0.5)]}),
    "abs(x-0.3)": ("kink", 0.0, 1.0, lambda x: 0.5 * (x - 0.3) * (x - 0.3).abs(), {"breaks": [0.3]}),
    "where(x<0.3,0,1)": ("jump", 0.0, 1.0, lambda x: (x - 0.3).clamp_min(0), {"breaks": [0.3]}),
}


def domains(seconds: float, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the largest errors with declarations, and without them how many places are named."""
    errors, named = {}, {}
    for formula, (kind, low, high, antiderivative, given) in DOMAINS.items():

        def exact(a: Tensor, b: Tensor, of: Callable[[Tensor], Tensor] = antiderivative) -> Tensor:
            return (of(b) - of(a))[:, 0]

        model = autoint.fit(formula, low, high, max_time=seconds, progress=False, **given)
        errors[f"{formula}, {kind}"] = largest_error(model, exact, count)
        if given:
            fitted = autoint.fit(formula, low, high, max_time=seconds, progress=False).fitted
            named[f"{formula}, {kind}"] = float(len(fitted.places)) if not fitted.met else math.nan
    return errors, named


@torch.no_grad()
def densities(pairs: int, samples: int) -> dict[str, float]:
    """Return what must be exact of densities, and p-values of Kolmogorov's and Smirnov's test of their samples."""
    found, g = {}, torch.Generator().manual_seed(0)
    bent = torch.randn(2000, 2, generator=g).double()
    bent[:, 1] = 0.5 * bent[:, 0] ** 2 + 0.3 * bent[:, 1]
    for name, given in (("1-D, log p", lambda x: -0.5 * x[:, 0] ** 2 - x[:, 0] ** 4), ("2-D, samples", bent)):
        with torch.enable_grad():
            density = autoint.fit_density(given, steps=300)
        ends = 3 * torch.randn(2, pairs, len(density.lower), generator=g, dtype=torch.float64)
        rises = [density.cdf(part.amax(0)) - density.cdf(part.amin(0)) for part in ends.split(2**14, 1)]
        u = density.uniform(density.sample(samples)).numpy()
        found[f"{name}: mass - 1"] = float(density.mass(density.lower, density.upper)) - 1
        found[f"{name}: least rise"] = float(torch.cat(rises).min())
        found[f"{name}: p-value"] = min(float(stats.kstest(column, "uniform").pvalue) for column in u.T)
    return found


def run(quick: bool) -> Tables:
    """Fit and measure."""
    seconds, count = (2.0, 200) if quick else (60.0, 1000)
    covered: dict[str, float] = {}
    for name, (function, exact, n) in functions().items():
        for kind, given in (("trained", {"max_time": seconds / 4}), ("bad", BAD)):
            model = autoint.fit(function, [0.0] * n, [1.0] * n, progress=False, **given)
            covered[f"{name}, {kind}"] = coverage(model, exact, n, 20 * count)
    ratios = {}
    for n in (2, 3):
        for family in (*SMOOTH, "continuous", "discontinuous"):
            one = genz(family, n)
            model = autoint.fit(one, [0.0] * n, [1.0] * n, progress=False, max_time=seconds)
            ratios[f"{family}, {n}-D"] = variance_ratio(model, one, count)
    errors, named = domains(seconds, count)
    return {
        "coverage of 95 % intervals, in %": covered,
        f"variance of Monte Carlo over ours, K={SAMPLES}": ratios,
        "tolerance=1e-6": tolerances(1e-6, 2 * seconds, count),
        "error on hard domains": errors,
        "places that are named where nothing is declared": named,
        "densities": densities(20_000 if quick else 1_000_000, 1000 if quick else 100_000),
    }
