"""What a derivative rule is, as ``grad_net=graph`` needs one for every torch operation on x.

A rule is ordinary Python over ``torch.fx`` proxies. Called as ``rule(d, *args, **kwargs)`` with the operation's own
arguments, it returns the operation's tangent, None for zero; ``d`` is a :class:`Call`, and ``d(a)`` the tangent of the
argument a. What a rule returns consists of operations that have rules, so it can be differentiated again.

For sin(πx)/(πx) it would be::

    @RULES.register("sinc")
    def sinc(d, x):
        return times(d(x), (torch.cos(torch.pi * x) - d.out) / x)
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx

from autoint.registry import RULES, nearest

JUMPS: Any = object()  # the tangent of what is piecewise constant in x: zero, but for jumps that no derivative sees
LIMIT = "can be differentiated once only; use swish (silu), softplus or sine"

SYNONYMS = {
    "abs": "absolute",
    "asinh": "arcsinh",
    "atan": "arctan",
    "cat": "concat concatenate",
    "div": "truediv true_divide divide",
    "ge": "greater_equal",
    "gt": "greater",
    "le": "less_equal",
    "logsigmoid": "log_sigmoid",
    "lt": "less",
    "movedim": "moveaxis",
    "mul": "multiply",
    "neg": "negative",
    "reshape": "view",
    "reshape_as": "view_as",
    "sigmoid": "expit special_expit",
    "sub": "subtract",
    "transpose": "swapaxes swapdims",
}
_NAMES = {synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms.split()}


def operation(target: Any) -> str:
    """Return the name that a function, method or operator has in ``RULES``."""
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return _NAMES.get(name, name)


class Call:
    """One operation under differentiation: ``d(a)`` is the tangent of its argument a, of a's shape, None for zero.

    Attributes:
        out: the operation's value.
        order: how often the graph has been differentiated before.
        where: the operation's name in the graph, for messages.
    """

    def __init__(self, node: fx.Node, out: Any, order: int, tangents: dict[fx.Node, Any], loose: set[fx.Node]):
        self.out, self.order, self.where = out, order, node.meta["source"]
        self._op, self._target, self._tangents, self._loose = node.op, node.target, tangents, loose
        self._asked: set[fx.Node] = set()

    def __call__(self, value: Any) -> Any:
        tangent = self.raw(value)
        return tangent.expand_as(value) if tangent is not None and value.node in self._loose else tangent

    def raw(self, value: Any) -> Any:
        """Return the tangent of ``value`` in a shape that may still have to be broadcast to that of ``value``."""
        if self.jumps(value):
            raise ValueError(
                f"grad_net=graph: '{self.where}' uses '{value.node.meta['source']}', a step in x whose jump no "
                f"derivative sees: what has a kink {LIMIT}, or detach() the step if that is meant"
            )
        return self._tangents[value.node] if isinstance(value, fx.Proxy) else None

    def jumps(self, value: Any) -> bool:
        """Return whether ``value`` is piecewise constant in x, as the outcome of a comparison."""
        self.ignore(value)
        return isinstance(value, fx.Proxy) and self._tangents[value.node] is JUMPS

    def ignore(self, *values: Any) -> None:
        """Declare that the tangents of ``values`` do not matter, because the values themselves do not."""
        self._asked |= {value.node for value in values if isinstance(value, fx.Proxy)}

    def again(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        """Return the same operation, on other arguments."""
        return self.out.tracer.create_proxy(self._op, self._target, args, kwargs)

    def broadcast(self, tangent: Any) -> Any:
        """Return ``tangent``, marked as one that may have a smaller shape than the operation's value."""
        self._loose.add(self.out.node)
        return tangent

    def tangent(self, args: Any, kwargs: Any) -> Any:
        """Return the operation's tangent by its rule, which must ask for that of every input that varies with x."""
        varying = {node for node in self.out.node.all_input_nodes if self._tangents[node] is not None}
        if not varying:
            return None
        name = operation(self._target)
        where = f"the operation '{name}' ({self.where})"
        if name not in RULES.names():
            raise ValueError(
                f"grad_net=graph has no rule for {where}{nearest(name, RULES.names())}; register it with "
                f"autoint.registry.RULES.register('{name}'), or use grad_net=jvp, which takes any module"
            )
        rule = RULES[name]
        try:
            inspect.signature(rule).bind(self, *args, **kwargs)
        except TypeError as error:
            raise ValueError(f"grad_net=graph has no rule for {where} so called: {error}; use grad_net=jvp") from error
        tangent = rule(self, *args, **kwargs)
        if missed := varying - self._asked:
            names = ", ".join(sorted(f"'{node.meta['source']}'" for node in missed))
            raise ValueError(f"grad_net=graph has no rule for {where} with {names} varying with x; use grad_net=jvp")
        return tangent


def times(tangent: Any, factor: Any) -> Any:
    """Return ``tangent``·``factor``, None if the tangent is."""
    return None if tangent is None else tangent * factor


def plus(*tangents: Any) -> Any:
    """Return the sum of the tangents that are not zero, None if all are."""
    terms = [tangent for tangent in tangents if tangent is not None]
    return sum(terms[1:], start=terms[0]) if terms else None
