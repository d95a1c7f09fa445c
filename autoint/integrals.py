"""Definite integrals by the fundamental theorem of calculus."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def integrate(
    net: nn.Module, lower: Float[Tensor, "*n d"], upper: Float[Tensor, "*m e"], axes: Sequence[int] | None = None
) -> Float[Tensor, "*n c"]:
    """Return the definite integral of Ψ = ∂ⁿΦ/∂x_{axes} over a box, from 2ⁿ evaluations of Φ (supplement, eq. 6).

    ∫…∫ Ψ = Σ_{ε ∈ {0,1}ⁿ} (−1)^{Σε} Φ(ε·a + (1 − ε)·b), for n = 1: Φ(b) − Φ(a) (paper, eq. 6).

    Args:
        net: the integral network Φ, (…, D) → (…, C).
        lower: a, (…, D).
        upper: b, (…, D), equal to ``lower`` on the axes that are not integrated.
        axes: the integrated axes, all by default. Swapping a and b on one axis changes the sign.

    Returns:
        (…, C). The result's absolute error is about eps·max|Φ| for every width of the interval, because differences
        cancel; use float64 for tiny intervals.

    Raises:
        ValueError: for bounds of different shapes, axes out of range, and bounds that differ on a fixed axis.

    Example:
        >>> net = nn.Linear(1, 1, bias=False).double()  # Φ = w·x, so Ψ = w
        >>> a, b = torch.zeros(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)
        >>> bool(integrate(net, a, b) == 2 * net.weight[0])
        True
    """
    if lower.shape != upper.shape:
        raise ValueError(f"lower has shape {tuple(lower.shape)}, upper {tuple(upper.shape)}; they must be the same")
    features = lower.shape[-1]
    axes = tuple(range(features)) if axes is None else tuple(axes)
    if len(set(axes)) != len(axes) or any(not 0 <= axis < features for axis in axes):
        raise ValueError(f"axes={axes} must be different numbers from 0 to {features - 1}")
    fixed = [k for k in range(features) if k not in axes]
    if not torch.equal(lower[..., fixed], upper[..., fixed]):
        raise ValueError(f"lower and upper differ on the axes {fixed}, which are not integrated (axes={axes})")
    total: Tensor | float = 0.0
    for corner in itertools.product((False, True), repeat=len(axes)):
        at_lower = torch.zeros(features, dtype=torch.bool, device=lower.device)
        at_lower[list(axes)] = torch.tensor(corner, device=lower.device)
        value = net(torch.where(at_lower, lower, upper))
        total = total - value if sum(corner) % 2 else total + value
    assert isinstance(total, Tensor)
    return total
