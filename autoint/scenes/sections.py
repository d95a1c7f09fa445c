"""Sections of a ray: where their edges are, and the means of a field over them, from samples or from differences."""

from __future__ import annotations

import abc
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autoint.files.machine import numba_takes
from autoint.registry import PLACEMENTS, at_least_one
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays


def means_from_samples(values: Float[Tensor, "*r n m c"], node_weights: Float[Tensor, " m"]) -> Float[Tensor, "*r n c"]:
    """Return the section means Σ_j w_j Ψ(t_{i,j}): values (…, N, M, C), node_weights (M,) of sum 1 → (…, N, C)."""
    return torch.einsum("...mc,m->...c", values, node_weights)


def means_from_differences(
    values: Float[Tensor, "*r n_plus_1 c"], edges: Float[Tensor, "*r n_plus_1"]
) -> Float[Tensor, "*r n c"]:
    """Return the section means (Φ(t_i) − Φ(t_{i−1})) / δ_i (paper, eq. 6 and below eq. 12).

    values (…, N+1, C) at edges (…, N+1) → (…, N, C). The mean over a section of no length is given as 0.
    """
    delta = edges.diff(dim=-1)[..., None]
    empty = delta <= 0
    return torch.where(empty, 0, values.diff(dim=-2) / torch.where(empty, 1, delta))


def jittered(edges: Float[Tensor, "*r n_plus_1"], u: Float[Tensor, "*r n_minus_1"]) -> Float[Tensor, "*r n_plus_1"]:
    """Move every interior edge by up to half of the section on either side, as ``u`` goes from 0 to 1."""
    shift, delta = u - 0.5, edges.diff(dim=-1)
    moved = edges[..., 1:-1] + shift * torch.where(shift < 0, delta[..., :-1], delta[..., 1:])
    return torch.cat([edges[..., :1], moved, edges[..., -1:]], dim=-1)


def subdivided(edges: Float[Tensor, "*r n_plus_1"], parts: int) -> Float[Tensor, "*r m_plus_1"]:
    """Return the edges with every section cut into ``parts`` equal ones: (…, N+1) → (…, N·parts + 1)."""
    fractions = torch.arange(parts, dtype=edges.dtype, device=edges.device) / parts
    inner = edges[..., :-1, None] + edges.diff(dim=-1)[..., None] * fractions
    return torch.cat([inner.flatten(-2), edges[..., -1:]], dim=-1)


def inverse_cdf(
    bounds: Float[Tensor, "r k_plus_1"], weights: Float[Tensor, "r k"], sections: int
) -> Float[Tensor, "r n_plus_1"]:
    """Return edges that share the weight evenly: between two of them lies 1/N of the sum of ``weights`` (R, K).

    The weight is spread evenly over each step of ``bounds`` (R, K+1). The first edge is where the weight begins and the
    last where it ends; a ray without any weight gets edges of no length.
    """
    if numba_takes(bounds, weights):
        from autoint.scenes import placement_kernel

        return placement_kernel.inverse_cdf(bounds, weights, sections)
    total = weights.cumsum(dim=-1)
    share = torch.arange(1, sections, dtype=weights.dtype, device=weights.device) / sections
    wanted = share * total[:, -1:]
    step = torch.searchsorted(total, wanted)
    passed, own = (total - weights).gather(-1, step), weights.gather(-1, step)
    fraction = ((wanted - passed) / torch.where(own > 0, own, 1)).clamp(0, 1)
    inner = torch.lerp(bounds.gather(-1, step), bounds.gather(-1, step + 1), fraction)
    some = weights > 0
    ends = torch.arange(weights.shape[-1] + 1, device=weights.device)
    first = some.float().argmax(dim=-1, keepdim=True)
    last = (ends[1:] * some).amax(dim=-1, keepdim=True)
    low, high = bounds.gather(-1, first), bounds.gather(-1, last)
    return torch.cat([low, inner.maximum(low).minimum(high), high], dim=-1)


def proposed(occupancy: Occupancy, rays: Rays, steps: int, floor: float, sections: int) -> Tensor:
    """Return edges (R, N+1) by the weights that an occupancy's estimates would render rays (R,) with.

    A share ``floor`` of the sections is spread evenly over the occupied part. Every ray looks at the grid ``steps``
    times.
    """
    if numba_takes(rays.near):
        from autoint.scenes import placement_kernel

        return placement_kernel.proposed(occupancy, rays, steps, floor, sections)
    bounds, largest, mean = occupancy.along(rays, steps)
    occupied = occupancy.occupied(largest).to(bounds.dtype)
    depth = mean * occupied * bounds.diff(dim=-1)
    weights = torch.exp(depth - depth.cumsum(dim=-1)) * -torch.expm1(-depth)
    # The estimate is as coarse as its cells: what is beside a step may be in it.
    weights = F.max_pool1d(weights[:, None], 3, stride=1, padding=1)[:, 0] * occupied
    even, rendered = (v.sum(dim=-1, keepdim=True) for v in (occupied, weights))
    return inverse_cdf(bounds, torch.lerp(weights * (even / rendered.clamp_min(1e-30)), occupied, floor), sections)


class AbstractPlacement(nn.Module, abc.ABC):
    """Chooses the N + 1 edges of each ray's sections.

    Attributes:
        sections: N.
        adaptive: whether the edges follow the occupancy's estimates, which then are kept up to date.
    """

    adaptive: ClassVar[bool] = False
    sections: int

    @abc.abstractmethod
    def forward(self, rays: Rays) -> Tensor:
        """Return edges (R, N+1), not decreasing, within [near, far]; all equal where nothing is."""


@PLACEMENTS.register("uniform")
class Uniform(AbstractPlacement):
    """Sections of equal length."""

    def __init__(self, sections: int, occupancy: Occupancy) -> None:
        super().__init__()
        self.sections = sections

    def forward(self, rays: Rays) -> Tensor:
        return rays.even_edges(self.sections)


@PLACEMENTS.register("predicted")
class Predicted(AbstractPlacement):
    """The sampling network S(o, d) → section lengths that sum to far − near (paper, Sec. 5).

    Its last layer starts at zero, so it begins with equal lengths; every length keeps at least 1 % of the equal one,
    so no section can vanish for good.

    Args:
        sections: N.
        occupancy: where the scene is.
        hidden_features: width of the sampling network.
        num_layers: its hidden layers.
    """

    def __init__(self, sections: int, occupancy: Occupancy, *, hidden_features: int = 64, num_layers: int = 2) -> None:
        super().__init__()
        self.sections = sections
        widths = [6] + [hidden_features] * num_layers
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), nn.SiLU()]
        last = nn.Linear(widths[-1], sections)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*layers, last)

    def forward(self, rays: Rays) -> Tensor:
        # The point where the ray enters says what o does, without growing with the camera's distance.
        entry = rays.at(rays.near)
        lengths = torch.softmax(self.network(torch.cat([entry, rays.directions], dim=-1)), dim=-1)
        lengths = 0.99 * lengths + 0.01 / self.sections
        ends = torch.cumsum(lengths, dim=-1)
        return rays.span(torch.cat([torch.zeros_like(ends[:, :1]), ends / ends[:, -1:]], dim=-1))


@PLACEMENTS.register("occupied")
class Occupied(AbstractPlacement):
    """Sections that share the occupied part of the ray evenly; a ray through empty cells only has none.

    Occupied are the cells of the visual hull whose density, as learned so far, absorbs a hundredth of a ray or more.

    Args:
        sections: N.
        occupancy: where the scene is.
        steps: how often the ray looks at the grid.
    """

    adaptive = True

    def __init__(self, sections: int, occupancy: Occupancy, *, steps: int = 64) -> None:
        super().__init__()
        at_least_one(**{"placement.steps": steps})
        self.sections, self.steps = sections, steps
        self.occupancy = [occupancy]  # in a list, since the grid belongs to the volume's state

    def forward(self, rays: Rays) -> Tensor:
        return proposed(self.occupancy[0], rays, self.steps, 1.0, self.sections)


@PLACEMENTS.register("proposal")
class Proposal(AbstractPlacement):
    """Sections by the inverse CDF of a proposal: the weights that the occupancy's means would render the ray with.

    Args:
        sections: N.
        occupancy: where the scene is.
        steps: how often the ray looks at the grid.
        floor: share of sections that is spread evenly over the occupied part instead.
    """

    adaptive = True

    def __init__(self, sections: int, occupancy: Occupancy, *, steps: int = 64, floor: float = 0.5) -> None:
        super().__init__()
        at_least_one(**{"placement.steps": steps})
        if not 0 < floor <= 1:
            raise ValueError(f"placement.floor={floor} must be above 0 and at most 1")
        self.sections, self.steps, self.floor = sections, steps, floor
        self.occupancy = [occupancy]

    def forward(self, rays: Rays) -> Tensor:
        return proposed(self.occupancy[0], rays, self.steps, self.floor, self.sections)
