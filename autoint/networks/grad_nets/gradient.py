"""The gradient of a network: its value and all first derivatives in one pass, for losses on ∇Φ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.networks.activations import Activation
from autoint.networks.encodings import AbstractEncoding, Identity
from autoint.networks.grad_nets.explicit import autograd_alone
from autoint.networks.layers import Affine, Layered
from autoint.networks.steady import steady

CHUNK = (
    1024  # points at a time on a CPU: half of what the derivative along one tangent takes, as it holds twice as much
)


class Gradient(nn.Module):
    """(Φ(x), ∇Φ_k(x)) in one pass, for one output k: the value, and reverse mode through the layers, written out.

    With h_i = W_i a_{i−1} + U_i z + b_i and a_i = NL(h_i): q_i = NL'(h_i) ⊙ W_{i+1}ᵀ q_{i+1}, ∇Φ = J_γᵀ Σ U_iᵀ q_i. It
    costs as much as two evaluations, where forward mode takes one for every coordinate. Trained, it is one node of
    autograd's graph, made chunk by chunk: the gradient of a loss that has ∂f for Φ and ∂g for ∇Φ is that of ∂f·Φ plus
    the derivative of Φ along ∂g, whose way back are the q_i that are known already.

    Networks that are not layers of this kind are differentiated by autograd.

    Args:
        net: Φ, (…, D) → (…, C).
        output: k, whose gradient is wanted.

    Shapes:
        ``forward(x)``: x (…, D) → Φ (…, C) and ∇Φ_k (…, D); ``hessian(x)``: (…, D, D).
    """

    def __init__(self, net: nn.Module, output: int = 0) -> None:
        super().__init__()
        self.net, self.output = net, output

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return Φ and ∇Φ_k."""
        with steady(self.net):
            if not isinstance(self.net, Layered) or not self.net.plain or self.net.condition is not None:
                return self._by_autograd(x)
            if not autograd_alone(x.device) and torch.is_grad_enabled():
                return self._composed(x)
            z, slopes = _encoded(self.net.encoding, x)
            flat = z.reshape(-1, z.shape[-1])
            layers = self.net.affine()
            shape = [tuple(p is not None for p in layer) for layer in layers]
            parameters = [p for layer in layers for p in layer if p is not None]
            value, back = _ValueAndGradient.apply(
                self.net.activation, self.output, shape, torch.is_grad_enabled(), flat, *parameters
            )
            return value.reshape(*x.shape[:-1], value.shape[-1]), _pulled(back.reshape(z.shape), slopes)

    def hessian(self, x: Tensor) -> Tensor:
        """Return ∂²Φ_k/∂x_i∂x_j, (…, D, D): forward mode over the gradient, a pass for every coordinate."""
        with steady(self.net), torch.enable_grad():
            basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            layered = isinstance(self.net, Layered) and self.net.plain and self.net.condition is None
            field = self._composed if layered else self._transformed
            columns = [torch.func.jvp(lambda x: field(x)[1], (x,), (e.expand_as(x).contiguous(),))[1] for e in basis]
        return torch.stack(columns, dim=-1)

    def _composed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same by torch's own operations, which can be differentiated and transformed further."""
        net = cast(Layered, self.net)
        z, slopes = _encoded(net.encoding, x)
        value, back = propagate(net.activation, self.output, net.affine(), z)
        return value, _pulled(back, slopes)

    def _by_autograd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            value = self.net(at)
            (out,) = torch.autograd.grad(value[..., self.output].sum(), at, create_graph=keep, materialize_grads=True)
        return (value, out) if keep else (value.detach(), out.detach())

    def _transformed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def summed(x: Tensor) -> tuple[Tensor, Tensor]:
            value = self.net(x)
            return value[..., self.output].sum(), value

        back, value = torch.func.grad(summed, has_aux=True)(x)
        return value, back


def gradient(net: nn.Module, output: int = 0) -> Gradient:
    """Return what evaluates (Φ(x), ∇Φ(x)) in one pass, over the parameters of ``net``; it can be trained.

    Args:
        net: the network, (…, D) → (…, C).
        output: of which of the C outputs the gradient is wanted.

    Raises:
        ValueError: for an output that ``net`` does not have, and at an evaluation where it is no function of x alone.

    Examples:
        >>> import autoint, torch
        >>> net = autoint.IntegralNet(in_features=3, out_features=1)
        >>> value, slope = gradient(net)(torch.zeros(4, 3))
        >>> value.shape, slope.shape
        (torch.Size([4, 1]), torch.Size([4, 3]))
    """
    features = getattr(net, "out_features", None)
    if output < 0 or (isinstance(features, int) and output >= features):
        raise ValueError(f"output={output} is out of range for a network with {features} outputs")
    return Gradient(net, output)


def curvature(slope: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and Gaussian curvature of the level sets of f: R³ → R, from ∇f (…, 3) and its Hessian (…, 3, 3).

    H = (|∇f|² tr Hf − ∇fᵀ Hf ∇f) / (2 |∇f|³), positive on a sphere whose f grows outwards, and
    K = ∇fᵀ adj(Hf) ∇f / |∇f|⁴ (R. Goldman, Curvature formulas for implicit curves and surfaces, 2005, Sec. 4).

    Examples:
        >>> x = torch.tensor([0.0, 0.0, 2.0])  # f = |x|: its Hessian is (1 − n nᵀ)/|x|
        >>> mean, gauss = curvature(x / 2, torch.diag(torch.tensor([0.5, 0.5, 0.0])))
        >>> float(mean), float(gauss)
        (0.5, 0.25)
    """
    norm = slope.norm(dim=-1)
    trace = hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
    bent = (slope[..., None, :] @ hessian @ slope[..., :, None])[..., 0, 0]
    rows = [hessian[..., i, :] for i in range(3)]
    adjugate = torch.stack([torch.linalg.cross(rows[(i + 1) % 3], rows[(i + 2) % 3]) for i in range(3)], dim=-2)
    gauss = (slope[..., None, :] @ adjugate @ slope[..., :, None])[..., 0, 0] / norm**4
    return (norm.square() * trace - bent) / (2 * norm**3), gauss


def _encoded(encoding: AbstractEncoding, x: Tensor) -> tuple[Tensor, list[Tensor] | None]:
    """Return γ(x) and ∂γ/∂x_i, or None where γ is the identity."""
    if isinstance(encoding, Identity):
        return x, None
    basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    jets = [encoding.jet(x, [e]) for e in basis]
    z = cast(Tensor, jets[0][0])
    return z, [torch.zeros_like(z) if jet[1] is None else jet[1].expand_as(z) for jet in jets]


def _pulled(back: Tensor, slopes: Sequence[Tensor] | None) -> Tensor:
    """Return the gradient by x from that by z = γ(x)."""
    return back if slopes is None else torch.stack([(back * slope).sum(-1) for slope in slopes], dim=-1)


def propagate(activation: Activation, output: int, layers: Sequence[Affine], z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value (…, C) and the gradient of one output by z (…, E), by operations that autograd follows."""
    a, slopes = z, []
    for layer in layers[:-1]:
        a, slope = activation.jet(_affine(layer, a, z), 1)[:2]
        slopes.append(slope)
    last = layers[-1]
    assert last.weight is not None
    p, back = last.weight[output].expand_as(a), torch.zeros_like(z)
    if last.skip is not None:
        back = back + last.skip[output]
    for layer, slope in zip(reversed(layers[:-1]), reversed(slopes), strict=True):
        q = p * slope
        back = back if layer.skip is None else back + q @ layer.skip
        p = q if layer.weight is None else q @ layer.weight
    return _affine(last, a, z), back


def _affine(layer: Affine, a: Tensor, z: Tensor) -> Tensor:
    if layer.weight is None:
        assert layer.skip is not None
        return F.linear(z, layer.skip, layer.bias)
    h = F.linear(a, layer.weight, layer.bias)
    return h if layer.skip is None else h + F.linear(z, layer.skip)


def _affine_rows(layer: Affine, a: Tensor, z: Tensor) -> Tensor:
    """Return the same of rows (P, ·), which nobody differentiates, in a pass less."""
    if layer.weight is None or layer.skip is None:
        return _affine(layer, a, z)
    return F.linear(a, layer.weight, layer.bias).addmm_(z, layer.skip.t())


def _narrow(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the product of a few rows and many columns, which from right to left takes several times as long."""
    return rows.contiguous() @ columns


def _chunks(points: Tensor) -> list[slice]:
    size = CHUNK if points.device.type == "cpu" else max(1, len(points))
    return [slice(start, start + size) for start in range(0, len(points), size)]


def _layers(shape: Sequence[tuple[bool, ...]], tensors: Sequence[Tensor]) -> list[Affine]:
    found = iter(tensors)
    return [Affine(*(next(found) if there else None for there in layer)) for layer in shape]


class _ValueAndGradient(torch.autograd.Function):
    """The value (P, C), and the gradient of one output by z (P, E), in one node of autograd's graph.

    Backward, with ∂f and ∂g for the loss's gradients by the two: along ∂g the tangents are ḣ_i = W_i ȧ_{i−1} + U_i ∂g
    and ȧ_i = NL'(h_i) ⊙ ḣ_i; with p_i = W_{i+1}ᵀ q_{i+1}, then
    ∂h_i = NL'(h_i) ⊙ W_{i+1}ᵀ ∂h_{i+1} + NL''(h_i) ⊙ p_i ⊙ ḣ_i, and
    ∂W_i = ∂h_i a_{i−1}ᵀ + q_i ȧ_{i−1}ᵀ. Kept of a layer are a, NL'(h) and p, and NL''(h) where it is no formula of the
    first two; of the last layer p is the same for all points.
    """

    @staticmethod
    def forward(
        ctx: Any, activation: Activation, output: int, shape: Any, keep: bool, z: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        layers = _layers(shape, parameters)
        last, kept, order = layers[-1], [], 2 if activation.bend is None else 1
        assert last.weight is not None
        value, back = z.new_empty(len(z), len(last.weight)), torch.zeros_like(z)
        for rows in _chunks(z):
            a = z_k = z[rows]
            states = []
            for layer in layers[:-1]:
                a, *slopes = activation.jet(_affine_rows(layer, a, z_k), order)
                states.append((a, slopes))
            value[rows] = _affine_rows(last, a, z_k)
            p, back_k = last.weight[output], back[rows]
            if last.skip is not None:
                back_k += last.skip[output]
            for layer, (a, slopes) in zip(reversed(layers[:-1]), reversed(states), strict=True):
                kept += [a, p, *slopes] if keep else []
                q = slopes[0] * p
                if layer.skip is not None:
                    back_k += _narrow(layer.skip.t(), q.t()).t()
                p = q if layer.weight is None else q @ layer.weight
        ctx.activation, ctx.output, ctx.shape = activation, output, shape
        ctx.save_for_backward(z, *parameters, *kept)
        return value, back

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        z, *saved = ctx.saved_tensors
        count = len(ctx.needs_input_grad) - 5
        parameters, kept = saved[:count], saved[count:]
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted: leave it to autograd
            return None, None, None, None, *_again(ctx, z, parameters, grads)
        layers, needs_z = _layers(ctx.shape, parameters), ctx.needs_input_grad[4]
        sums = _layers(ctx.shape, [torch.zeros_like(p) for p in parameters])
        d_z = torch.zeros_like(z) if needs_z else None
        each, hidden = 4 if ctx.activation.bend is None else 3, len(layers) - 1
        states = [kept[k : k + each] for k in range(0, len(kept), each)]
        for k, rows in enumerate(_chunks(z)):
            own = states[k * hidden : (k + 1) * hidden][::-1]
            _backward(ctx.activation, ctx.output, layers, sums, own, z[rows], [g[rows] for g in grads], d_z, rows)
        return None, None, None, None, d_z, *(p for layer in sums for p in layer if p is not None)


def _again(ctx: Any, z: Tensor, parameters: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients by z and the parameters, with a graph of their own."""
    inputs, needed = [z, *parameters], ctx.needs_input_grad[4:]
    outputs = propagate(ctx.activation, ctx.output, _layers(ctx.shape, parameters), z)
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    made = torch.autograd.grad(outputs, wanted, grads, create_graph=True, materialize_grads=True)
    found = iter(made)
    return [next(found) if need else None for need in needed]


def _backward(
    activation: Activation,
    output: int,
    layers: Sequence[Affine],
    sums: Sequence[Affine],
    states: Sequence[Sequence[Tensor]],
    z: Tensor,
    grads: Sequence[Tensor],
    d_z: Tensor | None,
    rows: slice,
) -> None:
    """Add the gradients of a chunk to ``sums`` and ``d_z``."""
    d_value, along = grads
    a_dots, bends, a_dot, factor = [], [], along, 1.0
    for layer, (a, p, slope, *known) in zip(layers[:-1], states, strict=True):
        h_dot = _affine_rows(Affine(layer.weight, layer.skip, None), a_dot, along)
        if activation.bend is None:
            bend = known[0] * p
        else:
            factor, bend = activation.bend(a, slope)
            bend = bend * p if bend is a else bend.mul_(p)
        bends.append(bend.mul_(h_dot))
        a_dot = h_dot.mul_(slope)
        a_dots.append(a_dot)
    d, q = d_value / factor, None  # and so are all d, which saves the factor's own pass in every layer
    for k in range(len(layers) - 1, -1, -1):
        layer, total = layers[k], sums[k]
        if total.bias is not None:
            total.bias.add_(d.sum(0), alpha=factor)
        if total.skip is not None:
            total.skip.add_(_narrow(z.t(), d).t(), alpha=factor)
            total.skip.add_(_narrow(along.t(), q).t()) if q is not None else total.skip[output].add_(along.sum(0))
            if d_z is not None:
                d_z[rows].addmm_(d, cast(Tensor, layer.skip), alpha=factor)
        if total.weight is not None:
            total.weight.addmm_(d.t(), states[k - 1][0], alpha=factor)
            a_dot = a_dots[k - 1]
            total.weight.addmm_(q.t(), a_dot) if q is not None else total.weight[output].add_(a_dot.sum(0))
            _, p, slope, *_ = states[k - 1]
            q = slope * p
            d = bends[k - 1].addcmul_(d @ cast(Tensor, layer.weight), slope)
