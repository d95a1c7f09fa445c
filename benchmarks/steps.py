"""The cost of a training step: grad-net builders against the plain network, and the two ways to fit a volume.

``python -m benchmarks.steps`` prints the ratios and writes ``outputs/benchmarks/steps.json`` with the environment.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from autoint.grad_nets import grad_net
from autoint.networks import IntegralNet
from autoint.rays import Rays
from autoint.registry import ENCODINGS, GRAD_NETS, PLACEMENTS
from autoint.volume import Volume

ROUNDS = 7


def medians(steps: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Return the median seconds of every step; the steps take turns, so that a slow moment meets them all."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step().backward()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def builders(points: int = 2048) -> dict[str, float]:
    """Return the time of each builder's training step over that of the plain network, 8×256, one output."""
    torch.manual_seed(0)
    net = IntegralNet(3, 1, hidden_features=256, num_layers=8, encoding="normalized_positional")
    x = 2 * torch.rand(points, 3) - 1
    steps: dict[str, Callable[[], torch.Tensor]] = {"plain network": lambda: net(x).square().mean()}
    for name in GRAD_NETS.names():
        psi = grad_net(net, builder=name)
        steps[name] = lambda psi=psi: psi(x).square().mean()
    times = medians(steps)
    return {name: seconds / times["plain network"] for name, seconds in times.items()}


def fits(rays: int = 256, samples: int = 128) -> dict[str, float]:
    """Return the time of a step with fit=grad_net over that with fit=integral_net, for the same rays."""
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3), dim=-1)
    bundle = Rays(-2 * directions, directions, torch.ones(rays), torch.full((rays,), 3.0))
    out = {}
    for sections in (8, 16, 32):
        condition = ENCODINGS.build({"name": "normalized_positional", "num_frequencies": 4}, 3)
        net = IntegralNet(3, 4, 64, 4, encoding="normalized_positional", condition=condition)
        box = torch.full((3,), -1.0), torch.full((3,), 1.0)
        volume = Volume([net], [grad_net(net)], PLACEMENTS.build("uniform", sections), box)
        edges, u = volume.placement(bundle), torch.rand(rays, sections, samples // sections)
        means = {
            "integral_net": lambda v=volume, e=edges: v.means_from_differences(bundle, e),
            "grad_net": lambda v=volume, e=edges, u=u: v.means_from_samples(bundle, e, u),
        }
        steps = {k: lambda m=m, v=volume, e=edges: v.render(m(), e, torch.ones(3)).rgb.mean() for k, m in means.items()}
        times = medians(steps)
        out[f"N={sections}"] = times["grad_net"] / times["integral_net"]
    return out


def main() -> None:
    """Measure, print and write."""
    environment = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    environment |= {"python": platform.python_version(), "machine": platform.processor() or platform.machine()}
    result = {"environment": environment, "builder / plain network": builders(), "grad_net / integral_net": fits()}
    for title, ratios in list(result.items())[1:]:
        print(title)
        for name, ratio in ratios.items():
            print(f"  {name:16} {ratio:6.2f}")
    file = Path("outputs/benchmarks/steps.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
