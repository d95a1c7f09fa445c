from itertools import pairwise

import pytest
import torch

from autoint import integrate
from autoint.grad_nets import grad_net
from tests import reference
from tests.cases import every_network, network, points, relative_error


@every_network
def test_two_evaluations_are_the_integral_of_the_grad_net(activation, encoding):
    net = network(activation, encoding, in_features=1)
    psi = grad_net(net, builder="jvp")
    smooth = activation != "relu"
    for a, b in ((-0.3, 0.2), (0.2, -0.3), (0.4, 0.4)):
        a, b = (torch.tensor([v], dtype=torch.float64) for v in (a, b))
        ours = integrate(net, a, b)
        if smooth:
            cuts = a + (b - a) * torch.linspace(0, 1, 5, dtype=torch.float64)  # sine, ω₀ = 30, oscillates fast
            pieces = pairwise(cuts)
            truth = sum(reference.mean_over(lambda t: psi(t[:, None]), p, q) * (q - p) for p, q in pieces)
            scale = max(1.0, float(net(torch.stack([a, b])).detach().abs().max()))
            assert float((ours - truth).detach().abs().max()) <= 1e-10 * scale
        assert torch.equal(ours, -integrate(net, b, a))
        assert (a != b).any() or torch.equal(ours, torch.zeros(3, dtype=torch.float64))


def test_relu_integrates_exactly_between_kinks():
    net = network("relu", "identity", in_features=1)
    t = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    means = grad_net(net, builder="explicit")(0.5 * (t[:-1] + t[1:])[:, None])
    riemann = (means * t.diff()[:, None]).sum(0)
    whole = integrate(net, t[:1], t[-1:])
    assert relative_error(whole, riemann) < 1e-5


def test_corners_in_two_dimensions_and_additivity():
    net = network("swish", "normalized_positional")
    lower, upper = points(6), points(6, seed=9)
    whole = integrate(net, lower, upper)
    psi = grad_net(net, axes=(0, 1), builder="jvp")
    a, b = lower[0], upper[0]

    def over_second_axis(x):
        return reference.mean_over(lambda t: psi(torch.stack([x.expand_as(t), t], -1)), a[1], b[1])

    truth = reference.mean_over(lambda s: torch.stack([over_second_axis(x) for x in s]), a[0], b[0]) * (b - a).prod()
    assert torch.allclose(whole[0], truth, atol=1e-10)
    middle = torch.stack([0.3 * lower[:, 0] + 0.7 * upper[:, 0], upper[:, 1]], -1)
    restart = torch.stack([middle[:, 0], lower[:, 1]], -1)
    assert torch.allclose(whole, integrate(net, lower, middle) + integrate(net, restart, upper), atol=1e-12)


def test_mixed_fixed_and_integrated_axes():
    net = network("sine", "identity")
    lower = torch.tensor([-0.5, 0.25], dtype=torch.float64)
    upper = torch.tensor([0.5, 0.25], dtype=torch.float64)
    assert torch.equal(integrate(net, lower, upper, axes=(0,)), net(upper) - net(lower))


@pytest.mark.parametrize(
    ("lower", "upper", "axes", "words"),
    [
        (torch.zeros(2), torch.ones(3), None, "must be the same"),
        (torch.zeros(2), torch.ones(2), (0,), "differ on the axes"),
        (torch.zeros(2), torch.ones(2), (0, 2), "from 0 to 1"),
        (torch.zeros(2), torch.ones(2), (0, 0), "different numbers"),
    ],
)
def test_wrong_bounds_are_refused(lower, upper, axes, words):
    with pytest.raises(ValueError, match=words):
        integrate(network("swish", "identity"), lower.double(), upper.double(), axes)
