import copy
import io
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import autoint
from autoint.integrals import least_squares, training
from autoint.integrals.antiderivatives import Antiderivative
from autoint.integrals.functions import target
from autoint.integrals.integrands import true_integrals
from autoint.integrals.levenberg_marquardt import LevenbergMarquardt
from autoint.registry import FUNCTIONS
from tests import reference


@pytest.fixture(scope="module")
def bump():
    """A Gaussian in two dimensions on a box that is neither centred nor square."""
    return autoint.fit(
        lambda x: torch.exp(-x.square().sum(-1)), [-1, 0], [1, 3], tolerance=1e-5, max_time=300.0, progress=False
    )


def erf_box(lower, upper):
    sides = [math.sqrt(math.pi) / 2 * (math.erf(b) - math.erf(a)) for a, b in zip(lower, upper, strict=True)]
    return math.prod(sides)


@pytest.mark.parametrize("name", FUNCTIONS.names())
def test_every_antiderivative_is_one(name):
    """∂ⁿF/∂x_0…∂x_{n−1} = f by autograd, at the origin too; and quadrature gives the same integrals."""
    goal = target(name)
    x = 2 * torch.rand(9, goal.features, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    if name != "sinc":  # whose antiderivative comes from scipy
        field = lambda p: goal.antiderivative(p).reshape(len(p), -1)  # noqa: E731
        for axis in range(goal.features):
            tangent = torch.eye(goal.features, dtype=torch.float64)[axis]
            field = lambda p, f=field, t=tangent: reference.derivative(f, p, t)  # noqa: E731
        assert torch.allclose(field(x)[:, 0], goal.integrand(x).reshape(-1), atol=1e-12)
    exact, rule = (true_integrals(goal.integrand, x, -x.flip(0), e) for e in (goal.antiderivative, None))
    assert torch.allclose(exact, rule, atol=1e-12)
    assert goal.integrand(torch.zeros(1, goal.features, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("name", ["cos", "linear", "xcosx"])
def test_a_few_seconds_give_six_digits(name):
    goal = target(name)
    fit = autoint.fit(goal.integrand, -1, 1, tolerance=1e-6, progress=False)
    assert fit.fitted.steps < 400  # a hundred of Levenberg-Marquardt, whose plain steps would be several hundred
    report = fit.error_report(exact=goal.antiderivative)
    assert report.integral_max < 1e-6
    assert report.integral_rms <= report.integral_max <= report.integrand_max
    assert "exact antiderivative" in str(report)


def test_integrals_over_boxes(bump):
    lower, upper = [-1.0, 0.5], [0.5, 2.0]
    assert abs(bump.integral(lower, upper).item() - erf_box(lower, upper)) < 1e-4
    batch = bump.integral(torch.tensor([lower, [0.0, 0.0]]), torch.tensor(upper))
    assert batch.shape == (2,)
    assert torch.allclose(batch[0], bump.integral(lower, upper), atol=1e-14)
    flipped = bump.integral([0.5, 0.5], [-1.0, 2.0])
    assert torch.allclose(flipped, -bump.integral(lower, upper))
    assert abs((bump.integral(lower, upper, method="differences") - bump.integral(lower, upper)).item()) < 1e-12
    assert "Gauss-Legendre" in str(bump.error_report(20))


def test_one_axis_at_a_fixed_coordinate(bump):
    ours = bump.integral([-1.0, 0.3], [0.5, 0.3], axes=(0,)).item()
    assert abs(ours - math.exp(-0.09) * erf_box([-1.0], [0.5])) < 1e-4


def test_gradients_by_bounds_and_parameters(bump):
    lower, upper = torch.tensor([-0.5, 0.5]).double(), torch.tensor([0.5, 2.0]).double().requires_grad_()
    by_upper, *by_parameters = torch.autograd.grad(bump.integral(lower, upper), [upper, *bump.parameters()])
    edge = math.exp(-0.25) * erf_box([0.5], [2.0])
    assert abs(by_upper[0].item() - edge) < 1e-3  # Leibniz: the integral over the moving face
    assert all(g.abs().max() > 0 for g in by_parameters)
    x = torch.tensor([[0.2, 1.0]], dtype=torch.float64)
    mixed = bump.antiderivative
    for axis in range(2):
        mixed = (
            lambda f, a: (
                lambda p: reference.derivative(
                    lambda q: f(q).reshape(len(q), -1), p, torch.eye(2, dtype=torch.float64)[a]
                )
            )
        )(mixed, axis)
    assert torch.allclose(mixed(x)[:, 0], bump.integrand(x))


def test_an_output_that_is_small_beside_the_tolerance_is_told(caplog):
    """One that is 0 is not."""
    given = {"hidden_features": 4, "points": 64, "adam_steps": 0, "max_time": 0, "progress": False}
    for sizes, told in (([1.0, 0.0, 1e-4], True), ([1.0, 0.0, 0.5], False)):
        caplog.clear()
        autoint.fit(lambda x, sizes=sizes: torch.tensor(sizes).double() * torch.cos(x), 0, 1, tolerance=1e-3, **given)
        assert ("which output 2 has 2e-04 only: it may be off by 6e+00 of its own" in caplog.text) == told


def test_many_outputs_and_plain_numbers():
    both = autoint.fit(lambda x: torch.cat([x, x**2], -1), 0, 2, tolerance=1e-6, progress=False)
    assert torch.allclose(both.integral(0, 1), torch.tensor([0.5, 1 / 3]).double(), atol=1e-5)
    assert both.integral(torch.zeros(7), torch.ones(7)).shape == (7, 2)
    zero = autoint.fit(lambda x: torch.zeros(len(x)), 0, 1, adam_steps=1, progress=False)
    assert abs(zero.integral(0, 1).item()) < 1e-7


def test_products_where_there_are_too_many_corners():
    """Eight axes: integrals, lines, error bars and a report; and a family of two axes, with its gradients."""
    given = {"hidden_features": 6, "num_layers": 1, "adam_steps": 20, "tolerance": 3e-3, "progress": False}
    hill = autoint.fit(lambda x: torch.exp(-x.square().sum(-1)), [0] * 8, [1] * 8, points=512, num_products=2, **given)
    a, b = torch.zeros(3, 8), torch.tensor([0.3, 0.6, 1.0])[:, None].expand(3, 8)
    truth = torch.tensor([erf_box([0.0], [v]) ** 8 for v in (0.3, 0.6, 1.0)]).double()
    assert torch.allclose(hill.integral(a, b), truth, atol=2e-3)
    low, high = hill.integral(a, b, residual=512).interval(0.999)
    assert ((low <= truth) & (truth <= high)).all()
    line = hill.integral([0.0] * 8, [1.0] + [0.0] * 7, axes=(0,)).item()
    assert abs(line - erf_box([0.0], [1.0])) < 0.1
    assert "Sobol points" in str(hill.error_report(2, samples=16))
    waves = autoint.fit(
        lambda x, p: torch.exp(-p[:, 0] * x.sum(-1)),
        [0, 0],
        [1, 1],
        parameters=(1, 2),
        num_products=1,
        points=512,
        **given,
    )
    p = torch.tensor([1.2, 1.8]).double().requires_grad_()
    truth = ((1 - torch.exp(-p)) / p) ** 2
    ours = waves.integral([0, 0], [1, 1], parameters=p)
    assert torch.allclose(ours, truth, atol=3e-3)
    by_p = [torch.autograd.grad(v.sum(), p, retain_graph=True)[0] for v in (ours, truth)]
    assert torch.allclose(*by_p, atol=3e-2)


@pytest.mark.parametrize(
    ("function", "lower", "upper", "words"),
    [
        (torch.cos, 1, 1, "lower below upper"),
        (torch.cos, 0, math.inf, r"does not fall faster than 1/\|x\|"),
        (torch.cos, [0, 0], 1, "same length"),
        (torch.cos, "a", 1, "lower='a' must be real numbers"),
        (torch.cos, 0, 1j, "upper is complex64"),
        (torch.cos, 0, torch.tensor(math.nan), "upper has NaN"),
        ("x*y", [0], [1, 1], "has 2 coordinates"),
        ("x*z", 0, [1, 1], "has 3 coordinates"),
        ("sin(q)", 0, 1, "unknown name 'q'"),
        (torch.cos, [0] * 17, [1] * 17, "from 1 to 16"),
        (lambda x: 1 / x.clamp_min(0), -1, 1, "is \\[inf\\] at x="),
        (lambda x: x.sum(), 0, 1, r"returned a tensor of shape \(\)"),
        (lambda x: 1.0, 0, 1, "returned a float"),
        (lambda x: x @ x, 0, 1, "the function failed at x of shape"),
        (lambda x: 1e-200 * x, 0, 1, "reaches 5.0e-201, whose fourth power"),
        (lambda x: x[:, :0], 0, 1, "shape \\(512, 0\\)"),
        (torch.cos, [[0, 0], [0, 0]], [[1, 1], [1, 1]], "corners of one box"),
    ],
)
def test_what_cannot_be_fitted_is_refused(function, lower, upper, words):
    with pytest.raises(ValueError, match=words):
        autoint.fit(function, lower, upper, progress=False)


def test_what_a_fit_cannot_answer_is_refused(bump):
    for lower, upper, words in (
        ([-2, 0], [0, 1], "outside the fitted box"),
        ([0, 0], [math.nan, 1], "not finite"),
        ([0], [1], "the last size must be"),
    ):
        with pytest.raises(ValueError, match=words):
            bump.integral(lower, upper)
    with pytest.raises(ValueError, match="smaller network or fewer points"):
        autoint.fit(torch.cos, 0, 1, hidden_features=1024, progress=False)
    for given, words in (
        ({"points": 2.5}, "points=2.5 must be an integer"),
        ({"points": 10**10}, "points=10000000000: at most"),
        ({"hidden_features": "a"}, "hidden_features='a' must be an integer"),
        ({"activation": 3}, "activation=3 must be a name"),
        ({"adam_steps": -1}, "adam_steps=-1 must be an integer of at least 0"),
        ({"tolerance": "small"}, "tolerance='small' must be positive"),
        ({"max_time": math.nan}, "max_time=nan must be a number of at least 0"),
        ({"seed": 1.5}, "seed=1.5 must be an integer"),
        ({"weight": lambda x: x.repeat(1, 2)}, "weight= returned 2 numbers"),
        ({"breaks": [k / 300 for k in range(1, 300)]}, "300 pieces"),
    ):
        with pytest.raises(ValueError, match=words):
            autoint.fit("x", 0, 1, progress=False, **given)
    for given, words in (({"exact": 3}, "exact= failed"), ({"seed": "a"}, "seed='a' must be")):
        with pytest.raises(ValueError, match=words):
            bump.error_report(2, **given)
    model = Antiderivative(autoint.IntegralNet(1, 1), [0.0], [1.0])
    with pytest.raises(ValueError, match="no function to compare"):
        model.error_report()
    bad = Antiderivative(autoint.IntegralNet(1, 1), [0.0], [1.0], builder="double_backward")
    with pytest.raises(ValueError, match="use grad_net=explicit"):
        least_squares.LeastSquares(bad, torch.zeros(2, 1).double(), torch.ones(2, 1).double())


@pytest.mark.parametrize(
    ("lower", "upper", "peak", "words"),
    [(0, 1, 0.3137, "0 at all 64 points;"), (-math.inf, math.inf, 1e5, "64 points, half of which lie within [1.0] of")],
)
def test_a_function_that_is_zero_where_it_is_asked_is_told(lower, upper, peak, words, caplog):
    """Its integral is not certified as 0 in silence, which it is for a piece beside one where there is something."""
    given = {"progress": False, "adam_steps": 0, "hidden_features": 4, "points": 64, "tolerance": 1e-2}
    autoint.fit(lambda x: torch.exp(-(((x - peak) / 1e-5) ** 2)), lower, upper, **given)
    assert words in caplog.text
    assert "give lower= and upper= near to that" in caplog.text
    caplog.clear()
    autoint.fit("where(x<0.5,0,1)", 0, 1, breaks=[0.5], **given)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("builder", ["explicit", "graph", "jvp"])
def test_the_jacobian_is_that_of_autograd(builder):
    torch.manual_seed(0)
    model = Antiderivative(autoint.IntegralNet(2, 2, 5, 2, "sine"), [-1.0, 0], [1.0, 3], builder=builder)
    problem = least_squares.LeastSquares(model, torch.rand(4, 2).double(), torch.rand(4, 2).double())
    residuals, jacobian = problem.linearization()
    rows = [torch.autograd.grad(r, list(problem.parameters.values()), retain_graph=True) for r in residuals]
    truth = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    assert torch.allclose(jacobian(), truth, atol=1e-10)


@pytest.mark.parametrize("rows", [3, 40])
def test_levenberg_marquardt_solves_a_linear_problem(rows):
    """Fewer and more residuals than parameters: the least-squares solution, and nothing but decrease on the way."""
    torch.manual_seed(0)
    matrix, goal = torch.randn(rows, 6).double(), torch.randn(rows).double()
    theta = torch.zeros(6).double().requires_grad_()
    optimizer = LevenbergMarquardt([theta])
    losses = [float(optimizer.step(lambda: (matrix @ theta.detach() - goal, lambda: matrix))) for _ in range(40)]
    best = matrix @ torch.linalg.lstsq(matrix, goal[:, None]).solution[:, 0] - goal
    assert all(later <= earlier for earlier, later in pairwise(losses))
    assert abs(losses[-1] - float(best.square().mean())) < 1e-12


def test_levenberg_marquardt_stalls_instead_of_climbing():
    theta = torch.ones(2).double().requires_grad_()
    optimizer = LevenbergMarquardt([theta])
    lying = lambda: (theta.detach().clone(), lambda: -torch.eye(2).double())  # noqa: E731
    losses = [float(optimizer.step(lying)) for _ in range(15)]
    assert losses == [1.0] * 15
    assert optimizer.stalled
    assert torch.equal(theta.detach(), torch.ones(2).double())


def test_a_fit_says_what_it_has_reached(caplog):
    """In time, out of time, and where nothing improves any more, with a warning unless it is what was asked for."""
    with caplog.at_level("INFO", "autoint"):
        done = autoint.fit("sin(x)", 0, 3, tolerance=1e-3, progress=False)
        late = autoint.fit("sin(x)", 0, 3, adam_steps=1, max_time=0.0, progress=False)
        bent = autoint.fit(
            "abs(x)", [-1], np.array([1]), hidden_features=2, num_layers=1, tolerance=1e-9, progress=False
        )
    assert [fit.fitted.end for fit in (done, late, bent)] == ["done", "max_time=0", "it no longer falls"]
    assert done.fitted.error <= 1e-3 < late.fitted.error
    assert abs(done.integral(0, 3).item() - (1 - math.cos(3))) < 1e-2
    records = [r for r in caplog.records if r.name == "autoint.integrals.fitting"]
    assert [r.levelname for r in records] == ["INFO", "WARNING", "WARNING"]
    assert str(done.fitted) in records[0].getMessage()
    assert "tolerance 1e-08 not met (max_time=0)" in records[1].getMessage()


@pytest.mark.parametrize(("limit", "each"), [(10, 4), (1e5, 2e3)])
def test_a_fit_ends_in_time(limit, each, monkeypatch):
    """No step of Levenberg-Marquardt begins that would be late, and no network grows that could not be trained.

    The first has time for two steps, and the second for fifty, of a function that needs a wider network.
    """
    clock, step = SimpleNamespace(now=0.0), LevenbergMarquardt.step

    def slow(self, closure):
        clock.now += each
        return step(self, closure)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(LevenbergMarquardt, "step", slow)
    fitted = autoint.fit("sin(40*x)", 0, 3, adam_steps=1, max_time=limit, progress=False).fitted
    assert fitted.end == f"max_time={limit:g}"
    assert clock.now <= limit


def test_levenberg_marquardt_stops_where_it_creeps():
    """Residuals that fall by a thousandth in a hundred steps."""
    theta, pace = torch.ones(1).double().requires_grad_(), 1 - 1e-5
    optimizer = LevenbergMarquardt([theta])
    for step in range(1, 200):
        optimizer.step(lambda: (torch.ones(1).double(), lambda: torch.zeros(1, 1).double()))
        optimizer.param_groups[0]["growth"] = 2.0  # as after a step that was taken
        assert optimizer._creeps(pace**step) == (optimizer.param_groups[0]["taken"] == 200)
        if optimizer.param_groups[0]["taken"] == 200:
            break


def test_a_stored_antiderivative_is_the_same(bump):
    for fit in (bump, autoint.fit("x", 0, 1, tolerance=1e-2, progress=False)):
        file = io.BytesIO()
        torch.save(fit, file)
        file.seek(0)
        twins = copy.deepcopy(fit), torch.load(file, weights_only=False)
        middle = 0.5 * (fit.lower + fit.upper)
        for twin in twins:
            assert torch.equal(twin.integral(fit.lower, middle), fit.integral(fit.lower, middle))
            assert twin.fitted == fit.fitted
        assert twins[0].function == fit.function
        assert twins[1].function == (None if fit is bump else fit.function)  # a lambda is code


def test_bounds_and_points_of_an_antiderivative(bump):
    truth = bump.integral(torch.tensor([0.0, 0.0]).double(), torch.tensor([0.5, 1.0]).double())
    for lower, upper in (([0, 0], (0.5, 1)), (np.zeros(2, dtype=int), np.array([0.5, 1], dtype=np.float32))):
        assert torch.equal(bump.integral(lower, upper), truth)
    assert torch.equal(bump.antiderivative([0, 1]), bump.antiderivative(torch.tensor([0.0, 1.0]).double()))
    for bad, words in (("a", "x='a' must be"), ([1j, 0], "x is complex"), ([0, math.nan], "x has NaN")):
        with pytest.raises(ValueError, match=words):
            bump.antiderivative(bad)
    rows = torch.func.vmap(bump.integral)(torch.zeros(3, 2).double(), torch.ones(3, 2).double())
    assert torch.allclose(rows, bump.integral([0, 0], [1, 1]).expand(3))
    with pytest.raises(ValueError, match="outside the fitted box"):
        torch.func.vmap(bump.integral)(torch.zeros(3, 2).double(), 4 * torch.ones(3, 2).double())
