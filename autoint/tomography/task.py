"""Sparse-view tomography: the sinogram of an object from a few of its views."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from autoint.registry import PHANTOMS, TASKS, at_least_one, one_of
from autoint.runs import build, trainers
from autoint.runs.config import Optimizer, RunConfig
from autoint.runs.schedule import learning_rate
from autoint.runs.seeding import generator
from autoint.runs.steps import Steps
from autoint.tomography import evaluation as sinogram_evaluation
from autoint.tomography.data.fans import Fan
from autoint.tomography.data.sinograms import Scan, noise_level, seen_views
from autoint.tomography.models import LatticeObject, LineNetwork, training_lines
from autoint.tomography.search import Search, check_prior, most_trials, trials_of

if TYPE_CHECKING:
    from autoint.runs.evaluation import EvaluateConfig

log = logging.getLogger(__name__)
FIELDS = ("object", "line")


@TASKS.register("ct")
def ct(
    config: RunConfig,
    with_data: bool,
    *,
    phantom: Any = "shepp_logan",
    rho: int | None = None,
    theta: int | None = None,
    views: int | None = None,
    subsample: int | None = None,
    gaussian: float = 0.0,
    photons: float | None = None,
    counted: bool | None = None,
    fields: list[str] = list(FIELDS),  # noqa: B006 (copied by the registry)
    samples: int = 64,
    spacing: float | None = None,
    passes: int = 60,
    exponent: float | None = None,
    strength: float | None = None,
    patches: float | None = None,
) -> build.Task:
    """Build the task of filling in a sinogram.

    Args:
        config: the run's configuration.
        with_data: whether to load the scan; without it the module is to be filled from a checkpoint.
        phantom: what is scanned, and its options.
        rho: detector pixels of a phantom.
        theta: views of a phantom, over half a turn.
        views: how many of the views are measured, evenly spaced; or
        subsample: every so manieth view is measured. Neither: every 8th.
        gaussian: noise of the measured views, as a share of the largest value.
        photons: photons per pixel of a noisy measurement.
        counted: weigh lines by the light that they let through, as the noise of counting has it; None: with photons=.
        fields: what is trained, one after the other: object and line.
        samples: of Ψ per line, for fit=grad_net.
        spacing: of the object's lattice in detector pixels; None tries 1 and 0.5, or takes what makes 384 nodes across.
        passes: over the object, half as many for each prior that is tried.
        exponent: of the object's prior: 1 is total variation; None chooses by held-out measured views.
        strength: of the object's prior; None chooses by held-out measured views.
        patches: deviation of what counts as noise in similar patches of the object, whose largest values are about 1; 0
            leaves patches as they are; None chooses likewise, where the views are noisy.
    """
    at_least_one(rho=rho, theta=theta, samples=samples, passes=passes)
    for field in fields or [""]:
        one_of("fields", field, FIELDS)
    check_prior(spacing, exponent, strength, patches)
    fan = None if config.options["phantom"].get("source") is None else Fan(2.0)
    nothing = Scan(np.ones((2, 2)), np.array([0.0, 1.5]), 0.5, fan=fan)  # a checkpoint brings its own
    scan, seen = load_scan(config) if with_data else (nothing, np.arange(2))
    values, angles = scan.values[seen], scan.theta[seen]
    net = build.integral_net(config, 3, 1)
    line = LineNetwork(net, build.grad_net(config, net), samples if config.fit == "grad_net" else None)
    line.scale.fill_(float(np.abs(values).max()))
    counted = photons is not None if counted is None else counted
    obj = LatticeObject(values, angles, scan.rho, counted=counted, gamma=scan.gamma)
    if with_data and counted and "object" in fields:
        light = np.exp(-values)
        log.info("least squares weighted by the light of each line, exp(-s), %.2g to %.2g", light.min(), light.max())
    asked = spacing, exponent, strength, patches
    trials, places = trials_of(*asked, scan.radius), most_trials(*asked)
    module = Tomography(
        Search(obj, trials, passes, places) if "object" in fields else None,
        line if "line" in fields else None,
        seed=config.seed,
        optimizer=config.optimizer,
        batch_size=config.batch_size,
    )
    if not with_data:
        return build.Task(module, None)
    module.scan, module.measured, module.name = scan, seen, Tomography.label(config)
    module.lines = training_lines(values, angles, scan.rho, scan.gamma)
    return build.Task(module, Steps(trainers.total_steps(config)))


def load_scan(config: RunConfig) -> tuple[Scan, np.ndarray]:
    """Return the run's scan, with its noise, and which of its views are measured."""
    o = config.options
    scan: Scan = PHANTOMS.build(o["phantom"], config.data_dir, o["rho"], o["theta"])
    views, subsample = o["views"], o["subsample"]
    seen = seen_views(len(scan.theta), views, 8 if views is None and subsample is None else subsample)
    if o["gaussian"] or o["photons"] is not None:
        scan = scan.with_noise(o["gaussian"], o["photons"], config.seed)
    return scan.centred(seen), seen


class Tomography(pl.LightningModule):
    """Fits an object by passes of weighted least squares, and then the network of the lines by Adam.

    Args:
        search: what finds the object, or None.
        line: the network of the lines, or None.
        seed: of the batches and samples.
        optimizer: Adam's settings and schedule.
        batch_size: lines per step.
    """

    columns = sinogram_evaluation.COLUMNS
    scan: Scan
    measured: np.ndarray
    name: str
    lines: tuple[Tensor, Tensor, Tensor]

    def __init__(
        self,
        search: Search | None,
        line: LineNetwork | None,
        *,
        seed: int,
        optimizer: Optimizer,
        batch_size: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.search, self.line = search, line
        self.seed, self.optimizer, self.batch_size = seed, optimizer, batch_size

    @property
    def fields(self) -> list[LatticeObject | LineNetwork]:
        """What is trained."""
        found = None if self.search is None else self.search.object
        return [field for field in (found, self.line) if field is not None]

    @property
    def most_steps(self) -> float:
        """Steps after which the training ends by itself; a network of the lines goes on for as long as it may."""
        return math.inf if self.search is None or self.line is not None else self.search.steps

    def training_step(self, batch: int, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        object_steps, adam = optimizers if isinstance(optimizers, list) else (optimizers, optimizers)
        trainer: Any = self.trainer  # Lightning sets this attribute where no type checker sees it
        if self.search is not None and self.search.held_out_psnr is not None:
            self.log("train/held_out_psnr", self.search.held_out_psnr, prog_bar=True)
        if self.search is not None and batch_idx < self.search.steps:
            search = self.search
            object_steps.step(lambda: search.advance(batch_idx))
            trainer.should_stop = trainer.should_stop or (self.line is None and batch_idx + 1 == search.steps)
            return
        if self.line is None:  # a finished object that is asked to go on
            trainer.should_stop = True
            return
        for group in adam.param_groups:
            group["lr"] = self.optimizer.lr * learning_rate(trainer, self.optimizer)(batch_idx)
        adam.zero_grad()
        loss = self._loss(batch_idx)
        self.manual_backward(loss)
        adam.step()
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.log("train/line_psnr", -10 * loss.detach().log10(), prog_bar=True)

    def _loss(self, step: int) -> Tensor:
        """Return the mean squared error of a batch of lines, in units of scale² (paper, eq. 8)."""
        assert self.line is not None
        g = generator(self.seed, step, "lines")
        chosen = torch.randint(len(self.lines[0]), (self.batch_size,), generator=g)
        rho, theta, values = (v[chosen].to(self.device) for v in self.lines)
        if self.line.samples is None:
            ours = self.line(rho, theta)
        else:
            ours = self.line.estimate(rho, theta, torch.rand(len(rho), 1, self.line.samples, generator=g).to(rho))
        return ((ours - values) / self.line.scale).square().mean()

    def on_train_end(self) -> None:
        trainer: Any = self.trainer
        if trainer.fast_dev_run or self.global_rank != 0:
            return
        if self.search is not None and self.search.tried:
            spacing, prior = self.search.best
            found = self.search.object
            log.info(
                "object, by held-out views: spacing %.3g pixels, exponent %g, strength %g, patches %g; noise of views, "
                "or what their pixels do not resolve, %.2g %% of the largest value; share of the remainder, from low "
                "to high frequencies: %s",
                spacing * self.scan.radius,
                prior.exponent,
                prior.strength,
                prior.deviation,
                100 * noise_level(self.scan.values[self.measured]) / float(found.scale),
                " ".join(f"{share:.2g}" for share in found.share()),
            )
        folder = Path(trainer.default_root_dir)
        rows = sinogram_evaluation.write(self.fields, self.scan, self.measured, folder, ("linear",))
        log.info(
            "\n%s\npictures: %s\nthe slice as numbers, %s: %s and .npy",
            sinogram_evaluation.table(self.name, len(self.measured), rows),
            folder / "sinograms.png",
            self.scan.pixel_units[1],
            folder / "slice.tif",
        )
        named = {r["method"].removeprefix("AutoInt "): torch.tensor(r["psnr"]) for r in rows}
        trainer.callback_metrics.update({f"test/psnr_{name}": value for name, value in named.items()})
        shares = {f.label: r["explained"] for f, r in zip(self.fields, rows, strict=False)}
        trainer.callback_metrics.update({f"test/explained_{k}": torch.tensor(v) for k, v in shares.items()})

    @staticmethod
    def label(run: RunConfig) -> str:
        """Return what names the run in a folder."""
        return sinogram_evaluation.phantom_name(run)

    def evaluate(
        self, config: EvaluateConfig, run: RunConfig, folder: Path
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return a row for every method, and these once more as values; write the pictures into ``folder``."""
        scan, seen = load_scan(run)
        rows = sinogram_evaluation.write(self.fields, scan, seen, folder, sinogram_evaluation.CLASSICS)
        log.info("the slice as numbers, %s: %s and .npy", scan.pixel_units[1], folder / "slice.tif")
        rows = [{"phantom": self.label(run), "views": len(seen), **row} for row in rows]
        return rows, rows

    def configure_optimizers(self) -> Any:
        optimizers: list[Any] = []
        if self.search is not None:
            optimizers.append(Passes([self.search.object.values], {}))
        if self.line is not None:
            beta_1, beta_2 = self.optimizer.betas
            parameters = self.line.parameters()
            optimizers.append(torch.optim.Adam(parameters, lr=self.optimizer.lr, betas=(beta_1, beta_2), fused=True))
        return optimizers


class Passes(torch.optim.Optimizer):
    """Counts a pass as a step: what a pass does to its parameter is the closure's."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the pass."""
        closure()
