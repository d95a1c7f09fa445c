"""Neural volume rendering: a scene from posed images, rendered by differences of integral networks."""

from __future__ import annotations

import functools
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from autoint.files import reading
from autoint.files.images import AtMost
from autoint.files.machine import installed_memory, peak_flops
from autoint.registry import DATASETS, MODELS, TASKS, at_least_one, one_of
from autoint.reports import metrics, pictures
from autoint.reports.meshing import Mesh
from autoint.runs import build, trainers
from autoint.runs.config import Optimizer, RunConfig
from autoint.runs.schedule import adam, used_budget
from autoint.runs.seeding import generator
from autoint.scenes import evaluation as view_evaluation
from autoint.scenes import live, video
from autoint.scenes.data.batches import Batch, ViewsData
from autoint.scenes.data.views import Views
from autoint.scenes.meshes import mesh_of
from autoint.scenes.occupancy import Occupancy, visual_hull
from autoint.scenes.teacher import taught
from autoint.scenes.volume import AbstractVolume

if TYPE_CHECKING:
    from autoint.runs.evaluation import EvaluateConfig

log = logging.getLogger(__name__)
CAMERAS_OF_A_PATH = 24
REHEARSED = 4096
"""Rays of which a rehearsal of the validation renders at most so many."""
SMOOTHED_EVERY, CELLS_PER_RAY = 4, 4
"""Steps between two that are penalised for what is rough, since that costs half a step, and where it looks then."""
BACKGROUNDS = {"white": 1.0, "black": 0.0, "random": 1.0}


@TASKS.register("volrend")
def volrend(
    config: RunConfig,
    with_data: bool,
    *,
    scene: Any = "procedural",
    image_size: int | None = None,
    max_image_size: int | None = None,
    sections: int = 16,
    samples: int = 128,
    placement: Any = "uniform",
    direction_encoding: Any = "normalized_positional",
    networks: int = 1,
    model: Any = "autoint",
    color: Any = "mean",
    background: str = "white",
    images_per_batch: int | None = None,
    val_images: int = 4,
    viewer: bool = False,
    smooth: float = 0.0,
    teacher: str | None = None,
    teacher_views: int = 300,
    teacher_only: bool = False,
) -> build.Task:
    """Build the volume-rendering task.

    Args:
        config: the run's configuration.
        with_data: whether to load the scene; without it the module's box is to be filled from a checkpoint.
        scene: the data set and its options.
        image_size: longer side of the images in pixels; None keeps the data's, up to
        max_image_size: longer side to which larger images are reduced; None keeps them.
        sections: N, sections per ray.
        samples: stratified samples per ray for fit=grad_net, a multiple of ``sections``.
        placement: where the section edges go.
        direction_encoding: encoding of the viewing direction.
        networks: 1 for one network with all outputs, 2 for separate density and colour networks (the paper).
        model: integral networks, or the baseline.
        color: how section means become colour.
        background: behind the scene: white, black, or random while training and white afterwards.
        images_per_batch: how many images the rays of a batch come from; None draws them from all.
        val_images: how many validation images are rendered now and then.
        viewer: whether the scene is shown in the browser while it is learned.
        smooth: weight of the total variation of what encodings have learned, in cells that rays pass.
        teacher: a finished run of the same scene, any model, that renders views to learn from; None for real ones only.
        teacher_views: how many, so that with as many real ones half of all rays are the teacher's.
        teacher_only: whether the real images are left out.
    """
    at_least_one(
        sections=sections,
        samples=samples,
        image_size=image_size,
        max_image_size=max_image_size,
        val_images=val_images,
        images_per_batch=images_per_batch,
        teacher_views=teacher_views,
    )
    one_of("background", background, BACKGROUNDS)
    if not 0 <= smooth < math.inf:
        raise ValueError(f"smooth={smooth} must be a number from 0; 0 leaves it out")
    if networks not in (1, 2):
        raise ValueError(f"networks={networks} must be 1 (one trunk) or 2 (density and colour apart)")
    occupancy = Occupancy(torch.zeros(3), torch.ones(3))
    if with_data:
        if viewer:
            live.check()
        reading.warn.cache_clear()
        train, val = load_views(config, "train"), load_views(config, "val", val_images)
        height, width = train.images.shape[1:3]
        if image_size is None and max_image_size is not None and {width, height} != {max_image_size}:
            log.info("images of %d×%d pixels", width, height)
        occupancy = visual_hull(train)
    volume = MODELS.build(model, config, occupancy)
    if config.compile:
        volume.compile_networks()
    data = None
    if with_data:
        check_memory(config, volume)
        if teacher is not None:
            train = taught(train, config, occupancy)
        steps = trainers.total_steps(config)
        data = ViewsData(
            train,
            val,
            volume.hit,
            batch_size=config.batch_size,
            images_per_batch=images_per_batch,
            total_steps=steps,
            seed=config.seed,
        )
    module = VolumeRendering(volume, background=background, seed=config.seed, optimizer=config.optimizer, smooth=smooth)
    if viewer:
        module.watching = [live.LiveView(config)]
    return build.Task(module, data)


def check_memory(config: RunConfig, volume: AbstractVolume) -> None:
    """Refuse a batch whose activations alone, of one number per unit and evaluation, exceed the memory there is."""
    device = "cuda" if torch.cuda.is_available() and config.trainer.get("accelerator") != "cpu" else "cpu"
    per_ray = 4 * volume.evaluations * volume.width * config.network.num_layers
    needed, there = config.batch_size * per_ray, installed_memory(device)
    if needed > there:
        raise ValueError(
            f"batch_size={config.batch_size}: a step would take {needed / 2**30:.1f} GiB at least, and there are "
            f"{there / 2**30:.1f} GiB of memory; at most {there // per_ray} fit"
        )


def load_views(config: RunConfig, split: str, at_most: int | None = None) -> Views:
    """Load one split of the run's scene, or ``at_most`` evenly spaced views of it."""
    size, limit = config.options["image_size"], config.options["max_image_size"]
    if size is None and limit is not None:
        size = AtMost(limit)
    return DATASETS.build(config.options["scene"], config.data_dir, split, size, at_most)


class VolumeRendering(pl.LightningModule):
    """Trains a :class:`AbstractVolume` on rays by the squared error of their colour (paper, eq. 18).

    Args:
        volume: the scene.
        background: ``white``, ``black`` or ``random``.
        seed: of all that is random while training.
        optimizer: Adam's settings and schedule.
        smooth: weight of the total variation of what encodings have learned.
    """

    def __init__(
        self, volume: AbstractVolume, *, background: str, seed: int, optimizer: Optimizer, smooth: float = 0.0
    ) -> None:
        super().__init__()
        self.volume, self.background, self.seed, self.optimizer = volume, background, seed, optimizer
        self.smooth = smooth
        self.collapsed, self.watching = False, list[Callback]()

    def configure_callbacks(self) -> list[Callback]:
        return self.watching

    def canvas(self) -> Tensor:
        """Return the background colour of rendered images, (3,)."""
        return torch.full((3,), BACKGROUNDS[self.background], device=self.device)

    def _draw(self, number: int, name: str, rays: int, *shape: int) -> Tensor:
        """Random numbers in [0, 1) for a batch's ``rays``, drawn for all ranks together: ranks do not matter."""
        world = self.trainer.world_size
        g = generator(self.seed, number, name, device=self.device)
        return torch.rand(rays * world, *shape, generator=g, device=self.device)[self.global_rank :: world]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.volume.looks(self.global_step):
            seen = self._of_all_processes(batch.rays.directions)
            self.volume.look(seen, generator(self.seed, batch_idx, "look"))
        behind, draw = self.canvas(), functools.partial(self._draw, batch_idx)
        if self.background == "random":
            behind = draw("background", len(batch.rays), 3)
        used = used_budget(self.trainer, self.global_step)
        edges = self.volume.edges(batch.rays)
        renderings, penalty = self.volume.renderings(batch.rays, edges, behind, draw, used)
        truth = metrics.over(batch.rgba, behind)
        errors = [F.mse_loss(rendering.rgb, truth) for rendering in renderings]
        loss = sum(errors, torch.as_tensor(penalty))
        trainer: Any = self.trainer  # Lightning sets this attribute where no type checker sees it
        if (self.global_step + 1) % trainer.log_every_n_steps == 0:
            own = torch.stack([loss.detach(), errors[-1].detach()])
            mean, error = self._of_all_processes(own[None]).mean(dim=0)
            self.log_dict({"train/loss": mean, "train/psnr": -10 * error.log10()}, prog_bar=True)
        if self.smooth and self.global_step % SMOOTHED_EVERY == 0:  # not told as loss, which it is in some steps only
            cells = self.volume.total_variation(batch.rays, edges, draw("cells", len(batch.rays), CELLS_PER_RAY))
            loss = loss + SMOOTHED_EVERY * self.smooth * cells
        return loss

    def _of_all_processes(self, rows: Tensor) -> Tensor:
        """Return the rows (R, …) of all processes, in the order in which one process would have them."""
        if self.trainer.world_size == 1:
            return rows
        gathered = self.all_gather(rows)
        assert isinstance(gathered, Tensor)
        return gathered.transpose(0, 1).flatten(0, 1)

    def rehearsal(self) -> float:
        """Return how many seconds a validation may be expected to take: a part of its first image, times the rest."""
        images = self.trainer.datamodule.val_dataloader().dataset  # type: ignore[attr-defined]
        rays = images[0].rays.to(self.device)
        part = rays[:: -(-len(rays) // REHEARSED)]
        for _ in range(2):  # the first may have to compile, or to find memory
            start = time.perf_counter()
            with torch.inference_mode():
                self.volume.view(part, self.canvas(), chunk_size=16384)[0].sum().item()
            seconds = time.perf_counter() - start
        return seconds * len(rays) / len(part) * len(images)

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(4, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        rgb, depth, acc = self.volume.view(batch.rays, self.canvas(), chunk_size=16384)
        truth = metrics.over(batch.rgba, self.canvas())
        valid = slice(None) if batch.valid is None else batch.valid
        if batch.counted and len(seen := acc[valid]):
            one, true_acc = torch.ones((), device=self.device), batch.rgba[valid, 3].mean()
            psnr = metrics.psnr(rgb[valid], truth[valid])
            self.sums = self.sums + torch.stack([psnr, seen.mean(), true_acc, one])
        if batch_idx == 0 and self.global_rank == 0 and batch.shape is not None:
            file = Path(self.trainer.default_root_dir) / "validation" / f"step_{self.global_step:07d}.png"
            pictures.write_view(file, batch.shape, truth, rgb, depth, acc, batch.valid)

    def on_validation_epoch_end(self) -> None:
        sums = self._of_all_processes(self.sums[None]).sum(dim=0)  # every image once, whoever rendered it
        psnr, acc, true_acc = (sums[:3] / sums[3]).tolist()
        self.log_dict({"val/psnr": psnr, "val/acc": acc, "val/true_acc": true_acc}, sync_dist=True)
        share = acc / max(true_acc, 1e-9)
        self.collapsed = share < 0.02 or math.isnan(psnr)
        if self.collapsed:
            log.warning(
                "collapsed to the background: opacity is %.2g of the images'; try background=random or a lower "
                "optimizer.lr, or another seed",
                share,
            )

    def surface(self, resolution: int) -> tuple[Mesh, str]:
        """Return the mesh of the scene, and what is to be said of it."""
        return mesh_of(self.volume, resolution)

    columns = view_evaluation.COLUMNS

    @staticmethod
    def label(run: RunConfig) -> str:
        """Return what names the run in a folder."""
        return f"{view_evaluation.scene_name(run)}_{run.options['sections']}"

    def evaluate(
        self, config: EvaluateConfig, run: RunConfig, folder: Path
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the run's row of the table and the values of every image; write the pictures into ``folder``."""
        views, name = load_views(run, config.split, config.max_images), view_evaluation.scene_name(run)
        looking, flight = config.of("volrend"), None
        if looking.video != "none":  # before the images, which take long: a path may be refused
            flight = video.flight(self.volume, load_views(run, "train", CAMERAS_OF_A_PATH), looking)
        # First of all, because the first frame may take longer.
        scene = self.volume, self.canvas(), views, config.chunk_size
        memory, work = view_evaluation.rendering_memory(*scene), view_evaluation.rendering_work(*scene)
        values = view_evaluation.evaluate(self.volume, self.canvas(), views, config, name, folder, run)
        keys, sections = ("psnr", "ssim", "lpips", "seconds_per_frame"), run.options["sections"]
        row = {"scene": name, "model": run.options["model"]["name"], "sections": sections, "fit": self.volume.fit}
        row |= {key: view_evaluation.mean_of(values, key) for key in keys}
        row |= {"memory": memory, "frames_per_second": 1 / row["seconds_per_frame"]}
        row["rays_per_second"] = views.images[0, ..., 0].numel() / row["seconds_per_frame"]
        row["share_of_peak"] = work / values[0]["seconds_per_frame"] / peak_flops(self.device)
        if flight is not None:
            video.fly(self.volume, self.canvas(), flight, looking, config.chunk_size, folder / Path(looking.video).stem)
        row |= {"look_ups_per_ray": self.volume.look_ups, "evaluations_per_ray": round(self.volume.made, 1)}
        return row | {"colors_per_ray": self.volume.colors, "images": len(values)}, values

    @staticmethod
    def protocol(config: EvaluateConfig, run: RunConfig) -> str:
        """Return what the numbers of an evaluation rest on, in words."""
        size = run.options["image_size"] or run.options["max_image_size"]
        pixels = f"longer side {size} pixels by area averaging" if size else "images as large as they are"
        shown = "white" if run.options["background"] == "random" else run.options["background"]
        return f"split {config.split}, {pixels}, background {shown}, 8-bit sRGB values over 255, mean over images"

    def configure_optimizers(self) -> Any:
        return adam(self, self.trainer, self.optimizer)
