"""Integrals with error bars: unbiased and honest whatever the network is, against exact integrals of Genz' families."""

import math

import pytest
import torch

import autoint
from autoint.integrals.estimates import Estimate, allotted, sides_of, stratified_mean
from autoint.integrals.integrands import true_integrals
from benchmarks.genz import FAMILIES, boxes, genz
from benchmarks.trust import BAD, coverage, variance_ratio


def bad(one, n, **given):
    return autoint.fit(one, [0.0] * n, [1.0] * n, progress=False, **{**BAD, **given})


@pytest.fixture(scope="module")
def hill():
    one = genz("gaussian", 2)
    return one, bad(one, 2)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_genz_knows_its_integrals(family, n):
    """Where the function is smooth: below its places."""
    one = genz(family, n)
    a, b = (ends * one.w.min() for ends in boxes(5, n))
    assert torch.allclose(one.exact(a, b), true_integrals(one, a, b)[:, 0], rtol=1e-9)
    whole = one.exact(torch.zeros(1, n).double(), torch.ones(1, n).double())
    x = torch.quasirandom.SobolEngine(n, seed=0).draw(2**14, dtype=torch.float64)
    assert torch.allclose(one(x).mean(), whole, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(("family", "n"), [("continuous", 1), ("gaussian", 2), ("discontinuous", 2), ("gaussian", 3)])
def test_intervals_cover_the_truth(family, n):
    """By networks that are bad on purpose: errors of the network itself are far larger than the bars."""
    one = genz(family, n)
    model = bad(one, n)
    assert 90 <= coverage(model, one.exact, n, 600) <= 98.5
    a, b = boxes(600, n)
    estimate = model.integral(a, b, residual=64)
    assert (model.integral(a, b) - one.exact(a, b)).square().mean() > 4 * estimate.error.square().mean()
    assert variance_ratio(model, one, 300) > 2


def test_the_mean_of_estimates_is_the_integral(hill):
    """Four points in each box, many seeds."""
    one, model = hill
    a, b = torch.tensor([[0.1, 0.2]]).double(), torch.tensor([[0.9, 0.7]]).double()
    found = model.integral(a.expand(4000, 2), b, residual=4)
    assert found.samples == 16000
    value, error = found.value.detach(), found.error.detach()
    mean, spread = value.mean(), value.std() / math.sqrt(4000)
    assert abs(float(mean - one.exact(a, b))) < 3.5 * float(spread)
    assert float(error.square().mean() / value.var()) == pytest.approx(1.0, abs=0.1)


def test_shapes_signs_and_axes(hill):
    one, model = hill
    value, error = model.integral([0.0, 0.0], [0.5, 1.0], residual=64)
    assert value.shape == error.shape == ()
    swapped = model.integral([0.5, 0.0], [0.0, 1.0], residual=64)
    assert torch.allclose(swapped.value, -value, atol=6 * error.item())
    assert model.integral(torch.zeros(3, 1, 2), torch.ones(4, 2), residual=8).value.shape == (3, 4)
    nothing = model.integral([0.3, 0.3], [0.3, 0.9], residual=8)
    assert abs(nothing.value.item()) < 1e-14
    line = model.integral([0.0, 0.4], [1.0, 0.4], axes=(0,), residual=256)
    x = torch.linspace(0, 1, 2001).double()
    truth = torch.trapezoid(one(torch.stack([x, torch.full_like(x, 0.4)], -1)), x)
    low, high = line.interval(0.9999)
    assert low < truth < high
    two = bad(lambda x: torch.stack([x[:, 0], x[:, 0] ** 2], -1), 1).integral(torch.zeros(5, 1), 1, residual=128)
    assert two.value.shape == two.degrees.shape == (5, 2)
    assert torch.allclose(two.value, torch.tensor([1 / 2, 1 / 3]).double(), atol=1e-2)


def test_the_same_seed_gives_the_same_and_another_an_independent_estimate(hill):
    _, model = hill
    first, again, other = (model.integral([0, 0], [1, 1], residual=16, seed=seed).value for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gradients_of_an_estimate(hill):
    """By the bounds those of the very same estimate; by the parameters of the network nothing but noise."""
    _, model = hill
    a, b = torch.tensor([0.1, 0.2]).double(), torch.tensor([0.8, 0.7]).double().requires_grad_()
    value = model.integral(a, b, residual=32).value
    by_b, *by_weights = torch.autograd.grad(value, [b, *model.parameters()])
    step = torch.tensor([1e-6, 0.0]).double()
    ends = [model.integral(a, b.detach() + s * step, residual=32).value for s in (1, -1)]
    assert torch.allclose(by_b[0], (ends[0] - ends[1]) / 2e-6, rtol=1e-5)
    assert all(g.isfinite().all() for g in by_weights)


def test_a_total_goes_where_the_residual_is(hill):
    """Boxes of which one holds nearly all of the residual: fewer samples and a smaller error than equal shares."""
    one, model = hill
    a = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)).double() * 0.9
    b = a + 0.01
    a[0], b[0] = 0.0, 1.0
    equal = model.integral(a, b, residual=64)
    found = model.integral(a, b, residual=8, total=equal.samples)
    assert found.samples <= equal.samples
    assert found.error.square().sum() < 0.1 * equal.error.square().sum()
    low, high = found.interval()
    truth = one.exact(a, b)
    assert ((low <= truth) & (truth <= high)).double().mean() > 0.85


def test_counts_and_sides():
    counts = allotted(torch.tensor([[1.0, 0.0, 3.0]]), total=1000, used=100)
    assert counts[0, 2] > counts[0, 0] > counts[0, 1] >= 4
    assert counts.sum() <= 900
    assert [sides_of(s, 2) for s in (1, 2, 4, 32)] == [[1, 1], [2, 1], [2, 2], [6, 5]]
    assert sides_of(64, 6) == [2] * 6
    mean = stratified_mean(lambda x, rows: x[..., :1], 3, 2, 512, torch.Generator().manual_seed(0))
    assert torch.allclose(mean.value, torch.tensor(0.5).double(), atol=0.01)
    assert mean.degrees.min() > 30  # all cells count alike


def test_a_report_tells_the_gain(hill):
    _, model = hill
    report = model.error_report(100)
    assert report.samples == 64
    assert report.variance_ratio > 3
    assert "64 samples of the residual have a variance" in str(report)


def test_what_cannot_be_estimated_is_refused(hill):
    _, model = hill
    for given, words in (
        ({"residual": 2}, "must be at least 4"),
        ({"residual": math.nan}, "residual=nan must be an integer"),
        ({"residual": 8, "axes": (7,)}, r"axes=\(7,\) must be different numbers from 0 to 1"),
        ({"residual": 8, "axes": 0}, "axes=0 must be"),
        ({"residual": 8, "total": "all"}, "total='all' must be an integer"),
        ({"total": 100}, "say by residual="),
        ({"residual": 8, "total": 8}, "total=8 must be at least"),
        ({"residual": 8, "parameters": 1.0}, "fitted without parameters"),
    ):
        with pytest.raises(ValueError, match=words):
            model.integral([0, 0], [1, 1], **given)
    with pytest.raises(ValueError, match=r"level=1\.5"):
        Estimate(torch.zeros(1), torch.ones(1), torch.ones(1)).interval(1.5)
    lost = bad(genz("gaussian", 1), 1)
    lost.function = None
    with pytest.raises(ValueError, match="no function to compare"):
        lost.integral(0, 1, residual=8)
    broken = bad(genz("gaussian", 1), 1)
    broken.function = lambda x: torch.full((len(x),), math.nan)
    with pytest.raises(ValueError, match=r"is \[nan\] at x="):
        broken.integral(0, 1, residual=8)
