import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch

from autoint import integrate
from autoint.integrals import definite as integrals
from autoint.networks.activations import Activation, he_init
from autoint.networks.grad_nets import grad_net
from autoint.networks.integral_net import IntegralNet
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
            walls = torch.arange(-32, 33, dtype=torch.float64) / 32  # of the grids' cells, where Ψ jumps
            within = walls[(walls > torch.minimum(a, b)) & (walls < torch.maximum(a, b))]
            pieces = pairwise(torch.cat([a, within if b > a else within.flip(0), b]))
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


class Plain(torch.nn.Module):
    """A network that does not say how wide it is."""

    def forward(self, x):
        return x.square()


@pytest.mark.parametrize(("net", "width"), [(IntegralNet(2, 1, 8, 2).double(), 8), (Plain(), 64)])
def test_boxes_are_taken_in_blocks_of_so_many_numbers_of_a_layer(net, width, monkeypatch):
    """On a CPU of its own size; what comes out does not depend on it."""
    lower, upper = points(30), points(30, seed=9)
    whole, seen = integrate(net, lower, upper, axes=(0, 1)), []
    assert whole.shape == (30, 1 if width == 8 else 2)
    net.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(integrals, "BLOCK", {True: 10 * width, False: 10**6})
    assert torch.allclose(integrate(net, lower, upper, axes=(0, 1)), whole, atol=1e-14)
    assert seen[:12] == [11] * 4 + [11] * 4 + [8] * 4  # once more where beartype draws what it looks at


def test_mixed_fixed_and_integrated_axes():
    net = network("sine", "identity")
    lower = torch.tensor([-0.5, 0.25], dtype=torch.float64)
    upper = torch.tensor([0.5, 0.25], dtype=torch.float64)
    assert torch.equal(integrate(net, lower, upper, axes=(0,)), net(upper) - net(lower))


@every_network
@torch.no_grad()
def test_short_intervals(activation, encoding):
    """Differences keep their relative accuracy; corners keep the absolute one that is documented."""
    net = network(activation, encoding, in_features=1)
    psi, x = grad_net(net), points(4, 1)
    for width in (1e-2, 1e-5, 1e-9, 1e-13):
        lower, upper = x, x + width
        step = upper - lower  # what rounding has left of the width
        ends = zip(lower, upper, strict=True)
        truth = torch.stack([reference.mean_over(lambda t: psi(t[:, None]), a, b, nodes=24) for a, b in ends]) * step
        if activation != "relu":  # whose kinks no quadrature rule likes
            assert relative_error(integrate(net, lower, upper, method="differences"), truth) < 1e-12
        largest = float(torch.maximum(net(lower).abs(), net(upper).abs()).max())
        error = (integrate(net, lower, upper) - integrate(net, lower, upper, method="differences")).abs().max()
        assert float(error) <= 64 * torch.finfo(torch.float64).eps * largest


@pytest.mark.parametrize("features", [1, 2, 3, 6])
def test_both_methods_agree_on_every_number_of_axes(features):
    net = network("swish", "normalized_positional", in_features=features, out_features=2)
    lower, upper = points(4, features), points(3, features, seed=8)[:, None]
    axes = tuple(range(features))
    ours, other = (integrate(net, lower, upper, axes, method) for method in ("corners", "differences"))
    assert ours.shape == (3, 4, 2)
    assert torch.allclose(ours, other, atol=1e-12)
    swapped = integrate(net, upper, lower, axes)
    assert torch.allclose(swapped, (-1) ** features * ours, atol=1e-14)
    assert integrate(net, lower, lower, axes).abs().max() < 1e-15


@pytest.mark.parametrize("features", [2, 3])
def test_fubini(features):
    """One axis after the other: the integral over the first axes is a function whose differences are the whole."""
    net = network("sine", "identity", in_features=features)
    lower, upper = points(5, features), points(5, features, seed=8)
    whole = integrate(net, lower, upper)
    for order in itertools.permutations(range(features)):
        assert torch.allclose(integrate(net, lower, upper, order), whole, atol=1e-13)
    last = torch.arange(features) == features - 1
    at_lower, at_upper = torch.where(last, lower, upper), torch.where(last, upper, lower)
    first = tuple(range(features - 1))
    inner = [integrate(net, a, b, first) for a, b in ((at_upper, upper), (lower, at_lower))]
    assert torch.allclose(inner[0] - inner[1], whole, atol=1e-13)


def test_what_differences_need():
    bare = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="needs an IntegralNet, not Linear"):
        integrate(bare, torch.zeros(1), torch.ones(1), method="differences")
    plain = Activation(torch.tanh, lambda x, order: [torch.tanh(x)], he_init)
    with pytest.raises(ValueError, match="no `difference`"):
        integrate(IntegralNet(1, 1, activation=plain), torch.zeros(1), torch.ones(1), method="differences")
    with pytest.raises(ValueError, match="method='exact' is unknown"):
        integrate(bare, torch.zeros(1), torch.ones(1), method="exact")


@pytest.mark.parametrize(
    ("lower", "upper", "axes", "words"),
    [
        (torch.zeros(2), torch.ones(3), None, "both must be"),
        (torch.zeros(2), torch.ones(2), (0,), "differ on the axes"),
        (torch.zeros(2), torch.ones(2), (0, 2), "from 0 to 1"),
        (torch.zeros(2), torch.ones(2), (0, 0), "different numbers"),
        (torch.zeros(2), torch.ones(2), (), "at least one"),
        (torch.zeros(1), torch.ones(1), None, "for 2 coordinates"),
        (torch.zeros(3, 2), torch.ones(4, 2), None, "broadcast"),
        (torch.zeros(2), torch.ones(1), None, "broadcast"),
    ],
)
def test_wrong_bounds_are_refused(lower, upper, axes, words):
    with pytest.raises(ValueError, match=words):
        integrate(network("swish", "identity"), lower.double(), upper.double(), axes)


@every_network
def test_derivatives_by_the_bounds_where_the_interval_is_empty(activation, encoding):
    """∂/∂b ∫ = Ψ(b) and ∂/∂a ∫ = −Ψ(a), their derivatives too, in both modes; intervals of all kinds in one batch."""
    net = network(activation, encoding, in_features=1, out_features=1)
    psi, x = grad_net(net, builder="jvp"), points(5, 1)
    lower, upper = x, x + torch.tensor([[0.0], [0.0], [1e-3], [-0.2], [0.0]]).double()
    a, b = lower.clone().requires_grad_(), upper.clone().requires_grad_()
    value = integrate(net, a, b, method="differences")
    by_a, by_b = torch.autograd.grad(value.sum(), [a, b], create_graph=True)
    assert relative_error(by_b, psi(upper)) < 1e-9
    assert relative_error(by_a, -psi(lower)) < 1e-9
    one = torch.ones_like(x)
    along = lambda f, p: torch.func.jvp(f, (p,), (one,))[1]  # noqa: E731
    forward = along(lambda q: integrate(net, lower, q, method="differences"), upper)
    assert relative_error(forward, psi(upper)) < 1e-9
    if activation != "relu" and encoding != "grid":  # whose pieces have no second derivative, or one that jumps
        truth = along(psi, upper)
        assert relative_error(torch.autograd.grad(by_b.sum(), b)[0], truth) < 1e-9
        twice = along(lambda p: along(lambda q: integrate(net, lower, q, method="differences"), p), upper)
        assert relative_error(twice, truth) < 1e-9


def test_function_transforms_of_integrals():
    net = network("swish", "normalized_positional", out_features=1)
    a, b = points(5), points(5, seed=9)
    whole = integrate(net, a, b)
    assert torch.allclose(torch.func.vmap(lambda p, q: integrate(net, p, q))(a, b), whole, atol=1e-14)
    hessian = torch.func.vmap(torch.func.hessian(lambda q: integrate(net, a[0], q)[0]))(b)
    assert torch.allclose(hessian[:, 0, 1], grad_net(net, (0, 1))(b)[:, 0])
    c = torch.stack([b[:, 0], a[:, 1]], -1)
    along = torch.func.vmap(lambda p, q: integrate(net, p, q, axes=(0,)))
    assert torch.allclose(along(a, c), integrate(net, a, c, axes=(0,)), atol=1e-14)
    with pytest.raises(ValueError, match="differ on the axes"):
        along(a, b)


BOUNDS = {
    "list": [0.5, 0.25],
    "tuple": (0.5, 0.25),
    "array": np.array([0.5, 0.25], dtype=np.float32),
    "float32": torch.tensor([0.5, 0.25]),
    "numbers of all kinds": [np.float64(0.5), torch.tensor(0.25)],
}


@pytest.mark.parametrize("kind", BOUNDS)
def test_bounds_of_any_kind(kind):
    net = network("swish", "identity")
    truth = integrate(net, torch.zeros(2).double(), torch.tensor([0.5, 0.25]).double())
    for zero in ([0, 0], torch.zeros(2, dtype=torch.int32), np.zeros(2, dtype=int)):
        assert torch.equal(integrate(net, zero, BOUNDS[kind]), truth)
    assert integrate(net, [[0, 0]] * 3, BOUNDS[kind]).shape == (3, 3)


def test_numbers_are_bounds_of_one_coordinate_and_gradients_go_through_lists():
    net = network("swish", "identity", in_features=1).float()
    assert integrate(net, 0, 1).dtype == torch.float32
    assert torch.equal(integrate(net, 0, 1), integrate(net, torch.zeros(1), torch.ones(1)))
    end = torch.tensor(0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(integrate(net, 0, [end]).sum(), end)
    assert torch.allclose(slope, grad_net(net)(end[None]).sum())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a", "upper='a' must be real numbers"),
        (["a", 1], "must be real numbers"),
        (None, "upper=None must be"),
        ({}, "must be real numbers"),
        ([[1, 2], [3]], r"upper=\[\[1, 2\], \[3\]\] must be"),
        (np.array([None, 1]), "must be real numbers"),
        (10**400, "upper=1000.*… must be"),
        (1j, "upper is complex64"),
        (torch.tensor([1j, 1]), "upper is complex64"),
        (True, "upper is bool"),
        (torch.ones(2).to_sparse(), "upper is a tensor that is sparse"),
        (torch.ones(2, device="meta"), "upper is a tensor without values"),
        ([0, float("nan")], "upper has NaN"),
        (1, "both must be"),
        ([1, 2, 3], "both must be"),
        ([], "both must be"),
    ],
)
def test_what_is_no_bound_is_refused_in_one_line(value, words):
    with pytest.raises(ValueError, match=words) as caught:
        integrate(network("swish", "identity"), [0, 0], value)
    assert len(str(caught.value).splitlines()) == 1
