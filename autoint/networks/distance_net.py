"""The network of a level set: f(x) with f = 0 on a surface."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.networks.activations import Activation, activation_of
from autoint.networks.encodings import AbstractEncoding
from autoint.networks.integral_net import Choice
from autoint.networks.layers import Affine, unhooked
from autoint.registry import ENCODINGS, at_least_one

RIDGE = 1e-3


class DistanceNet(nn.Module):
    """A network whose zeros are a surface: layers with the coordinates once more in the middle, and a constant.

    Behind the skip the layer sees [a; γ(x)]/√2. With a ``radius`` it begins as the distance to a sphere, |x| − radius,
    of which the training then makes something else: hidden weights N(0, 2/width), the last about √(π/width), its bias
    −radius (M. Atzmon, Y. Lipman, SAL, 2020, Theorem 1; IGR, Sec. 5). Other weights are the activation's own.

    Args:
        in_features: D, the number of coordinates.
        out_features: C; the first is the distance, the rest are features for whom it may concern.
        hidden_features: width of the hidden layers.
        num_layers: number of hidden layers.
        activation: name (or name and options) of the nonlinearity.
        encoding: name (or name and options) of γ.
        skip: whether the middle layer sees γ(x) once more, from 3 layers on.
        radius: of the sphere that a geometric initialisation begins with; None for the activation's own initialisation.

    Shapes:
        ``forward(x)``: x (…, D) → (…, C).

    Examples:
        >>> torch.manual_seed(0) and None
        >>> net = DistanceNet(3, hidden_features=128, activation={"name": "softplus", "beta": 100.0}, radius=0.5)
        >>> far, near = net(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])).flatten().tolist()
        >>> near < 0 < far
        True
    """

    condition = None

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        hidden_features: int = 128,
        num_layers: int = 4,
        activation: Choice | Activation = "softplus",
        encoding: Choice | AbstractEncoding = "identity",
        skip: bool = True,
        radius: float | None = None,
    ) -> None:
        super().__init__()
        at_least_one(
            in_features=in_features, out_features=out_features, hidden_features=hidden_features, num_layers=num_layers
        )
        self.in_features, self.out_features, self.hidden_features = in_features, out_features, hidden_features
        self.activation = activation if isinstance(activation, Activation) else activation_of(activation)
        self.encoding = encoding if isinstance(encoding, AbstractEncoding) else ENCODINGS.build(encoding, in_features)
        self.skip = num_layers // 2 if skip and num_layers > 2 else None
        widths = [self.encoding.out_features] + [hidden_features] * num_layers
        again = [self.encoding.out_features if k == self.skip else 0 for k in range(num_layers)]
        self.hidden = nn.ModuleList(
            nn.Linear(i + more, o) for (i, o), more in zip(pairwise(widths), again, strict=True)
        )
        self.output = nn.Linear(hidden_features, out_features)
        for k, layer in enumerate([*self.hidden, self.output]):
            self.activation.init(layer, k == 0)
        if radius is not None:
            self._begin_as_sphere(radius)

    @torch.no_grad()
    def _begin_as_sphere(self, radius: float) -> None:
        width, plain = self.hidden_features, self.in_features
        for k, layer in enumerate(cast(list[nn.Linear], list(self.hidden))):
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / width))
            nn.init.zeros_(layer.bias)
            start = 0 if k == 0 else width
            layer.weight[:, start + plain :] = 0  # of bands of γ: the sphere is one of the coordinates themselves
        nn.init.normal_(self.output.weight[:1], math.sqrt(math.pi / width), 1e-4)
        nn.init.constant_(self.output.bias[:1], -radius)

    @torch.no_grad()
    def begin_as(self, x: Tensor, y: Tensor) -> None:
        """Set the output layer so that f(x) is nearest to y, by least squares over its features: for any activation.

        Args:
            x: points, (P, D).
            y: what f is to be there, (P,).
        """
        a = self._last_hidden(x).double()
        features = torch.cat([a, torch.ones_like(a[:, :1])], dim=-1)
        gram = features.T @ features / len(a)
        ridge = RIDGE * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)  # features that hardly differ
        found = torch.linalg.solve(gram + ridge, features.T @ y.double() / len(a))
        self.output.weight[0] = found[:-1].to(self.output.weight)
        self.output.bias[0] = found[-1].to(self.output.bias)

    @property
    def plain(self) -> bool:
        """Whether ``forward`` is what its weights say: no hooks, no layers of another kind."""
        layers = [*self.hidden, self.output]
        if type(self).forward is not DistanceNet.forward or not all(isinstance(layer, nn.Linear) for layer in layers):
            return False
        return unhooked(self, *layers, *self.encoding.modules())

    def affine(self) -> list[Affine]:
        """Return the layers; that behind the skip has weights for both of what it sees."""
        first, *others = cast(list[nn.Linear], list(self.hidden))
        out = [Affine(None, first.weight, first.bias)]
        for k, layer in enumerate(others, start=1):
            if k == self.skip:
                weight = layer.weight / math.sqrt(2)
                out.append(Affine(weight[:, : self.hidden_features], weight[:, self.hidden_features :], layer.bias))
            else:
                out.append(Affine(layer.weight, None, layer.bias))
        return [*out, Affine(self.output.weight, None, self.output.bias)]

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), shape (…, out_features)."""
        return F.linear(self._last_hidden(x), self.output.weight, self.output.bias)

    def _last_hidden(self, x: Tensor) -> Tensor:
        a = z = self.encoding(x)
        for k, layer in enumerate(self.hidden):
            a = torch.cat([a, z.expand(*a.shape[:-1], -1)], dim=-1) / math.sqrt(2) if k == self.skip else a
            a = self.activation.function(layer(a))
        return a
