"""What keeps a function from being fitted, and where: jumps, kinks and singularities along a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autoint.integrals.base import Corners
from autoint.integrals.domains import Change, EndPoint
from autoint.integrals.integrands import Function, values

Line = Callable[[Tensor], Tensor]
SCAN = 2049  # points of the first look along a line
FAINT = 1e-6
"""A second difference, as a share of f's size, that may be the rounding of a straight line, in float32 too."""
DECADES = torch.arange(3, 9, dtype=torch.float64)  # of the distances to an end
DIGIT = 0.005  # half the last one that is told of an exponent


def places(
    function: Function, changes: Sequence[Change], parameters: tuple[Corners, Corners], at: Tensor
) -> tuple[str, ...]:
    """Return what is found on the lines along every axis through a point, in words, with what to declare.

    Args:
        function: f(x) or f(x, p).
        changes: of the variables; the lines lie in the box that they belong to.
        parameters: their ranges.
        at: the point, (n + m,) in the unit box.
    """
    n, found = len(changes), []
    x = torch.stack([change.x(at[k]) for k, change in enumerate(changes)])
    low, high = torch.tensor([list(end) for end in parameters], dtype=torch.float64)
    p = low + (at[n:] + 1) / 2 * (high - low) if len(low) else None
    for axis, change in enumerate(changes):

        def line(u: Tensor, axis: int = axis, change: Change = change) -> Tensor:
            points = x.repeat(len(u), 1)
            points[:, axis] = change.x(u)
            q = None if p is None else p.expand(len(u), -1)
            return values(function, points, q)[0][:, 0]

        words = along(line, change)
        if words and n > 1:
            others = ", ".join(f"x{k}={float(x[k]):.4g}" for k in range(n) if k != axis)
            words = words.replace("x=", f"x{axis}=").replace("=[", f"={{{axis}: [").replace("])", "]})")
            words = f"{words} on the line {others}"
        found += [words] if words else []
    return tuple(found)


def along(line: Line, change: Change) -> str:
    """Return what is wrong with a function of u in (−1, 1), or an empty string."""
    for end in (-1.0, 1.0):
        place = change.lower if end < 0 else change.upper
        if math.isfinite(place) and (words := _at_end(line, end, place, change)):
            return words
    u = torch.linspace(-1, 1, SCAN + 1, dtype=torch.float64)
    u = 0.5 * (u[1:] + u[:-1])
    y = line(u)
    size = float((y - y.mean()).abs().max())
    if size == 0:
        return ""
    return _jump(line, u, y, change) or _kink(line, u, y, size, change)


def _at_end(line: Line, end: float, place: float, change: Change) -> str:
    """Return whether |f(d) − f(d/2)| at the distance d from an end goes like d^α, as no smooth function does.

    Distances are those of x, and α is nothing to tell where the change of variables makes it smooth.
    """
    length = float(change.x(torch.zeros((), dtype=torch.float64))) - place
    d = length * 10.0**-DECADES
    try:
        steps = (line(change.u(place + d)) - line(change.u(place + d / 2))).abs()
    except ValueError:
        return ""
    if float(steps.min()) <= 0:
        return ""
    rates = steps.log10().diff() / -1.0
    alpha = float(rates[-2:].mean())
    if float((rates[-2:] - alpha).abs().max()) > 0.02 or alpha > 0.95:
        return ""
    power = change.power if isinstance(change, EndPoint) and change.end == place else 0
    rate = power * (1 + alpha)
    if rate > 0.5 and abs(rate - round(rate)) < DIGIT * power:
        return ""
    if alpha <= -0.99:
        return f"a pole at x={place:.6g}, like |x - {place:.6g}|^{alpha:.2f}: its integral does not exist"
    return f"a singularity at x={place:.6g} (declare singular=[({place:.6g}, {round(alpha, 2) + 0.0:g})])"


def _jump(line: Line, u: Tensor, y: Tensor, change: Change) -> str:
    """Halve the interval over which f changes most, and see whether the change remains, or grows."""
    k = int(y.diff().abs().argmax())
    (a, b), (f_a, f_b) = u[k : k + 2].clone(), y[k : k + 2]
    first = float((f_b - f_a).abs())
    for _ in range(40):
        middle = 0.5 * (a + b)
        try:
            f_m = line(middle[None])[0]
        except ValueError:
            return f"a pole at x={_place(change, middle)}: the function is not finite there"
        if (f_m - f_a).abs() > (f_b - f_m).abs():
            b, f_b = middle, f_m
        else:
            a, f_a = middle, f_m
    left = float((f_b - f_a).abs())
    if left > 100 * first:
        return f"a pole or a singularity at x={float(change.x(a)):.6g}"
    where = _place(change, 0.5 * (a + b))
    return f"a jump at x={where} (declare breaks=[{where}])" if left > 0.1 * first else ""


def _kink(line: Line, u: Tensor, y: Tensor, size: float, change: Change) -> str:
    """Halve the interval with the largest second difference: at a kink it goes with the width, else with its square."""
    k = int(y.diff(n=2).abs().argmax())
    if float(y.diff(n=2).abs()[k]) < FAINT * size:
        return ""
    a, b = float(u[k]), float(u[k + 2])
    first = float(y.diff(n=2).abs()[k]) / (b - a)
    width = b - a
    for _ in range(12):
        edges = torch.linspace(a, b, 9, dtype=torch.float64)
        bends = line(edges)
        bends = (bends[4:] - 2 * bends[2:-2] + bends[:-4]).abs()  # over half the interval, at five places
        j = int(bends.argmax())
        a, b = float(edges[j]), float(edges[j + 4])
        if b - a < 1e-4 * width or float(bends.max()) < 1e-9 * size:
            break
    if float(bends.max()) > 100 * size:
        return f"a pole or a singularity at x={float(change.x(torch.tensor(0.5 * (a + b), dtype=torch.float64))):.6g}"
    if float(bends.max()) / (b - a) <= 0.3 * first:
        return ""
    ends = torch.tensor([2 * a - b, a, b, 2 * b - a], dtype=torch.float64)
    left, before, after, right = line(ends)
    # Where the lines from both sides meet.
    share = float((before - after + right - after) / (right - after - before + left))
    where = _place(change, torch.tensor(a + (b - a) * share if 0 <= share <= 1 else 0.5 * (a + b), dtype=torch.float64))
    return f"a kink at x={where} (declare breaks=[{where}])"


def _place(change: Change, u: Tensor) -> str:
    """Return a place, in the digits that halving finds."""
    return f"{float(change.x(u)):.10g}"
