"""Value and gradient of a network in one pass, in a training step with a loss on both, against autograd's two.

``autograd`` is ``autograd.grad(create_graph=True)``, ``forward mode`` is ``torch.func.jvp`` for each coordinate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import autoint
from autoint.networks import DistanceNet
from autoint.reports.tables import markdown
from benchmarks.measure import DEVICE, Tables, fastest, over, peak_memory

OURS = "autoint.gradient"
ACTIVATIONS: dict[str, Any] = {
    "softplus, β = 100": {"name": "softplus", "beta": 100.0},
    "sine": "sine",
    "swish": "swish",
}


def steps(activation: Any, points: int, width: int, layers: int) -> dict[str, Callable[[], None]]:
    """Return a training step by each way: |f| and (|∇f| − 1)² at the same points, and Adam."""
    torch.manual_seed(0)
    net = DistanceNet(3, 1, width, layers, activation).to(DEVICE)
    ours, adam = autoint.gradient(net), torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    x = 2 * torch.rand(points, 3, device=DEVICE) - 1

    def by_autograd(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        value = net(x)
        return value, torch.autograd.grad(value.sum(), x, create_graph=True)[0]

    def forward_mode(x: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [torch.func.jvp(net, (x,), (e.expand_as(x).contiguous(),)) for e in torch.eye(3, device=DEVICE)]
        return pairs[0][0], torch.cat([slope for _, slope in pairs], dim=-1)

    def step(evaluate: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[], None]:
        def run() -> None:
            adam.zero_grad()
            value, slope = evaluate(x)
            (value.abs().mean() + 0.1 * (slope.norm(dim=-1) - 1).square().mean()).backward()
            adam.step()

        return run

    return {OURS: step(ours), "autograd": step(by_autograd), "forward mode": step(forward_mode)}


def measure(points: int, width: int, layers: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return for every activation how many times autograd's step is as fast as each, and its peak of memory."""
    tables = {}
    for name, activation in ACTIVATIONS.items():
        ways = steps(activation, points, width, layers)
        tables[f"{name}: step / autograd"] = over(fastest(ways, rounds), "autograd")
        tables[f"{name}: memory / autograd"] = over({k: peak_memory(v) for k, v in ways.items()}, "autograd")
    return tables


def run(quick: bool) -> Tables:
    """Measure a network of the size that surfaces are learned with."""
    return measure(1024 if quick else 4096, 128, 4, 3 if quick else 15)


def quoted(tables: Tables) -> str:
    """Return what docs/benchmarks.md says of it."""
    rows = [
        {
            "activation": name,
            "step": tables[f"{name}: step / autograd"][OURS],
            "memory": tables[f"{name}: memory / autograd"][OURS],
            "forward": tables[f"{name}: step / autograd"]["forward mode"],
        }
        for name in ACTIVATIONS
    ]
    columns = {
        "activation": ("activation", ""),
        "step": ("step", ".2f"),
        "memory": ("memory", ".2f"),
        "forward": ("step, forward mode", ".2f"),
    }
    return "\n" + markdown(rows, columns, {}) + "\n"
