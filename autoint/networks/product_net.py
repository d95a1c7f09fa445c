"""Sums of products of networks of one coordinate each, for integrals over many axes in two evaluations."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.networks.grad_nets.explicit import Explicit
from autoint.networks.integral_net import IntegralNet


class ProductNet(nn.Module):
    """Φ_θ(x, p) = W·(Π_i Φ_i(x_i, p)), with Φ_ki(x_i, p) = x_i + N_ki(x_i, p) for k = 1…K.

    ∂ⁿΦ/∂x_0…∂x_{n−1} = W·Π_i ψ_i with ψ_ki = ∂Φ_ki/∂x_i = 1 + ∂N_ki/∂x_i, and its integral over a box is
    W·Π_i (Φ_i(b_i) − Φ_i(a_i)): two evaluations, whatever n is, where 2ⁿ corners of one network would be too many. The
    x_i is there for factors near 1 at the start, as a product of many small ones would have no gradient.

    Args:
        factors: the n networks N_i, of 1 + m inputs and K outputs each.
        out_features: C.

    Shapes:
        ``forward(x)``: (…, n + m) → (…, C), and the same for its derivatives and integrals.

    Examples:
        >>> net = ProductNet([IntegralNet(1, 4, hidden_features=8) for _ in range(8)])
        >>> net.box_integral(torch.zeros(8), torch.ones(8), range(8)).shape
        torch.Size([1])
    """

    def __init__(self, factors: Sequence[IntegralNet], out_features: int = 1) -> None:
        super().__init__()
        first = factors[0]
        self.hidden_features, self.num_products = first.hidden_features, first.out_features
        self.in_features, self.out_features = len(factors) - 1 + first.in_features, out_features
        self.factors = nn.ModuleList(factors)
        self._slopes = [Explicit(factor, (0,)) for factor in factors]  # not registered: they own nothing
        self.output = nn.Linear(self.num_products, out_features, bias=False).to(first.output.weight)
        nn.init.constant_(self.output.weight, 1 / self.num_products)

    factors: nn.ModuleList

    @property
    def plain(self) -> bool:
        """Whether every factor is."""
        return all(cast(IntegralNet, factor).plain for factor in self.factors)

    def forward(self, x: Tensor) -> Tensor:
        """Return Φ(x)."""
        return self.derivative(x, ())

    def derivative(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the mixed derivative by ``axes``."""
        return self.output(_product([self._factor(i, x, i in axes) for i in range(len(self.factors))]))

    def box_integral(self, lower: Tensor, upper: Tensor, axes: Sequence[int], by: Sequence[int] = ()) -> Tensor:
        """Return ∫Ψ for the derivative Ψ by ``axes``, and by others on which the bounds are the same."""
        return self.output(_product(self._sides(lower, upper, axes, by)))

    @torch.no_grad()
    def rounding(self, lower: Tensor, upper: Tensor, axes: Sequence[int], by: Sequence[int] = ()) -> Tensor:
        """Return the standard error that rounding makes in ``box_integral``."""
        eps, sides = torch.finfo(lower.dtype).eps, [side.abs() for side in self._sides(lower, upper, axes, by)]
        sizes = []
        for i, side in enumerate(sides):
            factor = cast(IntegralNet, self.factors[i])
            ends = (x[..., i, None].abs() + factor.magnitude(self._inputs(i, x)) for x in (lower, upper))
            sizes.append(side + eps * 2**0.5 * (torch.maximum(*ends) if i in axes else side))
        return F.linear(_product(sizes) - (1 - eps) * _product(sides), self.output.weight.abs())

    def jacobian(self, x: Tensor) -> Tensor | None:
        """Return ∂Ψ/∂θ at every point, x (M, n + m) → (M, C, P) in the order of ``parameters()``; None as of its parts.

        That by a factor's weights is one of this factor, weighted by the product of all others.
        """
        ones = [self._factor(i, x, True).detach() for i in range(len(self.factors))]
        blocks: list[Tensor] = []
        for i, slope in enumerate(self._slopes):
            others = _product([torch.ones_like(ones[i]), *ones[:i], *ones[i + 1 :]])
            z, of_output = self._inputs(i, x), self.output.weight.detach()
            by_outputs = [slope.weighted_jacobian(z, others * row) for row in of_output]
            found = [block for block in by_outputs if block is not None]
            if len(found) < len(by_outputs):
                return None
            blocks.append(torch.stack(found, 1))
        whole = _product(ones)
        by_output = whole.new_zeros(len(x), *2 * (len(self.output.weight),), whole.shape[1])
        by_output.diagonal(dim1=1, dim2=2).copy_(whole[..., None].expand(*whole.shape, len(self.output.weight)))
        return torch.cat([*blocks, by_output.flatten(2)], -1)

    def _sides(self, lower: Tensor, upper: Tensor, axes: Sequence[int], by: Sequence[int]) -> list[Tensor]:
        """Return Φ_i(b_i) − Φ_i(a_i), and what there is on the axes that are not integrated, (…, K) each."""
        ends = [self._factor(i, upper, i in by) for i in range(len(self.factors))]
        return [end - self._factor(i, lower, False) if i in axes else end for i, end in enumerate(ends)]

    def _factor(self, i: int, x: Tensor, derivative: bool) -> Tensor:
        """Return Φ_i or ψ_i, (…, K)."""
        z = self._inputs(i, x)
        return 1.0 + self._slopes[i](z) if derivative else z[..., :1] + self.factors[i](z)

    def _inputs(self, i: int, x: Tensor) -> Tensor:
        return torch.cat([x[..., i : i + 1], x[..., len(self.factors) :]], -1)


def _product(factors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(operator.mul, factors)


class ProductGradNet(nn.Module):
    """Ψ of a ``ProductNet``, over the same parameters: its derivative by the first n coordinates."""

    def __init__(self, integral_net: ProductNet) -> None:
        super().__init__()
        self.integral_net = integral_net

    integral_net: ProductNet

    def forward(self, x: Tensor) -> Tensor:
        """Return Ψ(x)."""
        return self.integral_net.derivative(x, range(len(self.integral_net.factors)))

    def jacobian(self, x: Tensor) -> Tensor | None:
        """Return ∂Ψ/∂θ, as ``ProductNet``."""
        return self.integral_net.jacobian(x)
