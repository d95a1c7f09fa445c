"""The grad network of an MLP written out: tangents propagated beside the value (paper, eq. 3)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.activations import Activation
from autoint.grad_nets.base import AbstractGradNet
from autoint.networks import IntegralNet
from autoint.registry import GRAD_NETS


@GRAD_NETS.register("explicit")
class Explicit(AbstractGradNet):
    """The tangent propagated beside the value: ḣ = W ẋ, ȧ = NL'(h) ⊙ ḣ (paper, eq. 3).

    For several axes, one stream for every subset S of them: linear layers act on each stream, and behind the
    nonlinearity a_S = Σ_π NL^(|π|)(h) Π_{B ∈ π} h_B over the partitions π of S (Faà di Bruno). Plain first-order code,
    so one ordinary backward pass trains it and it runs under ``inference_mode``.
    """

    def __init__(self, integral_net: nn.Module, axes: Sequence[int] = (0,), *, compile: bool = False) -> None:
        super().__init__(integral_net, axes, compile=compile)
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
