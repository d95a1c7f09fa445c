"""A million definite integrals in one call, against scipy and against quadrature over the grad network.

``python -m benchmarks.integrals`` fits cos(10x), prints the ratios and writes ``outputs/benchmarks/integrals.json``.
"""

from __future__ import annotations

import math

import torch
from scipy.integrate import quad

import autoint
from autoint.antiderivatives import Antiderivative
from autoint.data.functions import target
from autoint.quadrature import gauss_legendre
from benchmarks.measure import medians, report

COUNT, LOOPS, NODES = 1_000_000, 5_000, 64


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

    seconds = medians(
        {
            "Φ(b) − Φ(a)": lambda: model.integral(lower, upper),
            "scipy.integrate.quad": loop,
            f"{NODES} nodes of Ψ": lambda: gauss(model, *some),
        },
        rounds=5,
    )
    per_million = {name: s * 1e6 / (count if "Φ" in name else loops) for name, s in seconds.items()}
    ours = per_million["Φ(b) − Φ(a)"]
    return {
        "seconds per million integrals": per_million,
        "ratio to Φ(b) − Φ(a)": {name: s / ours for name, s in per_million.items()},
        "largest error": {
            "Φ(b) − Φ(a)": error,
            "scipy.integrate.quad": float((torch.tensor(loop(), dtype=torch.float64) - truth).abs().max()),
            f"{NODES} nodes of Ψ": float((gauss(model, *some) - truth).abs().max()),
        },
    }


def main() -> None:
    """Fit, measure, print and write."""
    report("integrals", measure(autoint.fit(target("cos").integrand, -1, 1)))


if __name__ == "__main__":
    main()
