"""One table of seeded cases: every activation × encoding, as a small integral network in float64."""

import itertools

import pytest
import torch

from autoint.networks.integral_net import IntegralNet
from autoint.registry import ACTIVATIONS, ENCODINGS

NETWORKS = list(itertools.product(ACTIVATIONS.names(), ENCODINGS.names()))


def network(activation: str, encoding: str, *, in_features: int = 2, out_features: int = 3, **kwargs) -> IntegralNet:
    """A 2-layer network of width 16; encodings get 4 bands, or float64 rounding of the phase would be what is seen."""
    torch.manual_seed(7)
    choice = {"name": encoding}
    if "num_frequencies" in ENCODINGS.fields(encoding):
        choice["num_frequencies"] = 4
    sizes = {"hidden_features": 16, "num_layers": 2, **kwargs}
    return IntegralNet(in_features, out_features, activation=activation, encoding=choice, **sizes).double()


def points(count: int, features: int = 2, seed: int = 3) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(count, features, generator=g, dtype=torch.float64) - 1


every_network = pytest.mark.parametrize(("activation", "encoding"), NETWORKS)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of ``b``."""
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1e-300))
