"""Lines without end, singularities, kinks, jumps and periods, against exact integrals; what is found is named."""

import logging
import math
import re

import pytest
import torch

import autoint
from autoint.integrals import Antiderivative, Piecewise
from autoint.integrals.diagnosis import along
from autoint.integrals.domains import Affine, EndPoint, HalfLine, WholeLine, domain_of

QUICK = {"tolerance": 1e-4, "adam_steps": 50, "progress": False}
CHANGES = [
    Affine(-1.0, 3.0),
    WholeLine(0.5, 2.0),
    HalfLine(1.0, 1, 0.5),
    HalfLine(1.0, -1, 0.5, 2),
    EndPoint(0.0, 2.0, 3),
    EndPoint(2.0, 0.0, 2),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.lower}-{change.upper}")
def test_a_change_of_variables_is_its_own_inverse_and_slope(change):
    u = torch.linspace(-0.99, 0.99, 41).double().requires_grad_()
    x = change.x(u)
    assert torch.allclose(change.u(x), u, atol=1e-12)
    (slope,) = torch.autograd.grad(x.sum(), u)
    assert torch.allclose(change.slope(u), slope, rtol=1e-10)
    assert (slope > 0).all()
    ends = torch.tensor([change.lower, change.upper]).double().requires_grad_()
    at_ends = change.u(ends)
    assert torch.allclose(at_ends, torch.tensor([-1.0, 1.0]).double())
    if not isinstance(change, EndPoint):  # at whose end the slope has no end
        assert torch.autograd.grad(at_ends.sum(), ends)[0].isfinite().all()


@pytest.mark.parametrize(
    ("function", "lower", "upper", "given", "truths"),
    [
        ("exp(-x^2)", -math.inf, math.inf, {}, {(-math.inf, math.inf): math.sqrt(math.pi), (0, math.inf): 0.886226925}),
        ("exp(-(x-50)^2/2)", -math.inf, math.inf, {}, {(50, math.inf): math.sqrt(math.pi / 2)}),
        ("exp(-x)", 0, math.inf, {}, {(0, math.inf): 1.0, (1, 2): math.exp(-1) - math.exp(-2)}),
        (lambda x: x**-0.5, 0, 1, {"singular": [(0, -0.5)]}, {(0, 1): 2.0, (0.25, 0): -1.0}),
        (lambda x: (1 + x) ** -1.5, 0, math.inf, {"singular": [(math.inf, -1.5)]}, {(0, math.inf): 2.0, (0, 3): 1.0}),
        ("abs(x-0.3)", 0, 1, {"breaks": [0.3]}, {(0, 1): 0.29, (0.2, 0.4): 0.01}),
        ("where(x<0.3,0,1)", 0, 1, {"breaks": [0.3]}, {(0, 1): 0.7, (0.4, 0.1): -0.1}),
        ("exp(sin(x))", 0, 2 * math.pi, {"periodic": True}, {(-9, 9): 9 * 2.5321318}),
        ("x^2", -math.inf, math.inf, {"weight": lambda x: torch.exp(-(x**2) / 2)}, {(-math.inf, math.inf): 2.5066283}),
    ],
    ids=["line", "far away", "half line", "root", "slow decay", "kink", "jump", "period", "weight"],
)
def test_integrals_where_it_is_declared(function, lower, upper, given, truths):
    fit = autoint.fit(function, lower, upper, **given, **QUICK)
    assert fit.fitted.met
    if given.get("periodic"):
        truths = {(-9, 9): float(torch.exp(torch.sin(torch.linspace(-9, 9, 100001).double())).mean()) * 18}
    for bounds, truth in truths.items():
        assert abs(fit.integral(*bounds).item() - truth) < 2e-3 * max(1.0, abs(truth))
        low, high = fit.integral(*bounds, residual=512).interval(0.9999)
        assert low - 1e-6 < truth < high + 1e-6
    assert math.isfinite(fit.error_report(20).integral_max)


def test_pieces_in_two_dimensions():
    """A jump along one axis, and both axes at once: boxes, lines, values and gradients."""
    given = {"hidden_features": 8, "points": 200, "adam_steps": 50, "tolerance": 1e-3, "progress": False}
    fit = autoint.fit("where(x<0.4,exp(y),y)", [0, -1], [1, 1], breaks={0: [0.4]}, **given)
    truth = 0.2 * (math.e - 1) + 0.3 * 0.5
    assert abs(fit.integral([0.2, 0.0], [0.7, 1.0]).item() - truth) < 3e-3
    line = fit.integral([0.0, 0.5], [1.0, 0.5], axes=(0,)).item()
    assert abs(line - (0.4 * math.exp(0.5) + 0.3)) < 1e-2
    x = torch.tensor([[0.1, 0.5], [0.4, 0.5], [1.0, 0.5]]).double()
    assert torch.allclose(fit.integrand(x), torch.tensor([math.exp(0.5), 0.5, 0.5]).double(), atol=2e-2)
    upper = torch.tensor([0.7, 1.0]).double().requires_grad_()
    (by_upper,) = torch.autograd.grad(fit.integral([0.2, 0.0], upper), upper)
    assert torch.allclose(by_upper, torch.tensor([0.5, 0.2 * math.e + 0.3]).double(), atol=3e-2)
    assert torch.allclose(fit.antiderivative(upper), fit.integral([0.0, -1.0], upper))
    with pytest.raises(ValueError, match="outside the fitted box"):
        fit.integral([0.0, 0.0], [1.5, 1.0])


@pytest.mark.parametrize("periodic", [(), (0,)], ids=["box", "period"])
def test_the_gradient_by_a_bound_at_a_break_is_that_of_one_piece(periodic):
    """At an end that two pieces share, of any weights: the limit from above, as of the integrand."""
    torch.manual_seed(0)
    cells = [([low, 0.0], [high, 1.0]) for low, high in ((0.0, 0.3), (0.3, 1.0))]
    whole = Piecewise([Antiderivative(autoint.IntegralNet(2, 1, 4, 2), *cell) for cell in cells], [2, 1], periodic)
    bound = torch.tensor([[0, 1], [0.2, 1], [0.3, 1], [0.6, 1], [1, 1]], dtype=torch.float64, requires_grad=True)
    for sign, ends in ((1, ([0.2, 1.0], bound)), (-1, (bound, [0.7, 1.0]))):
        (slope,) = torch.autograd.grad(whole.integral(*ends, axes=(0,)).sum(), bound)
        assert torch.allclose(slope[:, 0], sign * whole.integrand(bound))


def test_a_state_has_the_changes_of_variables(caplog):
    """Without them its weights are of another function: of one without end, of a root, and of the pieces of both."""

    def of(*changes):
        torch.manual_seed(0)
        box = [change.lower for change in changes], [change.upper for change in changes]
        return Antiderivative(autoint.IntegralNet(len(changes), 1, 4, 2), *box, changes=changes)

    for theirs, ours in (
        ([WholeLine(3.0, 2.0)], [WholeLine(0.0, 1.0)]),
        ([HalfLine(1.0, -1, 0.5, 2)], [HalfLine(-3.0, -1, 1.0)]),
        ([Affine(0.0, 1.0), EndPoint(2.0, 0.0, 3)], [Affine(0.0, 4.0), EndPoint(0.0, 2.0, 2)]),
        ([EndPoint(0.0, 2.0, 3)], [Affine(0.0, 2.0)]),
    ):
        first, second = of(*theirs), Piecewise([of(*ours)], [1] * len(ours))
        at = first.at_shares(torch.full((len(ours),), 0.3).double())
        second.load_state_dict(Piecewise([first], [1] * len(ours)).state_dict())
        assert torch.equal(second.integrand(at), first.integrand(at))
    assert not caplog.messages
    of(WholeLine(3.0, 2.0)).load_state_dict({k: v for k, v in first.state_dict().items() if k != "variables"} | LINE)
    assert "the state has no variables" in caplog.text  # as of before
    for bad in ({"variables": torch.ones(2)}, {"variables": torch.full((1, 5), 9.0)}, LINE):
        with pytest.raises(RuntimeError, match=r"must hold five numbers|by the changes of variables"):
            of(EndPoint(0.0, 2.0, 3)).load_state_dict({**first.state_dict(), **bad})


def test_a_period_that_is_none_is_told(caplog):
    given = {"hidden_features": 4, "points": 64, "adam_steps": 0, "tolerance": 1.0, "progress": False}
    autoint.fit("exp(sin(2*x))", 0, math.pi, periodic=True, **given)
    autoint.fit(lambda x: x.clamp(0, 3) / (x < 3), 0, 3, periodic=True, **given)  # which is nothing outside
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    autoint.fit("(1+cos(x))*exp(-y^2)", [0, -math.inf], [3, math.inf], periodic=[0], **given)
    assert "periodic=: the function changes at x + 3 along axis 0, by " in caplog.text


LINE = {"lower": torch.tensor([-math.inf]).double(), "upper": torch.tensor([math.inf]).double()}
FAULTS = [
    (lambda x: torch.where(x > 0.3, 1.0, x), r"a jump at x=0\.3 \(declare breaks=\[0\.3\]\)"),
    (lambda x: (x - 0.3).abs() + torch.cos(3 * x), r"a kink at x=0\.3 \(declare breaks=\[0\.3\]\)"),
    (lambda x: x**-0.5 * torch.cos(x), r"a singularity at x=0 \(declare singular=\[\(0, -0\.5\)\]\)"),
    (lambda x: (1 - x) ** 0.5, r"a singularity at x=1 \(declare singular=\[\(1, 0\.5\)\]\)"),
    (lambda x: x**-1.5, r"a pole at x=0, like \|x - 0\|\^-1\.50: its integral does not exist"),
    (lambda x: 1 / (x - 0.3), r"a pole or a singularity at x=0\.3"),
    (lambda x: 1 / (x - 0.3) ** 2, r"a pole or a singularity at x=0\.3"),
]


@pytest.mark.parametrize(("function", "words"), FAULTS)
def test_what_is_not_declared_is_found_and_named(function, words):
    change = Affine(0.0, 1.0)
    assert re.fullmatch(words, along(lambda u: function(change.x(u)), change))


@pytest.mark.parametrize(
    ("change", "function", "words"),
    [
        (EndPoint(0.0, 1.0, 4), lambda x: x**-0.4, r"a singularity at x=0 \(declare singular=\[\(0, -0\.4\)\]\)"),
        (EndPoint(2.0, 1.0, 2), lambda x: (2 - x) ** -0.7, r"a singularity at x=2 .*\(2, -0\.7\)\]\)"),
        (EndPoint(0.0, 1.0, 2), lambda x: x**-1.5, r"a pole at x=0, like \|x - 0\|\^-1\.50: .*"),
        (EndPoint(0.0, 1.0, 2), lambda x: x**-0.5 * torch.cos(x), ""),
        (HalfLine(0.0, 1, 2.0), lambda x: x**-0.5 * torch.exp(-x), r"a singularity at x=0 .*\(0, -0\.5\)\]\)"),
    ],
)
def test_exponents_are_those_of_x_behind_a_change_of_variables(change, function, words):
    assert re.fullmatch(words, along(lambda u: function(change.x(u)), change))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cos(40 * x),
        lambda x: torch.exp(x),
        lambda x: 0 * x,
        lambda x: torch.tanh(60 * (x - 0.4)),
        lambda x: 1 / (1e-3 + (x - 0.3) ** 2),
        lambda x: x**3,
        lambda x: 0.997 * (2 * x - 1),
        lambda x: 5 + x + 1e-3 * torch.sin(x),
        lambda x: (3 * x).float().double(),
    ],
)
def test_nothing_is_said_of_what_is_smooth(function):
    change = Affine(0.0, 1.0)
    assert along(lambda u: function(change.x(u)), change) == ""


def test_a_fit_names_the_place(caplog):
    fit = autoint.fit("where(x<0.3,0,1)*y", [0, 0], [1, 1], adam_steps=20, max_time=1, progress=False)
    assert not fit.fitted.met
    assert "there is a jump at x0=0.3 (declare breaks={0: [0.3]}) on the line x1=" in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"breaks": [2.0]}, r"breaks: 2\.0 must be a number between 0 and 1"),
        ({"breaks": 0.3}, "must be a list, such as"),
        ({"breaks": {1: [0.3]}}, r"the axes \['1'\] must be numbers from 0 to 0"),
        ({"singular": [0]}, "must be a place and an exponent"),
        ({"singular": [(0, -1)]}, "has no integral; the exponent must be above -1"),
        ({"singular": [(3, -0.5)]}, "3 is not between 0 and 1"),
        ({"upper": math.inf, "singular": [(math.inf, -1)]}, "the exponent must be below -1"),
        ({"upper": math.inf, "periodic": True}, "whose box is one finite period"),
        ({"periodic": [1]}, "give axes from 0 to 0"),
        ({"periodic": 3}, "give axes from 0 to 0"),
        ({"singular": [(0, -0.5), (0, -0.3)]}, "has a place twice"),
        ({"lower": [0, 0], "upper": [1, 1], "breaks": [0.3]}, "say for which axis"),
        ({"tolerance": 0}, "tolerance=0 must be positive"),
        ({"tolerance": math.nan}, "tolerance=nan must be positive"),
        ({"weight": lambda x: 1.0}, "returned a float"),
        ({"upper": -math.inf}, "they must be lower below upper"),
    ],
)
def test_a_domain_that_is_none_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        autoint.fit(lambda x: torch.exp(-x.sum(-1)), **{"lower": 0, "upper": 1, "progress": False, **given})


def test_pieces_of_a_line():
    """Special at both ends: cut in the middle, or at the scale from a finite end."""
    domain = domain_of([0.0], [math.inf], [(0, -0.5)], [], False)
    assert domain.changes([1.0], [3.0]) == [[EndPoint(0.0, 3.0, 2), HalfLine(3.0, 1, 3.0)]]
    domain = domain_of([0.0], [1.0], [(0, -0.5), (1, -0.25)], [0.5], False)
    assert domain.changes([0.0], [1.0]) == [[EndPoint(0.0, 0.5, 2), EndPoint(1.0, 0.5, 4)]]
    domain = domain_of([-math.inf], [math.inf], [(math.inf, -1.5)], [], False)
    assert domain.changes([7.0], [1.0]) == [[HalfLine(7.0, -1, 1.0), HalfLine(7.0, 1, 1.0, 2)]]
