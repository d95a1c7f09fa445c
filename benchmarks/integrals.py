"""A million definite integrals of cos(10x) in one call, against scipy, torchquad and quadrature over the grad network.

torchquad, whose licence is the GPL, is used if it is installed: ``pip install torchquad``.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from scipy.integrate import quad

import autoint
from autoint.integrals.antiderivatives import Antiderivative
from autoint.integrals.functions import target
from autoint.integrals.quadrature import gauss_legendre
from benchmarks import break_even
from benchmarks.measure import Tables, fastest, over

COUNT, LOOPS, NODES = 1_000_000, 5_000, 64
PSI, TORCHQUAD = f"{NODES} nodes of Ψ", f"torchquad, {NODES} nodes"


def gauss(model: Antiderivative, lower: torch.Tensor, upper: torch.Tensor, rows: int = 256) -> torch.Tensor:
    """Return the integrals of Ψ by a Gauss-Legendre rule, in blocks that fit the caches."""
    out = []
    for a, b in zip(lower.split(rows), upper.split(rows), strict=True):
        nodes, weights = gauss_legendre(torch.stack([a, b], -1), NODES)
        out.append((b - a) * (model.integrand(nodes[:, 0, :, None]) * weights).sum(-1))
    return torch.cat(out)


@torch.no_grad()
def measure(model: Antiderivative, count: int = COUNT, loops: int = LOOPS) -> dict[str, dict[str, float]]:
    """Return seconds per million integrals of every way, their ratios to ours, and their largest errors."""
    g = torch.Generator().manual_seed(0)
    lower, upper = 2 * torch.rand(2, count, generator=g, dtype=torch.float64) - 1
    some = lower[:loops], upper[:loops]
    pairs = list(zip(*(v.tolist() for v in some), strict=True))
    exact = target("cos").antiderivative
    truth = exact(some[1]) - exact(some[0])
    error = float((model.integral(*some) - truth).abs().max())

    def loop() -> list[float]:
        return [quad(lambda x: math.cos(10 * x), a, b, epsabs=error, epsrel=0)[0] for a, b in pairs]

    ours, scipy = "Φ(b) − Φ(a)", "scipy.integrate.quad"
    ways: dict[str, Callable[[], Any]] = {
        ours: lambda: model.integral(lower, upper),
        scipy: loop,
        PSI: lambda: gauss(model, *some),
    }
    if importlib.util.find_spec("torchquad"):
        ways[TORCHQUAD] = torchquad_loop(pairs)
    else:
        print("torchquad is not installed: left out")
    seconds = fastest(ways, rounds=5)
    per_million = {name: s * 1e6 / (count if name == ours else loops) for name, s in seconds.items()}
    found = {name: torch.as_tensor(way(), dtype=torch.float64) for name, way in ways.items() if name != ours}
    return {
        "seconds per million integrals": per_million,
        "ratio to Φ(b) − Φ(a)": over(per_million, ours),
        "largest error": {ours: error, **{name: float((v - truth).abs().max()) for name, v in found.items()}},
    }


def torchquad_loop(pairs: list[tuple[float, float]]) -> Callable[[], list[float]]:
    """Return a loop over torchquad's Gauss-Legendre rule on cos(10x): it takes one domain at a time."""
    from torchquad import GaussLegendre

    rule = GaussLegendre()

    def one(a: float, b: float) -> float:
        domain = torch.tensor([[min(a, b), max(a, b)]], dtype=torch.float64)
        value = float(rule.integrate(lambda x: torch.cos(10 * x[:, 0]), dim=1, N=NODES, integration_domain=domain))
        return value if a < b else -value

    def loop() -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # autoray copies tensors in a way that torch advises against
            return [one(a, b) for a, b in pairs]

    return loop


def run(quick: bool) -> Tables:
    """Fit and measure."""
    model = autoint.fit(target("cos").integrand, -1, 1, progress=False, **({"max_time": 5} if quick else {}))
    return {**measure(model, *((100_000, 500) if quick else (COUNT, LOOPS))), **break_even.run(quick)}


def quoted(tables: Tables) -> str:
    """Return what docs/benchmarks.md says of it."""
    ratio, seconds = tables["ratio to Φ(b) − Φ(a)"], tables["seconds per million integrals"]["Φ(b) − Φ(a)"]
    quad = ""
    if TORCHQUAD in ratio:
        quad = f"and {ratio[TORCHQUAD]:.0f} times faster than one of torchquad's Gauss-Legendre rule"
    return (
        f"A million integrals of cos(10x) in one call, to 1e-9 (`python -m benchmarks integrals`): {seconds:.2f} s, "
        f"{ratio['scipy.integrate.quad']:.0f} times faster\nthan a loop of `scipy.integrate.quad` over `math.cos`, "
        f"{ratio[PSI]:.0f} times faster than {NODES} Gauss-Legendre nodes of Ψ,\n{quad or 'in the same run'}.\n"
    )
