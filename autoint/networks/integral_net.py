"""The integral network Φ."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from autoint.files.machine import installed_memory
from autoint.networks.activations import Activation, activation_of
from autoint.networks.encodings import AbstractEncoding
from autoint.networks.layers import Affine, unhooked
from autoint.networks.steady import steady
from autoint.registry import ENCODINGS, at_least_one

Choice = str | Mapping[str, Any]
MOST_LAYERS = 1024


class IntegralNet(nn.Module):
    """The integral network Φ_θ(x) = W_n (φ_{n−1} ∘ … ∘ φ_0)(γ(x)) (paper, eq. 2).

    φ_k(y) = NL(W_k y + b_k). The output layer has no bias: it would be the constant of integration, which no
    difference of Φ and no derivative of Φ can see.

    Args:
        in_features: D, the number of coordinates of x.
        out_features: C, the number of integrals learned at once.
        hidden_features: width of the hidden layers.
        num_layers: number of hidden layers.
        activation: name (or name and options) of the nonlinearity NL.
        encoding: name (or name and options) of γ.
        condition: an encoding of quantities that stay fixed along the integration, such as a ray's direction. Their
            share of the first layer is computed once per ray and broadcast: W_0 [γ(x); γ_c(c)] = W γ(x) + W_c γ_c(c).

    Shapes:
        ``forward(x, condition)``: x (…, D), condition broadcastable to (…, D_c) → (…, C).

    Examples:
        >>> import torch
        >>> net = IntegralNet(in_features=2, out_features=1, hidden_features=16, num_layers=2)
        >>> net(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int = 64,
        num_layers: int = 3,
        activation: Choice | Activation = "swish",
        encoding: Choice | AbstractEncoding = "identity",
        condition: AbstractEncoding | None = None,
    ) -> None:
        super().__init__()
        at_least_one(
            in_features=in_features, out_features=out_features, hidden_features=hidden_features, num_layers=num_layers
        )
        needed, there = 4 * hidden_features**2 * num_layers, installed_memory()
        if num_layers > MOST_LAYERS or needed > there:
            raise ValueError(
                f"hidden_features={hidden_features}, num_layers={num_layers}: at most {MOST_LAYERS} layers, whose "
                f"weights fit into the {there / 2**30:.0f} GiB of this machine"
            )
        self.in_features, self.out_features, self.hidden_features = in_features, out_features, hidden_features
        self.activation = activation if isinstance(activation, Activation) else activation_of(activation)
        self.encoding = encoding if isinstance(encoding, AbstractEncoding) else ENCODINGS.build(encoding, in_features)
        self.condition = condition
        widths = [self.encoding.out_features] + [hidden_features] * num_layers
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.output = nn.Linear(hidden_features, out_features, bias=False)
        if condition is not None:
            self.from_condition = nn.Linear(condition.out_features, hidden_features, bias=False)
            self.activation.init(self.from_condition, True)
        for k, layer in enumerate([*self.hidden, self.output]):
            self.activation.init(layer, k == 0)

    @property
    def plain(self) -> bool:
        """Whether ``forward`` is what its weights say, read layer by layer: no hooks, no layers of another kind."""
        if type(self).forward is not IntegralNet.forward or type(self).first is not IntegralNet.first:
            return False
        layers = [*self.hidden, self.output]
        if not all(isinstance(layer, nn.Linear) for layer in layers):
            return False
        return unhooked(self, *layers, *self.encoding.modules())

    def affine(self) -> list[Affine]:
        """Return the layers: of the first, what the coordinates have a part in."""
        first, *others = cast(list[nn.Linear], list(self.hidden))
        inner = [Affine(layer.weight, None, layer.bias) for layer in others]
        return [Affine(None, first.weight, first.bias), *inner, Affine(self.output.weight, None, None)]

    def first(self, encoded: Tensor, condition: Tensor | None) -> Tensor:
        """Return the first pre-activation W_0 γ(x) + W_c γ_c(c) + b_0."""
        h = self.hidden[0](encoded)
        if self.condition is not None:
            h = h + self.from_condition(self.condition(condition))
        return h

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return Φ(x), shape (…, out_features)."""
        return self.output(self._last_hidden(x, condition))

    def magnitude(self, x: Tensor) -> Tensor:
        """Return Σ|w·h| of the output layer, (…, out_features): what the rounding of Φ(x) is in proportion to."""
        return F.linear(self._last_hidden(x, None).abs(), self.output.weight.abs())

    def _last_hidden(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = self.activation.function(self.first(self.encoding(x), condition))
        for layer in self.hidden[1:]:
            h = self.activation.function(layer(h))
        return h

    def difference(self, x: Tensor, delta: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return Φ(x + delta) − Φ(x), shape (…, out_features), to relative accuracy however small ``delta`` is.

        The difference is carried through the layers, D ← W D and D ← NL(h + D) − NL(h), each in a form that does not
        cancel. It costs as much as the two evaluations; in float32 it is what remains exact for short intervals.

        Raises:
            ValueError: where the activation has no formula for its differences, and where hooks or layers of another
                kind make ``forward`` something else than this follows.
        """
        if self.activation.difference is None:
            raise ValueError("this activation has no `difference`; add one, or use method='corners' in float64")
        with steady(self):
            if not self.plain:
                raise ValueError(
                    f"{type(self).__name__}: method='differences' follows linear layers without hooks and the forward "
                    "of IntegralNet only; use method='corners'"
                )
            h = self.first(self.encoding(x), condition)
            first, *others = cast(list[nn.Linear], list(self.hidden))
            d = F.linear(self.encoding.difference(x, delta), first.weight)
            for layer in others:
                d = F.linear(self.activation.difference(h, d), layer.weight)
                h = layer(self.activation.function(h))
            return F.linear(self.activation.difference(h, d), self.output.weight)
