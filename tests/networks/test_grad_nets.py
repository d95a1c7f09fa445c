import inspect
import re

import pytest
import torch

import autoint
from autoint.networks.grad_nets import explicit, grad_net
from autoint.networks.integral_net import IntegralNet
from autoint.registry import GRAD_NETS
from tests.cases import network, points, relative_error


def test_mixed_partials_by_nesting_agree_and_commute():
    net, x = network("swish", "positional"), points(6)
    values = [grad_net(net, axes, builder)(x) for axes in ((0, 1), (1, 0)) for builder in GRAD_NETS.names()]
    for value in values[1:]:
        assert relative_error(value, values[0]) < 1e-10


@pytest.mark.parametrize("builder", ["explicit", "jvp"])
def test_these_builders_run_in_inference_mode(builder):
    net, x = network("swish", "identity"), points(4)
    psi = grad_net(net, builder=builder)
    with torch.inference_mode():
        inside = psi(x)
    assert torch.allclose(inside, psi(x))


def test_double_backward_says_that_it_cannot():
    psi = grad_net(network("swish", "identity"), builder="double_backward")
    with torch.inference_mode(), pytest.raises(RuntimeError, match="use grad_net=explicit"):
        psi(points(2))
    with torch.no_grad():
        assert not psi(points(2)).requires_grad


def test_any_module_has_a_grad_net():
    module = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    values = [grad_net(module, (1,), builder)(points(5)) for builder in ("jvp", "double_backward")]
    assert relative_error(*values) < 1e-12
    with pytest.raises(ValueError, match="use grad_net=graph"):
        grad_net(module)


@pytest.mark.parametrize("builder", ["graph", "jvp", "double_backward"])
def test_a_kink_of_ones_own_module_is_differentiated_once(builder):
    module = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.LeakyReLU(), torch.nn.Linear(4, 1)).double()
    assert grad_net(module, (0,), builder)(points(5)).shape == (5, 1)
    with pytest.raises(ValueError, match="use activation=swish"):
        grad_net(module, (0, 1), builder)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"axes": (2,)}, "axis 2 is out of range"),
        ({"axes": (-1,)}, "out of range"),
        ({"builder": "explict"}, "did you mean 'explicit'"),
    ],
)
def test_what_cannot_be_built_is_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        grad_net(network("swish", "identity"), **kwargs)


def test_the_output_layer_has_no_bias_and_every_parameter_gets_a_gradient():
    net = network("swish", "normalized_positional")
    assert net.output.bias is None
    for builder in GRAD_NETS.names():
        net.zero_grad(set_to_none=True)
        grad_net(net, builder=builder)(points(5)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters()), builder


@pytest.mark.parametrize("field", ["in_features", "out_features", "hidden_features", "num_layers"])
def test_sizes_must_be_positive(field):
    sizes = {"in_features": 1, "out_features": 1, "hidden_features": 4, "num_layers": 1, field: 0}
    with pytest.raises(ValueError, match=f"{field}=0"):
        IntegralNet(**sizes)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: grad_net(None), "net is a NoneType; it must be a network, a torch.nn.Module"),
        (
            lambda: inspect.unwrap(autoint.integrate)(torch.sin, 0, 1),
            "net is a builtin_function_or_method; it must be a network",
        ),
        (lambda: autoint.draw("net"), "net is a str; it must be a network"),
        (lambda: grad_net(IntegralNet(1, 1, 4, 1), axes="x"), "axes='x' must be an integer"),
        (lambda: grad_net(IntegralNet(1, 1, 4, 1), axes=0), "axes=0 must be numbers of coordinates, as (0,)"),
        (lambda: autoint.Scene(None), "scene=None must be the name of a scene, or the path of its folder"),
        (lambda: autoint.train("procedural", minutes="5"), "minutes='5' must be positive"),
    ],
)
def test_wrong_types_from_python_are_one_line(call, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("width", "layers"), [(8, 10**9), (10**9, 2), (10**200, 1)])
def test_a_network_that_no_machine_holds_is_refused_before_it_is_made(width, layers):
    with pytest.raises(ValueError, match=rf"hidden_features={width}, num_layers={layers}: at most 1024 layers, whose"):
        IntegralNet(1, 1, width, layers)


@pytest.mark.parametrize("activation", ["swish", "sine", "softplus", "relu"])
def test_the_gradient_of_a_gradient_of_a_grad_net(activation):
    """The fused first derivative leaves second derivatives to autograd; points beyond one chunk take part."""
    net, x = network(activation, "identity", out_features=1, num_layers=4), points(explicit.CHUNK + 7)
    assert len(explicit._chunks(x)) == 2
    parameters = list(net.parameters())
    results = []
    for builder in ("explicit", "double_backward"):
        loss = grad_net(net, builder=builder)(x).square().mean()
        first = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in first), parameters, materialize_grads=True)
        results.append([*first, *again])
    scale = max(float(g.detach().abs().max()) for g in results[1])
    for ours, theirs in zip(*results, strict=True):
        assert float((ours - theirs).detach().abs().max()) <= 1e-10 * scale


def test_function_transforms_of_a_grad_net():
    net, x = network("swish", "identity"), points(5)
    psi = grad_net(net)
    by_row = torch.func.vmap(torch.func.jacrev(lambda p: psi(p[None])[0]))(x)
    truth = grad_net(net, (0, 1))(x)
    assert relative_error(by_row[..., 1], truth) < 1e-12


@pytest.mark.parametrize("builder", GRAD_NETS.names())
def test_autocast_lowers_only_what_keeps_its_first_layer(builder):
    net, x = network("swish", "positional").float(), points(6).float()
    psi = grad_net(net, builder=builder)
    plain = psi(x)
    assert psi._compiled is None  # not asked for
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = psi(x)
    assert torch.equal(plain, lowered) == (builder != "explicit")
    assert relative_error(lowered, plain) < 0.1


def test_double_backward_does_not_compile():
    with pytest.raises(ValueError, match="use builder=explicit or graph"):
        grad_net(network("swish", "identity"), builder="double_backward", compile=True)
