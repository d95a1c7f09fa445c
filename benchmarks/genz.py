"""The six families of integrands of Genz (1984) on [0, 1]ⁿ, with their exact integrals over boxes."""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
from torch import Tensor

SMOOTH = ("oscillatory", "product peak", "corner peak", "gaussian")
FAMILIES = (*SMOOTH, "continuous", "discontinuous")
# Difficulty Σ c of every family, spread over the axes: Genz' b_j / n^e_j.
DIFFICULTY = {
    "oscillatory": (284.6, 1.5),
    "product peak": (725.0, 2.0),
    "corner peak": (185.0, 2.0),
    "gaussian": (70.3, 1.0),
    "continuous": (2040.0, 2.0),
    "discontinuous": (430.0, 2.0),
}
REFERENCE_DIMENSION = 10  # for which Genz' difficulties are meant; they grow too much below it


@dataclasses.dataclass(frozen=True)
class Genz:
    """One integrand: its family, weights c and places w, (n,) each."""

    family: str
    c: Tensor
    w: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return f(x), (P, n) → (P,)."""
        c, w = self.c, self.w
        if self.family == "oscillatory":
            return torch.cos(2 * math.pi * w[0] + x @ c)
        if self.family == "product peak":
            return (1 / (c**-2 + (x - w) ** 2)).prod(-1)
        if self.family == "corner peak":
            return (1 + x @ c) ** -(len(c) + 1.0)
        if self.family == "gaussian":
            return torch.exp(-((x - w) * c).square().sum(-1))
        if self.family == "continuous":
            return torch.exp(-((x - w).abs() @ c))
        return torch.where((x[:, :2] < w[:2]).all(-1), torch.exp(x @ c), 0.0)

    def exact(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return ∫f over boxes, (B, n) and (B, n) → (B,)."""
        c, w, n = self.c, self.w, len(self.c)
        if self.family == "oscillatory":
            ends = [torch.exp(1j * c * v) for v in (lower, upper)]
            return (((ends[1] - ends[0]) / (1j * c)).prod(-1) * torch.exp(2j * math.pi * w[0])).real
        if self.family == "product peak":
            return (c * (torch.atan(c * (upper - w)) - torch.atan(c * (lower - w)))).prod(-1)
        if self.family == "corner peak":
            total = torch.zeros(len(lower), dtype=lower.dtype)
            for corner in itertools.product((False, True), repeat=n):
                x = torch.where(torch.tensor(corner), upper, lower)
                total += (-1) ** sum(corner) / (1 + x @ c)
            return total / (math.factorial(n) * c.prod())
        if self.family == "gaussian":
            sides = torch.erf(c * (upper - w)) - torch.erf(c * (lower - w))
            return (math.sqrt(math.pi) / (2 * c) * sides).prod(-1)
        if self.family == "continuous":
            ends = [torch.sign(v - w) * (1 - torch.exp(-c * (v - w).abs())) / c for v in (lower, upper)]
            return (ends[1] - ends[0]).prod(-1)
        cut = torch.where(torch.arange(n) < 2, w, 1.0)
        ends = [torch.exp(c * v.minimum(cut)) / c for v in (lower, upper)]
        return (ends[1] - ends[0]).prod(-1)


def genz(family: str, n: int, seed: int = 0, scale: float | None = None) -> Genz:
    """Return an integrand with random weights and places; ``scale`` is Σ c, by default Genz' for ten dimensions."""
    g = torch.Generator().manual_seed(seed)
    c, w = torch.rand(2, n, generator=g, dtype=torch.float64)
    b, exponent = DIFFICULTY[family]
    total = b / REFERENCE_DIMENSION**exponent if scale is None else scale
    return Genz(family, total * (c + 0.5) / (c + 0.5).sum(), w)


def boxes(count: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random boxes inside [0, 1]ⁿ, lower below upper, (count, n) each."""
    ends = torch.rand(2, count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ends.amin(0), ends.amax(0)
