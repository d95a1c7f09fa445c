"""Densities: of mass 1 and monotone by construction, whatever the weights; like what they come from."""

import logging
import math

import pytest
import torch
from scipy import stats

import autoint
from autoint.integrals import Density
from autoint.integrals.density_fitting import _check_distribution, _Training

LINE = (-math.inf, math.inf)
DOMAINS = [
    ([-1.0], [2.0]),
    ([0.0], [math.inf]),
    ([-math.inf], [3.0]),
    ([-math.inf], [math.inf]),
    ([0.0, -math.inf], [1.0, math.inf]),
]


def untrained(lower, upper, seed=0):
    """Any weights, large ones too."""
    n = len(lower)
    density = Density(lower, upper, 5, 4, torch.zeros(n), torch.ones(n))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in density.parameters():
            p.copy_(2 * torch.randn(p.shape, generator=g))
    return density


@pytest.mark.parametrize(("lower", "upper"), DOMAINS, ids=str)
@torch.no_grad()
def test_mass_is_one_and_the_distribution_function_grows(lower, upper):
    density, n = untrained(lower, upper), len(lower)
    assert abs(float(density.mass(lower, upper)) - 1) < 1e-12
    assert abs(float(density.mass(upper, lower)) - (-1) ** n) < 1e-12  # the sign of an integral
    assert abs(float(density.cdf(upper)) - 1) < 1e-12
    assert float(density.cdf(lower)) == 0.0
    g = torch.Generator().manual_seed(1)
    pairs = (6 * torch.randn(2, 20_000, n, generator=g, dtype=torch.float64)).sort(0).values
    assert (density.cdf(pairs[1]) - density.cdf(pairs[0]) > -1e-15).all()
    x = density.sample(500)
    assert ((x >= torch.tensor(lower)) & (x <= torch.tensor(upper))).all()
    assert density.log_prob(x).isfinite().all()
    u = density.uniform(x)
    assert torch.allclose(density.uniform(density.quantile(u)), u, atol=1e-12)
    for axis in range(n):
        assert stats.kstest(u[:, axis].numpy(), "uniform").pvalue > 1e-3
    if math.isfinite(lower[0]):
        outside = torch.tensor(lower) - 1.0
        assert float(density.log_prob(outside)) == -math.inf
        assert float(density.cdf(outside)) == 0.0


@pytest.mark.parametrize(("lower", "upper"), DOMAINS, ids=str)
def test_the_density_is_the_derivative_of_its_distribution_function(lower, upper):
    density, n = untrained(lower, upper, 3), len(lower)
    x = density.sample(6, seed=2).clamp(-20, 20).requires_grad_()
    if n == 1:
        (slope,) = torch.autograd.grad(density.cdf(x).sum(), x)
        slope = slope[:, 0]
    else:
        (first,) = torch.autograd.grad(density.cdf(x).sum(), x, create_graph=True)
        slope = torch.autograd.grad(first[:, 0].sum(), x)[0][:, 1]
        given = torch.autograd.grad(density.conditional_cdf(x, 1).sum(), x)[0][:, 1]
        alone = torch.autograd.grad(density.conditional_cdf(x, 0).sum(), x)[0][:, 0]
        assert torch.allclose(given * alone, density.log_prob(x).exp(), rtol=1e-8)
    assert torch.allclose(slope, density.log_prob(x).exp(), rtol=1e-8)
    gradients = torch.autograd.grad(density.log_prob(x).sum(), list(density.parameters()))
    assert all(g.isfinite().all() for g in gradients)


def test_from_the_logarithm_of_two_bumps():
    """Up to a constant, as large as it may be."""
    density = autoint.fit_density(
        lambda x: torch.logaddexp(-2 * (x + 2) ** 2, -0.5 * (x - 1) ** 2)[:, 0] - 5000, steps=200
    )
    assert -1e-3 < density.fitted.log_likelihood <= 1e-6  # minus the divergence
    share = 1 / 3
    truth = lambda x: share * stats.norm.cdf(x, -2, 0.5) + (1 - share) * stats.norm.cdf(x, 1, 1)  # noqa: E731
    x = torch.linspace(-6, 6, 101).double()
    assert abs(density.cdf(x).detach().numpy() - truth(x.numpy())).max() < 0.01
    assert stats.kstest(density.sample(2000)[:, 0].numpy(), truth).pvalue > 1e-3


def test_from_the_logarithm_of_a_narrow_bump():
    """Seven of the points over the domain would decide; there are more where it is."""
    density = autoint.fit_density(lambda x: -0.5 * ((x[:, 0] - 0.3137) / 1e-3) ** 2, 0, 1, steps=40)
    at = torch.linspace(0.31, 0.318, 51).double()
    assert abs(density.cdf(at).detach().numpy() - stats.norm.cdf(at.numpy(), 0.3137, 1e-3)).max() < 0.02
    assert density.sample(10).isfinite().all()
    assert density.fitted.effective > 500


def test_weights_stay_finite_where_few_points_decide():
    """Units shrink to them, until nothing is finite: the last state that was is kept."""
    x = torch.linspace(0, 1, 201).double()[:, None]
    training = _Training(None, None, 400, 60.0, 0)
    density = training.start(x[60:67], [0.0], [1.0])
    assert math.isfinite(training.run_whole(density, x, (x[:, 0] == x[63, 0]).double()))
    assert density.cdf(0.5) > 0.95


def test_from_samples_and_from_the_logarithm_in_two_dimensions():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=g).double()
    x[:, 1] = 0.5 * x[:, 0] ** 2 + 0.3 * x[:, 1]
    density = autoint.fit_density(x, num_products=12, steps=150)
    assert density.fitted.log_likelihood > -2.45  # a normal distribution has -2.5, the truth -1.63
    box = autoint.fit_density(lambda x: -4 * x.square().sum(-1), [-1, -1], [1, 1], num_products=4, steps=60)
    side = math.erf(1.0) / math.erf(2.0)
    assert abs(box.mass([-0.5, -0.5], [0.5, 0.5]).item() - side**2) < 0.03


def test_a_sample_far_away_moves_no_others(caplog):
    """In units of the standard deviation that it makes, all others would be in one place."""
    x = torch.cat([torch.randn(500, generator=torch.Generator().manual_seed(0)), torch.tensor([1e6])]).double()
    density = autoint.fit_density(x, steps=60)
    at = torch.linspace(-3, 3, 61).double()
    assert abs(density.cdf(at).detach().numpy() - stats.norm.cdf(at.numpy())).max() < 0.08
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_distribution_function_that_is_far_off_is_told(caplog):
    density = untrained([-math.inf, 0.0], [math.inf, 1.0])
    held = density.sample(400)
    _check_distribution(density, held)
    assert not caplog.records
    held[:, 1] = held[:, 1] ** 4
    _check_distribution(density, held)
    assert "the distribution function along axis 1 is off by" in caplog.text


@pytest.mark.parametrize(
    ("given", "bounds", "words"),
    [
        (torch.zeros(10), (), "P ≥ 50"),
        (torch.zeros(100, 7), (), "n ≤ 6"),
        (torch.zeros(100), (), "discrete distribution"),
        (torch.arange(100) % 5, (), "discrete distribution"),
        (torch.full((100,), math.nan), (), "samples has NaN"),
        (torch.cat([torch.rand(99), torch.tensor([math.inf])]), (), "row 99 is not finite"),
        (torch.rand(100), (0.5, 1), "samples are outside of the domain"),
        (torch.rand(100), ([0, 0], [1, 1]), "the samples have 1 coordinates"),
        (torch.rand(100), (1, 0), "lower below upper"),
        (lambda x: -(x[:, 0] ** 2), (0,), "both, or neither"),
        ("abc", (), "samples='abc' must be"),
        (lambda x: x[:, 0] * math.nan, (0, 1), "log p is NaN"),
        (lambda x: x[:, 0] - math.inf, (0, 1), "-inf at all points"),
        (lambda x: x.sum(), (0, 1), r"log p returned \(\)"),
        (lambda x: 1.0, (0, 1), "log p returned float"),
        (lambda: 1.0, (0, 1), "log p failed"),
        (lambda x: x.sum(-1), ([0, 0], [1, math.inf]), "finite lower and upper"),
        (lambda x: -0.0 * x[:, 0], (), r"does not fall faster than 1/\|x\|"),
        (lambda x: -1e13 * (x[:, 0] - 0.34567) ** 2, (0, 1), "between the 2048 points"),
    ],
)
def test_what_has_no_density_is_refused(given, bounds, words):
    with pytest.raises(ValueError, match=words):
        autoint.fit_density(given, *bounds, steps=1)


def test_questions_that_have_no_answer_are_refused():
    density, two = untrained([0.0], [1.0]), untrained([0.0, 0.0], [1.0, 1.0])
    for ask, value, words in (
        (density.quantile, 1.5, "u must be between 0 and 1"),
        (two.cdf, torch.zeros(2, 3), "x has shape"),
        (density.log_prob, math.nan, "x has NaN"),
        (density.sample, 0, "count=0 must be an integer of at least 1"),
        (lambda axis: density.conditional_cdf(0.5, axis), -1, "axis=-1 must be a number from 0 to 0"),
    ):
        with pytest.raises(ValueError, match=words):
            ask(value)
    assert density.quantile(torch.tensor([0.0, 1.0]))[:, 0].tolist() == [0.0, 1.0]


def test_no_round_begins_when_the_time_is_over():
    """log p, which may be dear, is asked once, and what it says is fitted by one step."""
    asked = []

    def log_prob(x):
        asked.append(len(x))
        return -4 * x.square().sum(-1)

    density = autoint.fit_density(log_prob, [-1, -1], [1, 1], num_products=4, max_time=0)
    assert len(asked) == density.fitted.steps == 1
    assert density.log_prob([[0.0, 0.0]]) > density.log_prob([[0.9, 0.9]])
