"""R2L: a light field, from a ray to its colour by one deep residual network, without density or integral."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from autoint.integrals import quadrature
from autoint.networks.activations import Activation
from autoint.networks.encodings import AbstractEncoding
from autoint.registry import ACTIVATIONS, ENCODINGS, MODELS, at_least_one
from autoint.runs.config import RunConfig
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


class LightField(AbstractVolume):
    """A ray's colour from γ of K of its points together, by one deep residual network (Wang et al., ECCV 2022).

    The points are the middles of K equal parts of the ray within the scene's box, and anywhere in each part while
    training. The background is seen through what the network does not call opaque. There is no density: the depth is
    that of the middle of the box.

    Args:
        encoding: γ, of each point.
        points: K.
        width, depth: of the network; there is one layer before, and one after, (depth − 2)/2 residual blocks.
        activation: within them.
        occupancy: where the scene is.
    """

    def __init__(
        self,
        encoding: AbstractEncoding,
        points: int,
        width: int,
        depth: int,
        activation: Activation,
        occupancy: Occupancy,
    ) -> None:
        super().__init__(occupancy)
        self.encoding, self.count, self.width, self.activation = encoding, points, width, activation
        self.head = nn.Linear(points * encoding.out_features, width)
        activation.init(self.head, True)
        self.body = nn.Sequential(*(Residual(width, activation) for _ in range(max(1, (depth - 2) // 2))))
        self.tail = nn.Linear(width, 4)

    @property
    def nets(self) -> Iterable[nn.Module]:
        return [self.body]

    @property
    def evaluations(self) -> int:
        return 1

    @property
    def look_ups(self) -> int:
        return self.count

    @property
    def fit(self) -> str:
        return "none"

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        return self._rendered(rays, edges, quadrature.midpoint(edges, self.count)[0][:, 0], background)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], float]:
        t = quadrature.stratified(edges, draw("samples", len(rays), 1, self.count))[0][:, 0]
        return [self._rendered(rays, edges, t, background)], 0.0

    def _rendered(self, rays: Rays, edges: Tensor, t: Tensor, background: Tensor) -> Rendering:
        h = self.activation.function(self.head(self.encoding(self.points(rays, t)[0]).flatten(1)))
        rgba = torch.sigmoid(self.tail(h + self.body(h)))
        acc = rgba[:, 3]
        rgb = acc[:, None] * rgba[:, :3] + (1 - acc)[:, None] * background
        return Rendering(rgb, edges.mean(dim=-1), acc, acc[:, None])


@MODELS.register("light_field")
def light_field(
    config: RunConfig,
    occupancy: Occupancy,
    *,
    points: int = 16,
    width: int | None = None,
    depth: int | None = None,
) -> AbstractVolume:
    """R2L's light field (Wang et al. 2022): one evaluation of a deep residual network per ray.

    Args:
        config: the run's configuration; with scale=full this is the paper's 88 layers of 256.
        occupancy: where the scene is.
        points: of a ray, which the network is told together.
        width: of the network; None takes network.hidden_features.
        depth: of the network; None takes 11 · network.num_layers.
    """
    at_least_one(**{"model.points": points, "model.width": width, "model.depth": depth})
    bands = {"name": "positional", "num_frequencies": config.encoding.get("num_frequencies", 10)}
    return LightField(
        ENCODINGS.build(bands, 3),
        points,
        width or config.network.hidden_features,
        depth or 11 * config.network.num_layers,
        ACTIVATIONS.build(config.activation),
        occupancy,
    )
