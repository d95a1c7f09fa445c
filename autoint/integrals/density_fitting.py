"""``autoint.fit_density``: a density from samples of it, or from its logarithm up to a constant."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autoint.integrals.definite import bound
from autoint.integrals.densities import Density, DensityFitted
from autoint.integrals.domains import domain_of, located
from autoint.integrals.fitting import box_of
from autoint.registry import at_least_one, integer, positive
from autoint.runs.seeding import generator

log = logging.getLogger(__name__)
LogProb = Callable[[Tensor], Tensor]
LINE, POINTS, BATCH, ROUNDS = 2**11, 2**13, 2**9, 3
FEWEST, DISCRETE, WORTH = 50, 0.1, 200  # samples, share of equal neighbours, effective samples
NORMAL_QUARTILES, WILD = 1.349, 3.0  # distance of a normal distribution's quartiles; standard deviations by theirs
OFF, UNLIKELY = 0.1, 1.63  # of a distribution function; Kolmogorov's statistic times √P at 1 %


def fit_density(
    given: Any,
    lower: Any = None,
    upper: Any = None,
    *,
    num_products: int | None = None,
    num_units: int | None = None,
    steps: int = 800,
    max_time: float = 60.0,
    seed: int = 0,
) -> Density:
    """Fit a density to samples, or to log p up to a constant, by maximum likelihood.

    Samples maximise the mean of log q, and a tenth of them tells when that stops to help. For log p, points x of weight
    p(x)/(density of the points) maximise the weighted mean, which is to minimise KL(p | q); they are spread over the
    domain, and for n > 1 half of them are drawn from q in two further rounds.

    Args:
        given: samples, (P, n) or (P,), or a function x (P, n) → log p (P,).
        lower, upper: the corners of the domain; all of space by default, which log p allows for n = 1 only, for it has
            to be found there.
        num_products: products of networks; 1 for n = 1, 32 above by default.
        num_units: units of each network, 16 for n = 1, 2 above by default.
        steps: of L-BFGS for log p with n = 1, else of Adam in each round.
        max_time: stop after so many seconds.
        seed: of the initial weights, and of the points.

    Raises:
        ValueError: for samples that are no numbers, too few, outside of the domain, all equal or of a discrete
            distribution on an axis; for log p that is NaN, +inf or nowhere finite; and where the points miss its mass.

    Examples:
        >>> D = fit_density(lambda x: -0.5 * x[:, 0] ** 2, steps=300)  # a normal distribution
        >>> abs(D.cdf(1.0).item() - 0.8413) < 0.01
        True
    """
    at_least_one(num_products=num_products, num_units=num_units)
    integer(1, steps=steps)
    integer(seed=seed)
    positive(zero=True, max_time=max_time)
    if callable(given) and not isinstance(given, Tensor):
        if lower is None and upper is None:
            lower, upper = -math.inf, math.inf
        low, high = _box(lower, upper)
        return _from_log_prob(given, low, high, _Training(num_products, num_units, steps, max_time, seed))
    x = _checked(given)
    n = x.shape[1]
    low, high = _box([-math.inf] * n if lower is None else lower, [math.inf] * n if upper is None else upper)
    if len(low) != n:
        raise ValueError(f"lower={lower!r:.60}: the samples have {n} coordinates; give so many")
    outside = ((x < torch.tensor(low)) | (x > torch.tensor(high))).any(-1)
    if outside.any():
        raise ValueError(f"{int(outside.sum())} samples are outside of the domain, such as {x[outside][0].tolist()}")
    training = _Training(num_products, num_units, steps, max_time, seed)
    x = x[torch.randperm(len(x), generator=generator(seed, "order"))]
    held = max(1, len(x) // 10)
    density = training.start(x, low, high)
    score = training.run(density, x[held:], None, x[:held], None)
    _check_distribution(density, x[:held])
    return training.end(density, score, len(x))


class _Training:
    """Maximum likelihood; of samples, which are held out in part, the weights are kept that were best for those."""

    def __init__(self, num_products: int | None, num_units: int | None, steps: int, max_time: float, seed: int) -> None:
        self.num_products, self.num_units, self.steps, self.seed = num_products, num_units, steps, seed
        self.began, self.max_time, self.taken = time.monotonic(), max_time, 0

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() - self.began > self.max_time

    def start(self, x: Tensor, low: list[float], high: list[float]) -> Density:
        """Return a density whose units lie at samples, which are equally weighted."""
        n = x.shape[1]
        products, units = self.num_products or (1 if n == 1 else 32), self.num_units or (16 if n == 1 else 2)
        centre, scale = _spread(x)
        density = Density(low, high, products, units, centre, scale)
        places = x[torch.randint(len(x), (products,), generator=generator(self.seed, "places"))]
        spread = scale * (1 if products == 1 else products ** (-1 / n))
        quantiles = (torch.arange(units, dtype=x.dtype) + 0.5) / units
        with torch.no_grad():
            if products == 1:
                at = _quantiles(x, quantiles).T[None]
                size = torch.full_like(at, 1.0) * (scale / units).clamp_min(1e-9)[:, None]
            else:
                at = places[:, :, None] + spread[:, None] * (2 * quantiles - 1)
                size = (0.5 * spread[:, None]).expand_as(at)
            density.places.copy_(_free(at, density))
            density.log_scales.copy_((size / density.scale[:, None]).log())
        return density

    def run(self, density: Density, x: Tensor, w: Tensor | None, held: Tensor, held_w: Tensor | None) -> float:
        """Train; return the mean of log q at what is held out."""
        adam = torch.optim.Adam(density.parameters(), lr=2e-2)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps, eta_min=1e-4)
        g = generator(self.seed, "batches", self.taken)
        best, kept = -math.inf, {k: v.clone() for k, v in density.state_dict().items()}
        for step in range(self.steps):
            rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=g)
            loss = -_mean(density.log_prob(x[rows]), None if w is None else w[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            decay.step()
            late = self.late
            if step % 50 == 49 or late or step + 1 == self.steps:
                with torch.no_grad():
                    score = float(_mean(density.log_prob(held), held_w))
                if score > best:
                    best, kept = score, {k: v.clone() for k, v in density.state_dict().items()}
            if late:
                break
        self.taken += step + 1
        density.load_state_dict(kept)
        return best

    def run_whole(self, density: Density, x: Tensor, w: Tensor) -> float:
        """Train by L-BFGS on all points at once, which are a quadrature and no sample; return the mean of log q."""
        given: dict[str, Any] = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-10, "tolerance_change": 1e-14}
        lbfgs = torch.optim.LBFGS(density.parameters(), max_iter=20, history_size=50, **given)

        def loss() -> Tensor:
            lbfgs.zero_grad()
            value = -_mean(density.log_prob(x), w)
            value.backward()
            return value

        before = math.inf
        while self.taken < self.steps and not self.late:
            kept = {k: v.clone() for k, v in density.state_dict().items()}
            value = float(lbfgs.step(loss).detach())
            self.taken += 20
            with torch.no_grad():
                if not density.log_prob(x).isfinite().all():  # as of units that shrink to single points
                    density.load_state_dict(kept)
                    break
            if before - value < 1e-9:
                break
            before = value
        with torch.no_grad():
            return float(_mean(density.log_prob(x), w))

    def end(self, density: Density, score: float, effective: float) -> Density:
        """Return the density with what was reached."""
        density.fitted = DensityFitted(score, self.taken, time.monotonic() - self.began, effective)
        log.info("fit_density: %s", density.fitted)
        return density


def _mean(y: Tensor, w: Tensor | None) -> Tensor:
    return y.mean() if w is None else (w * y).sum() / w.sum()


def _quantiles(x: Tensor, shares: Tensor) -> Tensor:
    return torch.quantile(x[:: max(1, len(x) // 10_000)], shares, dim=0)


def _spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return where samples are and how far they spread, (n,) each: mean and standard deviation.

    Where that is far more than the quartiles of a normal distribution have it, it is of few samples far away or of
    heavy tails, in whose units all others are in one place: there it is the median, and the quartiles' deviation.
    """
    first, middle, third = _quantiles(x, torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype))
    inner, scale = (third - first) / NORMAL_QUARTILES, x.std(0)
    wild = (inner > 0) & (scale > WILD * inner)
    return torch.where(wild, middle, x.mean(0)), torch.where(wild, inner, scale)


def _free(x: Tensor, density: Density) -> Tensor:
    """Return the free parameters of units at places x, (K, n, J)."""
    low, high = density.lower[:, None], density.upper[:, None]
    free = (x - density.centre[:, None]) / density.scale[:, None]
    both = torch.logit(((x - low) / (high - low)).clamp(1e-6, 1 - 1e-6))
    gap = (torch.where(low.isfinite(), x - low, high - x) / density.scale[:, None]).clamp_min(1e-6)
    one = gap + torch.log(-torch.expm1(-gap))  # the inverse of softplus
    out = torch.where(low.isfinite() & high.isfinite(), both, one)
    return torch.where(low.isfinite() | high.isfinite(), out, free)


@torch.no_grad()
def _check_distribution(density: Density, held: Tensor) -> None:
    """Warn where the conditional distribution functions are far from uniform at samples that no step has seen."""
    shares = (torch.arange(len(held), dtype=held.dtype)[:, None] + 0.5) / len(held)
    off = (density.uniform(held).sort(0).values - shares).abs().amax(0)
    axis = int(off.argmax())
    if float(off[axis]) > OFF + UNLIKELY / math.sqrt(len(held)):
        log.warning(
            "fit_density: the distribution function along axis %d is off by %.2f at held-out samples; more steps, "
            "products or units may help, or bounds without the samples that are far away",
            axis,
            float(off[axis]),
        )


def _box(lower: Any, upper: Any) -> tuple[list[float], list[float]]:
    if lower is None or upper is None:
        raise ValueError("give lower and upper both, or neither")
    return box_of(lower, upper, infinite=True)


def _checked(given: Any) -> Tensor:
    """Return samples as (P, n) in float64."""
    x = bound("samples", given, dtype=torch.float64).detach()
    x = x[:, None] if x.dim() == 1 else x
    if x.dim() != 2 or not 1 <= x.shape[1] <= 6 or len(x) < FEWEST:
        raise ValueError(f"samples have shape {tuple(x.shape)}; they must be (P, n), P ≥ {FEWEST} and n ≤ 6")
    if not x.isfinite().all():
        raise ValueError(f"samples: row {int((~x.isfinite()).any(-1).nonzero()[0])} is not finite")
    for axis in range(x.shape[1]):
        steps = x[:, axis].sort().values.diff()
        if float((steps == 0).double().mean()) > DISCRETE:
            raise ValueError(
                f"samples: on axis {axis} many are equal, as of a discrete distribution, which has no density; add "
                "noise of the width of their steps"
            )
    return x


def _from_log_prob(function: LogProb, low: list[float], high: list[float], training: _Training) -> Density:
    """Fit to exp(log p) by points over the domain, then also by points of the fit itself."""
    n = len(low)
    infinite = not all(math.isfinite(v) for v in (*low, *high))
    if infinite and n > 1:
        raise ValueError("log p on a domain without end is for n = 1; give finite lower and upper, that hold its mass")
    where = _located(function, low, high) if infinite else ([0.0] * n, [1.0] * n)
    changes = [axis[0] for axis in domain_of(low, high, (), (), False).changes(*where)]
    u = 2 * _cube(n, training.seed) - 1
    spread = torch.stack([change.x(u[:, k]) for k, change in enumerate(changes)], -1)

    def log_density(x: Tensor) -> Tensor:
        """Return the logarithm of the density with which points are spread."""
        slopes = [change.slope(change.u(x[:, k])) for k, change in enumerate(changes)]
        return -torch.stack(slopes, -1).log().sum(-1) - n * math.log(2)

    x, logs = spread, _checked_log(function, spread)
    weights = _weights(logs - log_density(x))
    density: Density | None
    density, score, effective, drawn = None, -math.inf, _effective(weights), log_density(x)
    if n == 1 and 2 <= effective < WORTH:
        x, drawn = _also_near(spread, weights, log_density)
        logs = _checked_log(function, x)
        weights = _weights(logs - drawn)
        effective = _effective(weights)
    for number in range(1 if n == 1 else ROUNDS):
        if density is not None:
            if training.late:
                break
            x = torch.cat([spread[: POINTS // 2], density.sample(POINTS // 2, seed=training.seed + number)])
            with torch.no_grad():
                drawn = torch.logaddexp(log_density(x), density.log_prob(x)) - math.log(2)
            logs = _checked_log(function, x)
            weights = _weights(logs - drawn)
            effective = _effective(weights)
        if effective < 2:
            raise ValueError(f"log p has its mass between the {len(x)} points that look for it; give a smaller domain")
        g = generator(training.seed, "round", number)
        rows = torch.multinomial(weights, POINTS, replacement=True, generator=g)
        density = density or training.start(x[rows], low, high)
        if n == 1:
            score = training.run_whole(density, x, weights)
            continue
        held = torch.arange(len(x)) % 10 == 0
        score = training.run(density, x[~held], weights[~held], x[held], weights[held])
    assert density is not None
    if effective < WORTH:
        log.warning("fit_density: the points are worth %.0f samples only; more products or a smaller domain", effective)
    mean, mass = float(_mean(logs.clamp_min(-1e300), weights)), float((logs - drawn).logsumexp(0)) - math.log(len(x))
    return training.end(density, score - mean + mass, effective)


def _cube(n: int, seed: int) -> Tensor:
    """Return points in the unit cube, (P, n)."""
    if n == 1:
        return (torch.arange(LINE, dtype=torch.float64)[:, None] + 0.5) / LINE
    return torch.quasirandom.SobolEngine(n, scramble=True, seed=seed).draw(POINTS, dtype=torch.float64)


def _also_near(x: Tensor, weights: Tensor, log_density: LogProb) -> tuple[Tensor, Tensor]:
    """Return points of a line with as many more where the weights are, and the logarithm of the density of both."""
    some = (weights > 1e-9 * weights.max()).nonzero()[:, 0]
    a, b = x[max(0, int(some[0]) - 1), 0], x[min(len(x) - 1, int(some[-1]) + 1), 0]
    x = torch.cat([x, a + (b - a) * _cube(1, 0)])
    there = torch.where((x >= a) & (x <= b), -(b - a).log(), -math.inf)[:, 0]
    return x, torch.logaddexp(log_density(x), there) - math.log(2)


def _located(function: LogProb, low: list[float], high: list[float]) -> tuple[list[float], list[float]]:
    far = torch.sinh(torch.linspace(-16, 16, 4097, dtype=torch.float64))[:, None]
    most = _checked_log(function, far.clamp(low[0], high[0])).max()
    return located(lambda x: (_checked_log(function, x) - most).exp(), low, high)


def _checked_log(function: LogProb, x: Tensor) -> Tensor:
    """Return log p(x), (P, n) → (P,), checked."""
    try:
        y = function(x)
    except Exception as error:
        raise ValueError(f"log p failed at x of shape {tuple(x.shape)}: {error}") from error
    if not isinstance(y, Tensor) or y.is_complex() or y.shape not in ((len(x),), (len(x), 1)):
        found = f"{tuple(y.shape)} of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"log p returned {found}; it must return a tensor of real numbers, of shape ({len(x)},)")
    y = y.detach().reshape(-1).double()
    if bool((y.isnan() | (y == math.inf)).any()):
        at = x[y.isnan() | (y == math.inf)][0].tolist()
        raise ValueError(f"log p is NaN or +inf at x={at}; it may be -inf, but must not be these")
    return y


def _weights(logs: Tensor) -> Tensor:
    """Return weights of mean 1."""
    if not logs.isfinite().any():
        raise ValueError("log p is -inf at all points of the domain; give a domain that holds its mass")
    return (logs - logs.logsumexp(0)).exp() * len(logs)


def _effective(weights: Tensor) -> float:
    return float(weights.sum() ** 2 / weights.square().sum())
