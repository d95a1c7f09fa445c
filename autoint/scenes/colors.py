"""From section means of Ψ to the density and the colour of sections."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from autoint.networks.encodings import AbstractEncoding
from autoint.registry import COLORS, at_least_one
from autoint.scenes import rendering


class AbstractColor(nn.Module, abc.ABC):
    """Reads section means; the first output of Ψ is density, what the others are is for the entry to say.

    Attributes:
        outputs: C, how many outputs Ψ needs.
    """

    outputs: int = 4

    @abc.abstractmethod
    def forward(self, means: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (R, N) and colour (R, N, 3) of sections from means (R, N, C) and directions (R, 3)."""


@COLORS.register("mean")
class Mean(AbstractColor):
    """Density relu(σ̄), colour sigmoid(c̄), the mean over the whole section (paper, after eq. 17)."""

    def __init__(self, directions: AbstractEncoding) -> None:
        super().__init__()

    def forward(self, means: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return rendering.density_from_mean(means[..., 0]), torch.sigmoid(means[..., 1:])


class _UnitInterval(torch.autograd.Function):
    """clamp to [0, 1], whose gradient also reaches a value outside that should come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(((x < 0) & (grad > 0)) | ((x > 1) & (grad < 0)), torch.zeros_like(grad), grad)


@COLORS.register("weighted")
class Weighted(AbstractColor):
    """The density-weighted colour: Ψ gives q = σ·c, and a section's colour is ∫q / ∫σ, clamped to [0, 1].

    Empty space has no say in it; it is exact where c is constant on the support of σ.
    """

    def __init__(self, directions: AbstractEncoding) -> None:
        super().__init__()

    def forward(self, means: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        density = rendering.density_from_mean(means[..., 0])
        # Below the floor a section is invisible, and its colour without meaning; above, the weight of the colour is
        # proportional to the density, so that the gradient of the quotient stays bounded.
        color = _UnitInterval.apply(means[..., 1:] / density[..., None].clamp_min(1e-6))
        assert isinstance(color, Tensor)
        return density, color


@COLORS.register("decoded")
class Decoded(AbstractColor):
    """Features are integrated, and their section means decoded to colour by a small MLP that is told the direction.

    Args:
        directions: the encoding of the viewing direction.
        features: how many are integrated.
        hidden_features: width of the decoder's one hidden layer.
    """

    def __init__(self, directions: AbstractEncoding, *, features: int = 8, hidden_features: int = 32) -> None:
        super().__init__()
        at_least_one(**{"color.features": features, "color.hidden_features": hidden_features})
        self.outputs, self.directions = 1 + features, directions
        self.first = nn.Linear(features, hidden_features)
        self.from_direction = nn.Linear(directions.out_features, hidden_features, bias=False)
        self.last = nn.Linear(hidden_features, 3)

    def forward(self, means: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(means[..., 1:]) + self.from_direction(self.directions(directions))[:, None]
        color = torch.sigmoid(self.last(nn.functional.silu(hidden)))
        return rendering.density_from_mean(means[..., 0]), color
