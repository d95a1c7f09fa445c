"""``autoint.fit``: from a function to its antiderivative, by least squares in float64."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from autoint.integrals.accuracy import Fitted
from autoint.integrals.antiderivatives import Antiderivative, Piecewise
from autoint.integrals.base import AbstractAntiderivative, Corners
from autoint.integrals.definite import bound
from autoint.integrals.domains import Domain, domain_of, located
from autoint.integrals.functions import target
from autoint.integrals.integrands import Function, values
from autoint.integrals.least_squares import NO_PARAMETERS
from autoint.integrals.levenberg_marquardt import LevenbergMarquardt
from autoint.integrals.training import Recipe, Training
from autoint.networks.integral_net import Choice
from autoint.registry import at_least_one, integer, positive
from autoint.runs.seeding import generator

log = logging.getLogger(__name__)
MOST_AXES, MOST_CELLS = 16, 256
PROBES, APERIODIC = 256, 1e-4  # points at which a period is looked at, and how far f may be off one further
SMALL, RELATIVE = 0.1, 0.01  # share of an output in the size of all; share of its size that the tolerance may be
SLOW_SINE = {"name": "sine", "omega_0": 10.0}  # SIREN's 30 is for images; at 10 nothing oscillates between the points


def box_of(
    lower: Any, upper: Any, infinite: bool = False, keys: tuple[str, str] = ("lower", "upper"), most: int = 6
) -> tuple[list[float], list[float]]:
    """Return the corners of a box as lists; ``ValueError`` unless lower < upper on 1 to ``most`` axes."""
    given = tuple(zip(keys, (lower, upper), strict=True))
    ends = [bound(k, v, dtype=torch.float64).detach() for k, v in given]
    if any(end.dim() > 1 for end in ends):
        shapes = f"{keys[0]} has shape {tuple(ends[0].shape)}, {keys[1]} {tuple(ends[1].shape)}"
        raise ValueError(f"{shapes}; they must be the corners of one box, (n,)")
    low, high = (end.tolist() for end in ends)
    box = corners(lower, upper, keys)
    said = f"{box}: they must"
    if len(low) != len(high) or not 1 <= len(low) <= most:
        raise ValueError(f"{said} have the same length, from 1 to {most}")
    finite = all(math.isfinite(v) for v in (*low, *high))
    if not all(a < h for a, h in zip(low, high, strict=True)) or not (finite or infinite):
        also = "" if infinite else "be finite, and "
        raise ValueError(f"{said} {also}{'be ' if infinite else ''}{keys[0]} below {keys[1]} on every axis")
    if any(h - a < 1e-12 * max(abs(a), abs(h)) for a, h in zip(low, high, strict=True) if math.isfinite(h - a)):
        raise ValueError(f"{box}: float64 has hardly a number between them; move the box to the origin")
    return low, high


def corners(lower: Any, upper: Any, keys: tuple[str, str] = ("lower", "upper")) -> str:
    """Return what an error says of a box that was given: its corners, in so many letters as can be read."""
    return f"{keys[0]}={lower!r:.60}, {keys[1]}={upper!r:.60}"


def fit(
    function: Function | str,
    lower: Any,
    upper: Any,
    *,
    parameters: tuple[Any, Any] | None = None,
    singular: Sequence[tuple[float, float]] | Mapping[int, Sequence[tuple[float, float]]] = (),
    breaks: Sequence[float] | Mapping[int, Sequence[float]] = (),
    periodic: bool | Sequence[int] = False,
    weight: Function | None = None,
    hidden_features: int | None = None,
    num_layers: int = 2,
    activation: Choice = SLOW_SINE,
    encoding: Choice = "identity",
    num_products: int | None = None,
    points: int | None = None,
    adam_steps: int = 300,
    tolerance: float = 1e-8,
    max_time: float = 60.0,
    seed: int = 0,
    progress: bool = True,
) -> AbstractAntiderivative:
    """Fit an integral network to a function on a domain, and return its antiderivative.

    Ψ = ∂ⁿΦ/∂x_0…∂x_{n−1} is fitted to the function at Chebyshev-distributed points in float64: by Adam first, to get
    near, then by Levenberg-Marquardt, to get all digits. Where that does not meet the tolerance, there are more points,
    and then wider layers. Whether it is met is found out at points that no training has seen: from the residual in
    random boxes, with its error bars. What it has reached is in ``fitted`` of what it returns, and is logged, as a
    warning where the tolerance is not met, with the jump, kink or pole that is in the way if there is one.

    Args:
        function: f, x (P, n) → (P,) or (P, C), smooth and finite on the domain but where it is said; or an expression
            of x, y, z or x0 … x9, such as ``"sin(x)*exp(-y**2)"``, or another name that ``task=function`` knows.
        lower, upper: the corners: n numbers each, n ≤ 16, or one that counts for every axis of an expression. Axes
            without end are transformed: x = centre + scale·tan(πu/2), or x = end ± scale·(1 + u)/(1 − u), where
            centre and scale are those of f's mass.
        parameters: the least and the largest parameters (m numbers each) of a family f(x (P, n), p (P, m)).
        singular: places and exponents, f ~ |x − place|^exponent, as ``[(0, -0.5)]``; for several axes a dictionary,
            as ``{1: [(0, -0.5)]}``. At an infinite place the exponent is that of the decay, if it is slower than x⁻².
        breaks: places where f or a derivative jumps, as ``[0.3]`` or ``{0: [0.3]}``: every piece has its own network.
        periodic: whether f goes on periodically outside of the box, on all axes or on some.
        weight: w; what is fitted is w(x)·f.
        hidden_features, num_layers, activation, encoding: of the ``IntegralNet``; a width that is not given grows.
        num_products: fit a sum of so many products of networks of one coordinate each (``ProductNet``), which has no 2ⁿ
            corners; more are added where the width grows. Above 6 axes it is always one, of 4 at first.
        points: how many; those not given begin with 512 for one input, 2048 for more, and grow.
        adam_steps: steps of Adam before Levenberg-Marquardt takes over.
        tolerance: end when the root mean square of Ψ − f is below this share of that of f, or no longer falls, and
            errors of integrals are below this share of rms f · volume; rms is over all outputs of f together.
        max_time: stop after so many seconds; it stops sooner where nothing helps any further.
        seed: of the initial weights and of the points.
        progress: show a progress bar.

    Raises:
        ValueError: for a domain that is none, for a function that fails, is not finite, or has the wrong shape, and for
            a network too large for a second-order method.

    Examples:
        >>> F = fit(lambda x: torch.exp(-(x**2).sum(-1)), -1, 1, tolerance=1e-5, progress=False)
        >>> abs(F.integral(0, 1).item() - 0.746824) < 1e-4  # √π/2·erf(1)
        True
    """
    function, lower, upper = _named(function, lower, upper) if isinstance(function, str) else (function, lower, upper)
    low, high = box_of(lower, upper, infinite=True, most=MOST_AXES)
    ranges = NO_PARAMETERS if parameters is None else _ranges(parameters)
    domain = domain_of(low, high, singular, breaks, periodic)
    at_least_one(points=points, hidden_features=hidden_features, num_products=num_products)
    positive(tolerance=tolerance)
    positive(zero=True, max_time=max_time)
    integer(0, adam_steps=adam_steps)
    integer(seed=seed)
    deadline = time.monotonic() + max_time
    whole = function if weight is None else _weighted(function, weight)
    centres, scales = _located(whole, domain, ranges)
    axes = domain.changes(centres, scales)
    _check_periods(whole, domain, ranges, centres)
    cells = list(itertools.product(*axes))
    if len(cells) > MOST_CELLS:
        raise ValueError(
            f"breaks and singular cut the domain into {len(cells)} pieces; at most {MOST_CELLS} are fitted"
        )
    shape = hidden_features, num_layers, activation, encoding, num_products
    recipe, trained = Recipe(*shape, points, adam_steps, tolerance, max_time, seed), []
    blank, sizes = [], []
    with tqdm(unit="step", disable=None if progress else True, desc="fit") as bar:
        for number, cell in enumerate(cells):
            left = max(0.0, deadline - time.monotonic()) / (len(cells) - number)
            training = Training(whole, list(cell), ranges, recipe, left, bar)
            trained.append(training.run())
            blank.append(training.blank)
            sizes.append(training.sizes)
    model = _joined(trained, [len(axis) for axis in axes], domain)
    assert model.fitted is not None
    tell(model.fitted)
    if all(blank) and model.fitted.met:
        about = f", half of which lie within {scales} of {centres}" if domain.infinite else ""
        log.warning(
            "fit: the function is 0 at all %d points%s; unless it is 0 everywhere, all of it lies between them: "
            "give lower= and upper= near to that",
            sum(blank),
            about,
        )
    _tell_small(torch.stack(sizes).square().mean(0).sqrt(), tolerance)
    return model


def _named(name: str, lower: Any, upper: Any) -> tuple[Function, Any, Any]:
    """Return the function of a name, with bounds for all of its coordinates."""
    goal = target(name)
    n = goal.features or 1
    numbers = [getattr(v, "ndim", 1 - isinstance(v, (int, float))) == 0 for v in (lower, upper)]
    lower, upper = (bound(key, v, dtype=torch.float64) for key, v in (("lower", lower), ("upper", upper)))
    lower, upper = (v.expand(n) if number else v for v, number in zip((lower, upper), numbers, strict=True))
    if goal.features and {lower.numel(), upper.numel()} != {n}:
        raise ValueError(f"{corners(lower.tolist(), upper.tolist())}: the function has {n} coordinates")
    return goal.integrand, lower, upper


def _ranges(parameters: Any) -> tuple[Corners, Corners]:
    if not isinstance(parameters, (tuple, list)) or len(parameters) != 2:
        raise ValueError(f"parameters={parameters!r:.60} must be (low, high), the ends of every parameter's range")
    low, high = parameters
    return box_of(low, high, keys=("parameters[0]", "parameters[1]"))


def _weighted(function: Function, weight: Function) -> Function:
    def product(x: Tensor, *p: Tensor) -> Tensor:
        w, _ = values(weight, x)
        if w.shape[1] > 1:
            raise ValueError(f"weight= returned {w.shape[1]} numbers for a point; it must return one")
        y, flat = values(function, x, *p)
        return (w * y)[:, 0] if flat else w * y

    return product


def _located(
    function: Function, domain: Domain, ranges: tuple[Corners, Corners]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return where the function is on axes without end, for the parameters in the middle of their ranges."""
    if not domain.infinite:
        return [0.0] * len(domain.lower), [1.0] * len(domain.lower)
    middle = torch.tensor([list(end) for end in ranges], dtype=torch.float64).mean(0)
    about: Callable[[Tensor], Tensor] = lambda x: function(x, middle.expand(len(x), -1)) if len(middle) else function(x)  # noqa: E731
    return located(about, domain.lower, domain.upper)


def _check_periods(
    function: Function, domain: Domain, ranges: tuple[Corners, Corners], centres: Sequence[float]
) -> None:
    """Warn of a function that is another one period further, where it is anything there."""
    low, high, centre = (torch.tensor(v, dtype=torch.float64) for v in (domain.lower, domain.upper, centres))
    shares = torch.rand(PROBES, len(low), generator=generator(0, "periods"), dtype=torch.float64)
    x = torch.where((high - low).isfinite(), low + shares * (high - low), centre)
    p = torch.tensor([list(end) for end in ranges], dtype=torch.float64).mean(0).expand(PROBES, -1)
    for axis in domain.periodic:
        further = x.clone()
        further[:, axis] += high[axis] - low[axis]
        try:
            here, there = (values(function, at, *([p] if ranges[0] else []))[0] for at in (x, further))
        except ValueError:
            continue
        off = float((there - here).abs().mean() / here.abs().mean())
        if off > APERIODIC:
            log.warning(
                "fit: periodic=: the function changes at x + %g along axis %d, by %.1e of its size; integrals outside "
                "of the box go on with what it is inside, so give one whole period as the box",
                high[axis] - low[axis],
                axis,
                off,
            )


def _tell_small(sizes: Tensor, tolerance: float) -> None:
    """Warn of an output of which the tolerance, a share of the size of all outputs, is no small share."""
    shares = sizes / sizes.square().mean().sqrt().clamp_min(torch.finfo(sizes.dtype).tiny)
    least = int(torch.where(shares > 0, shares, math.inf).argmin())
    if 0 < float(shares[least]) < min(SMALL, tolerance / RELATIVE):
        log.warning(
            "fit: the tolerance is a share of all outputs' size, of which output %d has %.0e only: it may be off by "
            "%.0e of its own; fit it by itself, or multiply it by a constant",
            least,
            float(shares[least]),
            tolerance / float(shares[least]),
        )


def _joined(trained: list[Antiderivative], shape: list[int], domain: Domain) -> AbstractAntiderivative:
    """Return one antiderivative of all pieces."""
    if len(trained) == 1 and not domain.periodic:
        return trained[0]
    fits = [model.fitted for model in trained if model.fitted is not None]
    worst = max(fits, key=lambda fitted: (not fitted.met, fitted.integral_error or 0.0))
    whole = Piecewise(trained, shape, domain.periodic)
    whole.function = trained[0].function
    whole.fitted = Fitted(
        max(f.error for f in fits),
        worst.tolerance,
        sum(f.steps for f in fits),
        sum(f.seconds for f in fits),
        worst.end,
        max(f.integral_error or 0.0 for f in fits),
        tuple(place for f in fits for place in f.places),
    )
    return whole


def ended(fitted: Fitted, second: LevenbergMarquardt) -> str:
    """Return why a fit is over, or an empty string: there is nothing left to do, or nothing it could do."""
    if fitted.error <= fitted.tolerance:
        return "done"
    return "it no longer falls" if second.stalled else ""


def tell(fitted: Fitted) -> None:
    """Log what a fit has reached, as a warning where that is not what was asked for."""
    mend = (
        ""
        if fitted.met or fitted.places
        else "; more time, a larger network or more points may help, or a larger tolerance"
    )
    log.log(logging.INFO if fitted.met else logging.WARNING, "fit: %s%s", fitted, mend)
