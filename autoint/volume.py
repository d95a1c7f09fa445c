"""The volume as integral networks along rays, and its section means by either of the two ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoint import quadrature, rendering, sections
from autoint.grad_nets import AbstractGradNet
from autoint.networks import IntegralNet
from autoint.rays import Rays

Box = tuple[Tensor, Tensor]


class Volume(nn.Module):
    """Density σ and colour c of a scene, as the antiderivatives Φ_σ and Φ_c along every ray (paper, Sec. 5).

    Args:
        networks: the integral networks, of 4 outputs together: density first, then rgb. Each maps points (…, 3), in a
            box scaled to [−1, 1]³, and a direction to its share of the outputs.
        grad_nets: their grad networks, over the same parameters.
        placement: chooses the section edges, once for density and colour.
        box: lower and upper corner (3,) of the scene.
    """

    lower: Tensor
    upper: Tensor

    def __init__(
        self,
        networks: list[IntegralNet],
        grad_nets: list[AbstractGradNet],
        placement: sections.AbstractPlacement,
        box: Box,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.grad_nets = grad_nets  # a plain list: their parameters are those of `networks`
        self.placement = placement
        self.register_buffer("lower", box[0].float())
        self.register_buffer("upper", box[1].float())

    def _point(self, rays: Rays, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, in [−1, 1] along the box's longest side, their velocity ∂x/∂t, and the direction as condition."""
        scale = 2 / (self.upper - self.lower).max()
        shape = (len(rays), *(1,) * (t.ndim - 1), 3)
        d = rays.directions.view(shape)
        return (rays.at(t) - (self.lower + self.upper) / 2) * scale, d * scale, d

    def integral(self, rays: Rays, t: Tensor) -> Tensor:
        """Return Φ(o, d, t): t (R, …) → (R, …, 4). Always in float32, because differences of it cancel."""
        with torch.autocast(t.device.type, enabled=False):
            x, _, d = self._point(rays, t)
            return torch.cat([net(x, d) for net in self.networks], dim=-1)

    def integrand(self, rays: Rays, t: Tensor) -> Tensor:
        """Return Ψ = ∂Φ/∂t at x = o + t·d: t (R, …) → (R, …, 4)."""
        x, velocity, d = self._point(rays, t)
        return torch.cat([grad.along(x, velocity.expand_as(x), d) for grad in self.grad_nets], dim=-1)

    def means_from_samples(self, rays: Rays, edges: Tensor, u: Tensor) -> Tensor:
        """Return section means (R, N, 4) from stratified samples of Ψ, placed by u (R, N, M): the paper's training."""
        nodes, node_weights = quadrature.stratified(edges, u)
        return sections.means_from_samples(self.integrand(rays, nodes), node_weights)

    def means_from_differences(self, rays: Rays, edges: Tensor) -> Tensor:
        """Return section means (R, N, 4) from differences of Φ over the edges: N + 1 evaluations per ray."""
        return sections.means_from_differences(self.integral(rays, edges), edges)

    def render(self, means: Tensor, edges: Tensor, background: Tensor) -> rendering.Rendering:
        """Composite section means (R, N, 4): density relu(σ̄), colour sigmoid(c̄) (paper, after eq. 17)."""
        density = rendering.density_from_mean(means[..., 0])
        return rendering.composite(density, torch.sigmoid(means[..., 1:]), edges, background)

    @torch.no_grad()
    def view(self, rays: Rays, background: Tensor, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Render rays by differences of Φ only, ``chunk_size`` at a time: rgb (R, 3), depth (R,), acc (R,).

        Rays that miss the box are not evaluated: they show the background, at the depth of their far end.
        """
        rgb = background.expand(len(rays), 3).clone()
        depth, acc = rays.far.clone(), torch.zeros_like(rays.far)
        for index in rays.hit.nonzero()[:, 0].split(chunk_size):
            chunk = rays[index]
            edges = self.placement(chunk)
            out = self.render(self.means_from_differences(chunk, edges), edges, background)
            rgb[index], depth[index], acc[index] = out.rgb, out.depth, out.acc
        return rgb, depth, acc
