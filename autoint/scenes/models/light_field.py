"""R2L: a light field, from a ray to its colour by one deep residual network, without density or rendering integral."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from autoint.networks.activations import Activation
from autoint.networks.encodings import AbstractEncoding
from autoint.registry import ACTIVATIONS, ENCODINGS, MODELS, PLACEMENTS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes import sections
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractVolume, Draw


class Residual(nn.Module):
    """Two layers around which their input goes, h + W₂ NL(W₁ h)."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.first, self.second, self.activation = nn.Linear(width, width), nn.Linear(width, width), activation
        activation.init(self.first, False)
        nn.init.zeros_(self.second.bias)
        nn.init.normal_(self.second.weight, std=0.1 * width**-0.5)  # a deep sum of them begins near its input

    def forward(self, h: Tensor) -> Tensor:
        """Return the sum, (…, width)."""
        return h + self.second(self.activation.function(self.first(h)))


def learns(encoding: AbstractEncoding) -> bool:
    """Return whether something of an encoding is learned."""
    return any(True for _ in encoding.parameters())


class LightField(AbstractVolume):
    """A ray's colour from γ of its N sections together, by one deep residual network (R2L; Wang et al., ECCV 2022).

    As in the paper, a γ that is fixed is evaluated at a point of each section: its middle, or any while training.
    A γ that is learned, as on grids, is averaged over each section in closed form, so that nothing between two points
    is missed, and the rays that cross somewhere learn of each other there.

    The background is seen through what the network does not call opaque. There is no density: the depth is that of the
    middle of what is occupied.

    Args:
        encoding: γ, of the position.
        placement: chooses the sections.
        width, depth: of the network; there is one layer before, and one after, (depth − 2)/2 residual blocks.
        activation: within them.
        occupancy: where the scene is.
    """

    def __init__(
        self,
        encoding: AbstractEncoding,
        placement: sections.AbstractPlacement,
        width: int,
        depth: int,
        activation: Activation,
        occupancy: Occupancy,
    ) -> None:
        super().__init__(occupancy)
        self.encoding, self.placement, self.width, self.activation = encoding, placement, width, activation
        self.learned = learns(encoding)
        self.head = nn.Linear(placement.sections * encoding.out_features, width)
        activation.init(self.head, True)
        self.body = nn.Sequential(*(Residual(width, activation) for _ in range(max(1, (depth - 2) // 2))))
        self.tail = nn.Linear(width, 4)
        self.restrict(encoding)

    @property
    def nets(self) -> Iterable[nn.Module]:
        return [self.body]

    @property
    def evaluations(self) -> int:
        return 1

    @property
    def look_ups(self) -> int:
        return self.placement.sections * (1 + self.learned)

    @property
    def fit(self) -> str:
        return self.encoding.mean_rule if self.learned else "none"

    def edges(self, rays: Rays) -> Tensor:
        return self.placement(rays.clipped_to(self.occupancy.lower, self.occupancy.upper))

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        return self._rendered(rays, edges, 0.5, background)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], float]:
        if self.learned:
            edges = sections.jittered(edges, draw("edges", *edges[:, 1:-1].shape))
            return [self.render(rays, edges, background)], 0.0
        return [self._rendered(rays, edges, draw("samples", *edges[:, 1:].shape), background)], 0.0

    def _rendered(self, rays: Rays, edges: Tensor, share: Tensor | float, background: Tensor) -> Rendering:
        """Return colours by the means over sections, or by the points that have this ``share`` of each before them."""
        if self.learned:
            x = self.points(rays, edges)[0]
            gamma = self.encoding.mean(x[:, :-1], x[:, 1:])
        else:
            gamma = self.encoding(self.points(rays, torch.lerp(edges[:, :-1], edges[:, 1:], share))[0])
        h = self.activation.function(self.head(gamma.flatten(1)))
        rgba = torch.sigmoid(self.tail(h + self.body(h)))
        acc = rgba[:, 3]
        rgb = acc[:, None] * rgba[:, :3] + (1 - acc)[:, None] * background
        return Rendering(rgb, 0.5 * (edges[:, 0] + edges[:, -1]), acc, acc[:, None])


@MODELS.register("light_field")
def light_field(
    config: RunConfig, occupancy: Occupancy, *, width: int | None = None, depth: int | None = None
) -> AbstractVolume:
    """R2L's light field (Wang et al. 2022): one evaluation of a deep residual network per ray.

    Args:
        config: the run's configuration; with scale=full this is the paper's 88 layers of 256, of 16 points.
        occupancy: where the scene is.
        width: of the network; None takes network.hidden_features, or twice that where the encoding is learned.
        depth: of the network; None takes 11 · network.num_layers, or 2 more than network.num_layers there.
    """
    at_least_one(**{"model.width": width, "model.depth": depth})
    options, size, encoding = config.options, config.network, ENCODINGS.build(config.encoding, 3)
    learned = learns(encoding)  # and so does most of the work
    return LightField(
        encoding,
        PLACEMENTS.build(options["placement"], options["sections"], occupancy),
        width or size.hidden_features * (1 + learned),
        depth or (size.num_layers + 2 if learned else 11 * size.num_layers),
        ACTIVATIONS.build(config.activation),
        occupancy,
    )
