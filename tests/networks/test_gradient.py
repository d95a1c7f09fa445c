"""The gradient in one pass: values, gradients, their gradients and second derivatives, against autograd."""

import pytest
import torch

import autoint
from autoint.networks.distance_net import DistanceNet
from autoint.networks.grad_nets import gradient as gradients
from autoint.networks.grad_nets.gradient import curvature, gradient
from tests.cases import every_network, network, points, relative_error


def twin(net, x, output=0):
    x = x if x.requires_grad else x.clone().requires_grad_()
    value = net(x)
    return value, torch.autograd.grad(value[..., output].sum(), x, create_graph=True, materialize_grads=True)[0]


def loss(value, slope):
    return value.sin().sum() + (slope.norm(dim=-1) - 1).square().sum() + (slope[..., 0] * value[..., 0]).sum()


def distance_net(activation="softplus", **kwargs):
    torch.manual_seed(5)
    options = {"name": activation, "beta": 10.0} if activation == "softplus" else activation
    sizes = {"hidden_features": 16, "num_layers": 4, "activation": options}
    return DistanceNet(3, **{**sizes, **kwargs}).double()


NETS = {
    "skip": lambda: distance_net(),
    "sphere": lambda: distance_net(radius=0.5),
    "two layers, three outputs": lambda: distance_net(num_layers=2, out_features=3),
    "one layer": lambda: distance_net(num_layers=1, skip=False),
    "sines": lambda: distance_net("sine", skip=False),
    "bands": lambda: distance_net(encoding={"name": "positional", "num_frequencies": 2}, radius=0.5),
    "a grid": lambda: distance_net(encoding={"name": "grid", "resolutions": [2, 3]}),
    "swish": lambda: network("swish", "identity", in_features=3),
    "a module of one's own": lambda: torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    ).double(),
}
every_net = pytest.mark.parametrize("name", NETS)


@every_net
def test_value_gradient_and_the_loss_s_gradients_are_those_of_autograd(name, monkeypatch):
    monkeypatch.setattr(gradients, "CHUNK", 4)  # three pieces
    net, x, theirs_x = NETS[name](), points(9, 3).requires_grad_(), points(9, 3).requires_grad_()
    value, slope = gradient(net)(x)
    true_value, true_slope = twin(net, theirs_x)
    assert relative_error(value, true_value) < 1e-12
    assert relative_error(slope, true_slope) < 1e-11
    inputs = [p for p in net.parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss(value, slope), [x, *inputs], allow_unused=True)
    theirs = torch.autograd.grad(loss(true_value, true_slope), [theirs_x, *inputs], allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(torch.zeros(1) if a is None else a, torch.zeros(1) if b is None else b) < 1e-10


@every_network
def test_every_activation_and_encoding_has_a_gradient(activation, encoding):
    net, x = network(activation, encoding), points(5)
    for output in (0, 2):
        assert relative_error(gradient(net, output)(x)[1], twin(net, x, output)[1]) < 1e-10


@pytest.mark.parametrize("name", ["skip", "sines", "bands", "swish", "a module of one's own"])
def test_second_derivatives_are_those_of_autograd(name):
    net, x = NETS[name](), points(4, 3).requires_grad_()
    slope = twin(net, x)[1]
    rows = [torch.autograd.grad(slope[:, i].sum(), x, retain_graph=True)[0] for i in range(3)]
    hessian = gradient(net).hessian(x.detach())
    assert relative_error(hessian, torch.stack(rows, dim=1)) < 1e-10
    assert relative_error(hessian, hessian.transpose(1, 2)) < 1e-10


def test_a_gradient_of_the_gradient_s_gradient():
    """Double differentiation, as a loss on how the training itself moves would want."""
    net = distance_net()
    x = points(5, 3)
    first = torch.autograd.grad(loss(*gradient(net)(x)), list(net.parameters()), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), list(net.parameters()))
    true_first = torch.autograd.grad(loss(*twin(net, x)), list(net.parameters()), create_graph=True)
    true_second = torch.autograd.grad(sum(g.square().sum() for g in true_first), list(net.parameters()))
    for a, b in zip(second, true_second, strict=True):
        assert relative_error(a, b) < 1e-9


def test_without_a_graph_and_with_shapes_of_all_kinds():
    net = distance_net()
    with torch.inference_mode():
        value, slope = gradient(net)(torch.zeros(2, 4, 3, dtype=torch.float64))
    assert (value.shape, slope.shape, slope.requires_grad) == ((2, 4, 1), (2, 4, 3), False)
    assert gradient(net)(torch.zeros(0, 3, dtype=torch.float64))[1].shape == (0, 3)
    one = gradient(net)(torch.zeros(3, dtype=torch.float64))
    assert (one[0].shape, one[1].shape) == ((1,), (3,))
    with pytest.raises(ValueError, match="output=1 is out of range for a network with 1 outputs"):
        autoint.gradient(net, output=1)


def test_hooks_and_parametrizations_are_followed():
    net, x = distance_net(), points(4, 3)
    torch.nn.utils.parametrizations.weight_norm(net.hidden[1])
    net.hidden[2].register_forward_hook(lambda module, args, out: 2 * out)
    assert relative_error(gradient(net)(x)[1], twin(net, x)[1]) < 1e-12


def test_it_is_a_distance_to_a_sphere_at_first():
    torch.manual_seed(0)
    net = DistanceNet(3, hidden_features=256, activation={"name": "softplus", "beta": 100.0}, radius=0.5)
    x = torch.nn.functional.normalize(torch.randn(500, 3), dim=-1) * torch.rand(500, 1)
    with torch.no_grad():
        value, slope = gradient(net)(x)
    assert float((value[:, 0] - (x.norm(dim=-1) - 0.5)).abs().mean()) < 0.2
    assert float(torch.nn.functional.cosine_similarity(slope, x, dim=-1).mean()) > 0.9


def test_waves_begin_as_what_is_nearest_by_least_squares():
    """No output layer is nearer, and with so many waves it is near."""
    torch.manual_seed(0)
    net = DistanceNet(3, 2, 128, 2, {"name": "sine", "omega_0": 5.0}, skip=False)
    other = net.output.weight[1].clone()
    x = 2 * torch.rand(2000, 3) - 1
    y = x.norm(dim=-1) - 0.5
    net.begin_as(x, y)
    assert torch.equal(net.output.weight[1], other)  # features are left alone
    with torch.no_grad():
        error = float((net(x)[:, 0] - y).square().mean())
        assert error < 0.1**2
        for step in (1e-3, -1e-3):
            net.output.bias[0] += step
            assert float((net(x)[:, 0] - y).square().mean()) > error
            net.output.bias[0] -= step


def test_curvatures_of_a_torus():
    """Inner and outer equator, where they are known: mean ½(1/r + 1/(R ± r)·±1), Gaussian ±1/(r(R ± r))."""
    ring, tube = 2.0, 0.5
    x = torch.tensor([[ring + tube, 0.0, 0.0], [ring - tube, 0.0, 0.0]], dtype=torch.float64)

    def f(x):
        return ((x[..., :2].norm(dim=-1) - ring).square() + x[..., 2] ** 2).sqrt()

    slope = torch.stack([torch.autograd.functional.jacobian(f, p) for p in x])
    hessian = torch.stack([torch.autograd.functional.hessian(f, p) for p in x])
    mean, gauss = curvature(slope, hessian)
    assert mean.tolist() == pytest.approx([0.5 * (2 + 1 / 2.5), 0.5 * (2 - 1 / 1.5)])
    assert gauss.tolist() == pytest.approx([2 / 2.5, -2 / 1.5])
