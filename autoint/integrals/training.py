"""The training of one network on one piece of a domain, which grows until its integrals are exact enough."""

from __future__ import annotations

import dataclasses
import math
import time

import torch
from torch import Tensor
from tqdm import tqdm

from autoint.integrals.accuracy import Fitted
from autoint.integrals.antiderivatives import Antiderivative
from autoint.integrals.base import Corners
from autoint.integrals.diagnosis import places
from autoint.integrals.domains import Change
from autoint.integrals.integrands import Function
from autoint.integrals.least_squares import MAX_JACOBIAN, LeastSquares, chebyshev_points, sampled, samples, wider
from autoint.integrals.levenberg_marquardt import LevenbergMarquardt
from autoint.networks.integral_net import Choice, IntegralNet
from autoint.networks.product_net import ProductNet
from autoint.runs.seeding import generator

DONE, STALLED, OVERFITTED = "done", "it no longer falls", "it is worse between the points"
SLOW = "it falls too slowly"
HELD_OUT, EVERY, WORSE = 1024, 10, 3.0  # points, steps from look to look, and how much worse they may be
MOST_CORNERS, PRODUCTS = 6, 4  # axes of one network; products at first of networks of one axis each
# A network that could be wider is left so many steps from its goal, at its pace over so many looks, or so much work.
PATIENCE, PACE, WORK = 300, 5, 1e11
LEAST_STEPS = 10  # that must be left for a network to grow
BOXES, SAMPLES, MOST_SAMPLES = 64, 64, 1024  # of the check of integrals


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train: as ``fit`` describes its arguments; None is chosen, and grows."""

    hidden_features: int | None
    num_layers: int
    activation: Choice
    encoding: Choice
    num_products: int | None
    points: int | None
    adam_steps: int
    tolerance: float
    max_time: float
    seed: int


class Training:
    """One training of one antiderivative.

    Args:
        function: f(x) or f(x, p).
        changes: of the variables of this piece.
        parameters: ranges of the parameters.
        recipe: how to train.
        seconds: how long it may take; ``recipe.max_time`` is of all pieces.
        bar: what shows the steps.
    """

    def __init__(
        self,
        function: Function,
        changes: list[Change],
        parameters: tuple[Corners, Corners],
        recipe: Recipe,
        seconds: float,
        bar: tqdm,
    ) -> None:
        self.function, self.changes, self.parameters, self.recipe = function, changes, parameters, recipe
        self.seconds, self.bar, self.start, self.steps = seconds, bar, time.monotonic(), 0
        self.pace, self.hurried = 0.0, False  # seconds per work of a step; whether time keeps it from growing
        self.error, self.goal = math.inf, recipe.tolerance
        z, y, squeeze = samples(function, changes, parameters, recipe.points, recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            net = self._network(z.shape[1], y.shape[1])
        self.model = self._model(net, squeeze)
        self.problem = LeastSquares(self.model, z, y)
        g = generator(recipe.seed, "held out")
        self.held_z = 2 * torch.rand(HELD_OUT, z.shape[1], generator=g, dtype=torch.float64) - 1
        self.held_y = sampled(function, self.held_z, changes, parameters)[0] / self.model.scale

    def run(self) -> Antiderivative:
        """Train, and return the antiderivative."""
        self._adam()
        while True:
            end = self._levenberg_marquardt()
            if end == OVERFITTED and self._more_points():
                continue
            integral_error = self._integral_error()
            met = integral_error <= self.recipe.tolerance
            found = () if met else self._places()
            grown = not met and end in (DONE, STALLED, SLOW) and not found and self._larger(end)
            if not grown:
                break
        end = DONE if met else self._limit if self.hurried else OVERFITTED if end == DONE else end
        seconds = time.monotonic() - self.start
        self.model.fitted = Fitted(self.error, self.recipe.tolerance, self.steps, seconds, end, integral_error, found)
        return self.model

    @property
    def blank(self) -> int:
        """How many points there are, if the function is 0 at all of them, else 0."""
        return 0 if self.problem.y.any() else len(self.problem.y)

    @property
    def sizes(self) -> Tensor:
        """The root mean square of every output, (C,), times Π T′."""
        return self.model.scale * self.problem.y.square().mean(0).sqrt()

    def _network(self, inputs: int, outputs: int) -> IntegralNet | ProductNet:
        """Return the network that begins: one, or a sum of products where it has more corners than that costs."""
        recipe, axes = self.recipe, len(self.changes)
        count = recipe.num_products or (PRODUCTS if axes > MOST_CORNERS else 0)
        width = recipe.hidden_features or (8 if count else 16)
        shape = width, recipe.num_layers, recipe.activation, recipe.encoding
        if not count:
            return IntegralNet(inputs, outputs, *shape)
        return ProductNet([IntegralNet(inputs - axes + 1, count, *shape) for _ in range(axes)], outputs)

    def _model(self, net: IntegralNet | ProductNet, squeeze: bool) -> Antiderivative:
        low, high = [change.lower for change in self.changes], [change.upper for change in self.changes]
        model = Antiderivative(net, low, high, squeeze, parameters=self.parameters, changes=self.changes)
        model.function = self.function
        return model

    @property
    def _limit(self) -> str:
        return f"max_time={self.recipe.max_time:g}"

    def _late(self, ahead: float = 0.0) -> bool:
        """Return whether the time is over, so many seconds ahead."""
        return time.monotonic() - self.start + ahead > self.seconds

    def _step(self, loss: float, ahead: float = 0.0) -> str:
        """Count a step; return why there should be no further one, or an empty string."""
        self.steps, self.error = self.steps + 1, math.sqrt(loss)
        self.bar.update()
        self.bar.set_postfix_str(f"relative error {self.error:.1e}", refresh=False)
        if self.error <= self.goal:
            return DONE
        return self._limit if self._late(ahead) else ""

    def _adam(self) -> None:
        adam = torch.optim.Adam(self.model.parameters(), lr=5e-3)
        for _ in range(self.recipe.adam_steps):
            adam.zero_grad()
            loss = self.problem.residuals().square().mean()
            loss.backward()
            adam.step()
            if self._step(float(loss.detach())):
                return

    def _levenberg_marquardt(self) -> str:
        if self.steps and self._late():
            return self._limit
        second, errors = LevenbergMarquardt(self.model.parameters()), [math.inf]
        work = len(self.problem.z) * _unknowns(self.model) ** 2
        while True:
            begun = time.monotonic()
            loss = float(second.step(self.problem.linearization))
            took = time.monotonic() - begun
            self.pace = took / self._work(len(self.problem.z), self.model)
            end = self._step(loss, took)
            if end or second.stalled:
                return end or STALLED
            if self.steps % EVERY:
                continue
            if self.recipe.points is None and self._overfitted():
                return OVERFITTED
            errors.append(self.error)
            fallen = math.log(errors[-1 - PACE] / self.error) if len(errors) > PACE else math.inf
            to_go = PACE * EVERY * math.log(self.error / self.goal) / max(fallen, 1e-9)
            if to_go > max(PATIENCE, WORK / work) and self._wider() is not None:
                return SLOW

    @torch.no_grad()
    def _overfitted(self) -> bool:
        """Return whether the network is much worse at points that it has not seen, and not good enough there."""
        held_out = float((self.model.grad_net(self.held_z) - self.held_y).square().mean().sqrt())
        return held_out > WORSE * max(self.error, self.recipe.tolerance)

    def _more_points(self) -> bool:
        """Double the points; return whether that is allowed."""
        count = 2 * len(self.problem.z)
        if self.recipe.points is not None or not self._fits(count, self.model):
            return False
        z = chebyshev_points(count, self.problem.z.shape[1], self.recipe.seed)
        y, _ = sampled(self.function, z, self.changes, self.parameters)
        self.problem = LeastSquares(self.model, z, y, scaled=True)
        return True

    def _larger(self, end: str) -> bool:
        """Take more points, or a wider network where it no longer follows them, or go on where neither is needed."""
        if end == DONE:
            if self._overfitted():
                return self._more_points()
            self.goal /= 4
            return True
        wide = self._wider()
        if wide is None:
            return False
        self.model = wide
        z, y = self.problem.z, self.problem.y * wide.scale
        self.problem = LeastSquares(wide, z, y, scaled=True)
        while self.problem.y.numel() < 2 * _unknowns(wide) and self._more_points():
            pass
        return True

    def _wider(self) -> Antiderivative | None:
        """Return the same antiderivative by a wider network, or None where there must not be one."""
        if self.recipe.hidden_features is not None:
            return None
        wide = self._model(wider(self.model.net, self.steps), self.model.squeeze)
        wide.scale.copy_(self.model.scale)
        return wide if self._fits(len(self.problem.z), wide) else None

    def _fits(self, points: int, model: Antiderivative) -> bool:
        """Return whether there is memory and time for so many points and a model; ``hurried`` where time is short."""
        work = self._work(points, model)
        self.hurried = self._late(LEAST_STEPS * self.pace * work)
        return not self.hurried and points * self.problem.y.shape[1] * _unknowns(model) <= MAX_JACOBIAN

    def _work(self, points: int, model: Antiderivative) -> float:
        """Return the multiplications of a step: those of the smaller of JᵀJ and JJᵀ."""
        rows, unknowns = points * self.problem.y.shape[1], _unknowns(model)
        return float(rows * unknowns * min(rows, unknowns))

    @torch.no_grad()
    def _integral_error(self) -> float:
        """Return the error of integrals, at most, as a share of rms f · volume: from residuals in random boxes.

        Every box has |mean| + t·error of its residual, with Student's t for 99 %; the whole domain is one of them.
        """
        from scipy.special import stdtrit  # of scipy.stats, which takes seconds to import

        model, g = self.model, generator(self.recipe.seed, self.steps, "check")
        shares = torch.rand(2, BOXES, len(self.changes), generator=g, dtype=torch.float64)
        shares[:, 0] = torch.tensor([[0.0], [1.0]])
        a, b = model.at_shares(shares)
        p, axes, count = model.drawn(BOXES, g), tuple(range(len(self.changes))), SAMPLES
        while True:
            rest = model.leftover(a, b, axes, p, count, g)
            margin = torch.as_tensor(stdtrit(rest.degrees.numpy(), 0.995)) * rest.error
            bound = (rest.value.abs() + margin) / (model.scale * 2 ** len(axes))
            worst = float(bound.max())
            known = worst <= self.recipe.tolerance or bool((margin <= rest.value.abs()).all())
            if known or count >= MOST_SAMPLES or self._late():
                return worst
            count *= 4

    @torch.no_grad()
    def _places(self) -> tuple[str, ...]:
        """Return what is wrong with the function where the network is farthest from it."""
        z = torch.cat([self.problem.z, self.held_z])
        y = torch.cat([self.problem.y, self.held_y])
        off = (self.model.grad_net(z) - y).norm(dim=-1)
        at = z[off.argmax()]
        return places(self.function, self.changes, self.parameters, at)


def _unknowns(model: Antiderivative) -> int:
    return sum(p.numel() for p in model.parameters())
