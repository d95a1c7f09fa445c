"""The grad network of an MLP written out: tangents propagated beside the value (paper, eq. 3)."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.networks.activations import Activation
from autoint.networks.grad_nets.automatic import forward_mode
from autoint.networks.grad_nets.base import AbstractGradNet
from autoint.networks.integral_net import IntegralNet
from autoint.registry import GRAD_NETS

Streams = list[Tensor | None]
Partitions = tuple[tuple[tuple[int, ...], ...], ...]
CHUNK = 2048  # points at a time on a CPU: large enough for matrix products, small enough for the caches


@GRAD_NETS.register("explicit")
class Explicit(AbstractGradNet):
    """The tangent propagated beside the value: ḣ = W ẋ, ȧ = NL'(h) ⊙ ḣ (paper, eq. 3).

    For several axes, one stream for every subset S of them: linear layers act on each stream, and behind the
    nonlinearity a_S = Σ_π NL^(|π|)(h) Π_{B ∈ π} h_B over the partitions π of S (Faà di Bruno). First-order code: one
    ordinary backward pass trains it, whatever the number of outputs, and it runs under ``inference_mode``.

    Under autocast the encoding and the first layer stay in full precision, for the high bands have none to lose.

    A first derivative is one node of autograd's graph, made chunk by chunk, and keeps half of what autograd would.

    Where Φ is not what its weights say, because of forward hooks, layers of another kind or another ``forward``,
    forward mode takes its place, which calls Φ itself.
    """

    mixed = True

    def __init__(self, integral_net: nn.Module, axes: Sequence[int] = (0,), *, compile: bool = False) -> None:
        super().__init__(integral_net, axes, compile=compile)
        if not isinstance(integral_net, IntegralNet):
            found = type(integral_net).__name__
            raise ValueError(
                f"grad_net=explicit needs an IntegralNet, not {found}; use grad_net=graph for other modules"
            )
        self._partitions = tuple(_partitions(subset) for subset in range(2 ** max(1, len(self.axes))))

    def derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        net = cast(IntegralNet, self.integral_net)
        if not net.plain:
            return forward_mode(self, x, tangents, condition)
        layers = [(layer.weight, layer.bias) for layer in cast(list[nn.Linear], [*net.hidden, net.output])]
        with torch.autocast(x.device.type, enabled=False):
            encoded = net.encoding.jet(x, tangents)
            assert encoded[0] is not None
            streams = [
                net.first(encoded[0], condition),
                *(None if stream is None else F.linear(stream, layers[0][0]) for stream in encoded[1:]),
            ]
        if len(streams) == 2 and autograd_alone(x.device) and all(bias is not None for _, bias in layers[1:-1]):
            h, tangent = torch.broadcast_tensors(*cast(list[Tensor], streams))
            flat = (s.reshape(-1, s.shape[-1]) for s in (h, tangent))
            inner = [p for layer in layers[1:-1] for p in layer]
            out = _FirstDerivative.apply(self, *flat, layers[-1][0], *inner)
            return out.reshape(*h.shape[:-1], net.out_features)
        return self.propagate(streams, layers[1:])

    def propagate(self, streams: Streams, layers: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Return the derivative along all tangents, from the streams in front of the first nonlinearity.

        ``layers`` are weight and bias of what follows it; the last bias has no part in a derivative.
        """
        activation = cast(IntegralNet, self.integral_net).activation
        for weight, bias in layers[:-1]:
            streams = _activated(activation, streams, range(len(streams)), self._partitions)
            value = cast(Tensor, streams[0])
            streams = [
                F.linear(value, weight, bias),
                *(None if s is None else F.linear(s, weight) for s in streams[1:]),
            ]
        (last,) = _activated(activation, streams, [len(streams) - 1], self._partitions)
        value, weight = cast(Tensor, streams[0]), layers[-1][0]
        return value.new_zeros(*value.shape[:-1], len(weight)) if last is None else F.linear(last, weight)

    def jacobian(self, x: Tensor) -> Tensor | None:
        """Return ∂Ψ/∂θ at every point, x (M, D) → (M, C, P), where ``weighted_jacobian`` can."""
        outputs = cast(IntegralNet, self.integral_net).out_features
        rows = torch.eye(outputs, dtype=x.dtype, device=x.device)
        blocks = [self.weighted_jacobian(x, row.expand(len(x), -1)) for row in rows]
        found = [block for block in blocks if block is not None]
        return torch.stack(found, 1) if len(found) == outputs else None

    def weighted_jacobian(self, x: Tensor, weights: Tensor) -> Tensor | None:
        """Return ∂(weights·Ψ)/∂θ at every point, x (M, D) and weights (M, C) → (M, P) in the order of ``parameters()``.

        One backward pass gives the gradients of all points by what every layer puts out; that by a layer's weight is
        their product with what it takes in, summed over the streams. None where Φ is not what its weights say, or has
        others than those of its layers.
        """
        net = cast(IntegralNet, self.integral_net)
        layers = cast(list[nn.Linear], [*net.hidden, net.output])
        of_layers = [p for layer in layers for p in layer.parameters()]
        if not net.plain or [id(p) for p in self.parameters()] != [id(p) for p in of_layers]:
            return None
        out = x.new_zeros(len(x), sum(p.numel() for p in of_layers))
        for rows in _chunks(x):
            self._jacobian(x[rows], weights[rows], layers, out[rows])
        return out

    @torch.enable_grad()
    def _jacobian(self, x: Tensor, weights: Tensor, layers: Sequence[nn.Linear], out: Tensor) -> None:
        """Write ∂(weights·Ψ)/∂θ at the points of a chunk into ``out``."""
        net = cast(IntegralNet, self.integral_net)
        basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        streams = net.encoding.jet(x, [basis[axis] for axis in self.axes])
        passed: list[tuple[Streams, Streams]] = []  # what every hidden layer takes in and puts out
        for layer in layers[:-1]:
            after = [None if s is None else F.linear(s, layer.weight) for s in streams]
            after[0] = cast(Tensor, after[0]) + layer.bias
            passed.append((streams, after))
            streams = _activated(net.activation, after, range(len(after)), self._partitions)
        last, start = streams[-1], 0
        if last is None:
            return
        wanted = [s for _, after in passed for s in after if s is not None]
        weighted = (F.linear(last, layers[-1].weight) * weights).sum()
        slopes = iter(torch.autograd.grad(weighted, wanted, materialize_grads=True))
        for before, _ in passed:
            pairs = [(a, next(slopes)) for a in before if a is not None]
            a, g = (torch.stack(part, -1).detach() for part in zip(*pairs, strict=True))
            stop = start + g.shape[1] * a.shape[1]
            out[:, start:stop] = (g @ a.mT).flatten(1)
            out[:, stop : stop + g.shape[1]] = g[..., 0]
            start = stop + g.shape[1]
        out[:, start:] = (weights[..., None] * last.detach()[:, None]).flatten(1)


def autograd_alone(device: torch.device) -> bool:
    """Whether autograd, and neither a compiler nor a function transform nor autocast, looks at what is computed."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled(device.type)
        and torch.autograd.forward_ad._current_level < 0
    )


class _FirstDerivative(torch.autograd.Function):
    """W_n ȧ from the first h and ḣ, (P, W) each, in one node of autograd's graph.

    Forward: a = NL(h), ȧ = NL'(h) ⊙ ḣ, then h ← W a + b and ḣ ← W ȧ. Backward, with ∂ for the loss's gradient:
    ∂ḣ = NL'(h) ⊙ ∂ȧ, ∂h = NL'(h) ⊙ ∂a + NL''(h) ⊙ ḣ ⊙ ∂ȧ, and ∂W = ∂hᵀ a + ∂ḣᵀ ȧ of the next layer. What it keeps of a
    layer are a, ȧ, NL'(h) and NL''(h) ⊙ ḣ, which are all that this needs.
    """

    @staticmethod
    def forward(ctx: Any, psi: Explicit, h: Tensor, tangent: Tensor, output: Tensor, *layers: Tensor) -> Tensor:
        jet = cast(IntegralNet, psi.integral_net).activation.jet
        kept, out = [], h.new_empty(len(h), len(output))
        for rows in _chunks(h):
            h_k, tangent_k = h[rows], tangent[rows]
            for weight, bias in zip((*layers[::2], output), (*layers[1::2], None), strict=True):
                a, slope, bend = jet(h_k, 2)
                a_dot, bend = slope * tangent_k, bend.mul_(tangent_k)
                if bias is not None:
                    kept += [a, a_dot, slope, bend]
                    h_k, tangent_k = torch.addmm(bias, a, weight.t()), torch.mm(a_dot, weight.t())
            kept += [a_dot, slope, bend]
            torch.mm(a_dot, output.t(), out=out[rows])
        ctx.psi = psi
        ctx.save_for_backward(h, tangent, output, *layers, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), saved = grads, ctx.saved_tensors
        count = len(ctx.needs_input_grad) - 1
        inputs, kept = saved[:count], list(saved[count:])
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted: leave it to autograd
            wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad[1:], strict=True) if needed]
            output, *inner = inputs[2:]
            out = ctx.psi.propagate(list(inputs[:2]), [*zip(inner[::2], inner[1::2], strict=True), (output, None)])
            found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True, materialize_grads=True))
            return (None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:]))
        h, tangent, output, *layers = inputs
        d_h, d_tangent = torch.empty_like(h), torch.empty_like(tangent)
        d_output, d_layers = torch.zeros_like(output), [torch.zeros_like(p) for p in layers]
        for rows in reversed(_chunks(h)):
            a_dot, slope, bend = kept[-3:]
            del kept[-3:]
            d_output.addmm_(grad[rows].t(), a_dot)
            d_slope = grad[rows] @ output
            d, d_t = bend * d_slope, d_slope.mul_(slope)
            for k in range(len(layers) - 2, -1, -2):
                a, a_dot, slope, bend = kept[-4:]
                del kept[-4:]
                d_layers[k].addmm_(d.t(), a).addmm_(d_t.t(), a_dot)
                d_layers[k + 1] += d.sum(0)
                d_slope = d_t @ layers[k]
                d = torch.mm(d, layers[k]).mul_(slope).addcmul_(d_slope, bend)
                d_t = d_slope.mul_(slope)
            d_h[rows], d_tangent[rows] = d, d_t
        return None, d_h, d_tangent, d_output, *d_layers


def _chunks(points: Tensor) -> list[slice]:
    size = CHUNK if points.device.type == "cpu" else max(1, len(points))
    return [slice(start, start + size) for start in range(0, len(points), size)]


def _activated(activation: Activation, streams: Streams, wanted: Iterable[int], partitions: Partitions) -> Streams:
    """Return the streams ``wanted`` behind the nonlinearity; a stream is numbered by its subset, None is zero."""
    h = cast(Tensor, streams[0])
    jet = activation.jet(h, (len(streams) - 1).bit_count())
    out: Streams = []
    for subset in wanted:
        terms = []
        for partition in partitions[subset]:
            blocks = [streams[block] for block in partition]
            factors = [block for block in blocks if block is not None]
            if len(factors) == len(blocks):
                terms.append(functools.reduce(operator.mul, factors, jet[len(blocks)]))
        out.append(functools.reduce(torch.add, terms) if terms else None)
    return out


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
