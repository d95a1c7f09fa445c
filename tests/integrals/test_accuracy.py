"""What ``integrate`` promises of rounding, against 50 digits: for intervals from 1 down to 1e-9, in both precisions."""

import mpmath
import pytest
import torch

from autoint import integrate
from autoint.networks.integral_net import IntegralNet

mpmath.mp.dps = 50
ACTIVATIONS = {
    "swish": lambda x: x / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
    "sine": lambda x: mpmath.sin(30 * x),
}
ENCODINGS = {"identity": None, "positional": 4, "normalized_positional": 10}
WIDTHS = [10.0**-k for k in range(10)]
STARTS = (0.0, 1e-9, -0.4, 0.3)


def network(activation: str, encoding: str, dtype: torch.dtype) -> IntegralNet:
    torch.manual_seed(0)
    bands = ENCODINGS[encoding]
    choice = {"name": encoding, **({"num_frequencies": bands} if bands else {})}
    return IntegralNet(1, 2, 16, 3, activation=activation, encoding=choice).to(dtype)


def exact(net: IntegralNet, activation: str, encoding: str, x: torch.Tensor) -> tuple[mpmath.matrix, mpmath.mpf]:
    """Return Φ(x) of these very weights, and Σ|w·h| of the output layer, the scale of its rounding."""
    x = mpmath.mpf(float(x))
    h = [x]
    if bands := ENCODINGS[encoding]:
        waves = [mpmath.pi * 2**i for i in range(bands)]
        size = [1 / w if encoding == "normalized_positional" else mpmath.mpf(1) for w in waves]
        h += [a * mpmath.sin(w * x) for a, w in zip(size, waves, strict=True)]
        h += [a * mpmath.cos(w * x) for a, w in zip(size, waves, strict=True)]
    for layer in net.hidden:
        weight, bias = layer.weight.double().tolist(), layer.bias.double().tolist()
        h = [ACTIVATIONS[activation](mpmath.fdot(row, h) + b) for row, b in zip(weight, bias, strict=True)]
    rows = net.output.weight.double().tolist()
    scale = max(mpmath.fsum(abs(w * v) for w, v in zip(row, h, strict=True)) for row in rows)
    return mpmath.matrix([mpmath.fdot(row, h) for row in rows]), scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_errors_are_within_what_is_promised(activation, encoding, dtype):
    eps, net = torch.finfo(dtype).eps, network(activation, encoding, dtype)
    for start in STARTS:
        a = torch.tensor([start], dtype=dtype)
        at_start, first = exact(net, activation, encoding, a)
        for width in WIDTHS:
            b = (a.double() + width).to(dtype)
            at_end, last = exact(net, activation, encoding, b)
            truth = at_end - at_start
            for method, bound in (
                ("corners", 32 * eps * max(first, last)),
                ("differences", 512 * eps * mpmath.norm(truth, mpmath.inf)),
            ):
                ours = integrate(net, a, b, method=method)
                assert ours.dtype == dtype
                error = mpmath.norm(mpmath.matrix(ours.double().tolist()) - truth, mpmath.inf)
                assert error <= bound, (start, width, method)
                assert torch.equal(integrate(net, a, a, method=method), torch.zeros_like(ours))


@torch.no_grad()
def test_corners_are_noise_where_differences_are_exact():
    """The two promises are not the same: in float32 an interval of 1e-6 is noise to its corners."""
    net = network("swish", "identity", torch.float32)
    a = torch.tensor([0.3])
    b = a + 1e-6
    truth = exact(net, "swish", "identity", b)[0] - exact(net, "swish", "identity", a)[0]
    relative = [
        mpmath.norm(mpmath.matrix(integrate(net, a, b, method=m).double().tolist()) - truth) / mpmath.norm(truth)
        for m in ("corners", "differences")
    ]
    assert relative[0] > 1e-2
    assert relative[1] < 1e-5


@pytest.mark.parametrize("method", ["corners", "differences"])
def test_autocast_lowers_no_integral(method):
    """In bfloat16 the corners of short intervals are off by ten times their difference."""
    torch.manual_seed(0)
    net, a = IntegralNet(1, 1, 16, 2), torch.linspace(0, 1, 8)[:, None]
    truth = integrate(net, a, a + 0.01, method=method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(integrate(net, a, a + 0.01, method=method), truth)
        assert torch.is_autocast_enabled("cpu")
