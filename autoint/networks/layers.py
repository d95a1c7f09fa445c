"""Networks that are what their layers say: nonlinearities between affine maps, which may see the input again."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from autoint.networks.activations import Activation
from autoint.networks.encodings import AbstractEncoding


class Affine(NamedTuple):
    """h = W a + U z + b: what a layer takes from the layer before it, and from the encoded coordinates z = γ(x)."""

    weight: Tensor | None
    skip: Tensor | None
    bias: Tensor | None


@runtime_checkable
class Layered(Protocol):
    """A network of affine maps with the activation between them; others are followed by autograd only."""

    activation: Activation
    encoding: AbstractEncoding
    condition: nn.Module | None

    @property
    def plain(self) -> bool:
        """Whether nothing but the layers has a part in the value."""
        ...

    def affine(self) -> list[Affine]:
        """Return the layers, the last of which is the output's."""
        ...


def check_network(net: object) -> None:
    """Refuse what is no network."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"net is a {type(net).__name__}; it must be a network, a torch.nn.Module")


def unhooked(*modules: nn.Module) -> bool:
    """Return whether linear layers, and what is around them, compute by their weights alone."""
    linear = [m for m in modules if isinstance(m, nn.Linear)]
    if any(type(layer).forward is not nn.Linear.forward or "forward" in layer.__dict__ for layer in linear):
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
