"""Density and colour as a network of the position, which is told the direction for the colour only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoint.networks.activations import Activation
from autoint.networks.encodings import AbstractEncoding
from autoint.registry import ACTIVATIONS, ENCODINGS
from autoint.runs.config import RunConfig


class RadianceField(nn.Module):
    """Density and colour at a point: an MLP of x, whose density needs no direction and whose colour is told it last.

    The encoded point enters again in the middle where there are 5 layers or more (Mildenhall et al. 2020, Fig. 7).

    Args:
        encoding: of the point.
        directions: encoding of the direction.
        hidden_features: width; the colour's layer has half of it.
        num_layers: hidden layers of the trunk.
        activation: between them.
    """

    def __init__(
        self,
        encoding: AbstractEncoding,
        directions: AbstractEncoding,
        hidden_features: int,
        num_layers: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.encoding, self.directions, self.activation = encoding, directions, activation
        self.skip = num_layers // 2 if num_layers >= 5 else -1
        inputs = [hidden_features + (k == self.skip) * encoding.out_features for k in range(num_layers)]
        inputs[0] = encoding.out_features
        self.trunk = nn.ModuleList(nn.Linear(i, hidden_features) for i in inputs)
        self.density = nn.Linear(hidden_features, 1)
        self.feature = nn.Linear(hidden_features, hidden_features)
        self.view = nn.Linear(hidden_features + directions.out_features, max(1, hidden_features // 2))
        self.rgb = nn.Linear(max(1, hidden_features // 2), 3)
        for k, layer in enumerate([*self.trunk, self.view]):
            activation.init(layer, k == 0)

    def forward(self, x: Tensor, directions: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return density (R, M), before its relu, at x (R, M, 3), and rgb (R, M, 3) along ``directions`` (R, 3).

        With x (R, N, S, 3) the network is told the means of the encoding over S, and returns (R, N) and (R, N, 3).
        """
        encoded = self.encoding(x)
        encoded = h = encoded.mean(dim=-2) if x.ndim == 4 else encoded
        for k, layer in enumerate(self.trunk):
            h = self.activation.function(layer(torch.cat([h, encoded], dim=-1) if k == self.skip else h))
        density = self.density(h)[..., 0]
        if directions is None:
            return density, None
        seen = self.directions(directions)[:, None].expand(*density.shape, -1)
        h = self.activation.function(self.view(torch.cat([self.feature(h), seen], dim=-1)))
        return density, torch.sigmoid(self.rgb(h))


def radiance_field(config: RunConfig, encoding: Any, directions: Any) -> RadianceField:
    """Build a field of the configured size and activation, with these encodings of position and direction."""
    return RadianceField(
        ENCODINGS.build(encoding, 3),
        ENCODINGS.build(directions, 3),
        config.network.hidden_features,
        config.network.num_layers,
        ACTIVATIONS.build(config.activation),
    )
