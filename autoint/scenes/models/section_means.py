"""A volume of one field that all directions share: averaged over sections before anything nonlinear sees it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from autoint.integrals import quadrature
from autoint.registry import MODELS, PLACEMENTS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes import rendering, sections
from autoint.scenes.models.radiance_field import RadianceField, radiance_field
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractSections, AbstractVolume, Draw


class SectionMeans(AbstractSections):
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
        return self.placement.sections * self.nodes  # of γ; the network is evaluated once per section

    def density(self, rays: Rays, t: Tensor) -> Tensor:
        mean, _ = self.field(self.points(rays, t)[0], None)
        return mean

    def estimate(self, points: Tensor, directions: Tensor) -> Tensor:
        here = torch.zeros_like(points[:, :1])
        return self.density(Rays(points, directions, here[:, 0], here[:, 0]), here)[:, 0]

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


@MODELS.register("section_means", alias="object")
def section_means(config: RunConfig, occupancy: Occupancy, *, nodes: int = 2) -> AbstractVolume:
    """One field that all directions share, averaged over sections and decoded afterwards.

    Args:
        config: the run's configuration; fit, grad_net, color and networks say nothing to this model.
        occupancy: where the scene is.
        nodes: where a section's mean of the encoding is taken.
    """
    at_least_one(**{"model.nodes": nodes})
    options = config.options
    field = radiance_field(config, config.encoding, options["direction_encoding"])
    placement = PLACEMENTS.build(options["placement"], options["sections"], occupancy)
    return SectionMeans(field, nodes, placement, occupancy)
