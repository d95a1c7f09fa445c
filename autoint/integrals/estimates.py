"""Integrals with error bars: stratified Monte Carlo of what a network leaves over."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 2**16  # points at which the function is asked at once


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An integral and how wrong it may be; ``value, error = estimate`` takes it apart.

    Attributes:
        value: the unbiased estimate, (…) or (…, C).
        error: its standard error, of the same shape.
        degrees: degrees of freedom of ``error``, of the same shape: few where few samples decide.
        samples: evaluations of the function, over all boxes.

    Examples:
        >>> low, high = Estimate(torch.tensor(1.0), torch.tensor(0.1), torch.tensor(4.0)).interval()
        >>> round(float(low), 3), round(float(high), 3)  # Student's t, 2.776 standard errors at 4 degrees of freedom
        (0.722, 1.278)
    """

    value: Tensor
    error: Tensor
    degrees: Tensor
    samples: int = 0

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.value, self.error))

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper end of the confidence interval, by Student's t."""
        from scipy.special import stdtrit  # of scipy.stats, which takes seconds to import

        if not isinstance(level, (int, float)) or not 0 < level < 1:
            raise ValueError(f"level={level!r:.60} must be between 0 and 1, such as 0.95")
        quantile = stdtrit(self.degrees.detach().cpu().numpy(), 0.5 + level / 2)
        margin = self.error * torch.as_tensor(quantile).to(self.error)
        return self.value - margin, self.value + margin


def combined(parts: Sequence[tuple[Tensor, Estimate]]) -> Estimate:
    """Return Σ c·estimate of independent estimates, (…, C) with c (…, 1); degrees after Welch and Satterthwaite."""
    value = sum((c * e.value for c, e in parts), torch.zeros(()))
    variances = [(c * e.error).square() for c, e in parts]
    variance = sum(variances, torch.zeros(()))
    lost = sum((v.square() / e.degrees for v, (_, e) in zip(variances, parts, strict=True)), torch.zeros(()))
    degrees = torch.where(lost > 0, variance.square() / lost, parts[0][1].degrees)
    return Estimate(value, variance.sqrt(), degrees.detach(), sum(e.samples for _, e in parts))


def per_box(estimate: Callable[[Tensor, int], Estimate], counts: Tensor) -> Estimate:
    """Return the estimates of all boxes: ``estimate`` has those of some, (which, samples in each) → (…, C).

    ``counts`` (B,) are the samples in every box; boxes of the same number are asked for together.
    """
    rows = [(counts == count).nonzero()[:, 0] for count in counts.unique()]
    found = [estimate(some, int(counts[some[0]])) for some in rows]
    order = torch.cat(rows).argsort()
    value, error, degrees = (
        torch.cat([getattr(e, name) for e in found])[order] for name in ("value", "error", "degrees")
    )
    return Estimate(value, error, degrees, sum(e.samples for e in found))


def allotted(spread: Tensor, total: int, used: int) -> Tensor:
    """Return how many of ``total`` samples each box has, where ``used`` are gone: in proportion to ``spread``.

    A tenth is shared equally, for a spread from few samples may be zero by chance. Counts are whole half powers of two,
    rounded down, so that boxes come in few sizes.
    """
    rest = total - used - 4 * spread.numel()
    if rest < 0:
        raise ValueError(
            f"total={total} must be at least {used + 4 * spread.numel()}: {used} come first, and 4 in every box after"
        )
    share = 0.9 * spread / spread.sum().clamp_min(torch.finfo(spread.dtype).tiny) + 0.1 / spread.numel()
    cells = 2 + rest * share / 2
    return 2 * (2 ** ((2 * cells.log2() + 1e-9).floor() / 2)).floor().long().cpu()


def sides_of(strata: int, axes: int) -> list[int]:
    """Return into how many parts each axis is cut, as equally as can be, for at most ``strata`` cells in all."""
    sides = [1] * axes
    for axis in itertools.cycle(range(axes)):
        sides[axis] += 1
        cells = 1
        for side in sides:
            cells *= side
        if cells > strata:
            sides[axis] -= 1
            return sides
    raise AssertionError


def stratified_mean(
    function: Callable[[Tensor, slice], Tensor], boxes: int, axes: int, samples: int, generator: torch.Generator
) -> Estimate:
    """Return the means of a function over unit cubes, from two random points in every cell of a grid.

    With r₁ and r₂ in one of S cells, the mean of all is unbiased and (1/S²)·Σ(r₁ − r₂)²/4 is the square of its error
    without bias. Satterthwaite's degrees of freedom for estimated variances, 3(Σv)²/Σv² − 2, from 1 to S, are halved
    towards 1, as what a network leaves over is not normal where a few cells decide.

    Args:
        function: (boxes of a block, samples, axes) and which boxes → (boxes of a block, samples, C).
        boxes: how many cubes.
        axes: their dimension.
        samples: points in a cube at most, from 2.
        generator: of the points.

    Returns:
        (boxes, C).
    """
    sides = sides_of(samples // 2, axes)
    cells = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in sides)).reshape(-1, 1, axes)
    rows = max(1, BLOCK // (2 * len(cells)))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, boxes, rows):
        block = slice(start, min(start + rows, boxes))
        random = torch.rand(block.stop - start, len(cells), 2, axes, generator=generator, dtype=torch.float64)
        points = (cells + random) / torch.tensor(sides, dtype=torch.float64)
        r = function(points.flatten(1, 2), block).unflatten(1, (len(cells), 2))
        variances = (r[:, :, 0] - r[:, :, 1]).square() / 4
        total = variances.sum(1)
        degrees = 3 * total.square() / variances.square().sum(1) - 2
        degrees = 0.5 + 0.5 * torch.where(degrees.isfinite(), degrees, torch.inf).clamp(1, len(cells))
        found.append((r.mean((1, 2)), total / len(cells) ** 2, degrees.detach()))
    mean, variance, degrees = (torch.cat(part) for part in zip(*found, strict=True))
    # The square root of zero has no gradient: that is of a residual which is exactly constant.
    positive = variance > 0
    error = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)
    return Estimate(mean, error, degrees, boxes * 2 * len(cells))
