"""One fit for all parameters of a function: integrals, error bars and gradients by the parameters."""

import copy
import math

import pytest
import torch

import autoint


@pytest.fixture(scope="module")
def decay():
    """∫₀¹ cos(q)·exp(−r·x)dx = cos(q)·(1 − e^−r)/r."""
    return autoint.fit(
        lambda x, p: torch.cos(p[:, 1]) * torch.exp(-p[:, 0] * x[:, 0]),
        0,
        1,
        parameters=([0.5, 0.0], [3.0, 1.0]),
        points=400,
        adam_steps=50,
        tolerance=1e-3,
        progress=False,
    )


def truth(p, a, b):
    return p[:, 1].cos() * (torch.exp(-p[:, 0] * a) - torch.exp(-p[:, 0] * b)) / p[:, 0]


def parameters(count):
    shares = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)).double()
    return torch.tensor([0.5, 0.0]) + shares * torch.tensor([2.5, 1.0])


def test_integrals_for_every_parameter(decay):
    assert decay.fitted.met
    p, b = parameters(200), torch.rand(200, 1).double()
    assert torch.allclose(decay.integral(0, b, parameters=p), truth(p, 0.0, b[:, 0]), atol=1e-2)
    assert decay.integral(torch.zeros(4, 1, 1), b[:5], parameters=p[:5]).shape == (4, 5)
    found = decay.integral(0, b, parameters=p, residual=64)
    low, high = found.interval(0.999)
    inside = (low <= truth(p, 0.0, b[:, 0])) & (truth(p, 0.0, b[:, 0]) <= high)
    assert inside.double().mean() > 0.98
    report = decay.error_report(50)
    assert report.integral_max < 3e-3
    assert report.variance_ratio > 100
    x = torch.rand(200, 1).double()
    assert torch.allclose(decay.integrand(x, p), decay.function(x, p), atol=1e-2)
    ends = (decay.antiderivative(v, p) for v in (b, torch.zeros_like(b)))
    assert torch.allclose(next(ends) - next(ends), decay.integral(0, b, parameters=p))


def test_gradients_by_the_parameters(decay):
    p = torch.tensor([[1.0, 0.5]]).double().requires_grad_()
    (exact,) = torch.autograd.grad(truth(p, 0.0, 1.0).sum(), p)
    for given in ({}, {"residual": 256}):
        found = decay.integral(0, 1, parameters=p, **given)
        (ours,) = torch.autograd.grad(found.value.sum() if given else found.sum(), p)
        assert torch.allclose(ours, exact, atol=1e-2)


def test_ends_in_single_precision_are_inside(decay):
    """0.3 in float32 is above 0.3 in float64."""
    p = decay.parameter_range.float()
    assert torch.allclose(decay.integral(0, 1, parameters=p), truth(p.double(), 0.0, 1.0), atol=1e-2)
    jump = autoint.fit("x", 0.1, 0.3, breaks=[0.2], adam_steps=1, max_time=0.0, progress=False)
    lower, upper = torch.tensor(0.1), torch.tensor(0.3)
    assert torch.allclose(jump.integral(lower, upper), jump.integral(0.1, 0.3), atol=1e-7)
    assert torch.allclose(jump.integrand(upper), jump.integrand(0.3))


def test_a_copy_keeps_the_ranges(decay):
    p = parameters(3)
    twin = copy.deepcopy(decay)
    assert torch.equal(twin.integral(0, 1, parameters=p), decay.integral(0, 1, parameters=p))
    assert "parameter_range" in decay.state_dict()
    assert "parameter_range" not in autoint.fit("x", 0, 1, adam_steps=1, max_time=0, progress=False).state_dict()


def test_a_family_on_a_line_and_in_pieces():
    gauss = autoint.fit(
        lambda x, p: torch.exp(-((x / p) ** 2))[:, 0],
        -math.inf,
        math.inf,
        parameters=(0.8, 1.2),
        points=512,
        adam_steps=50,
        tolerance=1e-2,
        progress=False,
    )
    p = torch.tensor([0.9, 1.1]).double()
    assert torch.allclose(gauss.integral(-math.inf, math.inf, parameters=p), math.sqrt(math.pi) * p, rtol=2e-2)
    jump = autoint.fit(
        lambda x, p: torch.where(x < 0.5, p, 0.0)[:, 0],
        0,
        1,
        parameters=(0, 1),
        breaks=[0.5],
        points=512,
        adam_steps=50,
        tolerance=1e-2,
        progress=False,
    )
    assert torch.allclose(jump.integral(0, 1, parameters=p.clamp_max(1)), 0.5 * p.clamp_max(1), atol=1e-2)
    assert torch.allclose(
        jump.integrand(torch.tensor([0.2, 0.7]), p.clamp_max(1))[1], torch.zeros(1).double(), atol=0.05
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "parameters= must be given, 2 of them"),
        ({"parameters": [1.0]}, "parameters has shape"),
        ({"parameters": [1.0, 7.0]}, "parameters outside the fitted range"),
        ({"parameters": [1.0, math.nan]}, "parameters has NaN"),
        ({"parameters": torch.ones(3, 2), "residual": 8, "lower": torch.zeros(4, 1)}, "do not broadcast"),
    ],
)
def test_parameters_that_are_none_are_refused(decay, given, words):
    with pytest.raises(ValueError, match=words):
        decay.integral(**{"lower": 0, "upper": 1, **given})


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ((1, 1), r"parameters\[0\]=1, parameters\[1\]=1: they must be finite, and parameters\[0\] below"),
        ((0, math.inf), "must be finite"),
        (3, r"parameters=3 must be \(low, high\)"),
        ((0, [1, 2]), "same length"),
    ],
)
def test_ranges_that_are_none_are_refused(ranges, words):
    with pytest.raises(ValueError, match=words):
        autoint.fit(lambda x, p: x[:, 0], 0, 1, parameters=ranges, progress=False)
    with pytest.raises(ValueError, match=r"the function failed at x of shape .* and p of"):
        autoint.fit(lambda x: x[:, 0], 0, 1, parameters=(0, 1), progress=False)
