"""Functions written as text, such as ``sin(x)*exp(-y**2)``: parsed, looked up in tables, and never run as code."""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autoint.registry import nearest

MAX_LENGTH, MAX_DEPTH = 1000, 100
COORDINATES = {"x": 0, "y": 1, "z": 2} | {f"x{k}": k for k in range(10)}
CONSTANTS = {"pi": math.pi, "π": math.pi, "e": math.e, "tau": math.tau}
_UNARY = "sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh exp exp2 expm1 log log2 log10 log1p sqrt square"
_UNARY += " abs sign floor ceil round erf erfc sinc sigmoid relu"
FUNCTIONS: dict[str, tuple[int, int, Callable[..., Tensor]]] = {
    **{name: (1, 1, getattr(torch, name)) for name in _UNARY.split()},
    "ln": (1, 1, torch.log),
    "atan2": (2, 2, torch.atan2),
    "hypot": (2, 2, torch.hypot),
    "pow": (2, 2, torch.pow),
    "min": (2, 9, lambda *values: functools.reduce(torch.minimum, values)),
    "max": (2, 9, lambda *values: functools.reduce(torch.maximum, values)),
    "clamp": (3, 3, torch.clamp),
    "where": (3, 3, lambda condition, a, b: torch.where(condition != 0, a, b)),
}
"""The least and the largest number of arguments of each function, and what it does."""
OPERATORS: dict[type[ast.AST], Callable[..., Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: torch.div,
    ast.Mod: torch.remainder,
    ast.Pow: torch.pow,
    ast.UAdd: torch.positive,
    ast.USub: torch.neg,
    ast.Not: lambda a: a == 0,
    ast.And: lambda a, b: (a != 0) & (b != 0),
    ast.Or: lambda a, b: (a != 0) | (b != 0),
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ALLOWED = (
    "numbers, x, y, z, x0 … x9, pi, e, + - * / ** ( ), comparisons, and functions such as sin, exp, sqrt, min, where"
)


class Expression:
    """The function of n coordinates that a text describes, x (P, n) → (P,); n is that of the last coordinate in it.

    x, y, z are x0, x1, x2. ``^`` is ``**``, a comparison is 1 or 0, numbers have the dtype of x. Its rounding and its
    values outside of a function's domain are those of torch.

    Args:
        text: at most 1000 characters, in at most 100 levels of brackets and operators.

    Raises:
        ValueError: one line with the character at which the text is none of this, and the nearest known name.

    Examples:
        >>> f = Expression("x^2 + max(y, 1)")
        >>> f.features, f(torch.tensor([[3.0, 0.5], [0.0, 2.0]]))
        (2, tensor([10.,  2.]))
    """

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        if len(self.text) > MAX_LENGTH:
            raise ValueError(
                f"function={self.text[:40]!r}…: {len(self.text)} characters; at most {MAX_LENGTH} are allowed"
            )
        # Python's ^ has another rank than its **; every position below is that in what has been typed.
        self._spans = [2 if c == "^" else len(c.encode()) for c in self.text]
        try:
            with warnings.catch_warnings(action="ignore"):
                self._tree = ast.parse(self.text.replace("^", "**"), mode="eval").body
        except SyntaxError as error:
            product = re.search(r"(?<![\w.])[\d.]+\s*[^\W\d_]|[\d)]\s*\(|\)\s*\w", self.text)
            at = max(0, self._place(len(self.text.replace("^", "**")[: (error.offset or 1) - 1].encode())))
            hint = f"; write the * of a product, as in '{product[0][0]}*{product[0][-1]}'" if product else ""
            raise self._error(at, f"{_first_line(error.msg)}{hint}") from None
        except (RecursionError, MemoryError, ValueError) as error:
            raise self._error(0, f"too deep or no text ({type(error).__name__}); write it simpler") from None
        self.features = 1
        self._check(self._tree, 0)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the values at x (P, n), (P,)."""
        value = self._value(self._tree, x)
        return (value if value.is_floating_point() else value.to(x.dtype)).expand(x.shape[:-1])

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> Any:
        return Expression, (self.text,)

    def _place(self, column: int) -> int:
        """Return the character in the text of a byte in what has been parsed."""
        for at, span in enumerate(self._spans):
            if column < span:
                return at
            column -= span
        return len(self._spans)

    def _error(self, at: int, found: str) -> ValueError:
        return ValueError(f"function={self.text[:80]!r}, character {at + 1}: {found}; allowed are {ALLOWED}")

    def _refuse(self, node: ast.AST, found: str) -> ValueError:
        return self._error(self._place(getattr(node, "col_offset", 0)), found)

    def _check(self, node: ast.AST, depth: int) -> None:
        """Refuse what the tables do not have; find the number of coordinates."""
        if depth > MAX_DEPTH:
            raise self._refuse(node, f"more than {MAX_DEPTH} levels")
        if isinstance(node, ast.Name):
            self._check_name(node)
        elif isinstance(node, ast.Constant):
            if type(node.value) not in (int, float) or not abs(float(str(node.value))) < math.inf:
                raise self._refuse(node, f"{str(node.value)[:20]!r} is no number of float64")
        elif isinstance(node, ast.Call):
            self._check_call(node)
        elif not isinstance(node, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)):
            raise self._refuse(node, f"{type(node).__name__} is no part of a formula")
        operators = node.ops if isinstance(node, ast.Compare) else [getattr(node, "op", ast.Add())]
        for unknown in [op for op in operators if type(op) not in OPERATORS]:
            raise self._refuse(node, f"the operator {type(unknown).__name__} is not known")
        for child in _operands(node):
            self._check(child, depth + 1)

    def _check_name(self, node: ast.Name) -> None:
        if node.id in FUNCTIONS:
            raise self._refuse(node, f"'{node.id}' is a function; write {node.id}(x)")
        if node.id not in COORDINATES and node.id not in CONSTANTS:
            raise self._refuse(node, f"unknown name '{node.id}'{nearest(node.id, [*COORDINATES, *CONSTANTS])}")
        self.features = max(self.features, COORDINATES.get(node.id, 0) + 1)

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise self._refuse(node, "only a function's name may stand before ( )")
        name, count = node.func.id, len(node.args)
        if name not in FUNCTIONS:
            known = [*FUNCTIONS, *COORDINATES, *CONSTANTS]
            more = "; write the * of a product" if name in COORDINATES or name in CONSTANTS else nearest(name, known)
            raise self._refuse(node, f"unknown function '{name}'{more}")
        least, most, _ = FUNCTIONS[name]
        if not least <= count <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise self._refuse(node, f"{name} takes {wanted} argument{'s' * (most > 1)}, not {count}")

    def _value(self, node: ast.AST, x: Tensor) -> Tensor:
        if isinstance(node, ast.Name):
            if node.id in COORDINATES:
                return x[..., COORDINATES[node.id]]
            return x.new_tensor(CONSTANTS[node.id])
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, (int, float))
            return x.new_tensor(float(node.value))
        values = [self._value(child, x) for child in _operands(node)]
        if isinstance(node, ast.Compare):
            pairs = zip(node.ops, values[:-1], values[1:], strict=True)
            return functools.reduce(operator.and_, [OPERATORS[type(op)](a, b) for op, a, b in pairs])
        if isinstance(node, ast.BoolOp):
            return functools.reduce(OPERATORS[type(node.op)], values)
        if isinstance(node, ast.IfExp):
            return torch.where(values[0] != 0, values[1], values[2])
        # Torch neither negates nor subtracts truth values, which are 1 and 0 here.
        numbers = [v if v.is_floating_point() else v.to(x.dtype) for v in values]
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            return FUNCTIONS[node.func.id][2](*numbers)
        assert isinstance(node, (ast.BinOp, ast.UnaryOp))
        return OPERATORS[type(node.op)](*numbers)


def _operands(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.IfExp):
        return [node.test, node.body, node.orelse]
    return node.args if isinstance(node, ast.Call) else []


def _first_line(message: str) -> str:
    return message.splitlines()[0].partition(". Perhaps")[0].partition(" (")[0]
