import pytest
import torch

from autoint.grad_nets import grad_net
from autoint.networks import IntegralNet
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
    with pytest.raises(ValueError, match="use grad_net=jvp"):
        grad_net(module)


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
