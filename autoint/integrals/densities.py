"""Probability densities with exact masses: sums of products of monotone networks, one for every axis."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.integrals.base import last_of
from autoint.integrals.definite import bound, holds
from autoint.registry import integer

HALVINGS = 60  # of an interval until its ends are neighbours in float64
FAR = 1e150


@dataclasses.dataclass(frozen=True)
class DensityFitted:
    """What the fit of a density has reached.

    Attributes:
        log_likelihood: mean of log q at samples that no step has seen, in nats; of q against a given log p it is minus
            the divergence KL(p | q), which is 0 for a perfect fit.
        steps, seconds: of the training.
        effective: how many equally weighted samples the weighted ones are worth.
    """

    log_likelihood: float
    steps: int
    seconds: float
    effective: float


class Density(nn.Module):
    """A density q on a box or on space, whose Φ, the distribution function, is monotone by construction.

    q(x) = Σ_k π_k Π_i ψ_ki(x_i), and its distribution function is Σ_k π_k Π_i Φ_ki(x_i). Φ_ki is a network of one
    input and one layer with positive weights that sum to 1, Φ_ki(x) = Σ_j w_kij (σ(z_kij(x)) − σ(z_kij(lower))) /
    (σ(z_kij(upper)) − σ(z_kij(lower))) with z_kij(x) = (x − μ_kij)/s_kij, s_kij > 0, and ψ_ki is its derivative. So
    q ≥ 0, and the mass of the domain is 1 up to rounding, whatever the weights.

    Args:
        lower, upper: the corners of the domain, n numbers each, infinite ones too.
        num_products: how many products k.
        num_units: how many units j of each network.
        centre, scale: where samples are and how far they spread, n numbers each; weights are in these units.
    """

    def __init__(
        self, lower: Any, upper: Any, num_products: int, num_units: int, centre: Tensor, scale: Tensor
    ) -> None:
        super().__init__()
        for name, value in (("lower", lower), ("upper", upper), ("centre", centre), ("scale", scale)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float64))
        shape = num_products, len(self.lower), num_units
        self.product_logits = nn.Parameter(torch.zeros(num_products, dtype=torch.float64))
        self.unit_logits = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.places = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.log_scales = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.fitted: DensityFitted | None = None

    lower: Tensor
    upper: Tensor
    centre: Tensor
    scale: Tensor

    def log_prob(self, x: Any) -> Tensor:
        """Return log q(x), (…, n) → (…); −inf outside of the domain."""
        x = self._points(x)
        inside = ((x >= self.lower) & (x <= self.upper)).all(-1)
        axes = self._log_psi(x.clamp(*self._ends()))
        logs = torch.logsumexp(F.log_softmax(self.product_logits, 0) + axes.sum(-1), -1)
        return torch.where(inside, logs, -math.inf)

    def cdf(self, x: Any) -> Tensor:
        """Return P(X_0 ≤ x_0, …, X_{n−1} ≤ x_{n−1}), (…, n) → (…): one evaluation."""
        return (self._shares() * self._phi(self._points(x)).prod(-1)).sum(-1)

    def mass(self, lower: Any, upper: Any) -> Tensor:
        """Return P(lower ≤ X ≤ upper), (…, n) and (…, n) → (…): two evaluations, whatever n.

        As of an integral, swapping the bounds of one axis changes its sign.
        """
        sides = self._phi(self._points(upper)) - self._phi(self._points(lower))
        return (self._shares() * sides.prod(-1)).sum(-1)

    def conditional_cdf(self, x: Any, axis: int) -> Tensor:
        """Return P(X_axis ≤ x_axis | X_i = x_i for all i < axis), (…, n) → (…)."""
        x, n = self._points(x), len(self.lower)
        if axis not in range(n):
            raise ValueError(f"axis={axis!r:.60} must be a number from 0 to {n - 1}")
        return (self._given(x, axis) * self._phi(x)[..., axis]).sum(-1)

    def uniform(self, x: Any) -> Tensor:
        """Return the conditional distribution functions of all axes in order, (…, n) → (…, n): uniform in the cube."""
        return torch.stack([self.conditional_cdf(x, axis) for axis in range(len(self.lower))], -1)

    @torch.no_grad()
    def quantile(self, u: Any) -> Tensor:
        """Return x with ``uniform(x) = u``, (…, n) in [0, 1] → (…, n): for n = 1 the inverse distribution function.

        By bisection, axis after axis, so that it cannot miss; the bounds of an axis without end are those of its units.
        """
        u = last_of("u", bound("u", u, self), len(self.lower), "coordinates")
        if not holds((u >= 0) & (u <= 1)):
            raise ValueError("u must be between 0 and 1, as probabilities are")
        x = torch.zeros_like(u)
        mu, s = self._units()
        for axis in range(len(self.lower)):
            low = torch.maximum((mu - 50 * s)[:, axis].min(), self.lower[axis]).expand_as(u[..., axis])
            high = torch.minimum((mu + 50 * s)[:, axis].max(), self.upper[axis]).expand_as(low)
            given = self._given(x, axis)
            for _ in range(HALVINGS):
                middle = 0.5 * (low + high)
                below = (given * self._phi_of(middle, axis)).sum(-1) < u[..., axis]
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            ends = torch.where(u[..., axis] <= 0, self.lower[axis], self.upper[axis])
            x[..., axis] = torch.where((u[..., axis] > 0) & (u[..., axis] < 1), 0.5 * (low + high), ends)
        return x

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Return independent samples, (count, n): of a product, then of a unit of each of its networks."""
        integer(1, count=count)
        integer(seed=seed)
        g = torch.Generator(self.lower.device).manual_seed(seed)
        k = torch.multinomial(self._shares(), count, replacement=True, generator=g)
        weights = F.softmax(self.unit_logits, -1)[k].flatten(0, 1)
        j = torch.multinomial(weights, 1, generator=g).reshape(count, -1, 1)
        mu, s = (v[k].gather(-1, j)[..., 0] for v in self._units())
        low, high = (torch.sigmoid((end - mu) / s) for end in (self.lower, self.upper))
        v = torch.rand(mu.shape, generator=g, dtype=mu.dtype, device=mu.device)
        x = mu + s * torch.logit(low + v * (high - low), eps=1e-300)
        return x.clamp(self.lower, self.upper)

    def _points(self, x: Any) -> Tensor:
        return last_of("x", bound("x", x, self), len(self.lower), "coordinates")

    def _shares(self) -> Tensor:
        return F.softmax(self.product_logits, 0)

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Return the corners, infinite ones so far away that every unit is 0 or 1 there, with gradients of 0."""
        return self.lower.clamp_min(-FAR), self.upper.clamp_max(FAR)

    def _units(self) -> tuple[Tensor, Tensor]:
        """Return μ and s, (K, n, J) each: the places of units lie in the domain."""
        low, high, centre, scale = (v[:, None] for v in (self.lower, self.upper, self.centre, self.scale))
        from_low, from_high = low.isfinite(), high.isfinite()
        # Finite whatever the ends are, for a gradient of what is not taken must not be NaN.
        low, high = torch.where(from_low, low, 0.0), torch.where(from_high, high, 0.0)
        both = low + (high - low) * torch.sigmoid(self.places)
        one = torch.where(from_low, low, high) + torch.where(from_low, scale, -scale) * F.softplus(self.places)
        mu = torch.where(
            from_low & from_high, both, torch.where(from_low | from_high, one, centre + scale * self.places)
        )
        return mu, scale * self.log_scales.exp()

    def _log_psi(self, x: Tensor) -> Tensor:
        """Return log ψ_ki(x_i), (…, n) → (…, K, n)."""
        mu, s = self._units()
        z = (x[..., None, :, None] - mu) / s
        low, high = ((end[:, None] - mu) / s for end in self._ends())
        inside = (torch.sigmoid(high) - torch.sigmoid(low)).log()
        logs = F.logsigmoid(z) + F.logsigmoid(-z) - s.log() - inside
        return torch.logsumexp(F.log_softmax(self.unit_logits, -1) + logs, -1)

    def _phi(self, x: Tensor) -> Tensor:
        """Return Φ_ki(x_i), (…, n) → (…, K, n)."""
        return torch.stack([self._phi_of(x[..., axis], axis) for axis in range(x.shape[-1])], -1)

    def _phi_of(self, x: Tensor, axis: int) -> Tensor:
        """Return Φ_ki(x) of one axis i, (…) → (…, K)."""
        mu, s = (v[:, axis] for v in self._units())
        ends = torch.stack([end[axis] for end in self._ends()])[:, None, None]
        low, high = torch.sigmoid((ends - mu) / s)
        x = x.clamp(ends[0, 0, 0], ends[1, 0, 0])[..., None, None]
        rise = (torch.sigmoid((x - mu) / s) - low) / (high - low)
        return (F.softmax(self.unit_logits[:, axis], -1) * rise).sum(-1)

    def _given(self, x: Tensor, axis: int) -> Tensor:
        """Return the shares of the products, given the coordinates before an axis, (…, K)."""
        before = self._log_psi(x)[..., :axis].sum(-1)
        return F.softmax(self.product_logits + before, -1)
