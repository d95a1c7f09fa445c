"""Sums of products: derivatives, integrals and Jacobians are those of autograd and of corners."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from autoint import IntegralNet, integrate
from autoint.networks.product_net import ProductGradNet, ProductNet


def network(axes, parameters, outputs, **given):
    torch.manual_seed(0)
    return ProductNet([IntegralNet(1 + parameters, 3, 4, 2, **given) for _ in range(axes)], outputs).double()


CASES = [(3, 0, 1), (2, 1, 2), (1, 0, 1)]


@pytest.mark.parametrize(("axes", "parameters", "outputs"), CASES)
def test_derivatives_and_integrals(axes, parameters, outputs):
    net = network(axes, parameters, outputs)
    x = torch.rand(4, axes + parameters).double().requires_grad_()
    for c in range(outputs):
        y = net(x)[:, c]
        for axis in range(axes):
            y = torch.autograd.grad(y.sum(), x, create_graph=True)[0][:, axis]
        assert torch.allclose(ProductGradNet(net)(x)[:, c], y, atol=1e-12)
    a, b = x.detach(), torch.cat([torch.rand(4, axes).double(), x.detach()[:, axes:]], -1)

    class Corners(nn.Module):
        def forward(self, x):
            return net(x)

    ours = integrate(net, a, b, range(axes))
    assert torch.allclose(ours, integrate(Corners(), a, b, range(axes)), atol=1e-12)
    assert (net.rounding(a, b, range(axes)) < 1e-14).all()
    last = integrate(net, a, torch.cat([a[:, :-1], b[:, -1:]], -1), axes=(axes + parameters - 1,))
    assert last.shape == (4, outputs)


@pytest.mark.parametrize(("axes", "parameters", "outputs"), CASES)
def test_the_jacobian_is_that_of_autograd(axes, parameters, outputs):
    psi = ProductGradNet(network(axes, parameters, outputs, activation="sine"))
    x = torch.rand(5, axes + parameters).double()

    def at_one_point(weights, z):
        return functional_call(psi, weights, (z[None],))[0]

    weights = {name: p.detach() for name, p in psi.named_parameters()}
    blocks = vmap(jacrev(at_one_point), in_dims=(None, 0))(weights, x)
    assert torch.allclose(psi.jacobian(x), torch.cat([b.flatten(2) for b in blocks.values()], -1), atol=1e-11)
    psi.integral_net.factors[0].hidden[0].register_forward_hook(lambda module, given, out: 2 * out)
    assert psi.jacobian(x) is None
