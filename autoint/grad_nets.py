"""Grad networks: Ψ = ∂Φ/∂x, another network over the same parameters (paper, eq. 1 and 3)."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.activations import Activation
from autoint.networks import IntegralNet
from autoint.registry import GRAD_NETS

Field = Callable[[Tensor], Tensor]


class AbstractGradNet(nn.Module, abc.ABC):
    """Ψ, the derivative of an integral network, holding that very network: parameters are shared, never copied.

    Two ways to evaluate it: ``forward(x)`` differentiates along the coordinate axis chosen at construction, and
    ``along(x, tangent)`` along any direction, for instance a ray's: with x = o + t·d, ∂Φ/∂t = d·∇Φ.
    """

    def __init__(self, integral_net: nn.Module, axes: Sequence[int] = (0,)) -> None:
        super().__init__()
        self.integral_net, self.axes = integral_net, tuple(axes)
        smooth = integral_net.activation.smooth if isinstance(integral_net, IntegralNet) else math.inf
        if len(self.axes) > smooth:
            raise ValueError(
                f"axes={self.axes}: the activation can be differentiated {smooth:.0f} time(s) only, more gives zero; "
                "use activation=swish, softplus or sine"
            )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return ∂ⁿΦ/∂x_{axes}, x (…, D) → (…, C)."""
        basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return self.derivative(x, [basis[axis] for axis in self.axes], condition)

    def along(self, x: Tensor, tangent: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the directional derivative ``tangent``·∇Φ(x), x and tangent (…, D) → (…, C)."""
        return self.derivative(x, [tangent], condition)

    def _field(self, condition: Tensor | None) -> Field:
        """Return Φ as a function of x alone."""
        return lambda x: self.integral_net(x) if condition is None else self.integral_net(x, condition)

    @abc.abstractmethod
    def derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        """Return the mixed derivative of Φ along each of ``tangents`` in turn."""


@GRAD_NETS.register("explicit")
class Explicit(AbstractGradNet):
    """The tangent propagated beside the value: ḣ = W ẋ, ȧ = NL'(h) ⊙ ḣ (paper, eq. 3).

    For several axes, one stream for every subset S of them: linear layers act on each stream, and behind the
    nonlinearity a_S = Σ_π NL^(|π|)(h) Π_{B ∈ π} h_B over the partitions π of S (Faà di Bruno). Plain first-order code,
    so one ordinary backward pass trains it and it runs under ``inference_mode``.
    """

    def __init__(self, integral_net: nn.Module, axes: Sequence[int] = (0,)) -> None:
        super().__init__(integral_net, axes)
        if not isinstance(integral_net, IntegralNet):
            found = type(integral_net).__name__
            raise ValueError(f"grad_net=explicit needs an IntegralNet, not {found}; use grad_net=jvp for other modules")

    def derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        net = self.integral_net
        assert isinstance(net, IntegralNet)
        layers = cast(list[nn.Linear], list(net.hidden))
        encoded = net.encoding.jet(x, tangents)
        assert encoded[0] is not None
        streams = [
            net.first(encoded[0], condition),
            *(s if s is None else F.linear(s, layers[0].weight) for s in encoded[1:]),
        ]
        for layer in layers[1:]:
            streams = _activated(net.activation, streams, range(len(streams)))
            streams = [layer(streams[0]), *(s if s is None else F.linear(s, layer.weight) for s in streams[1:])]
        (last,) = _activated(net.activation, streams, [len(streams) - 1])
        return x.new_zeros(*x.shape[:-1], net.out_features) if last is None else net.output(last)


Streams = list[Tensor | None]


def _activated(activation: Activation, streams: Streams, wanted: Iterable[int]) -> Streams:
    """Return the streams ``wanted`` behind the nonlinearity; a stream is numbered by its subset, None is zero."""
    h = streams[0]
    assert h is not None
    highest = (len(streams) - 1).bit_count()
    slopes = [activation.derivative(h, order) for order in range(1, highest + 1)]
    out: Streams = []
    for subset in wanted:
        if subset == 0:
            out.append(activation.function(h))
            continue
        terms = []
        for partition in _partitions(subset):
            blocks = [streams[block] for block in partition]
            factors = [block for block in blocks if block is not None]
            if len(factors) == len(blocks):
                terms.append(math.prod(factors, start=slopes[len(blocks) - 1]))
        out.append(functools.reduce(torch.add, terms) if terms else None)
    return out


@functools.cache
def _partitions(subset: int) -> tuple[tuple[int, ...], ...]:
    """Return the partitions of a set into blocks, sets being the bits of numbers."""
    if subset == 0:
        return ((),)
    lowest = subset & -subset
    rest, out = subset ^ lowest, []
    others = rest
    while True:  # over all subsets of the rest, each making one block with the lowest element
        out += [(lowest | others, *blocks) for blocks in _partitions(rest ^ others)]
        if others == 0:
            return tuple(out)
        others = (others - 1) & rest


@GRAD_NETS.register("jvp")
class Jvp(AbstractGradNet):
    """Forward mode by ``torch.func.jvp``, nested for mixed partials; works for any module."""

    def derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        if torch.is_inference_mode_enabled():  # where torch 2.11's jvp returns zeros without a word
            with torch.inference_mode(False), torch.no_grad():
                normal = None if condition is None else condition.clone()
                return self.derivative(x.clone(), [tangent.clone() for tangent in tangents], normal)
        field = self._field(condition)
        for tangent in tangents:
            field = _jvp(field, tangent)
        return field(x)


def _jvp(field: Field, tangent: Tensor) -> Field:
    return lambda x: torch.func.jvp(field, (x,), (tangent.expand_as(x).contiguous(),))[1]


@GRAD_NETS.register("double_backward")
class DoubleBackward(AbstractGradNet):
    """Reverse mode by ``autograd.grad(create_graph=True)``, once per output channel; works for any module.

    It needs autograd, so it fails under ``inference_mode``, and ``torch.compile`` cannot differentiate it again.
    """

    def derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("grad_net=double_backward cannot run in inference mode; use grad_net=explicit or jvp")
        keep_graph = torch.is_grad_enabled()

        field = self._field(condition)
        for tangent in tangents:
            field = _reverse(field, tangent)
        with torch.enable_grad():
            out = field(x if x.requires_grad else x.detach().requires_grad_())
        return out if keep_graph else out.detach()


def _reverse(field: Field, tangent: Tensor) -> Field:
    def derivative(x: Tensor) -> Tensor:
        out = field(x)
        if not out.requires_grad:  # a derivative that is constant: the next one is zero
            return torch.zeros_like(out)
        rows = [torch.autograd.grad(y.sum(), x, create_graph=True, materialize_grads=True)[0] for y in out.unbind(-1)]
        return torch.stack([(row * tangent).sum(-1) for row in rows], dim=-1)

    return derivative


def grad_net(net: nn.Module, axes: Sequence[int] = (0,), builder: str = "explicit") -> AbstractGradNet:
    """Return the grad network Ψ = ∂Φ/∂x_{axes} of ``net``, over the same parameters (paper, eq. 1).

    Args:
        net: the integral network, (…, D) → (…, C).
        axes: the coordinates to differentiate by, in turn.
        builder: a registered grad-net builder.

    Raises:
        ValueError: for an axis that ``net`` does not have, an unknown builder, or one that cannot do what is asked.

    Example:
        >>> net = IntegralNet(in_features=1, out_features=1)
        >>> psi = grad_net(net)
        >>> psi(torch.zeros(4, 1)).shape, psi.integral_net is net
        (torch.Size([4, 1]), True)
    """
    features = getattr(net, "in_features", None)
    for axis in axes:
        if axis < 0 or (features is not None and axis >= features):
            raise ValueError(f"axes={tuple(axes)}: axis {axis} is out of range for a network with {features} inputs")
    return GRAD_NETS[builder](net, axes)
