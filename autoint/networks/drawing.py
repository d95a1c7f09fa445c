"""Pictures of integral networks and of their grad networks, with homologous nodes in one colour (paper, Fig. 2)."""

from __future__ import annotations

import colorsys
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx, nn

from autoint.files.whole_files import write_whole
from autoint.networks.grad_nets.base import AbstractGradNet
from autoint.networks.grad_nets.graph import differentiate, trace, variants
from autoint.networks.grad_nets.rules import operation
from autoint.networks.layers import check_network
from autoint.registry import one_of

log = logging.getLogger(__name__)

SUFFIXES = (".svg", ".png", ".dot", ".gv", ".txt")
INFIX = {"add": "+", "sub": "−", "mul": "×", "div": "/", "pow": "^", "matmul": "@"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw(net: nn.Module, file: str | os.PathLike[str] | None = None) -> Path | str:
    """Draw the graph of Φ, or that of a grad network Ψ along its ``axes``, whatever builder it comes from.

    Nodes of Φ and of Ψ that derive from the same node of Φ have the same colour (paper, Fig. 2), in separate drawings
    too. Parameters are no nodes: they are named below the operation that uses them.

    Args:
        net: an integral network, a grad network, or any module that ``grad_net=graph`` can follow.
        file: an ``.svg`` or ``.png``, for which graphviz is needed, a ``.dot`` or ``.gv``, or a ``.txt``.

    Returns:
        The path that was written; without ``file``, the graph as text: each node after those it uses. The text is also
        what ``phi.txt`` holds after ``draw(phi, "phi.svg")`` on a machine without graphviz.

    Raises:
        ValueError: for a file of another kind or in a folder that does not exist, and for a module that
            ``grad_net=graph`` cannot follow.

    Examples:
        >>> import autoint
        >>> print(draw(autoint.IntegralNet(in_features=1, out_features=1, num_layers=1)))
        Φ(x) of IntegralNet: 3 operations
        x         input
        linear    linear(x) hidden.0   from linear
        silu      silu(linear)         from silu
        linear_1  linear(silu) output  from linear_1
        output    linear_1
    """
    check_network(net)
    title, items = _items(net)
    if file is None:
        return _text(title, items)
    path = Path(file)
    one_of("file type", path.suffix, SUFFIXES)
    if not path.parent.is_dir():
        raise ValueError(f"file='{path}': the folder '{path.parent}' does not exist; make it first")
    if path.suffix in (".svg", ".png"):
        if program := shutil.which("dot"):
            return write_whole(path, _rendered(program, path.suffix[1:], _dot(title, items)))
        path = path.with_suffix(".txt")
        log.warning(
            "graphviz is not installed, so the graph is written as text to %s; for pictures install it, "
            "for instance with 'apt-get install graphviz' or 'conda install graphviz'",
            path,
        )
    text = _text(title, items) + "\n" if path.suffix == ".txt" else _dot(title, items)
    return write_whole(path, text.encode())


@dataclass(frozen=True)
class Item:
    """One node of a drawing: its label, what it uses, and the node of Φ it derives from, by name and by number."""

    name: str
    kind: str  # input, tangent, operation or output
    label: str
    parameters: tuple[str, ...]
    inputs: tuple[str, ...]
    call: str
    source: str
    number: int


def _items(net: nn.Module) -> tuple[str, list[Item]]:
    phi, axes = (net.integral_net, net.axes) if isinstance(net, AbstractGradNet) else (net, ())
    conditioned = getattr(phi, "condition", None) is not None or False not in variants(phi)
    graph = trace(phi, conditioned)
    numbers = {n.name: k for k, n in enumerate(n for n in graph.nodes if n.op.startswith("call"))}
    for _ in axes:
        graph = differentiate(graph)
    first = next(n.name for n in graph.nodes if n.op == "placeholder")
    symbol = _symbol(axes)
    items = [_item(n, axes, symbol, numbers) for n in graph.nodes if n.op != "get_attr" and not _is_seed(n)]
    count = sum(item.kind == "operation" for item in items)
    return f"{symbol}({first}) of {type(phi).__name__}: {count} operations", items


def _symbol(axes: Sequence[int]) -> str:
    """Return Φ, ∂Φ/∂x₀, ∂²Φ/∂x₀∂x₁, …"""
    if not axes:
        return "Φ"
    order = str(len(axes)).translate(SUPERSCRIPTS) if len(axes) > 1 else ""
    return f"∂{order}Φ/" + "".join(f"∂x{str(axis).translate(SUBSCRIPTS)}" for axis in axes)


def _is_seed(node: Any) -> bool:
    """Return whether a node does nothing but give a tangent the shape of x."""
    return node.target == "expand_as" and isinstance(node.args[0], fx.Node) and "tangent" in node.args[0].meta


def _item(node: fx.Node, axes: Sequence[int], symbol: str, numbers: dict[str, int]) -> Item:
    used: list[Any] = [n.args[0] if _is_seed(n) else n for n in node.all_input_nodes]
    inputs = tuple(n.name for n in used if n.op != "get_attr")
    parameters = _parameters(node)
    kind, label, call = "operation", *_labels(node)
    if node.op == "placeholder":
        tangent = node.meta.get("tangent")
        kind, label, call = "input", node.name, "input"
        if tangent is not None:
            kind, label, call = "tangent", *(f"tangent along x{str(axes[tangent]).translate(SUBSCRIPTS)}",) * 2
    elif node.op == "output":
        kind, label, call = "output", symbol, " ".join(inputs)
    source = node.meta["source"]
    return Item(node.name, kind, label, parameters, inputs, call, source, numbers.get(source, -1))


def _parameters(node: fx.Node) -> tuple[str, ...]:
    """Return what a node uses of Φ: ``hidden.0`` for a layer's weight and bias, else the names of the tensors."""
    names = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr"]
    if operation(node.target) == "linear" and all(name.endswith((".weight", ".bias")) for name in names):
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
    return tuple(names)


def _labels(node: fx.Node) -> tuple[str, str]:
    """Return an operation as it stands in a picture, ``1 − ·``, and in a listing, ``1 − sigmoid``."""
    name, args = operation(node.target), node.args
    if name == "jet":
        order = len(args) - 2
        name, args = {0: "γ", 1: "∂γ"}.get(order, f"∂{str(order).translate(SUPERSCRIPTS)}γ"), args[1:]
    options = [f"{key}={_value(value)}" for key, value in node.kwargs.items()]
    if name in INFIX and len(args) == 2 and not options:
        sign = f" {INFIX[name]} "
        numbers = any(not isinstance(a, fx.Node) for a in args)
        return sign.join(map(_hole, args)) if numbers else sign.strip(), sign.join(map(_value, args))
    shown = [a for a in args if a is not None and not _is_parameter(a)]
    constants = [_value(a) for a in shown if not _nodes(a)] + options
    short = f"{name}({', '.join(constants)})" if constants else name
    return short, f"{name}({', '.join([*map(_value, shown), *options])})"


def _is_parameter(a: Any) -> bool:
    return isinstance(a, fx.Node) and a.op == "get_attr"


def _nodes(a: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(a, found.append)
    return found


def _hole(a: Any) -> str:
    return "·" if isinstance(a, fx.Node) else _value(a)


def _value(a: Any) -> str:
    """Return an argument in few characters: 0.7071, 1:, …"""
    if isinstance(a, fx.Node):
        node: Any = a.args[0] if _is_seed(a) else a
        return str(node.target) if _is_parameter(node) else node.name
    if isinstance(a, slice):
        ends = ["" if part is None else _value(part) for part in (a.start, a.stop, a.step)]
        return ":".join(ends).removesuffix(":")
    if isinstance(a, list | tuple):
        return f"[{', '.join(map(_value, a))}]"
    return f"{a:.4g}" if isinstance(a, float) else "…" if a is ... else str(a)


def _text(title: str, items: Sequence[Item]) -> str:
    rows = [
        (item.name, " ".join([item.call, *item.parameters]), f"from {item.source}" if item.kind == "operation" else "")
        for item in items
    ]
    widths = [max(len(row[k]) for row in rows) for k in (0, 1)]
    lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    return "\n".join([title, *lines])


def _dot(title: str, items: Sequence[Item]) -> str:
    lines = [
        "digraph {",
        '  graph [labelloc=t, fontname="Helvetica", fontsize=16, nodesep=0.25, ranksep=0.3]',
        '  node [shape=box, style="filled,rounded", fontname="Helvetica", fontsize=12, fontcolor="#1a1a1a"]',
        '  node [height=0.3, margin="0.12,0.05", color="#444444"]',
        '  edge [color="#555555", arrowsize=0.6]',
        f"  label={_quoted(title)}",
    ]
    for item in items:
        label = "\n".join([item.label, *item.parameters])
        lines.append(f"  {_quoted(item.name)} [label={_quoted(label)}, {_look(item)}]")
    lines += [f"  {_quoted(used)} -> {_quoted(item.name)}" for item in items for used in item.inputs]
    ends = [_quoted(item.name) for item in items if item.kind in ("input", "tangent")]
    return "\n".join([*lines, f"  {{rank=source; {'; '.join(ends)}}}", "}", ""])


def _look(item: Item) -> str:
    if item.kind == "operation":
        return f'fillcolor="{colour(item.number)}"'
    dashed = ",dashed" if item.kind == "tangent" else ""
    return f'shape=ellipse, style="filled,bold{dashed}", fillcolor="#ffffff"'


def colour(number: int) -> str:
    """Return a light colour, readable below dark text, that differs from those of the neighbouring numbers."""
    hue = (0.58 + number * 0.381966) % 1  # the golden angle: no hue comes twice, and no two neighbours are alike
    return "#" + "".join(f"{round(255 * v):02x}" for v in colorsys.hls_to_rgb(hue, 0.88 - 0.06 * (number % 2), 0.8))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _rendered(program: str, kind: str, dot: str) -> bytes:
    done = subprocess.run([program, f"-T{kind}"], input=dot.encode(), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} -T{kind} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
