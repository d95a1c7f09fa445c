"""The grad network as a graph: the integral network traced, and each operation differentiated by its rule."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoint.networks.encodings import AbstractEncoding, Identity
from autoint.networks.grad_nets.base import AbstractGradNet
from autoint.networks.grad_nets.operations import jet
from autoint.networks.grad_nets.rules import Call, operation
from autoint.networks.steady import steady
from autoint.registry import GRAD_NETS

MAX_CONSTANT = 4096  # numbers of a tensor made in forward, which become part of the graph's text


@GRAD_NETS.register("graph")
class Graph(AbstractGradNet):
    """Φ traced by ``torch.fx`` and differentiated node by node: works for any module that fx can follow.

    Every node of Φ's graph gives that of its derivative by a rule (supplement, Sec. 2.1); rules are entries of
    ``autoint.registry.RULES``. The result is again such a graph, so mixed and repeated partials come from doing it once
    for each axis. Shared legs are computed once. The code of the result looks its parameters up in Φ at every call, and
    is made anew where modules, hooks or ``.train()`` and ``.eval()`` have changed; but what ``forward`` does with other
    attributes is not seen to change, and what it makes without x is made only once.

    ReLU and other kinks can be differentiated once only (ReLU's Ψ is piecewise constant). So can ``torch.where`` on
    values of x, which is differentiated piece by piece: whether Φ is continuous where the pieces meet is not checked.
    Any other use of a comparison's outcome is refused, because its derivative would be a silent zero.

    Raises:
        ValueError: where fx cannot follow the module, or where an operation on x has no rule.
    """

    def __init__(self, integral_net: nn.Module, axes: Sequence[int] = (0,), *, compile: bool = False) -> None:
        super().__init__(integral_net, axes, compile=compile)
        self._build_all()

    def _build_all(self) -> None:
        self._derivatives: dict[tuple[bool, int], Callable[..., Tensor]] = {}
        self._structure = structure(self.integral_net)
        refusals, ways = [], variants(self.integral_net)
        for conditioned in ways:
            try:
                self._build(conditioned, max(1, len(self.axes)))
            except ValueError as error:  # an optional condition may be needed all the same, or never be meant
                refusals.append(error)
        if len(refusals) == len(ways):
            raise refusals[0]

    def derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        conditions = [] if condition is None else [condition]
        return self._derivatives[bool(conditions), len(tangents)](self.integral_net, x, *conditions, *tangents)

    def _evaluate(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        if not torch.compiler.is_compiling() and self._structure != structure(self.integral_net):
            self._build_all()
            self._compiled = None
        if (condition is not None, len(tangents)) not in self._derivatives:
            self._build(condition is not None, max(1, len(tangents)))  # before torch.compile looks
        return super()._evaluate(x, tangents, condition)

    def _build(self, conditioned: bool, order: int) -> None:
        graph = trace(self.integral_net, conditioned)
        functions = {(conditioned, 0): function(graph)}
        for k in range(1, order + 1):
            graph = differentiate(graph)
            functions[conditioned, k] = function(graph)
        self._derivatives |= functions

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_derivatives"], state["_structure"]  # generated code cannot be pickled; it is built anew
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._build_all()


def structure(net: nn.Module) -> list[Any]:
    """Return what the graph of a network depends on beside its code: modules, their hooks, and whether they train."""
    return [(id(m), type(m), m.training, *m._forward_pre_hooks, *m._forward_hooks) for m in net.modules()]


def variants(net: nn.Module) -> Sequence[bool]:
    """Return whether Φ is to be traced without a condition, with one, or both."""
    others = list(inspect.signature(net.forward).parameters.values())[1:]
    positional = [p for p in others if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional:
        return (False,)
    return (True,) if positional[0].default is inspect.Parameter.empty else (False, True)


def function(graph: fx.Graph) -> Callable[..., Tensor]:
    """Return the graph as a function of (Φ, *inputs), which holds no parameters: it finds them in Φ at each call."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<grad_net=graph>", "exec"), scope)
    return scope["forward"]


class _Tracer(fx.Tracer):
    """Follow a module down to torch functions; an encoding stays whole, since it knows its own derivatives."""

    proxy_buffer_attributes = True

    def __init__(self, inputs: Iterable[str]) -> None:
        super().__init__()
        self.inputs, self.names = inputs, dict[int, str]()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        name = self.names.get(id(attr_val)) if isinstance(attr_val, Tensor) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in self.inputs)]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if type(m) is Identity:
            return [*args, *kwargs.values()][0]
        if isinstance(m, AbstractEncoding):
            encoding = self.create_proxy("get_attr", self.path_of_module(m), (), {})
            return self.create_proxy("call_function", jet, (encoding, *args), kwargs)
        return forward(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and id(a) in self.names:
            return self.create_node("get_attr", self.names[id(a)], (), {})
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a not in self.tensor_attrs:
            if a.numel() > MAX_CONSTANT or a.requires_grad:  # fx would leave it behind as an attribute of Φ
                raise ValueError(f"a tensor of shape {tuple(a.shape)} is made in forward; register it as a buffer")
            return self.create_node(
                "call_function", torch.tensor, (a.tolist(),), {"dtype": a.dtype, "device": a.device}
            )
        return super().create_arg(a)


def trace(net: nn.Module, conditioned: bool = False) -> fx.Graph:
    """Return the graph of Φ(x), or of Φ(x, condition), over the parameters of ``net``.

    ``node.meta["source"]`` is the node's own name: nodes of its derivatives carry the same one.

    Raises:
        ValueError: where fx cannot follow ``forward``, and for operations in place.
    """
    names, kind = list(inspect.signature(net.forward).parameters)[: 1 + conditioned], type(net).__name__
    tracer, buffers = _Tracer(names), [(b, b._version, b.clone()) for b in net.buffers() if not b.is_inference()]
    try:
        with steady(
            net, refuse=False
        ):  # in which weights made by hooks are attributes, as they are when the graph is evaluated
            tracer.names = {id(tensor): name for name, tensor in _tensors(net)}
            raw = tracer.trace(net)
        with torch.no_grad():
            for buffer, version, value in buffers:
                if buffer._version != version:  # to look at a network does not train it
                    buffer.copy_(value)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"grad_net=graph: torch.fx cannot follow {kind}.forward{_place(error)}: {reason}; "
            "use grad_net=jvp, which takes any module"
        ) from error
    emitter = _Emitter()
    values: dict[fx.Node, Any] = {}
    for node in raw.nodes:
        op, target, *arguments = _plain(node)
        args, kwargs = fx.node.map_arg(arguments, lambda n: values[n])
        if op == "output":
            if not isinstance(args[0], fx.Proxy):
                raise ValueError(f"grad_net=graph: {kind}.forward must return one tensor, not {type(args[0]).__name__}")
            return emitter.finished(args[0])
        emitter.source = node.name
        values[node] = emitter.create_proxy(op, target, tuple(args), kwargs, node.name)
    raise AssertionError("a graph ends with its output")


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers, also where function transforms have put tensors for them, and made weights."""
    yield from net.named_parameters()
    yield from net.named_buffers()
    for path, module in net.named_modules():
        if "parametrizations" in module._modules:
            for name in module._modules["parametrizations"]._modules:
                yield f"{path}.{name}".lstrip("."), getattr(module, name)


def differentiate(graph: fx.Graph) -> fx.Graph:
    """Return the graph of the derivative along a tangent of the first input; the tangent is one more, last input.

    It takes what :func:`trace` or it has returned, so ``differentiate(differentiate(trace(net)))`` is a mixed partial.

    Raises:
        ValueError: for an operation on x without a rule, and for a kink differentiated twice.
    """
    emitter = _Emitter()
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    order = sum("tangent" in node.meta for node in inputs)
    values: dict[fx.Node, Any] = {}
    tangents: dict[fx.Node, Any] = {}
    loose: set[fx.Node] = set()
    for node in inputs:
        emitter.source = node.meta["source"]
        values[node] = emitter.create_proxy("placeholder", node.target, (), {}, node.name)
        values[node].node.meta.update(node.meta)
        tangents[values[node].node] = None
    x = values[inputs[0]]
    emitter.source = inputs[0].meta["source"]
    direction = emitter.create_proxy("placeholder", f"tangent_{order}", (), {})
    direction.node.meta["tangent"] = order
    tangents[x.node] = direction.expand_as(x)
    for node in graph.nodes:
        if node.op == "placeholder":
            continue
        emitter.source = node.meta["source"]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
        if node.op == "output":
            tangent = Call(node, args[0], order, tangents, loose)(args[0])
            return emitter.finished(torch.zeros_like(args[0]) if tangent is None else tangent)
        out = values[node] = emitter.create_proxy(node.op, node.target, args, kwargs, node.name)
        if out.node not in tangents:
            tangents[out.node] = Call(node, out, order, tangents, loose).tangent(args, kwargs)
    raise AssertionError("a graph ends with its output")


class _Emitter(fx.proxy.GraphAppendingTracer):
    """Write nodes to a graph, the same operation on the same arguments only once."""

    def __init__(self) -> None:
        super().__init__(fx.Graph())
        self.source = ""
        self._written: dict[Any, fx.Node] = {}

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, _: Any = None) -> fx.Node:
        key = (kind, target, _key(args), _key(kwargs))
        if key not in self._written:
            node = self._written[key] = super().create_node(kind, target, args, kwargs, name)
            node.meta["source"] = self.source
        return self._written[key]

    def finished(self, out: Any) -> fx.Graph:
        """Return the graph that ends with ``out``, without what ``out`` does not need."""
        self.source = "output"
        self.create_node("output", "output", (out.node,), {})
        self.graph.eliminate_dead_code()
        return self.graph


def _key(a: Any) -> Any:
    if isinstance(a, tuple | list):
        return (type(a), *map(_key, a))
    if isinstance(a, dict):
        return tuple((k, _key(a[k])) for k in sorted(a))
    if isinstance(a, slice):
        return (slice, _key(a.start), _key(a.stop), _key(a.step))
    return a if isinstance(a, fx.Node) else (type(a), repr(a))  # 1, 1.0, True are equal, and so are 0.0 and -0.0


def _plain(node: fx.Node) -> tuple[str, Any, Any, dict[str, Any]]:
    """Return operation and arguments of a node in the one form that rules know; operations in place are refused."""
    op, target, args, kwargs = node.op, node.target, node.args, dict(node.kwargs)
    if op not in ("call_function", "call_method"):
        return op, target, args, kwargs
    name, in_place = operation(target), "out" in kwargs
    try:
        signature = inspect.signature(target) if callable(target) else None
    except (TypeError, ValueError):  # it is not written in Python
        signature = None
    if signature and "inplace" in signature.parameters:
        bound = signature.bind(*args, **kwargs)
        in_place = bound.arguments.pop("inplace", False)
        args, kwargs = bound.args, dict(bound.kwargs)
    elif name.endswith("_") and not name.endswith("__"):
        in_place = in_place or getattr(target, "__module__", "") != "_operator"  # where and_ is not in place
    if in_place:
        raise ValueError(
            f"grad_net=graph: '{node.name}' works in place, and what it overwrites may be used again; "
            "leave out inplace=True, out= or the method's trailing underscore"
        )
    if not args and "input" in kwargs:
        args = (kwargs.pop("input"),)
    if (op, target) == ("call_method", "where"):  # a.where(condition, b)
        op, target, args = "call_function", torch.where, (args[1], args[0])
    return op, target, args, kwargs


def _place(error: Exception) -> str:
    """Return the line of the user's code at which a trace failed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename.replace("\\", "/") and f.filename != __file__]
    return f" at {own[-1].filename}:{own[-1].lineno} ({own[-1].line})" if own else ""
