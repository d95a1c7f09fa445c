"""The cost of a training step of volume rendering: the two ways to fit a volume, at the same rays.

``python -m benchmarks.steps`` prints the ratios and writes ``outputs/benchmarks/steps.json`` with the environment.
"""

from __future__ import annotations

import torch

from autoint.grad_nets import grad_net
from autoint.networks import IntegralNet
from autoint.occupancy import Occupancy
from autoint.rays import Rays
from autoint.registry import COLORS, ENCODINGS, PLACEMENTS
from autoint.volume import Training, Volume
from benchmarks.measure import medians, report


def fits(rays: int = 256, samples: int = 128) -> dict[str, float]:
    """Return the time of a step with fit=grad_net over that with fit=integral_net, for the same rays."""
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3), dim=-1)
    bundle = Rays(-2 * directions, directions, torch.ones(rays), torch.full((rays,), 3.0))
    occupancy = Occupancy(torch.full((3,), -1.0), torch.full((3,), 1.0))
    out = {}
    for sections in (8, 16, 32):
        condition = ENCODINGS.build({"name": "normalized_positional", "num_frequencies": 4}, 3)
        net = IntegralNet(3, 4, 64, 4, encoding="normalized_positional", condition=condition)
        placement, color = PLACEMENTS.build("uniform", sections, occupancy), COLORS.build("mean", condition)
        volume = Volume([net], [grad_net(net)], placement, color, occupancy, Training())
        edges, u = volume.placement(bundle), torch.rand(rays, sections, samples // sections)
        means = {
            "integral_net": lambda v=volume, e=edges: v.means_from_differences(bundle, e),
            "grad_net": lambda v=volume, e=edges, u=u: v.means_from_samples(bundle, e, u),
        }
        steps = {
            name: lambda m=m, v=volume, e=edges: v.composite(bundle, m(), e, torch.ones(3)).rgb.mean().backward()
            for name, m in means.items()
        }
        times = medians(steps)
        out[f"N={sections}"] = times["grad_net"] / times["integral_net"]
    return out


def main() -> None:
    """Measure, print and write."""
    report("steps", {"grad_net / integral_net": fits()})


if __name__ == "__main__":
    main()
