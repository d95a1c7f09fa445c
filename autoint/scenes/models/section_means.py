"""A volume of one field that all directions share: averaged over sections before anything nonlinear sees it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn

from autoint.networks.activations import Activation
from autoint.networks.compilation import Compiled
from autoint.networks.encodings import AbstractEncoding
from autoint.registry import ACTIVATIONS, ENCODINGS, MODELS, PLACEMENTS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes import rendering, sections
from autoint.scenes.models.radiance_field import radiance_field
from autoint.scenes.models.sampled_means import SampledMeans
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractSections, AbstractVolume, Draw

OPAQUE = 1e-3
"""Below this opacity a ray's features are not scaled up to those of a surface."""


class SectionField(nn.Module):
    """What an encoding stands for, of a point or a section's mean: density, base colour and features; and their gloss.

    The network of the sections is shallow, since it is evaluated N times a ray; that of the gloss, which is told the
    direction and evaluated once, has the other layers.

    Args:
        encoding: γ, of the position.
        directions: encoding of the direction.
        hidden_features: width of both networks.
        num_layers: hidden layers of both together, of which one belongs to the sections.
        features: how many are composited for the gloss.
        activation: between the layers.
    """

    def __init__(
        self,
        encoding: AbstractEncoding,
        directions: AbstractEncoding,
        hidden_features: int,
        num_layers: int,
        features: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.encoding, self.directions, self.activation = encoding, directions, activation
        self.section = nn.Linear(encoding.out_features, hidden_features)
        self.decoded = nn.Linear(hidden_features, 4 + features)
        inputs = [features + directions.out_features] + [hidden_features] * max(0, num_layers - 2)
        self.trunk = nn.ModuleList(nn.Linear(i, hidden_features) for i in inputs)
        self.gloss = nn.Linear(hidden_features, 3)
        for k, layer in enumerate([self.section, *self.trunk]):
            activation.init(layer, k == 0)

    @classmethod
    def configured(cls, config: RunConfig, features: int) -> Self:
        """Return the one of a run's configuration."""
        return cls(
            ENCODINGS.build(config.encoding, 3),
            ENCODINGS.build(config.options["direction_encoding"], 3),
            config.network.hidden_features,
            config.network.num_layers,
            features,
            ACTIVATIONS.build(config.activation),
        )

    def decode(self, encoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is to become a density (…), base colour (…, 3) and features (…, F) of encodings (…, E)."""
        decoded = self.decoded(self.activation.function(self.section(encoded)))
        output, base, features = decoded.split([1, 3, decoded.shape[-1] - 4], dim=-1)
        return output[..., 0], torch.sigmoid(base), features

    def shine(self, features: Tensor, directions: Tensor) -> Tensor:
        """Return what a surface of ``features`` (…, F) adds to its base colour along ``directions`` (…, 3)."""
        h = torch.cat([features, self.directions(directions)], dim=-1)
        for layer in self.trunk:
            h = self.activation.function(layer(h))
        return torch.tanh(self.gloss(h))


class AbstractDecodedSections(AbstractSections):
    """Sections with base colours and features, which are composited to one gloss per ray.

    A ray with section weights w_i (``rendering.composite``) and opacity A = Σ w_i shows
    C = Σ w_i b_i + A·g(f̄, d) + (1 − A)·C_bg, with the base colours b_i, their features composited to f̄ = Σ w_i f_i / A
    and the gloss g, the only part that is told the direction d.

    Args:
        field: γ, and the networks that decode it.
        placement: chooses the section edges.
        occupancy: where the scene is.
    """

    def __init__(self, field: SectionField, placement: sections.AbstractPlacement, occupancy: Occupancy) -> None:
        super().__init__(placement, occupancy)
        self.field, self.width = field, field.section.out_features
        self.restrict(field.encoding)

    @abc.abstractmethod
    def means(self, rays: Rays, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return density (R, N), base colour (R, N, 3) and features (R, N, F) of sections."""

    @property
    def nets(self) -> Iterable[nn.Module]:
        return [self.field]

    def compile_networks(self) -> None:
        for name in ("decode", "shine"):  # what is learned of positions has loops of its own
            setattr(self.field, name, Compiled(getattr(self.field, name), self.width))

    @property
    def colors(self) -> int:
        return 1

    def section_values(self, rays: Rays, edges: Tensor) -> tuple[Tensor, Tensor]:
        density, base, features = self.means(rays, edges)
        return density, base + self.field.shine(features, rays.directions[:, None].expand_as(base))

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        density, base, features = self.means(rays, edges)
        plain = rendering.composite(density, base, edges, background)
        mean = (plain.weights[..., None] * features).sum(-2) / plain.acc.clamp_min(OPAQUE)[:, None]
        gloss = plain.acc[:, None] * self.field.shine(mean, rays.directions)
        return dataclasses.replace(plain, rgb=plain.rgb + gloss)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], float]:
        edges = sections.jittered(edges, draw("edges", *edges[:, 1:-1].shape))
        return [self.render(rays, edges, background)], 0.0


class SectionMeans(AbstractDecodedSections):
    """Sections whose density and colour are decoded from the mean of an encoding γ: ḡ_i = δ_i⁻¹ ∫ γ(o + t·d) dt.

    γ knows positions alone, and the density is decoded from ḡ_i alone: no view can be explained by a density that only
    this view sees, which an antiderivative Φ(x, d) along every ray has to be kept from. γ is linear in what is learned
    of it, so that ``encoding.mean`` integrates it in closed form; everything nonlinear comes after the integration:
    2N look-ups in the grids of γ, N evaluations of the sections' network and one of the gloss's.
    """

    @property
    def evaluations(self) -> int:
        return self.placement.sections

    @property
    def look_ups(self) -> int:
        return 2 * self.placement.sections

    @property
    def fit(self) -> str:
        return self.field.encoding.mean_rule

    def density(self, rays: Rays, t: Tensor) -> Tensor:
        return self._decoded(self.field.encoding(self.points(rays, t)[0]))[0]

    def means(self, rays: Rays, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, _ = self.points(rays, edges)
        return self._decoded(self.field.encoding.mean(x[:, :-1], x[:, 1:]))

    def _decoded(self, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, base, features = self.field.decode(mean)
        # The density of a network is that per unit of the encoding's coordinates.
        return rendering.density_of_network(output) * self.scale, base, features


@MODELS.register("section_means", alias="object")
def section_means(
    config: RunConfig, occupancy: Occupancy, *, features: int = 16, nodes: int | None = None
) -> AbstractVolume:
    """One field that all directions share, averaged over sections in closed form and decoded afterwards.

    Args:
        config: the run's configuration.
        occupancy: where the scene is.
        features: of a section, composited along the ray for the colour that depends on the direction.
        nodes: so many samples per section and a colour decoded in each, as it was at first; None for the closed form.
    """
    at_least_one(**{"model.features": features, "model.nodes": nodes})
    options = config.options
    placement = PLACEMENTS.build(options["placement"], options["sections"], occupancy)
    if nodes is not None:
        field = radiance_field(config, config.encoding, options["direction_encoding"])
        return SampledMeans(field, nodes, placement, occupancy)
    return SectionMeans(SectionField.configured(config, features), placement, occupancy)
