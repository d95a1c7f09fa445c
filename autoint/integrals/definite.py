"""Definite integrals by the fundamental theorem of calculus."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoint.networks.integral_net import IntegralNet
from autoint.registry import one_of

METHODS = ("corners", "differences")
BLOCK = {True: 2**18, False: 2**26}  # numbers of a layer computed at once, on a CPU for its caches: 9 times faster


def integrate(
    net: nn.Module,
    lower: Float[Tensor, "*n d"],
    upper: Float[Tensor, "*m e"],
    axes: Sequence[int] | None = None,
    method: str = "corners",
) -> Float[Tensor, "*k c"]:
    """Return the definite integral of Ψ = ∂ⁿΦ/∂x_{axes} over a box, from 2ⁿ evaluations of Φ (supplement, eq. 6).

    ∫…∫ Ψ = Σ_{ε ∈ {0,1}ⁿ} (−1)^{Σε} Φ(ε·a + (1 − ε)·b), for n = 1: Φ(b) − Φ(a) (paper, eq. 6).

    Args:
        net: the integral network Φ, (…, D) → (…, C).
        lower: a, (…, D).
        upper: b, (…, D), equal to ``lower`` on the axes that are not integrated; the two broadcast.
        axes: the integrated axes, all by default. Swapping a and b on one axis changes the sign.
        method: ``corners`` evaluates Φ at every corner. ``differences`` carries the difference along the last of the
            axes through the layers of an :class:`~autoint.IntegralNet` instead, without cancellation.

    Returns:
        (…, C).

    Accuracy, of rounding alone, with eps = 1.2e-7 in float32 and 2.2e-16 in float64, whose type the result has:
        ``corners``: the absolute error is below 32·2ⁿ⁻¹·eps·S, where S is the largest Σ|w·h| of the output layer at a
        corner (|Φ|, unless that layer cancels), whatever the size of the box. The relative error grows as the box
        shrinks: in float32 an interval of 1e-6 is noise.
        ``differences``, one axis: the error relative to the largest of the C integrals is below 512·eps for intervals
        from 1 down to 1e-9, and an integral from a to a is 0. Both bounds are tested against 50 digits, for one axis
        and networks of a few layers; octaves of an encoding, width and depth use more of them up.

    Raises:
        ValueError: for bounds that do not broadcast, axes out of range, bounds that differ on a fixed axis, and a
            method that is unknown or that ``net`` does not know.

    Example:
        >>> net = nn.Linear(1, 1, bias=False).double()  # Φ = w·x, so Ψ = w
        >>> a, b = torch.zeros(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)
        >>> bool(integrate(net, a, b) == 2 * net.weight[0])
        True
    """
    lower, upper = _same_shape(lower, upper)
    features = lower.shape[-1]
    expected = getattr(net, "in_features", features)
    if features != expected:
        raise ValueError(f"bounds of shape {tuple(lower.shape)} for {expected} coordinates; the last size must be that")
    axes = tuple(range(features)) if axes is None else tuple(axes)
    if not axes or len(set(axes)) != len(axes) or any(not 0 <= axis < features for axis in axes):
        raise ValueError(f"axes={axes} must be different numbers from 0 to {features - 1}, at least one")
    fixed = [k for k in range(features) if k not in axes]
    if not torch.equal(lower[..., fixed], upper[..., fixed]):
        raise ValueError(f"lower and upper differ on the axes {fixed}, which are not integrated (axes={axes})")
    one_of("method", method, METHODS)
    shape = lower.shape[:-1]
    rows = BLOCK[lower.device.type == "cpu"] // getattr(net, "hidden_features", 64) + 1
    bounds = zip(lower.reshape(-1, features).split(rows), upper.reshape(-1, features).split(rows), strict=True)
    blocks = [_integrate(net, a, b, axes, method) for a, b in bounds]
    total = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return total.reshape(*shape, total.shape[-1])


def _integrate(net: nn.Module, lower: Tensor, upper: Tensor, axes: tuple[int, ...], method: str) -> Tensor:
    """Return the integrals over boxes (P, D), as (P, C)."""
    total: Tensor | float = 0.0
    cut = len(axes) - (method == "differences")
    for corner in itertools.product((False, True), repeat=cut):
        at_lower = torch.zeros(lower.shape[-1], dtype=torch.bool, device=lower.device)
        at_lower[list(axes[:cut])] = torch.tensor(corner, dtype=torch.bool, device=lower.device)
        x = torch.where(at_lower, lower, upper)
        value = net(x) if method == "corners" else _difference(net, x, lower, upper, axes[-1])
        total = total - value if sum(corner) % 2 else total + value
    assert isinstance(total, Tensor)
    return total


def _difference(net: nn.Module, x: Tensor, lower: Tensor, upper: Tensor, axis: int) -> Tensor:
    """Return Φ(b) − Φ(a) along ``axis``, the other coordinates being those of ``x``."""
    if not isinstance(net, IntegralNet):
        raise ValueError(f"method='differences' needs an IntegralNet, not {type(net).__name__}; use method='corners'")
    along = torch.arange(x.shape[-1], device=x.device) == axis
    return net.difference(torch.where(along, lower, x), torch.where(along, upper - lower, 0.0))


def _same_shape(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    try:
        if lower.shape[-1:] == upper.shape[-1:] and lower.dim():
            a, b = torch.broadcast_tensors(lower, upper)
            return a, b
    except RuntimeError:
        pass
    raise ValueError(
        f"lower has shape {tuple(lower.shape)}, upper {tuple(upper.shape)}; both must be (…, D) and broadcast"
    )
