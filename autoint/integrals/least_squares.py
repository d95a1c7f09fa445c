"""A fit of Ψ as least squares: the points, the residuals with their Jacobian, and networks that grow."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from autoint.integrals.antiderivatives import Antiderivative
from autoint.integrals.base import Corners
from autoint.integrals.domains import Affine, Change
from autoint.integrals.integrands import Function, values
from autoint.integrals.levenberg_marquardt import Linearization
from autoint.networks.grad_nets.automatic import DoubleBackward
from autoint.networks.grad_nets.explicit import Explicit
from autoint.networks.integral_net import IntegralNet
from autoint.networks.product_net import ProductGradNet, ProductNet
from autoint.registry import at_least_one

MAX_JACOBIAN = 2**28  # numbers, 2 GiB in float64
MOST_POINTS = 2**22
MAX_VALUE = 1e70
NO_PARAMETERS: tuple[Corners, Corners] = ((), ())


def chebyshev_points(count: int, features: int, seed: int = 0) -> Tensor:
    """Return points u = −cos(πv) in [−1, 1]ⁿ, (count, n): dense at the faces, where polynomials need it.

    For n = 1 the v are the middles of equal parts (Chebyshev nodes), above that a scrambled Sobol sequence.
    """
    if features == 1:
        v = (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) / count
    else:
        v = torch.quasirandom.SobolEngine(features, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return -torch.cos(torch.pi * v)


def sampled(
    function: Function, z: Tensor, changes: Sequence[Change], parameters: tuple[Corners, Corners] = NO_PARAMETERS
) -> tuple[Tensor, bool]:
    """Return g = f(T(u), p)·Π T′(u), (P, C), and whether f has no axis C; z = (u, p scaled to [−1, 1]), (P, n + m)."""
    n = len(changes)
    x = torch.stack([change.x(z[:, k]) for k, change in enumerate(changes)], -1)
    slopes = torch.stack([change.slope(z[:, k]) for k, change in enumerate(changes)], -1)
    low, high = torch.tensor([list(end) for end in parameters], dtype=torch.float64)
    p = low + (z[:, n:] + 1) / 2 * (high - low) if len(low) else None
    y, squeeze = values(function, x, p)
    return y * slopes.prod(-1, keepdim=True), squeeze


def samples(
    function: Function,
    changes: Sequence[Change],
    parameters: tuple[Corners, Corners] = NO_PARAMETERS,
    points: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, bool]:
    """Return what a fit is made from: z (M, n + m) in the unit box, g (M, C) there, and whether f has no axis for C.

    ``points`` is M: by default 512 for one input and 2048 for more, enough to see between them, few enough to be fast.
    """
    at_least_one(points=points)
    if points is not None and points > MOST_POINTS:
        raise ValueError(f"points={points}: at most {MOST_POINTS} go into a second-order method")
    inputs = len(changes) + len(parameters[0])
    z = chebyshev_points(points or (512 if inputs == 1 else 2048), inputs, seed)
    y, squeeze = sampled(function, z, changes, parameters)
    most = float(y.abs().max())
    if not (most == 0 or MAX_VALUE**-1 < most < MAX_VALUE):
        raise ValueError(
            f"the function reaches {most:.1e}, whose fourth power float64 does not hold; multiply it by a constant"
            + (", or give bounds near to where it is larger" if most < 1 else "")
        )
    again, _ = sampled(function, z[:16], changes, parameters)
    if not torch.allclose(y[:16], again, rtol=1e-4, atol=1e-6 * float(y.abs().max())):
        raise ValueError("the function gives other values when called again at the same points; make it deterministic")
    return z, y, squeeze


def affine(lower: Corners, upper: Corners) -> list[Affine]:
    """Return the changes of variables of a plain box."""
    return [Affine(a, b) for a, b in zip(lower, upper, strict=True)]


class LeastSquares:
    """The fit of Ψ to samples of a function as residuals r_i = Ψ(z_i) − g_i/rms g, with their Jacobian.

    Args:
        model: its ``scale`` is set to the root mean square of the samples, unless ``scaled``.
        z: where in the unit box, (M, n + m).
        y: g there, (M, C).
        scaled: whether the model has its scale already.
    """

    def __init__(self, model: Antiderivative, z: Tensor, y: Tensor, scaled: bool = False) -> None:
        if isinstance(model.grad_net, DoubleBackward):
            raise ValueError(
                "grad_net=double_backward does not bear the function transforms by which Levenberg-Marquardt takes its "
                "Jacobian; use grad_net=explicit, graph or jvp"
            )
        self.psi, self.z = model.grad_net, z
        self.parameters = dict(self.psi.named_parameters())
        size = y.numel() * sum(p.numel() for p in self.parameters.values())
        if size > MAX_JACOBIAN:
            raise ValueError(
                f"{y.numel()} samples and {size // y.numel()} parameters make a Jacobian of {size:.1e} numbers, "
                f"{MAX_JACOBIAN:.1e} are allowed; take a smaller network or fewer points"
            )
        if not scaled:
            rms = y.square().mean().sqrt()
            model.scale.copy_(torch.where(rms > 0, rms, 1.0))
        self.y = y / model.scale

    def residuals(self) -> Tensor:
        """Return the residuals, (M·C,)."""
        return (self.psi(self.z) - self.y).flatten()

    def linearization(self) -> Linearization:
        """Return the residuals, and a function that gives their Jacobian by the parameters, (M·C, P)."""
        return self.residuals(), self._jacobian

    def _jacobian(self) -> Tensor:
        written_out = self.psi.jacobian(self.z) if isinstance(self.psi, (Explicit, ProductGradNet)) else None
        if written_out is not None:
            return written_out.flatten(0, 1)

        def at_one_point(parameters: Mapping[str, Tensor], z: Tensor) -> Tensor:
            return functional_call(self.psi, dict(parameters), (z[None],))[0]

        detached = {name: p.detach() for name, p in self.parameters.items()}
        blocks = vmap(jacrev(at_one_point), in_dims=(None, 0))(detached, self.z)
        return torch.cat([block.flatten(2) for block in blocks.values()], dim=-1).flatten(0, 1)


def wider(net: IntegralNet | ProductNet, seed: int) -> IntegralNet | ProductNet:
    """Return the same function as a network half as wide again: what is new leads nowhere until it is trained.

    Of products there are half as many again, too.
    """
    hidden = 4 * math.ceil(3 * net.hidden_features / 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(net, IntegralNet):
            return _widened(net, hidden, net.out_features)
        count = math.ceil(1.5 * net.num_products)
        factors = [_widened(cast(IntegralNet, factor), hidden, count) for factor in net.factors]
        wide = ProductNet(factors, net.out_features)
        with torch.no_grad():
            wide.output.weight.zero_()[:, : net.num_products] = net.output.weight
    return wide


def _widened(net: IntegralNet, hidden_features: int, out_features: int) -> IntegralNet:
    activation, encoding = copy.deepcopy(net.activation), copy.deepcopy(net.encoding)
    layers = len(net.hidden)
    wide = IntegralNet(net.in_features, out_features, hidden_features, layers, activation, encoding)
    wide.to(net.output.weight)
    with torch.no_grad():
        for new, old in zip([*wide.hidden, wide.output], [*net.hidden, net.output], strict=True):
            new, old = cast(nn.Linear, new), cast(nn.Linear, old)
            rows, columns = old.weight.shape
            if columns < new.weight.shape[1]:
                new.weight[:rows, columns:] = 0.0
            new.weight[:rows, :columns] = old.weight
            if old.bias is not None:
                new.bias[:rows] = old.bias
    return wide
