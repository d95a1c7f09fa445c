"""Sections of a ray: where their edges are, and the means of a field over them, from samples or from differences."""

from __future__ import annotations

import abc
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoint.rays import Rays
from autoint.registry import PLACEMENTS


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


class AbstractPlacement(nn.Module, abc.ABC):
    """Chooses the N + 1 edges of each ray's sections."""

    @abc.abstractmethod
    def forward(self, rays: Rays) -> Tensor:
        """Return edges (R, N+1), not decreasing, from ``rays.near`` to ``rays.far``."""


@PLACEMENTS.register("uniform")
class Uniform(AbstractPlacement):
    """Sections of equal length."""

    def __init__(self, sections: int) -> None:
        super().__init__()
        self.sections = sections

    def forward(self, rays: Rays) -> Tensor:
        return rays.even_edges(self.sections)


@PLACEMENTS.register("predicted")
class Predicted(AbstractPlacement):
    """The sampling network S(o, d) → section lengths that sum to far − near (paper, Sec. 5).

    Its last layer starts at zero, so it begins with equal lengths; every length keeps at least 1 % of the equal one,
    so no section can vanish for good.
    """

    def __init__(self, sections: int, *, hidden_features: int = 64, num_layers: int = 2) -> None:
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
