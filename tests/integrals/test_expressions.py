"""Expressions are parsed: right values, one line for what is none, and nothing run."""

import copy
import math
import pickle
import time

import pytest
import torch

from autoint.integrals.expressions import FUNCTIONS, MAX_LENGTH, Expression
from autoint.integrals.functions import target

X = torch.tensor([[0.3, 0.7, -0.2], [1.5, -2.0, 0.4]], dtype=torch.float64)
x, y, z = X.unbind(-1)


@pytest.mark.parametrize(
    ("text", "features", "value"),
    [
        ("sin(x)*exp(-y**2)", 2, torch.sin(x) * torch.exp(-(y**2))),
        ("-x^2", 1, -(x**2)),
        ("2^x^2 + 1", 1, 2 ** (x**2) + 1),
        ("x0 - x1/x2", 3, x - y / z),
        ("2*pi*x + e**x - π", 1, 2 * math.pi * x + torch.exp(x) - math.pi),
        ("min(x, y, 0.5) + max(x, z)", 3, torch.minimum(x, y).clamp_max(0.5) + torch.maximum(x, z)),
        ("where(x < 1, -1, y)", 2, torch.where(x < 1, -1.0, y)),
        ("x if 0 < y < 1 and not z > 0 else 7", 3, torch.where((y > 0) & (y < 1) & ~(z > 0), x, 7.0)),
        ("(x > 1) - (x <= 1 or y != y)", 2, (x > 1).double() - (x <= 1).double()),
        ("1e-3 * x % 2", 1, 1e-3 * x % 2),
        ("abs(z) + sqrt(x) + erf(y) + sign(y) + floor(x)", 3, abs(z) + x.sqrt() + torch.erf(y) + y.sign() + x.floor()),
        ("3", 1, torch.full((2,), 3.0).double()),
        ("  sinh(x)\n+ 1 ", 1, torch.sinh(x) + 1),
        ("+".join(["x"] * 99), 1, 99 * x),
    ],
)
def test_values(text, features, value):
    f = Expression(text)
    assert f.features == features
    assert f(X[:, :features]).dtype == torch.float64
    assert torch.allclose(f(X[:, :features]), value, rtol=1e-14)
    for twin in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert twin == f
        assert torch.equal(twin(X), f(X))


def test_every_function_has_values_and_derivatives():
    for name, (least, _, _) in FUNCTIONS.items():
        f, at = Expression(f"{name}({', '.join(['0.9*x', 'y', '0.8'][:least])})"), X[:1].clone().requires_grad_()
        assert f(at).isfinite().all() or name == "acosh", name
        assert f(at).sum().requires_grad


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sin(q)", "character 5: unknown name 'q'"),
        ("x^2 + sinn(x)", "character 7: unknown function 'sinn'; did you mean 'sin'?"),
        ("2x", r"write the \* of a product, as in '2\*x'"),
        ("x (y)", r"character 1: unknown function 'x'; write the \* of a product"),
        ("sin(x", r"character 4: '\(' was never closed"),
        ("x^^2", "character 3: invalid syntax"),
        ("min(x)", "min takes 2 to 9 arguments, not 1"),
        ("exp + x", r"'exp' is a function; write exp\(x\)"),
        ("x // 2", "the operator FloorDiv is not known"),
        ("x in y", "the operator In is not known"),
        ("", "character 1"),
        ("x, y", "Tuple is no part of a formula"),
        ("'a' * x", "'a' is no number of float64"),
        ("True", "'True' is no number"),
        ("1j*x", "'1j' is no number"),
        ("1" * 400, "is no number of float64"),
        ("x" * (MAX_LENGTH + 1), "1001 characters; at most 1000"),
        ("(" * 400 + "x" + ")" * 400, "too many nested"),
        ("-" * 999 + "x", "more than 100 levels"),
        ("+".join("x" * 400), "more than 100 levels"),
        ("x\0", "null bytes"),
        ("__import__('os').system('touch canary')", "only a function's name may stand before"),
        ("().__class__.__bases__", "Attribute is no part of a formula"),
        ("[a for a in x]", "ListComp is no part"),
        ("(lambda: 0)()", "only a function's name"),
        ("(x := 1)", "NamedExpr is no part"),
        ("sin(x=1)", "only a function's name"),
        ("f'{x}'", "JoinedStr is no part"),
        ("x[0]", "Subscript is no part"),
    ],
)
def test_what_is_none_is_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        Expression(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 450


def test_powers_of_powers_are_floats():
    start = time.process_time()
    assert target("9**9**9**9").integrand(X).tolist() == [math.inf] * 2
    assert time.process_time() - start < 5


def test_names_expressions_and_callables_are_told_apart():
    assert target("cos").formula == "cos(10x)"
    assert target("cos(x)").features == 1
    assert target("x").features == 1
    assert target("torch:sin").features is None
    with pytest.raises(ValueError, match=r"function='cosine' is unknown; did you mean 'cos'.*an expression such as"):
        target("cosine")
