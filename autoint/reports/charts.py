"""Charts as SVG that stands in a page by itself: curves, one ray from inside, quality against time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import escape

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
LEFT = 60
"""Where the frame begins, after the numbers of its ticks."""
MOST = 400
"""Points of a curve; of more, every so many are drawn."""
Curve = Sequence[tuple[float, float]]


class _Axis(NamedTuple):
    """From values to places on the paper, on a straight or a logarithmic scale."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers within the axis, about five."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            if len(powers) > 1:
                return [10.0**p for p in powers][:: max(1, len(powers) // 5)]
            return [self.low, math.sqrt(self.low * self.high), self.high]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 3))
        step *= next(k for k in (1, 2, 5, 10) if (self.high - self.low) / (k * step) <= 6)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step) + 1)]


def curves(
    named: Mapping[str, Curve], across: str, up: str, log: bool = False, size: tuple[int, int] = (440, 240)
) -> str:
    """Draw curves of points (x, y) over one x; what is not finite, or below 0 on a logarithmic scale, is left out."""
    kept = {
        name: [(x, y) for x, y in curve if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)]
        for name, curve in named.items()
    }
    kept = {name: curve[:: -(-len(curve) // MOST)] for name, curve in kept.items() if curve}
    points = [point for curve in kept.values() for point in curve]
    if not points:
        return ""
    paper = _Paper(points, size, log_y=log)
    parts = paper.frame(across, up)
    ends = [paper.y(curve[-1][1]) for curve in kept.values()]
    low = min(ends) < size[1] / 2  # where the curves end above, their names are below
    above = size[1] - 28 - 14 * len(kept) if low else 20
    for number, (name, curve) in enumerate(kept.items()):
        color = COLORS[number % len(COLORS)]
        line = " ".join(f"{paper.x(x):.1f},{paper.y(y):.1f}" for x, y in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        parts += [_dot(paper, *curve[0], color)] if len(curve) == 1 else []
        parts.append(_text(size[0] - 12, above + 14 * number, name, "end", color))
    return paper.drawn(parts)


def ray(
    t: Sequence[float],
    density: Sequence[float],
    edges: Sequence[float],
    mean_density: Sequence[float],
    mean_rgb: Sequence[Sequence[float]],
    weights: Sequence[float],
    size: tuple[int, int] = (640, 300),
) -> str:
    """Draw one ray: σ along it and its section means above, the weights of the sections in their colours below.

    Args:
        t, density: where σ is sampled, and σ there.
        edges: of the sections, N + 1.
        mean_density, weights: of the sections, N each.
        mean_rgb: of the sections, N times red, green and blue in [0, 1].
        size: width and height.
    """
    width, height = size
    steps = [(edge, mean) for i, mean in enumerate(mean_density) for edge in edges[i : i + 2]]
    along = list(zip(t, density, strict=True))[:: -(-len(t) // MOST)]
    upper = _Paper([*along, *steps, (t[0], 0.0)], (width, height // 2))
    parts = upper.frame("", "density σ")
    for line, stroke in ((along, "black"), (steps, COLORS[0])):
        drawn = " ".join(f"{upper.x(x):.1f},{upper.y(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{stroke}" stroke-width="1.3"/>')
    lower = _Paper([(t[0], 0.0), (t[-1], max(max(weights), 1e-9))], (width, height // 2))
    below = lower.frame(f"t, {len(mean_density)} sections", "weight")
    for i, (weight, color) in enumerate(zip(weights, mean_rgb, strict=True)):
        left, right, top = lower.x(edges[i]), lower.x(edges[i + 1]), lower.y(weight)
        fill = "rgb({},{},{})".format(*(round(255 * min(1.0, max(0.0, c))) for c in color))
        below.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0):.1f}" '
            f'height="{max(lower.y(0) - top, 0):.1f}" fill="{fill}" stroke="grey" stroke-width="0.5"/>'
        )
    return upper.drawn([*parts, f'<g transform="translate(0 {height // 2})">', *below, "</g>"], height)


def pareto(
    points: Mapping[str, tuple[float, float]],
    front: Sequence[str],
    pictures: Mapping[str, str],
    across: str,
    size: tuple[int, int] = (720, 420),
) -> str:
    """Plot quality (dB) against time, {run: (seconds, PSNR)}, with a line through the runs of the ``front``.

    ``pictures`` are data URIs by the names of their runs, drawn as thumbnails beside the points.
    """
    finite = {name: p for name, p in points.items() if all(map(math.isfinite, p)) and p[0] > 0}
    if not finite:
        return ""
    paper = _Paper(list(finite.values()), size, log_x=True)
    parts = paper.frame(across, "PSNR (dB)")
    line = " ".join(f"{paper.x(finite[n][0]):.1f},{paper.y(finite[n][1]):.1f}" for n in front if n in finite)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#bbb" stroke-width="2"/>')
    for number, (name, (seconds, quality)) in enumerate(finite.items()):
        x, y = paper.x(seconds), paper.y(quality)
        if name in pictures:
            parts.append(
                f'<image href="{escape(pictures[name])}" x="{x - 52:.1f}" y="{y - 24:.1f}" width="48" height="48"/>'
            )
        parts.append(_dot(paper, seconds, quality, COLORS[number % len(COLORS)]))
        right = x < 0.6 * size[0]
        beside = x + 7 if right else x - (58 if name in pictures else 7)
        parts.append(_text(beside, y + 4, name, "start" if right else "end", "#333"))
    return paper.drawn(parts)


class _Paper:
    """A frame with axes around points."""

    def __init__(
        self, points: Sequence[tuple[float, float]], size: tuple[int, int], log_x: bool = False, log_y: bool = False
    ) -> None:
        self.size = size
        spans = []
        for values, log in zip(zip(*points, strict=True), (log_x, log_y), strict=True):
            low, high = min(values), max(values)
            if log:
                margin = max((high / low) ** 0.06, 1.1)
                spans.append((low / margin, high * margin))
            else:
                margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
                spans.append((low - margin, high + margin))
        self.x = _Axis(*spans[0], LEFT, size[0] - 8, log_x)
        self.y = _Axis(*spans[1], size[1] - 34, 8, log_y)

    def frame(self, across: str, up: str) -> list[str]:
        """The axes, their ticks and what they are called."""
        width, height = self.size
        parts = [
            f'<rect x="{LEFT}" y="8" width="{width - LEFT - 8}" height="{height - 42}" fill="none" stroke="#999"/>',
            _text((LEFT + width) / 2, height - 4, across, "middle"),
            f'<g transform="translate(11 {height / 2 - 10:.0f}) rotate(-90)">{_text(0, 0, up, "middle")}</g>',
        ]
        for tick, told in _told(self.x.ticks()):
            x = self.x(tick)
            parts.append(f'<path d="M{x:.1f} {height - 34}v4" stroke="#999"/>')
            parts.append(_text(x, height - 19, told, "middle"))
        for tick, told in _told(self.y.ticks()):
            y = self.y(tick)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{width - 8}" stroke="#ddd" stroke-width="0.5"/>')
            parts.append(_text(LEFT - 4, y + 4, told, "end"))
        return parts

    def drawn(self, parts: Sequence[str], height: int | None = None) -> str:
        """The whole drawing."""
        width, tall = self.size[0], height or self.size[1]
        style = f'viewBox="0 0 {width} {tall}" width="{width}" height="{tall}" font-family="sans-serif" font-size="11"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {style}>{"".join(parts)}</svg>'


def _told(ticks: Sequence[float]) -> list[tuple[float, str]]:
    """Ticks with what is written at them: with as few digits as tell them apart, four at least."""
    for digits in range(4, 17):
        texts = [f"{tick:.{digits if abs(tick) >= 1e-3 else digits - 2}g}" for tick in ticks]
        if len(set(texts)) == len(texts):
            break
    return list(zip(ticks, texts, strict=True))


def _text(x: float, y: float, text: str, anchor: str, color: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'


def _dot(paper: _Paper, x: float, y: float, color: str) -> str:
    return f'<circle cx="{paper.x(x):.1f}" cy="{paper.y(y):.1f}" r="4" fill="{color}"/>'
