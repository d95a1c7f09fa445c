"""The cost of grad networks: every builder, eager and compiled, against the plain network in the same run.

It takes a few minutes on 2 cores, most of them for the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoint.networks.grad_nets import grad_net
from autoint.networks.integral_net import IntegralNet
from autoint.registry import ENCODINGS, GRAD_NETS
from autoint.reports.tables import markdown
from benchmarks.measure import DEVICE, Tables, fastest, over, peak_memory

PLAIN = "plain network"
ITERATION, MEMORY = "iteration / plain", "peak memory / double_backward"


@dataclass(frozen=True)
class Shape:
    """Coordinates, outputs, and whether a ray's direction is a condition."""

    in_features: int
    out_features: int
    conditioned: bool = False


SHAPES = {"1-D": Shape(1, 1), "tomography": Shape(2, 1), "volume rendering": Shape(3, 4, True)}


def evaluations(
    shape: Shape, points: int, width: int, layers: int, compiled: bool
) -> tuple[dict[str, Callable[[], Tensor]], IntegralNet]:
    """Return what is measured, by name: the network and its grad networks by every builder, at the same points."""
    torch.manual_seed(0)
    condition = (
        ENCODINGS.build({"name": "normalized_positional", "num_frequencies": 4}, 3) if shape.conditioned else None
    )
    net = IntegralNet(
        shape.in_features, shape.out_features, width, layers, encoding="normalized_positional", condition=condition
    ).to(DEVICE)
    x = 2 * torch.rand(points, shape.in_features, device=DEVICE) - 1
    directions = torch.nn.functional.normalize(torch.randn(points, 3, device=DEVICE), dim=-1)
    inputs = (x, directions) if shape.conditioned else (x,)
    out: dict[str, Callable[[], Tensor]] = {PLAIN: lambda: net(*inputs)}
    if compiled:
        fast = torch.compile(net)
        out[f"{PLAIN}, compiled"] = lambda: fast(*inputs)
    for name in GRAD_NETS.names():
        for compile in {False, compiled and GRAD_NETS[name].compilable}:
            psi = grad_net(net, builder=name, compile=compile)
            out[f"{name}, compiled" if compile else name] = lambda psi=psi: psi(*inputs)
    return out, net


def iteration(evaluate: Callable[[], Tensor], net: IntegralNet) -> Callable[[], None]:
    """Return a whole training iteration: forward, backward, and Adam."""
    adam = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step() -> None:
        adam.zero_grad()
        evaluate().square().mean().backward()
        adam.step()

    return step


def measure(shape: Shape, points: int, width: int, layers: int, compiled: bool, rounds: int) -> dict[str, dict]:
    """Return the ratios of iteration and forward time to the plain network's, and of memory to double backward's."""
    actions, net = evaluations(shape, points, width, layers, compiled)
    iterations = {name: iteration(evaluate, net) for name, evaluate in actions.items()}

    def forward(evaluate: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return torch.no_grad()(evaluate)

    return {
        ITERATION: over(fastest(iterations, rounds), PLAIN),
        "forward / plain": over(fastest({k: forward(v) for k, v in actions.items()}, rounds), PLAIN),
        MEMORY: over({k: peak_memory(v) for k, v in iterations.items()}, "double_backward"),
    }


def run(quick: bool) -> Tables:
    """Measure; the compiler is left out if ``quick``, because it takes minutes."""
    tables: dict[str, dict[str, float]] = {}
    points = 65536 if DEVICE.type == "cuda" else 1024 if quick else 8192
    for name, shape in SHAPES.items():
        torch.compiler.reset()
        ratios = measure(shape, points, 256, 8, not quick, 3 if quick else 6)
        tables |= {f"{name}: {title}": numbers for title, numbers in ratios.items()}
    return tables


def quoted(tables: Tables) -> str:
    """Return what docs/benchmarks.md says of it."""
    columns = {name: tables[f"{name}: {ITERATION}"] for name in SHAPES} | {"memory": tables[f"1-D: {MEMORY}"]}
    builders = [name for name in columns["memory"] if not name.startswith(PLAIN)]
    rows = [{"builder": name, **{head: column[name] for head, column in columns.items()}} for name in builders]
    return "\n" + markdown(rows, {"builder": ("builder", ""), **{head: (head, ".2f") for head in columns}}, {}) + "\n"
