"""Volume rendering of piecewise-constant sections: pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from autoint.scenes.rays import Rays

DENSITY = 10.0
"""So that a network of ordinary weights makes surfaces; with 1 it takes twice the steps."""


@dataclass(frozen=True)
class Rendering:
    """What a ray sees: rgb (…, 3), depth Σw·t/Σw (…), acc = Σw (…) and the weights w (…, N) of its sections."""

    rgb: Float[Tensor, "*r 3"]
    depth: Float[Tensor, "*r"]
    acc: Float[Tensor, "*r"]
    weights: Float[Tensor, "*r n"]


class _Density(torch.autograd.Function):
    """relu along a ray, whose gradient also reaches a ray without any density that should have some."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        positive = x > 0
        dark = ~positive.any(dim=-1, keepdim=True)
        return torch.where(positive | (dark & (grad < 0)), grad, torch.zeros_like(grad))


def density_of_network(output: Float[Tensor, "*p"]) -> Float[Tensor, "*p"]:
    """Return σ = ``DENSITY`` · softplus(· − 1), (…), of what a network puts out (…), which may be any number."""
    return DENSITY * F.softplus(output - 1)


def density_from_mean(mean: Float[Tensor, "*r n"]) -> Float[Tensor, "*r n"]:
    """Return relu(mean), the density of the sections of a ray (…, N) (paper, after eq. 17), guarded against collapse.

    With relu alone a ray whose means are all negative receives no gradient, and a scene that has become transparent
    everywhere stays so for ever. Here the means of such a ray receive the gradient that would raise them.
    """
    out = _Density.apply(mean)
    assert isinstance(out, Tensor)
    return out


def composite(
    density: Float[Tensor, "*r n"],
    rgb: Float[Tensor, "*r n 3"],
    edges: Float[Tensor, "*r n_plus_1"],
    background: Float[Tensor, "*#r 3"],
) -> Rendering:
    """Composite sections front to back over a background (paper, eq. 16 and 17).

    C = Σ_i w_i c̄_i + (1 − Σ_i w_i) C_bg with w_i = T_i α_i, α_i = 1 − e^{−τ_i}, T_i = e^{−Σ_{j<i} τ_j}, τ_i = σ̄_i δ_i.

    acc = 1 − e^{−Σ τ_i} is exact for every number of sections when σ̄_i are exact section means; the colour's error
    falls as N⁻².

    Args:
        density: σ̄_i ≥ 0, (…, N), per unit of length.
        rgb: c̄_i, (…, N, 3), in [0, 1].
        edges: t_0 … t_N, (…, N+1), not decreasing.
        background: C_bg, broadcastable to (…, 3).
    """
    optical_depth = density * edges.diff(dim=-1)
    passed = torch.cumsum(optical_depth, dim=-1)
    before = torch.cat([torch.zeros_like(passed[..., :1]), passed[..., :-1]], dim=-1)
    weights = torch.exp(-before) * -torch.expm1(-optical_depth)
    acc = -torch.expm1(-passed[..., -1])
    middle = 0.5 * (edges[..., :-1] + edges[..., 1:])
    # Where nothing was hit the depth is that of the far end; the tiny floor keeps the quotient and its gradient finite.
    tiny = torch.finfo(acc.dtype).tiny ** 0.5
    seen = acc > tiny
    quotient = (weights * middle).sum(-1) / torch.where(seen, acc, torch.ones_like(acc))
    depth = torch.where(seen, quotient, edges[..., -1])
    color = (weights[..., None] * rgb).sum(-2) + (1 - acc)[..., None] * background
    return Rendering(color, depth, acc, weights)


def scattered(
    density: Float[Tensor, " p"], rgb: Float[Tensor, "p 3"], places: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return density (R, N) and colour (R, N, 3) of samples that were evaluated at some ``places`` (P,); elsewhere 0.

    Args:
        density, rgb: of those that were.
        places: their numbers among the R·N samples.
        shape: (R, N).
    """
    values = torch.cat([density[:, None], rgb], dim=-1)
    values = values.new_zeros(math.prod(shape), 4).index_copy(0, places, values).view(*shape, 4)
    return values[..., 0], values[..., 1:]


def render_dense(
    density: Callable[[Tensor], Tensor],
    rgb: Callable[[Tensor], Tensor],
    rays: Rays,
    background: Tensor,
    num_samples: int = 1024,
) -> Rendering:
    """The reference renderer: eq. 11 by the midpoint rule with ``num_samples`` equal sections, error O(M⁻²).

    ``density`` maps points (…, 3) to (…), ``rgb`` maps them to (…, 3).
    """
    edges = rays.even_edges(num_samples)
    points = rays.at(0.5 * (edges[..., :-1] + edges[..., 1:]))
    return composite(density(points), rgb(points), edges, background)
