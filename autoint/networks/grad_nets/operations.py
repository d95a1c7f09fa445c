"""The derivative rules of torch's operations, one entry of ``RULES`` each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from autoint.networks.encodings import AbstractEncoding
from autoint.networks.grad_nets.rules import JUMPS, LIMIT, Call, plus, times
from autoint.registry import RULES


def constant(d: Call, *args: Any, **kwargs: Any) -> None:
    """An operation whose value does not depend on the values of its arguments, or is cut off from them."""
    d.ignore(*args, *kwargs.values())


def jumping(d: Call, *args: Any, **kwargs: Any) -> Any:
    """An operation whose value is piecewise constant."""
    d.ignore(*args, *kwargs.values())
    return JUMPS


def linear_in_first(d: Call, x: Any, *options: Any, **named: Any) -> Any:
    """An operation that is linear in its first argument: the same on the tangent."""
    if d.jumps(x):
        return JUMPS
    tangent = d(x)
    return None if tangent is None else d.again(tangent, *options, **named)


def bilinear_in_two(d: Call, a: Any, b: Any) -> Any:
    """A product of two factors: (a·b)˙ = ȧ·b + a·ḃ."""
    da, db = d(a), d(b)
    return plus(None if da is None else d.again(da, b), None if db is None else d.again(a, db))


def pointwise(slope: Callable[..., Any]) -> Callable[..., Any]:
    """The chain rule f(x)˙ = f'(x)·ẋ, with ``slope(x, f(x), *options)`` = f'(x) of the shape of x."""

    def rule(d: Call, x: Any, *options: Any, **named: Any) -> Any:
        return times(d.raw(x), slope(x, d.out, *options, **named))

    return rule


CONSTANT = "detach zeros_like ones_like full_like new_zeros new_ones new_full size dim numel"
JUMPING = (
    "gt ge lt le eq ne and_ or_ xor invert logical_and logical_or logical_not logical_xor isnan isinf isfinite "
    "sign sgn heaviside floor ceil round trunc argmax argmin floordiv floor_divide"
)
LINEAR_IN_FIRST = (
    "neg pos positive sum mean getitem select narrow index_select gather unsqueeze squeeze flatten unflatten transpose "
    "permute t movedim flip roll expand broadcast_to repeat tile repeat_interleave chunk split tensor_split unbind "
    "clone contiguous to float double cumsum diff"
)
BILINEAR = "matmul mm bmm mv dot outer"
for _names, _rule in ((CONSTANT, constant), (JUMPING, jumping), (LINEAR_IN_FIRST, linear_in_first)):
    for _name in _names.split():
        RULES.register(_name)(_rule)
for _name in BILINEAR.split():
    RULES.register(_name)(bilinear_in_two)


def _softplus_slope(x: Any, y: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    # Beyond the threshold torch switches to the identity, which at 20 costs 2e-9; a lower one makes a true kink.
    if threshold < 20:
        raise ValueError(
            f"grad_net=graph: softplus with threshold={threshold} has a kink there; leave it at 20 or more"
        )
    return torch.sigmoid(x if beta == 1 else beta * x)


def _gelu_slope(x: Any, y: Any, approximate: str = "none") -> Any:
    if approximate == "none":
        return 0.5 * (1 + torch.erf(x * math.sqrt(0.5))) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    square = x * x
    t = torch.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * square))
    return 0.5 * (1 + t) + math.sqrt(0.5 / math.pi) * x * (1 - t * t) * (1 + 0.134145 * square)


def _mish_slope(x: Any, y: Any) -> Any:
    t = torch.tanh(F.softplus(x))
    return t + x * (1 - t * t) * torch.sigmoid(x)


def _silu_slope(x: Any, y: Any) -> Any:
    s = torch.sigmoid(x)
    return s + y * (1 - s)


SLOPES: dict[str, Callable[..., Any]] = {
    "silu": _silu_slope,
    "sigmoid": lambda x, y: y * (1 - y),
    "logsigmoid": lambda x, y: torch.sigmoid(-x),
    "tanh": lambda x, y: 1 - y * y,
    "softplus": _softplus_slope,
    "gelu": _gelu_slope,
    "mish": _mish_slope,
    "erf": lambda x, y: 2 / math.sqrt(math.pi) * torch.exp(-x * x),
    "sin": lambda x, y: torch.cos(x),
    "cos": lambda x, y: -torch.sin(x),
    "tan": lambda x, y: 1 + y * y,
    "atan": lambda x, y: 1 / (1 + x * x),
    "sinh": lambda x, y: torch.cosh(x),
    "cosh": lambda x, y: torch.sinh(x),
    "asinh": lambda x, y: torch.rsqrt(1 + x * x),
    "exp": lambda x, y: y,
    "exp2": lambda x, y: math.log(2) * y,
    "expm1": lambda x, y: y + 1,
    "log": lambda x, y: 1 / x,
    "log2": lambda x, y: 1 / (math.log(2) * x),
    "log10": lambda x, y: 1 / (math.log(10) * x),
    "log1p": lambda x, y: 1 / (1 + x),
    "sqrt": lambda x, y: 0.5 / y,
    "rsqrt": lambda x, y: -0.5 * y / x,
    "square": lambda x, y: 2 * x,
    "reciprocal": lambda x, y: -y * y,
    "abs": lambda x, y: torch.sign(x),
}
for _name, _slope in SLOPES.items():
    RULES.register(_name)(pointwise(_slope))


@RULES.register("add")
def _add(d: Call, a: Any, b: Any) -> Any:
    da, db = d.raw(a), d.raw(b)
    if isinstance(a, fx.Proxy) and isinstance(b, fx.Proxy) and (da is None or db is None):
        return d.broadcast(plus(da, db))  # what does not depend on x may have the larger shape
    return plus(d(a), d(b))


@RULES.register("sub")
def _sub(d: Call, a: Any, b: Any) -> Any:
    da, db = d(a), d(b)
    if da is not None and db is not None:
        return da - db
    tangent = da if db is None else -db
    return d.broadcast(tangent) if isinstance(a, fx.Proxy) and isinstance(b, fx.Proxy) else tangent


@RULES.register("rsub")
def _rsub(d: Call, a: Any, b: Any) -> Any:
    return _sub(d, b, a)


@RULES.register("mul")
def _mul(d: Call, a: Any, b: Any) -> Any:
    return plus(times(d(a), b), times(d(b), a))


@RULES.register("div")
def _div(d: Call, a: Any, b: Any) -> Any:
    da, db = d(a), d(b)
    numerator = da if db is None else plus(da, -d.out * db)
    return None if numerator is None else numerator / b


@RULES.register("pow")
def _pow(d: Call, a: Any, b: Any) -> Any:
    da, db = d(a), d(b)
    if isinstance(b, int | float) and b in (0, 1):
        return da if b else None
    slope = None if da is None else b * (a if isinstance(b, int | float) and b == 2 else a ** (b - 1))
    growth = None if db is None else d.out * (math.log(a) if isinstance(a, int | float) else torch.log(a))
    return plus(times(da, slope), times(db, growth))


@RULES.register("logaddexp")
def _logaddexp(d: Call, a: Any, b: Any) -> Any:
    da, db = d(a), d(b)
    return plus(None if da is None else da * torch.sigmoid(a - b), None if db is None else db * torch.sigmoid(b - a))


@RULES.register("linear")
def _linear(d: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    dx, dw, db = d(x), d(weight), d(bias)
    products = plus(None if dx is None else F.linear(dx, weight), None if dw is None else F.linear(x, dw))
    return plus(products, db) if products is not None else d.broadcast(db)


@RULES.register("bilinear")
def _bilinear(d: Call, a: Any, b: Any, weight: Any, bias: Any = None) -> Any:
    da, db = d(a), d(b)
    return plus(None if da is None else F.bilinear(da, b, weight), None if db is None else F.bilinear(a, db, weight))


@RULES.register("einsum")
def _einsum(d: Call, equation: str, *operands: Any) -> Any:
    tangents = [d(operand) for operand in operands]
    return plus(
        *(
            d.again(equation, *operands[:i], tangent, *operands[i + 1 :])
            for i, tangent in enumerate(tangents)
            if tangent is not None
        )
    )


@RULES.register("where")
def _where(d: Call, condition: Any, a: Any, b: Any) -> Any:
    if (jumps := d.jumps(condition)) and d.order:
        raise ValueError(
            f"grad_net=graph: '{d.where}' has pieces in x, and {LIMIT}, or grad_net=jvp if they join smoothly"
        )
    da, db = d(a), d(b)
    if da is None and db is None:
        return JUMPS if jumps else None
    return torch.where(condition, _filled(da, a), _filled(db, b))


def _filled(tangent: Any, value: Any) -> Any:
    if tangent is not None:
        return tangent
    return 0.0 if isinstance(value, int | float) else torch.zeros_like(value)


@RULES.register("maximum")
def _maximum(d: Call, a: Any, b: Any) -> Any:
    da, db = d(a), d(b)
    return None if da is db is None else torch.where(a > b, _filled(da, a), _filled(db, b))


@RULES.register("minimum")
def _minimum(d: Call, a: Any, b: Any) -> Any:
    da, db = d(a), d(b)
    return None if da is db is None else torch.where(a < b, _filled(da, a), _filled(db, b))


@RULES.register("relu")
def _relu(d: Call, x: Any) -> Any:
    return torch.where(x > 0, d(x), 0.0)


@RULES.register("leaky_relu")
def _leaky_relu(d: Call, x: Any, negative_slope: float = 0.01) -> Any:
    dx = d(x)
    return torch.where(x > 0, dx, negative_slope * dx)


@RULES.register("elu")
def _elu(d: Call, x: Any, alpha: float = 1.0) -> Any:
    dx = d(x)
    return torch.where(x > 0, dx, (d.out + alpha) * dx)


@RULES.register("alpha_dropout")
@RULES.register("dropout")
@RULES.register("dropout1d")
@RULES.register("feature_alpha_dropout")
def _dropout(d: Call, x: Any, p: float = 0.5, training: bool = True) -> Any:
    if training and p > 0:
        raise ValueError(f"grad_net=graph: '{d.where}' is another function at every evaluation; call .eval() first")
    return d(x)


@RULES.register("cat")
@RULES.register("stack")
def _joined(d: Call, tensors: Any, *options: Any, **named: Any) -> Any:
    if isinstance(tensors, fx.Proxy):  # what chunk or unbind have returned
        return linear_in_first(d, tensors, *options, **named)
    tangents = [d(tensor) for tensor in tensors]
    filled = [_filled(tangent, tensor) for tangent, tensor in zip(tangents, tensors, strict=True)]
    return d.again(filled, *options, **named)


@RULES.register("reshape")
def _reshape(d: Call, x: Any, *shape: Any, **named: Any) -> Any:
    return d(x).reshape(*shape, **named)  # also for a view, which a broadcast tangent may not have


@RULES.register("expand_as")
@RULES.register("type_as")
def _like(d: Call, x: Any, other: Any) -> Any:
    d.ignore(other)
    return linear_in_first(d, x, other)


@RULES.register("reshape_as")
def _reshape_as(d: Call, x: Any, other: Any) -> Any:
    d.ignore(other)
    return None if d(x) is None else d(x).reshape_as(other)


@RULES.register("getattr")
def _getattr(d: Call, x: Any, name: str) -> Any:
    if name in ("T", "mT"):
        return linear_in_first(d, x, name)
    return constant(d, x) if name in ("shape", "dtype", "device", "ndim") else None


@RULES.register("softmax")
def _softmax(d: Call, x: Any, dim: int, _stacklevel: int = 3, dtype: None = None) -> Any:
    weighted = d.out * d(x)
    return weighted - d.out * weighted.sum(dim, keepdim=True)


@RULES.register("layer_norm")
def _layer_norm(d: Call, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    dx, dims = d(x), tuple(range(-len(shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    unit = centred * scale
    tangent = scale * (dx - dx.mean(dims, keepdim=True) - unit * (unit * dx).mean(dims, keepdim=True))
    return tangent if weight is None else tangent * weight


def jet(encoding: AbstractEncoding, x: Tensor, *tangents: Tensor) -> Tensor:
    """Return the mixed derivative of γ at x along all ``tangents``, γ(x) for none."""
    if not tangents:
        return encoding(x)
    mixed = encoding.jet(x, tangents)[-1]
    return x.new_zeros(*x.shape[:-1], encoding.out_features) if mixed is None else mixed


@RULES.register("jet")
def _jet(d: Call, encoding: Any, x: Any, *tangents: Any) -> Any:
    """The next derivative of γ, and that of each tangent, in which a jet is linear."""
    dx, terms = d(x), []
    if dx is not None:
        terms.append(d.again(encoding, x, *tangents, dx))
    for i, tangent in enumerate(tangents):
        change = d(tangent)
        if change is not None:
            terms.append(d.again(encoding, x, *tangents[:i], change, *tangents[i + 1 :]))
    return plus(*terms)
