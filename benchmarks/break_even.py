"""Genz' families and families with parameters against others: what an integral costs, and when a training pays.

Every other way has the least nodes, points or tolerance with which its largest error over random boxes is no more than
ours; ``break_even_1.png`` and ``break_even_1000000.png`` have all of them, as error against the time of so many
integrals, our training included. vegas and torchquad are used if they are installed.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import cubature
from torch import Tensor

import autoint
from autoint.integrals.quadrature import gauss_legendre
from benchmarks.genz import FAMILIES, Genz, boxes, genz
from benchmarks.measure import FOLDER, Tables, fastest

Integrals = Callable[[Tensor, Tensor], Tensor]
FEW, EVENTS, ROWS, PAIRS = 20, 1000, 2**16, 2000


def product_rule(
    function: Callable[..., Tensor], nodes: int, a: Tensor, b: Tensor, p: Tensor | None = None, points: int = ROWS
) -> Tensor:
    """Return integrals over boxes (B, n) by a product of Gauss-Legendre rules, in blocks of so many points."""
    n, out = a.shape[1], []
    t, w = gauss_legendre(torch.tensor([0.0, 1.0], dtype=torch.float64), nodes)
    grid = torch.cartesian_prod(*[t[0]] * n).reshape(-1, n)
    weights = torch.cartesian_prod(*[w] * n).reshape(-1, n).prod(-1)
    rows = max(1, points // len(grid))
    for start in range(0, len(a), rows):
        block = slice(start, start + rows)
        side = b[block] - a[block]
        x = (a[block, None] + side[:, None] * grid).flatten(0, 1)
        q = () if p is None else (p[block].repeat_interleave(len(grid), 0),)
        out.append(side.prod(-1) * (function(x, *q).reshape(-1, len(grid)) @ weights))
    return torch.cat(out)


def sobol(one: Genz, points: int, a: Tensor, b: Tensor) -> Tensor:
    """Return integrals over boxes by scrambled Sobol points, the same in every box."""
    u = torch.quasirandom.SobolEngine(a.shape[1], scramble=True, seed=0).draw(points, dtype=torch.float64)
    return torch.stack([(h - low).prod() * one(low + (h - low) * u).mean() for low, h in zip(a, b, strict=True)])


def adaptive(one: Genz, tolerance: float, a: Tensor, b: Tensor) -> Tensor:
    """Return integrals over boxes by scipy's adaptive cubature, with its rule for many axes: 21ⁿ points fill memory."""

    def function(x: Any) -> Any:
        return one(torch.as_tensor(x)).numpy()

    pairs = zip(a.numpy(), b.numpy(), strict=True)
    how: dict[str, Any] = {"rule": "genz-malik", "atol": tolerance, "rtol": 0, "max_subdivisions": 1000}
    return torch.tensor([float(cubature(function, *pair, **how).estimate) for pair in pairs])


def vegas_of(one: Genz, evaluations: int, a: Tensor, b: Tensor) -> Tensor:
    """Return integrals over boxes by vegas, five iterations of each kind."""
    import vegas

    def function(x: Any) -> Any:
        return one(torch.as_tensor(np.array(x))).numpy()

    found = []
    for low, high in zip(a.tolist(), b.tolist(), strict=True):
        integrator = vegas.Integrator(list(zip(low, high, strict=True)))
        integrator(vegas.batchintegrand(function), nitn=5, neval=evaluations)
        found.append(integrator(vegas.batchintegrand(function), nitn=5, neval=evaluations).mean)
    return torch.tensor(found)


def torchquad_of(one: Genz, nodes: int, a: Tensor, b: Tensor) -> Tensor:
    """Return integrals over boxes by torchquad's Gauss-Legendre rule."""
    from torchquad import GaussLegendre

    rule, n = GaussLegendre(), a.shape[1]
    domains = torch.stack([a, b], -1)
    return torch.stack([rule.integrate(one, dim=n, N=nodes**n, integration_domain=d) for d in domains])


def others(one: Genz, n: int) -> dict[str, list[Integrals]]:
    """Return every other way, from cheap to exact."""
    ways: dict[str, list[Integrals]] = {
        "Gauss-Legendre": [
            lambda a, b, m=m: product_rule(one, m, a, b) for m in (2, 3, 4, 6, 8, 12, 16, 24, 32) if m**n <= 2**20
        ],
        "Sobol": [lambda a, b, k=k: sobol(one, 2**k, a, b) for k in (8, 11, 14, 17)],
        "scipy cubature": [lambda a, b, k=k: adaptive(one, 10.0**-k, a, b) for k in range(2, 11)],
    }
    if importlib.util.find_spec("vegas"):
        ways["vegas"] = [lambda a, b, k=k: vegas_of(one, 10**k, a, b) for k in (3, 4, 5)]
    if importlib.util.find_spec("torchquad"):
        ways["torchquad"] = [lambda a, b, m=m: torchquad_of(one, m, a, b) for m in (4, 8, 16) if m**n <= 2**20]
    return ways


Curve = list[tuple[float, float]]
"""Seconds and the largest error of every setting of a way."""


@torch.no_grad()
def compared(one: Genz, seconds: float, count: int) -> tuple[float, dict[str, float], float, dict[str, Curve]]:
    """Return our largest error, seconds of one integral by all ways that reach it, those of the training, and curves.

    Above 3 axes ours is a sum of products, which has no 2ⁿ corners. The curves are of single integrals, untrained.
    """
    n = len(one.c)
    products = {"num_products": 4} if n > 3 else {}
    start = time.perf_counter()
    with torch.enable_grad():
        model: Any = autoint.fit(one, [0.0] * n, [1.0] * n, max_time=seconds, progress=False, **products)
    training = time.perf_counter() - start
    a, b = boxes(count, n)
    few, truth = (a[:FEW], b[:FEW]), one.exact(a[:FEW], b[:FEW])
    error = float((model.integral(*few) - truth).abs().max())
    cost = {"ours": fastest({"": lambda: model.integral(a, b)}, 2)[""] / count}
    curves: dict[str, Curve] = {"ours": [(cost["ours"], error)]}
    for name, ways in others(one, n).items():
        curves[name] = []
        for way in ways:
            began = time.perf_counter()
            found = way(*few)
            each = fastest({"": lambda way=way: way(*few)}, 1)[""] / FEW
            curves[name].append((each, float((found - truth).abs().max())))
            if curves[name][-1][1] <= error:
                cost[name] = each
                break
            if time.perf_counter() - began > 10:  # the next would take too long
                break
    return error, cost, training, curves


def draw_curves(file: Path, count: int, curves: dict[str, dict[str, Curve]], training: dict[str, float]) -> None:
    """Draw error against seconds for so many integrals; a dashed line is the training, which ours begins with."""
    from matplotlib.figure import Figure

    columns = min(6, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    for axes, (name, ways) in zip(figure.subplots(rows, columns, squeeze=False).flat, curves.items(), strict=False):
        for way, curve in ways.items():
            fixed = training[name] if way == "ours" else 0.0
            x, y = zip(*[(fixed + count * seconds, error) for seconds, error in curve], strict=True)
            axes.loglog(x, y, "k*" if way == "ours" else ".-", label=way)
        axes.axvline(training[name], color="k", linestyle="--", linewidth=0.5)
        axes.set_title(name, fontsize=9)
    figure.axes[0].legend(fontsize=7)
    figure.supxlabel(f"seconds for {count:,} integral{'s' * (count > 1)}")
    figure.supylabel("largest error")
    figure.savefig(file, dpi=110)


def intensity(x: Tensor, p: Tensor) -> Tensor:
    """Return λ(t, s) = μ + (1/N)·Σ_i (1 + (Δt_i/h)² + (Δs_i/k)²)^(−2) of N events, with p = (μ, h, k)."""
    events = torch.rand(EVENTS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bends = [((x[:, axis, None] - events[:, axis]) / p[:, 1 + axis, None]).square() for axis in (0, 1)]
    return p[:, 0] + (1 + bends[0] + bends[1]).pow(-2).mean(-1)


@torch.no_grad()
def family(seconds: float, count: int, tolerance: float = 1e-5) -> dict[str, float]:
    """Return what a compensator ∫∫λ(t, s)dt ds costs for every parameter, ours and by a batched product rule.

    Errors are the largest over the first of the pairs, the rule's as well.
    """
    low, high = [0.0, 0.3, 0.3], [1.0, 0.6, 0.6]
    network: dict[str, Any] = {"hidden_features": 32, "points": 4096, "activation": "swish"}
    start = time.perf_counter()
    with torch.enable_grad():
        model: Any = autoint.fit(
            intensity,
            [0.0, 0.0],
            [1.0, 1.0],
            parameters=(low, high),
            tolerance=0.1 * tolerance,
            max_time=seconds,
            progress=False,
            **network,
        )
    training = time.perf_counter() - start
    a, b = boxes(count, 2)
    shares = torch.rand(count, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    p = torch.tensor(low) + shares * (torch.tensor(high) - torch.tensor(low))
    some = a[:PAIRS], b[:PAIRS], p[:PAIRS]
    truth = product_rule(intensity, 16, *some, points=2**10)
    error = float((model.integral(*some[:2], parameters=some[2]) - truth).abs().max())
    ours = fastest({"": lambda: model.integral(a, b, parameters=p)}, 2)[""] / count
    found = {"our largest error": error, "seconds of training": training, "our microseconds": 1e6 * ours}
    for nodes in range(2, 16):
        if float((product_rule(intensity, nodes, *some, points=2**10) - truth).abs().max()) <= max(error, tolerance):
            ways = {str(k): lambda m=nodes, k=k: product_rule(intensity, m, *some, points=2**k) for k in (8, 10, 13)}
            each = min(fastest(ways, 2).values()) / len(truth)
            found |= {"nodes per axis": float(nodes), "its microseconds": 1e6 * each, "times faster": each / ours}
            found["pays from so many integrals"] = training / (each - ours) if each > ours else math.inf
            break
    return found


def run(quick: bool) -> Tables:
    """Measure all families; what is not in the last table never pays."""
    dimensions, families = ((2,), ("gaussian", "discontinuous")) if quick else (range(2, 7), FAMILIES)
    errors, costs, pays, trainings, curves = {}, {}, {}, {}, {}
    for n in dimensions:
        for name in families:
            key = f"{name}, {n}-D"
            seconds, count = (1.0, 1000) if quick else (20.0, 100_000)
            errors[key], cost, trainings[key], curves[key] = compared(genz(name, n), seconds, count)
            costs |= {f"{key}: {way}": 1e6 * each for way, each in cost.items()}
            best = min((each for way, each in cost.items() if way != "ours"), default=math.inf)
            if cost["ours"] < best < math.inf:
                pays[key] = trainings[key] / (best - cost["ours"])
    FOLDER.mkdir(parents=True, exist_ok=True)
    for count in (1, 1_000_000):
        draw_curves(FOLDER / f"break_even_{count}.png", count, curves, trainings)
    return {
        "family with 3 parameters": family(1.0 if quick else 180.0, 1000 if quick else 1_000_000),
        "largest error": errors,
        "microseconds of an integral at that error": costs,
        "pays from so many integrals": pays or {"none": 0.0},
    }
