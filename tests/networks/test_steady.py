"""Networks that are more than their layers' weights: hooks, parametrizations, chance, copies."""

import copy
import io
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from autoint import draw, integrate
from autoint.networks.grad_nets import grad_net
from autoint.networks.integral_net import IntegralNet
from autoint.registry import GRAD_NETS
from tests.cases import points, relative_error

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")


def equalized(layer):
    """As in StyleGAN's code: a hook that knows nothing of torch's own, and sets the weight."""
    layer.raw = nn.Parameter(layer.weight.detach().clone())
    del layer.weight
    layer.weight = layer.raw.detach()
    layer.register_forward_pre_hook(lambda module, given: setattr(module, "weight", 0.5 * module.raw))


MADE = {
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
    "equalized": equalized,
    "hook behind": lambda layer: layer.register_forward_hook(lambda module, given, out: 2 * out),
    "hook in front": lambda layer: layer.register_forward_pre_hook(lambda module, given: (2 * given[0],)),
}


def made(how, place=slice(None)):
    torch.manual_seed(0)
    net = IntegralNet(2, 1, 6, 3).double()
    for layer in [*net.hidden, net.output][place]:
        MADE[how](layer)
    return net


def trained(how, builder, training, place=slice(None)):
    """Return the values of Ψ in three steps of training, and once more without gradients."""
    net, x = made(how, place).train(training), points(4)
    psi, out = grad_net(net, (0, 1), builder), []
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        out.append(psi(x))
        out[-1].square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        return torch.stack([*out, psi(x)])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("how", MADE)
def test_made_weights_and_hooks_are_those_of_a_forward_pass(how, training):
    for place in (slice(0, 1), slice(1, None)):
        truth = trained(how, "jvp", training, place)
        for builder in ("explicit", "double_backward", "graph"):
            if (
                how != "equalized" or builder != "graph"
            ):  # what a hook of one's own makes, fx cannot tell from constants
                assert relative_error(trained(how, builder, training, place), truth) < 1e-9, (place, builder)


@pytest.mark.parametrize("how", ["prune", "weight_norm", "parametrized weight_norm"])
@pytest.mark.parametrize("builder", ["explicit", "graph"])
def test_loaded_weights_are_seen_at_once(how, builder):
    """A first derivative too, whose gradient is written out, and the gradient of that."""
    other, net, x = made(how), made(how), points(4)
    psi = grad_net(net, builder=builder)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    net.load_state_dict(other.state_dict())
    parameters = list(net.parameters())
    results = []
    for value in (psi(x), grad_net(net, builder="jvp")(x)):
        first = torch.autograd.grad(value.square().sum(), parameters, create_graph=True, materialize_grads=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), parameters, materialize_grads=True)
        results.append([value, *first, *second])
    for ours, truth in zip(*results, strict=True):
        assert torch.allclose(ours, truth, rtol=1e-9, atol=1e-12)


def test_hooks_that_come_later_and_the_mode_are_seen_by_the_graph():
    class Moody(nn.Linear):
        def forward(self, x):
            return torch.tanh(super().forward(x)) if self.training else super().forward(x)

    net, x = nn.Sequential(Moody(2, 3), nn.SiLU(), nn.Linear(3, 1)).double(), points(4)
    psi, truth = (grad_net(net, builder=builder) for builder in ("graph", "jvp"))
    for change in (net.eval, net.train, lambda: weight_norm(net[2]), lambda: parametrizations.weight_norm(net[0])):
        change()
        assert relative_error(psi(x), truth(x)) < 1e-13


def test_random_weights_of_a_plain_network_are_seen():
    net = IntegralNet(1, 1, 6, 1)
    parametrize.register_parametrization(net.output, "weight", Drawing(lambda: torch.rand(1, 6)))
    assert net.plain
    for evaluate in (lambda: integrate(net, 0.0, 1.0), lambda: grad_net(net)(torch.ones(1, 1))):
        with pytest.raises(ValueError, match="IntegralNet is another function at every evaluation"):
            evaluate()


@pytest.mark.parametrize("how", ["prune", "weight_norm", "spectral_norm", "parametrized spectral_norm"])
def test_integrals_use_one_set_of_weights(how):
    """Every corner is of the same network, even where each evaluation changes its weights."""
    net, a, b = made(how), points(4), points(4, seed=9)
    assert integrate(net, a, a).abs().max() < 1e-14
    net.eval()
    with torch.no_grad():
        assert relative_error(integrate(net, a, b, method="differences"), integrate(net, a, b)) < 1e-9


def test_to_look_at_a_network_changes_nothing():
    for how in ("spectral_norm", "weight_norm"):
        net = made(how)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        assert "linear(" in draw(net)
        grad_net(net, builder="graph")
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        assert all(type(layer.weight) is torch.Tensor for layer in net.hidden)  # none of torch.fx's proxies is left


def test_another_forward_or_other_layers_are_followed_or_refused():
    class Skipping(IntegralNet):
        def forward(self, x, condition=None):
            return super().forward(x, condition) + x.prod(-1, keepdim=True)

    torch.manual_seed(0)
    wrapped = IntegralNet(2, 1, 6, 2)
    wrapped.hidden[1] = nn.Sequential(wrapped.hidden[1], nn.LayerNorm(6))
    bare = IntegralNet(2, 1, 6, 3)
    bare.hidden[1], bare.output = nn.Linear(6, 6, bias=False), nn.Linear(6, 1)
    for net in (Skipping(2, 1, 6, 2), wrapped, bare):
        values = [grad_net(net.double(), builder=builder)(points(4)) for builder in ("explicit", "double_backward")]
        assert relative_error(*values) < 1e-12
        if net is bare:  # of which a bias behind is no part of an integral
            ends = points(4), points(4, seed=9)
            assert relative_error(integrate(net, *ends, method="differences"), integrate(net, *ends)) < 1e-12
        else:
            with pytest.raises(ValueError, match="use method='corners'"):
                integrate(net, points(4), points(4), method="differences")


class Noisy(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean


class Drawing(nn.Module):
    """Of numbers that are drawn elsewhere than by torch; or of a weight, as a parametrization."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x * self.draw() if self.training else x


def noisy_weight():
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Drawing(lambda: torch.rand(6, 6)))
    return layer


RESTLESS = {
    "Dropout (2)": nn.Dropout(0.5),
    "AlphaDropout (2)": nn.AlphaDropout(0.5),
    "RReLU (2)": nn.RReLU(),
    "BatchNorm1d (2)": nn.BatchNorm1d(6),
    "SyncBatchNorm (2)": nn.SyncBatchNorm(6),
    "Dropout (2.1)": nn.Sequential(nn.Tanh(), nn.Dropout(0.1)),
    "Sequential is another function": Noisy(),
    "Sequential changes its buffer": Counting(),
    "Sequential is another function at": Drawing(lambda: random.random()),
    "Sequential is another function at every": Drawing(lambda: np.random.rand()),
    "Sequential is another function at every evaluation": noisy_weight(),
}


@pytest.mark.parametrize("words", RESTLESS)
def test_what_is_no_function_of_x_is_refused_and_left_alone(words):
    net = nn.Sequential(nn.Linear(1, 6), nn.SiLU(), copy.deepcopy(RESTLESS[words]), nn.Linear(6, 1))
    a, b = torch.linspace(0, 1, 4)[:, None], torch.ones(1)
    psi = grad_net(net, builder="jvp")
    for evaluate in (lambda: integrate(net, a, b), lambda: psi(a)):
        with pytest.raises(ValueError, match=r"call \.eval\(\) first") as caught:
            evaluate()
        assert str(caught.value).startswith(words)
    assert all(int(v) == 0 for key, v in net.state_dict().items() if key.endswith("num_batches_tracked"))
    if words.startswith("Sync"):
        return  # which has no CPU kernel
    net.eval()
    assert torch.equal(integrate(net, a, a), torch.zeros(4, 1))
    assert torch.allclose(integrate(net, a, b)[:2], integrate(net, a[:2], b), atol=1e-6)
    assert torch.allclose(psi(a), grad_net(net, builder="double_backward")(a), atol=1e-6)


def test_a_batch_without_statistics_is_refused_in_either_mode():
    net = nn.Sequential(nn.Linear(1, 6), nn.BatchNorm1d(6, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match=r"BatchNorm1d \(1\) looks at the other points"):
        integrate(net, torch.zeros(3, 1), torch.ones(3, 1))


def test_dropout_that_drops_nothing_is_a_function():
    net = nn.Sequential(nn.Linear(1, 6), nn.Dropout(0.0), nn.InstanceNorm1d(6), nn.Linear(6, 1)).double()
    values = [grad_net(net[::3], builder=builder)(points(3, 1)) for builder in ("graph", "jvp")]
    assert relative_error(*values) < 1e-14
    assert torch.equal(integrate(net[:2], points(3, 1), points(3, 1)), torch.zeros(3, 6, dtype=torch.float64))
    quiet = nn.Sequential(nn.Linear(1, 6), nn.Dropout(0.5), nn.SiLU(), nn.Linear(6, 1)).double()
    with pytest.raises(ValueError, match=r"'dropout' is another function at every evaluation; call \.eval\(\)"):
        grad_net(quiet, builder="graph")
    values = [grad_net(quiet.eval(), builder=builder)(points(3, 1)) for builder in ("graph", "jvp")]
    assert relative_error(*values) < 1e-14


@pytest.mark.parametrize("activation", ["swish", "softplus"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_second_derivatives_of_forward_mode_without_gradients(activation, context):
    psi = grad_net(IntegralNet(2, 1, 8, 2, activation).double(), (0, 1), "jvp")
    once, x = grad_net(psi.integral_net, builder="jvp"), points(3)
    truth = psi(x)
    with context():
        inside = psi(x)
        along = torch.func.jvp(once, (x,), (torch.tensor([0.0, 1.0]).double().expand_as(x).contiguous(),))[1]
    assert not inside.requires_grad
    assert relative_error(inside, truth) < 1e-14
    assert context is torch.inference_mode or relative_error(along, truth) < 1e-14


def stored(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, stored])
@pytest.mark.parametrize("builder", ["explicit", "graph", "jvp"])
def test_copies_under_function_transforms(builder, copied):
    """Right after the copy, whose first evaluation is inside of the transform."""
    torch.manual_seed(0)
    grid = {"name": "grid", "resolutions": [4]}
    psi, x = grad_net(IntegralNet(2, 1, 6, 2, "sine", grid).double(), (0, 1), builder), points(4)

    def by_parameters(module):
        values = {name: p.detach() for name, p in module.named_parameters()}
        return grad(lambda v: functional_call(module, v, (x,)).square().sum())(values)

    def by_points(module):
        return vmap(jacrev(lambda p: module(p[None])[0]))(x)

    truth = by_parameters(psi)
    assert all(torch.allclose(value, truth[name]) for name, value in by_parameters(copied(psi)).items())
    assert torch.allclose(by_points(copied(psi)), by_points(psi))
    ensemble = [copied(psi) for _ in range(2)]
    with torch.no_grad():
        for p in ensemble[1].parameters():
            p.mul_(1.1)
    state, skeleton = stack_module_state(ensemble), copied(psi)
    together = vmap(lambda parameters, buffers: functional_call(skeleton, (parameters, buffers), (x,)))(*state)
    assert torch.allclose(together, torch.stack([member(x) for member in ensemble]))
    phi = copied(psi.integral_net)
    assert torch.equal(phi(x), psi.integral_net(x))


def test_what_is_copied_trains_as_the_original_does():
    for builder in GRAD_NETS.names():
        results = []
        for copied in (lambda psi: psi, copy.deepcopy, stored):
            torch.manual_seed(0)
            psi = copied(grad_net(IntegralNet(2, 1, 6, 2, {"name": "sine", "omega_0": 3.0}).double(), (0,), builder))
            optimizer = torch.optim.SGD(psi.parameters(), 0.1)
            for _ in range(2):
                optimizer.zero_grad()
                psi(points(4)).square().sum().backward()
                optimizer.step()
            results.append(psi(points(4)))
        assert all(torch.equal(result, results[0]) for result in results), builder
