"""The cost of grad networks: every builder, eager and compiled, against the plain network in the same run.

``python -m benchmarks.grad_networks`` takes a few minutes on 2 cores, most of them for the compiler, prints ratios of
time and memory, and writes ``outputs/benchmarks/grad_networks.json`` with the environment. ``--help`` tells more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoint.grad_nets import grad_net
from autoint.networks import IntegralNet
from autoint.registry import ENCODINGS, GRAD_NETS
from benchmarks.measure import DEVICE, medians, over, peak_memory, report

PLAIN = "plain network"


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
        "iteration / plain": over(medians(iterations, rounds), PLAIN),
        "forward / plain": over(medians({k: forward(v) for k, v in actions.items()}, rounds), PLAIN),
        "peak memory / double_backward": over({k: peak_memory(v) for k, v in iterations.items()}, "double_backward"),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=65536 if DEVICE.type == "cuda" else 8192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shape", choices=list(SHAPES), nargs="*", default=list(SHAPES))
    parser.add_argument("--eager", action="store_true", help="leave out torch.compile")
    given = parser.parse_args()
    tables = {}
    for name in given.shape:
        torch.compiler.reset()
        ratios = measure(SHAPES[name], given.points, given.width, given.layers, not given.eager, given.rounds)
        tables |= {f"{name}: {title}": numbers for title, numbers in ratios.items()}
    report("grad_networks", tables)


if __name__ == "__main__":
    main()
