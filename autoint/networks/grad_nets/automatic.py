"""Grad networks by automatic differentiation, forward or reverse, of any module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoint.networks.grad_nets.base import AbstractGradNet, Field, normally
from autoint.registry import GRAD_NETS


@GRAD_NETS.register("jvp")
class Jvp(AbstractGradNet):
    """Forward mode by ``torch.func.jvp``, nested for mixed partials; works for any module.

    It is as exact as torch's own forward mode, which has a fault: in torch 2.15 the second derivative through
    ``nn.LayerNorm`` is wrong, without a word. The other builders have it right.
    """

    def derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        return forward_mode(self, x, tangents, condition)


def forward_mode(psi: AbstractGradNet, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
    """Return the mixed derivative of psi's integral network along ``tangents``, whatever that network is."""
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        return normally(lambda *given: forward_mode(psi, *given), x, tangents, condition)
    field = psi._field(condition)
    for tangent in tangents:
        field = _jvp(field, tangent)
    transformed = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    if torch.is_grad_enabled() or (len(tangents) < 2 and not transformed):
        return field(x)
    with torch.enable_grad():  # without it torch's derivatives of silu and others have no derivatives of their own
        out = field(x)
    return out if transformed else out.detach()  # a transform around this would lose its tangents by that


def _jvp(field: Field, tangent: Tensor) -> Field:
    return lambda x: torch.func.jvp(field, (x,), (tangent.expand_as(x).contiguous(),))[1]


@GRAD_NETS.register("double_backward")
class DoubleBackward(AbstractGradNet):
    """Reverse mode by ``autograd.grad(create_graph=True)``, once per output channel; works for any module.

    It needs autograd, so it fails under ``inference_mode``, and ``torch.compile`` cannot differentiate it again.
    """

    compilable = False

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
