"""A volume whose density has one antiderivative for all rays: an integral network of the position alone."""

from __future__ import annotations

import torch
from torch import Tensor

from autoint.registry import MODELS, PLACEMENTS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes import rendering, sections
from autoint.scenes.models.section_means import SectionField, SectionMeans
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.volume import AbstractVolume


class PotentialField(SectionField):
    """What the encoding of a point stands for: the potential Φ, base colour and features; and their gloss."""

    @staticmethod
    def of_output(output: Tensor) -> Tensor:
        """Return Φ, in units of optical depth: as much steeper than an output as a density is larger than one."""
        return rendering.DENSITY * output


class Potential(SectionMeans):
    """Sections whose optical depth is a difference of one network of the position: τ_i = relu(Φ(x_i) − Φ(x_{i−1})).

    Along every ray x = o + t·d the grad network of Φ is Ψ = ∂Φ/∂t = d·∇Φ, so that by the fundamental theorem
    ∫ Ψ dt = Φ(b) − Φ(a): two evaluations, exact, and the same Φ behind all rays and directions, which an antiderivative
    Φ(x, d) along each ray (paper, eq. 12) is not. Where a ray enters something Φ rises along it; where it leaves, Φ
    falls, and that counts as no density (as relu of a section's mean in the paper, after eq. 17, and as the opacity in
    NeuS, Wang et al. 2021, eq. 13). A section that both enters and leaves shows what is left over: N has to tell them
    apart.

    Of a colour c the ray shows ∫ c dΦ over a section, by the trapezoid rule: exact where c is linear in Φ. The gloss is
    decoded once per ray, as of ``SectionMeans``. A ray costs N + 1 look-ups and evaluations of the shallow network.

    Args:
        field: Φ, the colour, and the encoding that both are decoded from.
        placement: chooses the section edges.
        occupancy: where the scene is.
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
            x, _ = self.points(rays, t)
            return self.field.decode(self.field.encoding(x))


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
    return Potential(PotentialField.configured(config, features), placement, occupancy)
