"""Fitting functions: Ψ = ∂ⁿΦ/∂x is a given function of n coordinates, Φ its antiderivative."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from autoint.files.whole_files import write_whole
from autoint.integrals import antiderivatives, fitting, integrands, least_squares
from autoint.integrals.accuracy import Fitted
from autoint.integrals.functions import Target, target
from autoint.integrals.levenberg_marquardt import LevenbergMarquardt
from autoint.registry import TASKS
from autoint.reports import pictures
from autoint.reports.tables import markdown
from autoint.runs import build, labels, trainers
from autoint.runs.callbacks import diverged
from autoint.runs.config import Optimizer, RunConfig
from autoint.runs.steps import StepLoader

if TYPE_CHECKING:
    from autoint.runs.evaluation import EvaluateConfig

log = logging.getLogger(__name__)
Samples = tuple[Tensor, Tensor]
COLUMNS = {
    "function": ("function", ""),
    "formula": ("formula", ""),
    "box": ("box", ""),
    "integrand_max": ("max error of Ψ", ".1e"),
    "integrand_rms": ("rms error of Ψ", ".1e"),
    "integral_max": ("max error of ∫", ".1e"),
    "integral_rms": ("rms error of ∫", ".1e"),
    "boxes": ("boxes", ""),
    "against": ("against", ""),
    "run": ("run", ""),
}


@TASKS.register("function")
def function(
    config: RunConfig,
    with_data: bool,
    *,
    function: str = "cos",
    lower: Any = -1.0,
    upper: Any = 1.0,
    points: int | None = None,
    adam_steps: int = 300,
    tolerance: float = 1e-8,
) -> build.Task:
    """Build the task of fitting a function; ``batch_size`` has no part in it, every step sees all points.

    Args:
        config: the run's configuration.
        with_data: whether to sample the function.
        function: an expression of x, y, z or x0 … x9 such as sin(x)*exp(-y**2), or package.module:callable for
            x (P, n) → (P,) or (P, C), or a name: cos is cos(10x), gaussian2d is exp(−4(x² + y²)), gaussian3d is
            exp(−4(x² + y² + z²)), linear is x, polynomial is 0.1x⁵ − 0.2x⁴ + 0.2x³ − 0.4x² + 0.1x, sinc is
            sin(20x)/(20x), xcosx is x·cos(x).
        lower: the box's lower corner, a number or a list of n.
        upper: its upper corner.
        points: Chebyshev-distributed samples; None takes 512 in one dimension and 2048 in more.
        adam_steps: steps of Adam, before Levenberg-Marquardt takes over.
        tolerance: training ends when the root mean square of Ψ − f is below this share of that of f.
    """
    if config.fit != "grad_net":
        raise ValueError(f"fit={config.fit}: task=function observes the integrand, not integrals; use fit=grad_net")
    if adam_steps < 0 or not tolerance > 0:
        raise ValueError(f"adam_steps={adam_steps} must not be negative, and tolerance={tolerance} must be positive")
    if trainers.accumulated(config) > 1:
        raise ValueError("trainer.accumulate_grad_batches: every step of task=function sees all points; leave it at 1")
    goal = target(function)
    low, high = _box(goal, function, lower, upper)
    try:
        changes = least_squares.affine(low, high)
        u, y, squeeze = least_squares.samples(
            goal.integrand, changes, points=points if with_data else 1, seed=config.seed
        )
        if with_data:  # a pole that no sample meets would else be found after the training, by the plot
            integrands.values(goal.integrand, _diagonal(*torch.tensor([low, high], dtype=u.dtype)))
    except ValueError as error:
        raise ValueError(str(error).replace("the function", f"function={function}")) from error
    net = build.integral_net(config, len(low), y.shape[1])
    model = antiderivatives.Antiderivative(net, low, high, squeeze, config.grad_net)
    model.function = goal.integrand
    module = FunctionFitting(
        model,
        goal,
        name=function,
        adam_steps=adam_steps,
        tolerance=tolerance,
        seed=config.seed,
        optimizer=config.optimizer,
    )
    return build.Task(module, FunctionData((u, y), trainers.total_steps(config)) if with_data else None)


def _box(goal: Target, name: str, lower: Any, upper: Any) -> tuple[list[float], list[float]]:
    """Return the corners; a number stands for that number on every axis."""
    sizes = [len(v) for v in (lower, upper) if isinstance(v, list)] or [goal.features or 1]
    low, high = (v if isinstance(v, list) else [v] * sizes[0] for v in (lower, upper))
    if goal.features is not None and {len(low), len(high)} != {goal.features}:
        given = fitting.corners(lower, upper)
        raise ValueError(f"{given}: function={name} has {goal.features} coordinates; give so many, or a number")
    return fitting.box_of(low, high)


def _diagonal(lower: Tensor, upper: Tensor) -> Tensor:
    """Return points (201, n) from one corner of a box to the other, which its plot shows."""
    share = torch.linspace(0, 1, 201, dtype=lower.dtype, device=lower.device)[:, None]
    return lower + share * (upper - lower)


class FunctionFitting(pl.LightningModule):
    """Trains an :class:`~autoint.integrals.Antiderivative`, by Adam first and Levenberg-Marquardt after.

    Args:
        model: the antiderivative.
        goal: the function, with its exact antiderivative if that is known.
        name: of the function.
        adam_steps: steps of Adam.
        tolerance: relative error at which training ends.
        seed: of the boxes on which the result is tested.
        optimizer: Adam's learning rate and betas.
    """

    columns = COLUMNS

    def __init__(
        self,
        model: antiderivatives.Antiderivative,
        goal: Target,
        *,
        name: str,
        adam_steps: int,
        tolerance: float,
        seed: int,
        optimizer: Optimizer,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.goal, self.name, self.seed = model, goal, name, seed
        self.adam_steps, self.tolerance, self.optimizer = adam_steps, tolerance, optimizer
        self.problem: least_squares.LeastSquares | None = None
        self.start = math.inf

    def on_train_start(self) -> None:
        self.start = time.monotonic()

    def training_step(self, batch: Samples, batch_idx: int) -> None:
        if self.problem is None:
            self.problem = least_squares.LeastSquares(self.model, *batch)
        optimizers: Any = self.optimizers()
        adam, second = optimizers
        if self.global_step < self.adam_steps:
            adam.zero_grad()
            loss = self.problem.residuals().square().mean()
            self.manual_backward(loss)
            adam.step()
        else:
            loss = second.step(self.problem.linearization)
        error = math.sqrt(float(loss.detach()))
        if not math.isfinite(error):
            raise diverged(self.trainer, f"the error is {error}", batch_idx)
        self.log("train/relative_error", error, prog_bar=True)
        trainer: Any = self.trainer  # Lightning sets this attribute where no type checker sees it
        seconds = time.monotonic() - self.start
        fitted = Fitted(error, self.tolerance, self.global_step, seconds, "the trainer's limit")
        end = fitting.ended(fitted, second.optimizer)
        self.model.fitted = dataclasses.replace(fitted, end=end or fitted.end)
        trainer.should_stop = bool(end) or trainer.should_stop

    def on_train_end(self) -> None:
        trainer: Any = self.trainer
        if trainer.fast_dev_run or self.global_rank != 0:
            return
        folder = Path(trainer.default_root_dir)
        if self.model.fitted is not None:  # unless there was no step left to do
            fitting.tell(self.model.fitted)
        row = self.errors()
        numbers = {f"test/{key}": value for key, value in row.items() if isinstance(value, float)}
        trainer.callback_metrics.update({k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()})
        self.write_plot(folder / "plot.png")
        table = markdown([row], {key: head for key, head in COLUMNS.items() if key in row}, {})
        write_whole(folder / "errors.md", table.encode())
        log.info("\n%s\nplot: %s", table, folder / "plot.png")

    def errors(self) -> dict[str, Any]:
        """Return a row of errors, at random points and of the integrals over random boxes."""
        box = " × ".join(f"[{a:g}, {b:g}]" for a, b in zip(self.model.lower, self.model.upper, strict=True))
        report = self.model.error_report(seed=self.seed, exact=self.goal.antiderivative)
        formula = self.goal.formula or self.name
        return {"function": self.name, "formula": formula, "box": box, **dataclasses.asdict(report)}

    @staticmethod
    def label(run: RunConfig) -> str:
        """Return what names the run in a folder."""
        return labels.label(str(run.options["function"]))

    def evaluate(
        self, config: EvaluateConfig, run: RunConfig, folder: Path
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the run's row of the table, and that once more as its values; draw the plot into ``folder``."""
        row = self.errors()
        self.write_plot(folder / "plot.png")
        return row, [row]

    @torch.no_grad()
    def write_plot(self, file: Path) -> None:
        """Plot Ψ and f, Φ and the exact integral from the lower corner, and both errors, along the box's diagonal."""
        model = self.model
        x = _diagonal(model.lower, model.upper)
        start = model.lower.expand(len(x), -1)
        curves = {
            "f": integrands.values(self.goal.integrand, x)[0],
            "Ψ": model.integrand(x).reshape(len(x), -1),
            "exact": integrands.true_integrals(self.goal.integrand, start, x, self.goal.antiderivative),
            "Φ": model.integral(start, x).reshape(len(x), -1),
        }
        axis = x[:, 0] if x.shape[1] == 1 else torch.linspace(0, 1, len(x), dtype=x.dtype)
        along = "x" if x.shape[1] == 1 else "along the diagonal of the box"
        pictures.write_curves(file, axis, curves, along, self.goal.formula or self.name)

    def configure_optimizers(self) -> Any:
        beta_1, beta_2 = self.optimizer.betas
        adam = torch.optim.Adam(self.model.parameters(), lr=self.optimizer.lr, betas=(beta_1, beta_2))
        return [adam, LevenbergMarquardt(self.model.parameters())]


class FunctionData(pl.LightningDataModule):
    """The same samples in every step."""

    def __init__(self, samples: Samples, total_steps: int) -> None:
        super().__init__()
        self.samples, self.total_steps = samples, total_steps

    def train_dataloader(self) -> StepLoader:
        return StepLoader(lambda step: self.samples, self.total_steps)
