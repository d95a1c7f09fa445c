"""Surfaces: the zeros of a network, learned from points, from their normals, or from what is inside."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from autoint.files import meshes
from autoint.networks.distance_net import DistanceNet
from autoint.networks.grad_nets.gradient import Gradient
from autoint.registry import SHAPES, TASKS, at_least_one, one_of
from autoint.reports import mesh_pictures, pictures
from autoint.reports.meshing import Mesh
from autoint.reports.tables import markdown
from autoint.runs import build, trainers
from autoint.runs.config import Optimizer, RunConfig
from autoint.runs.schedule import adam
from autoint.runs.seeding import generator
from autoint.runs.steps import Steps
from autoint.surfaces import evaluation as surface_evaluation
from autoint.surfaces import losses, sampling
from autoint.surfaces.losses import Samples
from autoint.surfaces.shapes import AbstractShape

if TYPE_CHECKING:
    from autoint.runs.evaluation import EvaluateConfig

log = logging.getLogger(__name__)
GROWING = 48
"""Cells to a side of the mesh that is drawn while it grows."""


@TASKS.register("surface")
def surface(
    config: RunConfig,
    with_data: bool,
    *,
    shape: Any = "torus",
    loss: str = "igr",
    num_points: int | None = None,
    normals: bool = True,
    noise: float = 0.0,
    threshold: float = 0.5,
    resolution: int = 128,
    radius: float = 0.5,
) -> build.Task:
    """Build the task of learning a surface.

    Args:
        config: the run's configuration.
        with_data: whether to load the shape; without it the module is to be filled from a checkpoint.
        shape: what is learned, and its options.
        loss: igr learns from points, with or without normals; siren_sdf from points with normals; occupancy from what
            is inside and outside of a closed shape.
        num_points: on the surface; None takes all points of a cloud, and 10,000 of another shape.
        normals: whether to learn from the points' normals, where there are some, or else from estimated ones.
        noise: standard deviation of the points' error, as a share of the cube's side.
        threshold: probability of inside at which the surface of an occupancy is.
        resolution: cells of the mesh along the cube's side.
        radius: of the sphere that the training begins with, in halves of the cube's side.
    """
    one_of("loss", loss, losses.LOSSES)
    at_least_one(num_points=num_points, resolution=resolution)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} must be between 0 and 1")
    if not 0 <= noise <= 0.5:
        raise ValueError(f"noise={noise} must be between 0 and 0.5, a share of the cube's side")
    if not 0.05 <= radius <= 1.5:
        raise ValueError(f"radius={radius} must be between 0.05 and 1.5, in halves of the cube's side")
    sine = config.activation["name"] == "sine"
    net = DistanceNet(
        3,
        1,
        config.network.hidden_features,
        config.network.num_layers,
        config.activation,
        config.encoding,
        skip=not sine,
        radius=None if sine else radius,
    )
    if sine:  # which begins as waves that the losses leave as sheets far from the points
        x = losses.REACH * (2 * torch.rand(4096, 3) - 1)
        net.begin_as(x, x.norm(dim=-1) - radius)
    level = -math.log(threshold / (1 - threshold)) if loss == "occupancy" else 0.0
    module = SurfaceFitting(net, loss=loss, level=level, resolution=resolution, config=config)
    if not with_data:
        return build.Task(module, None)
    module.shape = load_shape(config)
    module.center.copy_(torch.as_tensor(module.shape.center))
    module.extent.fill_(module.shape.half)
    module.samples = load_samples(config, module.shape)
    return build.Task(module, Steps(trainers.total_steps(config)))


def load_shape(config: RunConfig) -> AbstractShape:
    """Return the run's shape; ``ValueError`` if its loss needs more than there is."""
    shape: AbstractShape = SHAPES.build(config.options["shape"], config.data_dir)
    if config.options["loss"] == "occupancy" and not shape.closed:
        raise ValueError(
            f"{shape.name}: it is not closed, so that nothing is inside of it, which loss=occupancy learns from; close "
            "its holes, or use method=igr, which takes the points alone"
        )
    return shape


def load_samples(config: RunConfig, shape: AbstractShape) -> Samples:
    """Return what the run learns from."""
    o = config.options
    if o["loss"] == "occupancy":
        return sampling.labelled(shape, config.seed)
    samples = sampling.on_surface(shape, o["num_points"], o["normals"], o["noise"], config.seed)
    unknown = samples.trust < 1 or samples.normals is None
    if o["loss"] == "siren_sdf" and (unknown or not samples.oriented):
        said = "needs normals" if unknown else "needs normals that are all outward, and these point to either side"
        raise ValueError(f"{shape.name}: loss=siren_sdf {said}; use method=igr, which learns without them, too")
    if samples.trust < 1:
        log.info("%s: normals are estimated from the points, and their side from how these join up", shape.name)
    elif samples.normals is None or not samples.oriented:
        log.warning(
            "%s: without normals that agree, which side is inside is the training's own choice, as the points are too "
            "few or too noisy for their surface's thickness; look at the pictures",
            shape.name,
        )
    return samples


class SurfaceFitting(pl.LightningModule):
    """Trains a :class:`~autoint.networks.distance_net.DistanceNet` on points by the loss of its name.

    Args:
        net: f, whose zeros are the surface.
        loss: one of ``LOSSES``.
        level: of f, at which the surface is.
        resolution: cells of the mesh along the cube's side.
        config: the run's configuration.
    """

    columns = surface_evaluation.COLUMNS
    shape: AbstractShape
    samples: Samples
    center: torch.Tensor
    extent: torch.Tensor

    def __init__(self, net: DistanceNet, *, loss: str, level: float, resolution: int, config: RunConfig) -> None:
        super().__init__()
        self.normals = {"igr": "if given", "siren_sdf": "yes"}.get(loss, "no") if config.options["normals"] else "no"
        self.net, self.collapsed = net, False
        self.register_buffer("center", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("extent", torch.ones((), dtype=torch.float64))
        self.loss, self.level, self.resolution = loss, level, resolution
        self.seed, self.batch_size, self.val_every = config.seed, config.batch_size, config.val_every
        self.optimizer: Optimizer = config.optimizer

    def training_step(self, batch: int, batch_idx: int) -> torch.Tensor:
        g = generator(self.seed, batch_idx, "points")
        value = losses.LOSSES[self.loss](Gradient(self.net), self.samples.at(batch_idx), self.batch_size, g)
        trainer: Any = self.trainer  # Lightning sets this attribute where no type checker sees it
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.log("train/loss", value.detach(), prog_bar=True)
        return value

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        trainer: Any = self.trainer
        if (batch_idx + 1) % self.val_every == 0 and self.global_rank == 0 and not trainer.fast_dev_run:
            folder = Path(trainer.default_root_dir) / "validation"
            try:
                mesh = surface_evaluation.mesh_of(Gradient(self.net), GROWING, self.level)
            except ValueError:  # no surface yet
                return
            assert mesh.normals is not None
            panels = mesh_pictures.from_sides(mesh, mesh_pictures.normal_colors(mesh.normals), 200)
            folder.mkdir(exist_ok=True)
            pictures.row_of(panels).save(folder / f"step_{batch_idx + 1:07d}.png")

    def on_train_end(self) -> None:
        trainer: Any = self.trainer
        if trainer.fast_dev_run or self.global_rank != 0:
            return
        folder = Path(trainer.default_root_dir)
        try:
            row = self.row(self.shape, folder)
        except ValueError as error:
            log.warning("%s; try a lower optimizer.lr, or another seed", error)
            self.collapsed = True
            return
        numbers = {f"test/{key}": float(v) for key, v in row.items() if isinstance(v, (float, bool)) and v == v}
        trainer.callback_metrics.update({k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()})
        known = {key: head for key, head in self.columns.items() if key in row and row[key] == row[key]}
        table = markdown([row], known, {})
        log.info("\n%s\npictures: %s", table, folder / "normals.png")

    def mesh(self, resolution: int | None = None) -> Mesh:
        """Return the surface in a cube of side 2; ``ValueError`` where there is none."""
        return surface_evaluation.mesh_of(Gradient(self.net), resolution or self.resolution, self.level)

    def surface(self, resolution: int) -> tuple[Mesh, str]:
        """Return the mesh in the units of the input, and what is to be said of it."""
        mesh = self.mesh(resolution).moved(float(self.extent), self.center.cpu().numpy())
        return mesh, f"f = {self.level:g}" if self.level else "f = 0"

    def row(self, shape: AbstractShape, folder: Path) -> dict[str, Any]:
        """Return the row of the table, and write the mesh and the pictures into ``folder``."""
        start, net = time.perf_counter(), Gradient(self.net)
        mesh = self.mesh()
        row: dict[str, Any] = {"shape": shape.name, "loss": self.loss, "normals": self.normals}
        row |= {key: math.nan for key, (_, form) in self.columns.items() if form}  # of what nobody knows
        row |= surface_evaluation.measured(net, mesh, shape, self.level, self.seed)
        if self.loss == "occupancy":  # whose f is no distance
            row["eikonal"] = math.nan
        surface_evaluation.write_pictures(folder, net, mesh, shape, self.level)
        moved = mesh.moved(shape.half, shape.center)
        meshes.write(folder / "mesh.ply", moved.vertices, moved.faces, moved.normals)
        surface_evaluation.write_row(folder, row)
        log.info("mesh of %d vertices, measured in %.0f s", len(mesh.vertices), time.perf_counter() - start)
        return row

    @staticmethod
    def label(run: RunConfig) -> str:
        """Return what names the run in a folder."""
        shape = run.options["shape"]
        return Path(shape["path"]).stem if shape.get("path") else str(shape["name"])

    def evaluate(
        self, config: EvaluateConfig, run: RunConfig, folder: Path
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the run's row of the table, and that once more as its values; write mesh and pictures."""
        row = self.row(load_shape(run), folder)
        return row, [row]

    def configure_optimizers(self) -> Any:
        return adam(self.net, self.trainer, self.optimizer)
