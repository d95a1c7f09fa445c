"""Grad networks: Ψ = ∂Φ/∂x, another network over the same parameters (paper, eq. 1 and 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autoint.networks.grad_nets import automatic, explicit, graph, operations, rules
from autoint.networks.grad_nets.base import AbstractGradNet
from autoint.networks.layers import check_network
from autoint.registry import GRAD_NETS, integer

__all__ = ["AbstractGradNet", "automatic", "explicit", "grad_net", "graph", "operations", "rules"]


def grad_net(
    net: nn.Module, axes: Sequence[int] = (0,), builder: str = "explicit", compile: bool = False
) -> AbstractGradNet:
    """Return the grad network Ψ = ∂Φ/∂x_{axes} of ``net``, over the same parameters (paper, eq. 1).

    Args:
        net: the integral network, (…, D) → (…, C).
        axes: the coordinates to differentiate by, in turn.
        builder: a registered grad-net builder.
        compile: evaluate through ``torch.compile``, which pays for long trainings; ``double_backward`` cannot.

    Raises:
        ValueError: for an axis that ``net`` does not have, an unknown builder, or one that cannot do what is asked.

    Examples:
        >>> import autoint, torch
        >>> net = autoint.IntegralNet(in_features=1, out_features=1)
        >>> psi = grad_net(net)
        >>> psi(torch.zeros(4, 1)).shape, psi.integral_net is net
        (torch.Size([4, 1]), True)
    """
    check_network(net)
    features = getattr(net, "in_features", None)
    if not isinstance(axes, Sequence):
        raise ValueError(f"axes={axes!r:.60} must be numbers of coordinates, as (0,)")
    for axis in axes:
        integer(axes=axis)
        if axis < 0 or (features is not None and axis >= features):
            raise ValueError(f"axes={tuple(axes)}: axis {axis} is out of range for a network with {features} inputs")
    options = {"compile": True} if compile else {}
    return GRAD_NETS.build({"name": builder, **options}, net, axes)
