"""Definite integrals by the fundamental theorem of calculus."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoint.networks.integral_net import IntegralNet
from autoint.networks.layers import check_network
from autoint.networks.steady import evaluated
from autoint.registry import one_of

METHODS = ("corners", "differences")
BLOCK = {True: 2**18, False: 2**26}  # numbers of a layer computed at once, on a CPU for its caches: 9 times faster


def integrate(
    net: nn.Module, lower: Any, upper: Any, axes: Sequence[int] | None = None, method: str = "corners"
) -> Float[Tensor, "*k c"]:
    """Return the definite integral of Ψ = ∂ⁿΦ/∂x_{axes} over a box, from 2ⁿ evaluations of Φ (supplement, eq. 6).

    ∫…∫ Ψ = Σ_{ε ∈ {0,1}ⁿ} (−1)^{Σε} Φ(ε·a + (1 − ε)·b), for n = 1: Φ(b) − Φ(a) (paper, eq. 6).

    Args:
        net: the integral network Φ, (…, D) → (…, C).
        lower: a, (…, D): a tensor, an array or a list, or a number for D = 1; moved to the type and device of Φ.
        upper: b, (…, D), equal to ``lower`` on the axes that are not integrated; the two broadcast.
        axes: the integrated axes, all by default. Swapping a and b on one axis changes the sign.
        method: ``corners`` evaluates Φ at every corner. ``differences`` carries the difference along the last of the
            axes through the layers of an ``IntegralNet`` instead, without cancellation.

    Returns:
        (…, C).

    Accuracy, of rounding alone, with eps = 1.2e-7 in float32 and 2.2e-16 in float64, whose type the result has, within
    autocast too, which has no part here:

    - ``corners``: the absolute error is below 32·2ⁿ⁻¹·eps·S, where S is the largest Σ|w·h| of the output layer at a
      corner (|Φ|, unless that layer cancels), whatever the size of the box. The relative error grows as the box
      shrinks: in float32 an interval of 1e-6 is noise.
    - ``differences``, one axis: the error relative to the largest of the C integrals is below 512·eps for intervals
      from 1 down to 1e-9, and an integral from a to a is 0. Both bounds are tested against 50 digits, for one axis
      and networks of a few layers; octaves of an encoding, width and depth use more of them up.

    Raises:
        ValueError: for bounds that are no numbers or do not broadcast, axes out of range, bounds that differ on a fixed
            axis, a method that is unknown or that ``net`` does not know, and a network that is no function of x alone,
            as with dropout in training mode. Compiled code, which raises nothing, has NaN for the first and the third.

    Examples:
        >>> net = nn.Linear(1, 1, bias=False).double()  # Φ = w·x, so Ψ = w
        >>> a, b = torch.zeros(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)
        >>> bool(integrate(net, a, b) == 2 * net.weight[0])
        True
    """
    check_network(net)
    device = next((p.device.type for p in net.parameters()), "cpu")
    if torch.is_autocast_enabled(device):  # in whose precision corners cancel to noise
        with torch.autocast(device, enabled=False):
            return integrate(net, lower, upper, axes, method)
    lower, upper = _same_shape(*(bound(key, v, net) for key, v in (("lower", lower), ("upper", upper))))
    features = lower.shape[-1]
    expected = getattr(net, "in_features", features)
    if features != expected:
        raise ValueError(f"bounds of shape {tuple(lower.shape)} for {expected} coordinates; the last size must be that")
    axes = axes_of(axes, features)
    fixed = [k for k in range(features) if k not in axes]
    equal = lower[..., fixed] == upper[..., fixed]
    if fixed and not holds(equal):
        raise ValueError(f"lower and upper differ on the axes {fixed}, which are not integrated (axes={axes})")
    one_of("method", method, METHODS)
    shape = lower.shape[:-1]
    rows = BLOCK[lower.device.type == "cpu"] // getattr(net, "hidden_features", 64) + 1
    bounds = list(zip(lower.reshape(-1, features).split(rows), upper.reshape(-1, features).split(rows), strict=True))

    def evaluate() -> Tensor:
        blocks = [_integrate(net, a, b, axes, method) for a, b in bounds]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    total = evaluated(net, evaluate, not getattr(net, "plain", False))
    total = total.reshape(*shape, total.shape[-1])
    return (
        torch.where(equal.all(-1, keepdim=True), total, torch.nan) if fixed and torch.compiler.is_compiling() else total
    )


def axes_of(axes: Any, features: int) -> tuple[int, ...]:
    """Return the integrated axes, all by default; ``ValueError`` unless they are different ones of a box."""
    if axes is None:
        return tuple(range(features))
    found = tuple(axes) if isinstance(axes, (Sequence, range)) else ()
    if not found or len(set(found)) != len(found) or any(axis not in range(features) for axis in found):
        raise ValueError(f"axes={axes!r:.60} must be different numbers from 0 to {features - 1}, at least one, as (0,)")
    return found


def _integrate(net: nn.Module, lower: Tensor, upper: Tensor, axes: tuple[int, ...], method: str) -> Tensor:
    """Return the integrals over boxes (P, D), as (P, C)."""
    of_box: Any = getattr(net, "box_integral", None)
    if of_box is not None:  # a network that needs no corners
        return of_box(lower, upper, axes)
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


def bound(key: str, value: Any, net: nn.Module | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Return a bound as a tensor of the type and device of ``net``'s weights, with its gradient; a number as (1,).

    Args:
        key: what the bound is called, for messages.
        value: a tensor, an array, a number, or nested lists of these.
        net: a network, or None.
        dtype: instead of that of ``net``, which stays as it is given where ``net`` has no weights.

    Raises:
        ValueError: for what is no real number, and for NaN.
    """
    place: Tensor | None = None if net is None else next((p for p in net.parameters() if p.is_floating_point()), None)
    if net is not None and place is None:
        place = next((b for b in net.buffers() if b.is_floating_point()), None)
    wanted = "real numbers, or an array or a tensor of them, of shape (…, D)"
    try:
        x = _tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{key}={_short(value)} must be {wanted}") from error
    if x.is_complex() or x.dtype == torch.bool or x.is_quantized:
        raise ValueError(f"{key} is {str(x.dtype).removeprefix('torch.')}; it must be {wanted}")
    if x.layout != torch.strided or x.is_meta:
        raise ValueError(
            f"{key} is a tensor {'without values' if x.is_meta else 'that is sparse'}; it must be {wanted}"
        )
    usual = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    x = x.to(dtype or (usual if place is None else place.dtype)).to(x.device if place is None else place.device)
    if not holds(~x.isnan()):
        raise ValueError(f"{key} has NaN among its numbers, not finite; it must be {wanted}")
    return x if x.dim() else x[None]


def _tensor(value: Any) -> Tensor:
    """Return numbers as a tensor, those of Python in float64; tensors within lists keep their gradients."""
    if isinstance(value, (list, tuple)) and any(isinstance(part, (Tensor, list, tuple)) for part in value):
        return torch.stack([_tensor(part) for part in value])
    return torch.as_tensor(value, dtype=None if hasattr(value, "dtype") else _dtype_of(value))


def _dtype_of(value: Any) -> torch.dtype | None:
    """Return float64 for real numbers of Python and lists of them, and None for what torch is to look at itself."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return torch.float64 if all(type(number) in (int, float) for number in numbers) else None


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def holds(condition: Tensor) -> bool:
    """Return whether ``condition`` is true everywhere, also below function transforms; always in compiled code."""
    if torch.compiler.is_compiling():
        return True
    while torch._C._functorch.is_functorch_wrapped_tensor(condition):
        condition = torch._C._functorch.get_unwrapped(condition)
    return bool(condition.all())


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
