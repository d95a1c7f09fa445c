"""A volume whose density has one antiderivative for all rays: an integral network of the position alone."""

from __future__ import annotations

import torch
from torch import Tensor

from autoint.registry import MODELS, PLACEMENTS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes import rendering, sections
from autoint.scenes.models.section_means import AbstractDecodedSections, SectionField
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.volume import AbstractVolume


class Potential(AbstractDecodedSections):
    """Sections whose optical depth is a difference of one network of the position: τ_i = relu(Φ(x_i) − Φ(x_{i−1})).

    Along every ray x = o + t·d the grad network of Φ is Ψ = ∂Φ/∂t = d·∇Φ, so that by the fundamental theorem
    ∫ Ψ dt = Φ(b) − Φ(a): two evaluations, exact, and the same Φ behind all rays and directions, which an antiderivative
    Φ(x, d) along each ray (paper, eq. 12) is not. Where a ray enters something Φ rises along it; where it leaves, Φ
    falls, and that counts as no density (as relu of a section's mean in the paper, after eq. 17, and as the opacity in
    NeuS, Wang et al. 2021, eq. 13). A section that both enters and leaves shows what is left over: N has to tell them
    apart.

    Of a colour c the ray shows ∫ c dΦ over a section, by the trapezoid rule: exact where c is linear in Φ. The gloss is
    decoded once per ray. A ray costs N + 1 look-ups and evaluations of the shallow network.

    A point has no density of its own. What is baked or meshed is |∇Φ|, which a ray meets head-on, so that surfaces are
    shells, which let through what comes from inside.
    """

    @property
    def evaluations(self) -> int:
        return self.placement.sections + 1

    @property
    def look_ups(self) -> int:
        return self.placement.sections + 1

    @property
    def fit(self) -> str:
        return "integral_net"

    def density(self, rays: Rays, t: Tensor) -> Tensor:
        """Return the mean of relu(Ψ) over a cell's length around t (R, M), (R, M)."""
        half = 0.5 * self.occupancy.cell
        ends = torch.stack([t - half, t + half], dim=-1)
        return torch.relu(self.values(rays, ends)[0].diff(dim=-1)[..., 0]) / self.occupancy.cell

    def means(self, rays: Rays, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        potential, base, features = self.values(rays, edges)
        mean = sections.means_from_differences(potential[..., None], edges)[..., 0]
        base, features = (0.5 * (v[:, 1:] + v[:, :-1]) for v in (base, features))
        return rendering.density_from_mean(mean), base, features

    def values(self, rays: Rays, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Φ (R, …), base colour (R, …, 3) and features (R, …, F) at t (R, …); in float32, since Φs cancel."""
        with torch.autocast(t.device.type, enabled=False):
            output, base, features = self.field.decode(self.field.encoding(self.points(rays, t)[0]))
            return rendering.DENSITY * output, base, features

    def radiance(self, points: Tensor, directions: Tensor, length: float) -> tuple[Tensor, Tensor]:
        """Return |∇Φ| (P,), by differences over ``length`` along the axes, and the colour (P, 3) along directions."""
        axes = torch.eye(3).to(points).repeat_interleave(len(points), dim=0)
        here = points.new_zeros(len(axes))
        beside = Rays(points.repeat(3, 1), axes, here, here)
        ends = torch.stack([here - 0.5 * length, here + 0.5 * length], dim=-1)
        slopes = self.values(beside, ends)[0].diff(dim=-1).view(3, -1) / length
        own = Rays(points, directions, here[: len(points)], here[: len(points)])
        _, base, features = self.values(own, own.near[:, None])
        return slopes.norm(dim=0), base[:, 0] + self.field.shine(features[:, 0], directions)


@MODELS.register("potential")
def potential(config: RunConfig, occupancy: Occupancy, *, features: int = 16) -> AbstractVolume:
    """One integral network of the position alone, whose differences are the optical depths of all rays.

    Args:
        config: the run's configuration.
        occupancy: where the scene is.
        features: of a point, composited along the ray for the colour that depends on the direction.
    """
    at_least_one(**{"model.features": features})
    placement = PLACEMENTS.build(config.options["placement"], config.options["sections"], occupancy)
    return Potential(SectionField.configured(config, features), placement, occupancy)
