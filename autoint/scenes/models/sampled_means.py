"""Section means by sampling, with a colour decoded in every section: how ``section_means`` was at first."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from autoint.integrals import quadrature
from autoint.scenes import rendering, sections
from autoint.scenes.models.radiance_field import RadianceField
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractSections, Draw


class SampledMeans(AbstractSections):
    """Density and colour of sections, decoded from the mean of an encoding γ over each: ḡ_i = δ_i⁻¹ ∫ γ(o + t·d) dt.

    γ knows positions alone, and the density is decoded from ḡ_i alone: no view can be explained by a density that only
    this view sees, which an antiderivative Φ(x, d) along every ray has to be kept from. The colour is told the
    direction after the integration. The mean is taken at ``nodes`` nodes per section, stratified ones while training
    and the midpoint rule's otherwise, with an error of O(nodes⁻²); the network is evaluated once per section.

    Args:
        field: γ, and the network that decodes its means.
        nodes: per section.
        placement: chooses the section edges.
        occupancy: where the scene is.
    """

    def __init__(
        self, field: RadianceField, nodes: int, placement: sections.AbstractPlacement, occupancy: Occupancy
    ) -> None:
        super().__init__(placement, occupancy)
        self.field, self.nodes, self.width = field, nodes, field.density.in_features

    @property
    def nets(self) -> Iterable[nn.Module]:
        return [self.field]

    @property
    def evaluations(self) -> int:
        return self.placement.sections

    @property
    def look_ups(self) -> int:
        return self.placement.sections * self.nodes

    def density(self, rays: Rays, t: Tensor) -> Tensor:
        mean, _ = self.field(self.points(rays, t)[0], None)
        return mean

    def section_values(self, rays: Rays, edges: Tensor) -> tuple[Tensor, Tensor]:
        return self._decoded(rays, quadrature.midpoint(edges, self.nodes)[0])

    def _decoded(self, rays: Rays, nodes: Tensor) -> tuple[Tensor, Tensor]:
        mean, rgb = self.field(self.points(rays, nodes)[0], rays.directions)
        return mean, rgb

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        return self._composite(self.section_values(rays, edges), edges, background)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], float]:
        edges = sections.jittered(edges, draw("edges", *edges[:, 1:-1].shape))
        nodes, _ = quadrature.stratified(edges, draw("samples", *edges[:, 1:].shape, self.nodes))
        return [self._composite(self._decoded(rays, nodes), edges, background)], 0.0

    def _composite(self, values: tuple[Tensor, Tensor], edges: Tensor, background: Tensor) -> Rendering:
        mean, rgb = values
        return rendering.composite(rendering.density_from_mean(mean), rgb, edges, background)
