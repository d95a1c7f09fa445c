"""``grad_net=graph``: every rule, random networks, and what the graph promises."""

import copy
import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from autoint.networks.grad_nets import grad_net
from autoint.networks.grad_nets.graph import differentiate, function, trace
from autoint.networks.grad_nets.rules import operation
from autoint.networks.integral_net import IntegralNet
from autoint.registry import ENCODINGS, RULES
from tests.cases import network, points, relative_error


class Of(nn.Module):
    """A function as a module, with what it may use directly."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(points(3, 3, seed=11))
        self.register_buffer("scale", torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))

    def forward(self, x):
        return self.function(x)


class With(Of):
    """A function of x and of the module itself."""

    def forward(self, x):
        return self.function(x, self)


def c(x):
    """Three features, each with mixed and repeated partials of every order up to three, between 0 and 1."""
    return x * x * x.flip(-1)


def on(function, shift):
    return lambda x: function(c(x) + shift)


def piecewise(condition):
    return lambda x: torch.where(condition(x), c(x), 2 * c(x))


def against(function, *value):
    return piecewise(lambda x: function(x, *value) if value else function(x) > 0.5)


POINTWISE = "sigmoid tanh erf sin cos tan atan sinh cosh asinh exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square"
ACTIVATIONS = ("silu", "mish", "gelu", "softplus", "logsigmoid")
KINKS = ("relu", "leaky_relu", "elu")
COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")
ROUNDINGS = ("floor", "ceil", "round", "trunc", "sign", "sgn")
PREDICATES = ("isnan", "isinf", "isfinite")
LOGIC = ("and_", "or_", "xor", "invert", "logical_and", "logical_or", "logical_xor", "logical_not")
STEPS = ("heaviside", "floordiv", "floor_divide", "argmax", "argmin")
ONCE = {*KINKS, *COMPARISONS, *ROUNDINGS, *PREDICATES, *LOGIC, *STEPS, "abs", "maximum", "minimum", "where"}
MIXING = ("linear", "dot")  # points that are not independent
CASES = {
    **{name: on(getattr(torch, name), 0.1) for name in POINTWISE.split()},
    **{name: on(getattr(F, name), -0.3) for name in ACTIVATIONS},
    **{name: on(getattr(F, name), -0.1) for name in KINKS},
    **{name: against(getattr(operator, name), 0.5) for name in COMPARISONS},
    **{name: against(getattr(torch, name)) for name in ROUNDINGS},
    **{name: piecewise(getattr(torch, name)) for name in PREDICATES},
    "reciprocal": lambda x: torch.reciprocal(c(x)),
    "abs": lambda x: abs(c(x) - 0.1),
    "neg": lambda x: -c(x),
    "pos": lambda x: +c(x),
    "positive": lambda x: torch.positive(c(x)),
    "add": lambda x: x.sum(-1, keepdim=True) + c(x) + 1,
    "sub": lambda x: (c(x) - x[..., :1]) * (2 - c(x)),
    "rsub": lambda x: torch.rsub(c(x), x[..., :1]),
    "mul": lambda x: 3 * c(x) * x[..., :1],
    "div": lambda x: c(x) / (1 + x[..., :1]) + 1 / (1 + c(x)) + c(x) / 2,
    "pow": lambda x: c(x) ** 3 + c(x) ** x + 2**x + x**0 + x**1 + x**2 + c(x) ** -0.5,
    "maximum": lambda x: torch.maximum(c(x), 0.5 * x * x),
    "minimum": lambda x: torch.minimum(c(x), 0.5 * x * x),
    "where": lambda x: torch.where(x < 0.6, c(x), 2 * c(x)) + torch.where(x < 0.6, c(x), 0.5),
    "heaviside": piecewise(lambda x: torch.heaviside(x - 0.5, torch.zeros_like(x)) > 0),
    "floordiv": piecewise(lambda x: x // 0.5 > 0),
    "floor_divide": piecewise(lambda x: torch.floor_divide(x, 0.5) > 0),
    "and_": piecewise(lambda x: (x > 0.4) & (x < 0.7)),
    "or_": piecewise(lambda x: (x < 0.4) | (x > 0.7)),
    "xor": piecewise(lambda x: (x < 0.4) ^ (x > 0.7)),
    "invert": piecewise(lambda x: ~(x < 0.4)),
    "logical_and": piecewise(lambda x: torch.logical_and(x > 0.4, x < 0.7)),
    "logical_or": piecewise(lambda x: torch.logical_or(x < 0.4, x > 0.7)),
    "logical_xor": piecewise(lambda x: torch.logical_xor(x < 0.4, x > 0.7)),
    "logical_not": piecewise(lambda x: torch.logical_not(x < 0.4)),
    "argmax": piecewise(lambda x: x.argmax(-1, keepdim=True) == 0),
    "argmin": piecewise(lambda x: x.argmin(-1, keepdim=True) == 0),
    "detach": lambda x: c(x).detach() * c(x),
    "zeros_like": lambda x: c(x) + torch.zeros_like(x),
    "ones_like": lambda x: c(x) * torch.ones_like(x),
    "full_like": lambda x: c(x) * torch.full_like(x, 2.0),
    "new_zeros": lambda x: c(x) + x.new_zeros(3),
    "new_ones": lambda x: c(x) * x.new_ones(3),
    "new_full": lambda x: c(x) * x.new_full((3,), 2.0),
    "size": lambda x: c(x) * x.size(-1),
    "dim": lambda x: c(x) * x.dim(),
    "numel": lambda x: c(x) / x.numel(),
    "dropout": lambda x: F.dropout(c(x), 0.5, training=False),
    **{
        name: lambda x, name=name: getattr(F, name)(c(x), 0.5, training=False)
        for name in ("alpha_dropout", "dropout1d", "feature_alpha_dropout")
    },
    "getattr": lambda x: c(x).reshape(x.shape).mT.mT,
    "sum": lambda x: c(x).sum(-1, keepdim=True),
    "mean": lambda x: torch.mean(input=c(x), dim=-1, keepdim=True),
    "getitem": lambda x: c(x)[..., [2, 0]] * x[:, None][..., 0, 1:],
    "select": lambda x: c(x).select(-1, 1)[..., None],
    "narrow": lambda x: c(x).narrow(-1, 1, 2),
    "index_select": lambda x: torch.index_select(c(x), -1, torch.tensor([2, 0])),
    "gather": lambda x: torch.gather(c(x), -1, torch.zeros_like(x[..., :1], dtype=torch.long)),
    "unsqueeze": lambda x: (c(x).unsqueeze(-1) * x.unsqueeze(-2)).sum(-1),
    "squeeze": lambda x: c(x)[..., None].squeeze(-1),
    "flatten": lambda x: (c(x)[..., None] * x[..., None, :]).flatten(-2),
    "unflatten": lambda x: c(x).unflatten(-1, (3, 1)).sum(-1),
    "transpose": lambda x: (c(x)[..., None] * x[..., None, :]).transpose(-1, -2)[..., 0],
    "permute": lambda x: c(x).permute(1, 0).permute(1, 0),
    "t": lambda x: c(x).t().t(),
    "movedim": lambda x: c(x).movedim(0, 1).movedim(1, 0),
    "flip": lambda x: c(x).flip(-1),
    "roll": lambda x: c(x).roll(1, -1),
    "expand": lambda x: c(x)[..., :1].expand(-1, 3) * x,
    "broadcast_to": lambda x: torch.broadcast_to(c(x)[..., :1], x.shape) * x,
    "repeat": lambda x: c(x).repeat(1, 2),
    "tile": lambda x: c(x).tile((1, 2)),
    "repeat_interleave": lambda x: c(x).repeat_interleave(2, -1),
    "chunk": lambda x: c(x).chunk(3, -1)[1],
    "split": lambda x: torch.cat(c(x).split([1, 2], -1), -1),
    "tensor_split": lambda x: c(x).tensor_split(2, -1)[0],
    "unbind": lambda x: torch.stack(c(x).unbind(-1), -1),
    "clone": lambda x: c(x).clone(),
    "contiguous": lambda x: c(x).contiguous(),
    "to": lambda x: c(x).to(x.dtype),
    "float": lambda x: c(x).float(),
    "double": lambda x: c(x).double(),
    "cumsum": lambda x: c(x).cumsum(-1),
    "diff": lambda x: c(x).diff(dim=-1),
    "matmul": With(lambda x, m: (c(x) @ m.weight) * (m.scale @ c(x)[..., None])),
    "mm": With(lambda x, m: torch.mm(c(x), m.weight)),
    "mv": With(lambda x, m: torch.mv(c(x), m.scale)[..., None]),
    "bmm": lambda x: torch.bmm(c(x)[:, None], x[..., None])[..., 0],
    "dot": With(lambda x, m: torch.dot(m.weight[0], m.scale) * c(x) + torch.dot(c(x)[0], x[0])),
    "outer": With(lambda x, m: torch.outer(c(x)[..., 0], m.scale)),
    "logaddexp": lambda x: torch.logaddexp(c(x), x),
    "linear": With(lambda x, m: F.linear(F.linear(c(x), m.weight, m.scale), x[:1] * m.weight, x[0])),
    "bilinear": With(lambda x, m: F.bilinear(c(x), x, m.weight[None] * torch.ones(2, 1, 1), m.scale[:2])),
    "einsum": With(lambda x, m: torch.einsum("ni,ij,nj->nj", c(x), m.weight, x)),
    "cat": lambda x: torch.cat([c(x), x, torch.ones(4, 1, dtype=torch.float64)], -1),
    "stack": lambda x: torch.stack([c(x), x], -1).sum(-1),
    "reshape": lambda x: c(x).view(-1, 3, 1).reshape(4, 3),
    "expand_as": lambda x: c(x)[..., :1].expand_as(x) * x,
    "type_as": lambda x: c(x).type_as(x),
    "reshape_as": lambda x: c(x)[..., None].reshape_as(x),
    "softmax": lambda x: c(x).softmax(-1) * F.softmax(x, dim=-1),
    "layer_norm": With(lambda x, m: F.layer_norm(c(x), (3,), m.scale, m.scale)),
    # Of what depends on x in a curve, so that the tangents of a jet have derivatives of their own.
    "jet": nn.Sequential(Of(c), IntegralNet(3, 2, 8, 2, encoding={"name": "positional", "num_frequencies": 2})),
}


def test_every_rule_has_a_case():
    assert set(CASES) == set(RULES.names())


@pytest.mark.parametrize("name", CASES)
def test_rule_is_the_derivative(name):
    """At first and second order, mixed and repeated, against autograd; what has pieces is refused the second time."""
    case = CASES[name]
    net = case.double() if isinstance(case, nn.Module) else Of(case).double()
    used = {operation(n.target) for n in trace(net).nodes if n.op.startswith("call")}
    assert name in used
    x = 0.6 + 0.3 * points(4, 3)
    for axes in [(0,), (2,), (0, 0), (0, 2), *([(0, 2, 0)] if name == "jet" else [])]:
        if name in ONCE and len(axes) > 1:
            with pytest.raises(ValueError, match="can be differentiated once only; use swish"):
                grad_net(net, axes, "graph")
            continue
        twin = "jvp" if name in MIXING else "double_backward"  # neither has every operation, or has it right
        ours, truth = (grad_net(net, axes, builder)(x) for builder in ("graph", twin))
        assert ours.shape == truth.shape
        assert relative_error(ours, truth) < (1e-6 if name == "float" else 1e-12), axes


@pytest.mark.parametrize(
    "function",
    [
        lambda x, m: F.linear(x[:, None] + m.weight, m.weight).sum(1),
        lambda x, m: torch.sin(m.weight - x[:, None]).mean(1),
        lambda x, m: torch.cat([x[:, None, :1] + m.scale, x[:, None] * m.weight], 1).reshape(4, -1),
        lambda x, m: (x[:, None, :1] + m.scale + m.weight).view(4, -1) ** 2,
        lambda x, m: torch.where(m.scale > 0.7, x[:, :1], m.weight[0]).square(),
    ],
)
@pytest.mark.parametrize("axes", [(0,), (0, 0), (1, 2)])
def test_a_tangent_has_the_shape_of_its_value(function, axes):
    """Also where the larger shape comes from what does not depend on x."""
    net, x = With(function), points(4, 3)
    ours, truth = (grad_net(net, axes, builder)(x) for builder in ("graph", "double_backward"))
    assert ours.shape == truth.shape
    assert distance([ours], [truth]) < 1e-13


SMOOTH = {
    "silu": F.silu,
    "softplus": lambda h: torch.logaddexp(h, h.new_zeros(())),
    "softplus_beta": lambda h: F.softplus(h, beta=2.0),
    "sine": lambda h: torch.sin(2 * h),
    "tanh": torch.tanh,
    "sigmoid": lambda h: h.sigmoid(),
    "gelu": F.gelu,
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
    "softmax": lambda h: h.softmax(-1),
    "bump": lambda h: torch.exp(-h.square()),
    "rational": lambda h: h / (1 + h * h),
    "root": lambda h: (1 + h**2).sqrt(),
}
JOINS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "hadamard": lambda a, b: a * b,
    "gate": lambda a, b: a * torch.sigmoid(b),
    "cat": lambda a, b: torch.cat([a, b], dim=-1)[..., 1:-1],
    "stack": lambda a, b: torch.stack([a, b], dim=-2).mean(-2),
    "norm": lambda a, b: a / (1 + (b * b).sum(-1, keepdim=True)),
}
CONSTANTS = {
    "number": lambda a, p: 0.5 * a - 1,
    "tensor": lambda a, p: a * torch.tensor([0.5, -1.0]).double()[0] + 1,
    "parameter": lambda a, p: a * p + p,
    "slice": lambda a, p: a[..., 1:],
    "flip": lambda a, p: a.flip(-1),
    "fixed": lambda a, p: p.expand_as(a) + torch.zeros_like(a),
}
step = st.tuples(st.sampled_from(["linear", *SMOOTH, *JOINS, *CONSTANTS, "linear", "module"]), *[st.integers(0, 9)] * 2)


class Drawn(nn.Module):
    """A user's network: each step makes a value from earlier ones, x being the first; the last two are the output."""

    def __init__(self, recipe, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.recipe, widths = recipe, [2]
        self.linear, self.wave = nn.ModuleDict(), nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.weight = nn.Parameter(torch.randn(1))
        for k, (kind, i, j) in enumerate(recipe):
            a, b = widths[i % len(widths)], widths[j % len(widths)]
            if kind in ("linear", "module") or kind in JOINS or (kind == "slice" and a < 3):
                self.linear[f"{k}a"], self.linear[f"{k}b"] = nn.Linear(a, 4), nn.Linear(b, 4, bias=False)
                widths.append(6 if kind == "cat" else 4)
            else:
                widths.append(a - (kind == "slice"))
        self.output = nn.Linear(widths[-1] + widths[-2], 2)

    def forward(self, x):
        values = [x]
        for k, (kind, i, j) in enumerate(self.recipe):
            a, b = values[i % len(values)], values[j % len(values)]
            if f"{k}a" in self.linear:
                a, b = self.linear[f"{k}a"](a), self.linear[f"{k}b"](b)
            if kind in JOINS:
                a = JOINS[kind](a, b)
            elif kind in SMOOTH:
                a = SMOOTH[kind](a)
            elif kind == "module":
                a = a + self.wave(a)
            elif kind != "linear" and not (kind == "slice" and f"{k}a" in self.linear):
                a = CONSTANTS[kind](a, self.weight)
            values.append(a)
        return self.output(torch.cat(values[-2:], dim=-1))


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(step, min_size=1, max_size=7),
    st.sampled_from([(0,), (1,), (0, 1), (1, 1), (1, 0), (0, 1, 1)]),
    st.integers(0, 2**16),
)
def test_random_networks(recipe, axes, seed):
    """Values and parameter gradients against nested autograd, up to third order."""
    net, x = Drawn(recipe, seed).double(), points(3, seed=seed)
    psi, truth = (grad_net(net, axes, builder)(x) for builder in ("graph", "double_backward"))
    assert distance([psi], [truth]) <= 1e-9
    parameters = list(net.parameters())
    ours, theirs = (
        torch.autograd.grad(v.square().sum(), parameters, allow_unused=True, materialize_grads=True)
        if v.requires_grad
        else [torch.zeros_like(p) for p in parameters]
        for v in (psi, truth)
    )
    assert distance(ours, theirs) <= 1e-9


def distance(ours, theirs):
    """The largest difference, relative to the largest value, or to 1e-4 where all the terms cancel."""
    scale = max(float(b.detach().abs().max()) for b in theirs)
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True)) / max(scale, 1e-4)


def operations(graph):
    return [operation(node.target) for node in graph.nodes if node.op.startswith("call")]


def test_shared_legs_are_computed_once_and_dead_branches_not_at_all():
    net = IntegralNet(in_features=2, out_features=1, num_layers=3)
    psi = operations(differentiate(trace(net)))
    assert (psi.count("silu"), psi.count("sigmoid")) == (3, 3)
    # A value and a tangent in each layer, but for the output's value, which no derivative needs.
    assert psi.count("linear") == 3 + 4
    mixed = operations(differentiate(differentiate(trace(net))))
    assert (mixed.count("silu"), mixed.count("sigmoid")) == (3, 3)
    # Three values, two tangents of the first layer, two and the mixed one of the next layers, the mixed one alone last.
    assert mixed.count("linear") == 3 + 2 + 3 + 3 + 1
    assert operations(trace(Of(lambda x: (torch.cos(x), torch.sin(x) + torch.sin(x))[1]))) == ["sin", "add"]


def test_the_transform_applies_to_its_own_output_and_partials_commute():
    net, x, (u, v) = network("swish", "positional"), points(5), (points(1, seed=5), points(1, seed=6))
    mixed = differentiate(differentiate(trace(net)))
    psi = function(mixed)
    assert relative_error(psi(net, x, u, v), psi(net, x, v, u)) < 1e-12
    assert psi(net, x, u, v).shape == (5, 3)
    assert {n.meta["source"] for n in mixed.nodes} <= {n.meta["source"] for n in trace(net).nodes}


def test_what_does_not_depend_on_x_has_a_derivative_of_zero():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).double()
    assert torch.equal(grad_net(net, (0, 1), "graph")(points(5)), torch.zeros(5, 1, dtype=torch.float64))


def squashed(x, m):
    return torch.tanh(x @ m.weight * m.scale)


def test_parameters_are_shared_through_moves_and_copies():
    net = With(squashed)
    psi = grad_net(net, (0,), "graph")
    assert [id(p) for p in psi.parameters()] == [id(p) for p in net.parameters()]
    assert set(psi.state_dict()) == {f"integral_net.{key}" for key in net.state_dict()}
    x, twin = points(4, 3), copy.deepcopy(psi)
    before = twin(x)
    assert torch.equal(before, psi(x))
    with torch.no_grad():
        net.weight.mul_(2)
    net.scale = net.scale * 2  # a buffer is replaced, not written to
    assert torch.equal(twin(x), before)
    assert not torch.equal(psi(x), before)
    assert relative_error(psi(x), grad_net(net, (0,), "jvp")(x)) < 1e-14
    assert psi.float()(x.float()).dtype is torch.float32
    assert torch.equal(pickle.loads(pickle.dumps(twin))(x), before)
    replaced = {name: torch.zeros_like(p) for name, p in psi.named_parameters()}
    assert torch.func.functional_call(psi, replaced, x.float()).abs().max() == 0
    assert torch.equal(psi.double()(x), psi(x))


def test_inference_mode_and_compilation():
    net, x = network("swish", "identity"), points(4)
    psi = grad_net(net, (0, 1), "graph")
    with torch.inference_mode():
        inside = psi(x)
    assert torch.equal(inside, psi(x))
    compiled = torch.compile(psi.derivative, backend="eager", fullgraph=True)
    tangents = list(torch.eye(2, dtype=torch.float64))
    assert torch.equal(compiled(x, tangents, None), psi(x))


def test_a_condition_is_given_needed_or_left_out():
    net = IntegralNet(3, 2, 8, 2, condition=ENCODINGS.build("positional", 2)).double()
    x, condition = points(5, 3), points(1, 2)
    ours, truth = (grad_net(net, (1,), builder)(x, condition) for builder in ("graph", "explicit"))
    assert relative_error(ours, truth) < 1e-13

    class Needed(Of):
        def forward(self, x, condition):
            return torch.sin(x) * condition

    class Optional(Of):
        def forward(self, x, condition=None):
            return torch.sin(x) if condition is None else torch.sin(x) * condition

    scale = torch.tensor([2.0], dtype=torch.float64)
    assert torch.equal(grad_net(Needed(None), (0,), "graph")(x, scale)[:, 0], x[:, 0].cos() * 2)
    psi = grad_net(Optional(None), (0, 0), "graph")
    assert torch.equal(psi.along(x, torch.eye(3).double()[0], scale), 2 * psi.along(x, torch.eye(3).double()[0]))
    assert torch.equal(psi(x)[:, 0], -x[:, 0].sin())


def test_attributes_may_have_any_name():
    """Also those that torch.fx uses for itself."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.code, self.graph = nn.Parameter(torch.ones(3)), nn.Linear(3, 3)

        def forward(self, input):
            return torch.sin(self.graph(input)) * self.code

    net, x = Named().double(), points(4, 3)
    assert relative_error(*(grad_net(net, (0,), builder)(x) for builder in ("graph", "jvp"))) < 1e-14


def branching(x):
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("function", "axes", "words"),
    [
        (
            lambda x: torch.special.bessel_j0(x),
            (0,),
            r"no rule for the operation 'special_bessel_j0' \(.*use grad_net=jvp",
        ),
        (lambda x: torch.sign(x) * x, (0,), r"'mul' uses 'sign', a step in x"),
        (lambda x: (x > 0).to(x.dtype), (0,), r"'output' uses 'to', a step in x.*detach\(\)"),
        (lambda x: F.relu(x), (0, 1), "'relu' has pieces in x, and can be differentiated once only; use swish"),
        (lambda x: x.abs() * x, (0, 0), "can be differentiated once only; use swish"),
        (lambda x: F.softplus(x, threshold=1), (0,), "threshold=1 has a kink"),
        (lambda x: torch.add(x, x, alpha=2), (0,), "no rule for the operation 'add' .*'alpha'"),
        (lambda x: x.sin_(), (0,), "'sin_' works in place"),
        (lambda x: F.silu(x + 1, inplace=True), (0,), "works in place.*leave out inplace=True"),
        (lambda x: torch.stack([*x]), (0,), r"cannot follow Of.forward at .*test_graph.py:\d+ .*use grad_net=jvp"),
        (branching, (0,), r"cannot follow Of.forward at .*x if x.sum\(\) > 0 else -x.*control flow"),
        (lambda x: torch.ones(5000) * x.sum(), (0,), r"tensor of shape \(5000,\) is made in forward; register it"),
        (lambda x: (x, x), (0,), "must return one tensor, not tuple"),
        (lambda x: F.leaky_relu(x, x.sum()), (0,), "no rule for the operation 'leaky_relu' .* with 'sum_1' varying"),
    ],
)
def test_what_cannot_be_differentiated_is_refused_at_construction(function, axes, words):
    with pytest.raises(ValueError, match=words):
        grad_net(Of(function), axes, "graph")
