"""Images from their gradients: Ψ = (∂Φ/∂x, ∂Φ/∂y) is fitted to an image's derivatives, and Φ is the image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from autoint.files import images
from autoint.files.reading import at_home
from autoint.integrals import quadrature
from autoint.networks.grad_nets import AbstractGradNet
from autoint.registry import TASKS, at_least_one, one_of
from autoint.reports import metrics, pictures
from autoint.reports.tables import markdown
from autoint.runs import build, trainers
from autoint.runs.config import Optimizer, RunConfig
from autoint.runs.schedule import adam
from autoint.runs.seeding import generator
from autoint.runs.steps import Steps

if TYPE_CHECKING:
    from autoint.runs.evaluation import EvaluateConfig

log = logging.getLogger(__name__)
COLUMNS = {
    "image": ("image", ""),
    "size": ("size", ""),
    "derivatives": ("derivatives", ""),
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "gradient_error": ("rms error of Ψ / rms", ".3f"),
    "parameters": ("parameters", ""),
    "run": ("run", ""),
}
LARGEST = 2048
AT_ONCE = 2**14


@dataclass(frozen=True)
class Derivatives:
    """What is known of an image whose longer side is [−1, 1]: means of a derivative over sections of lines.

    Attributes:
        starts: where the sections begin, (S, 2), as x and y.
        axes: along which axis each goes, (S,): 0 for x, 1 for y.
        length: of the sections; 0 for derivatives at points.
        means: of the derivatives, (S,).
    """

    starts: Tensor
    axes: Tensor
    length: float
    means: Tensor

    def nodes(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nodes of some sections, (P, M, 2), whose equal weights give means, and their tangents (P, 1, 2).

        Two Gauss-Legendre nodes: exact for cubics, and one in each of the two pixels that a section leads between.
        """
        tangents = torch.eye(2)[self.axes[chosen]][:, None]
        edges = torch.tensor([0.0, self.length])
        t = quadrature.gauss_legendre(edges, 2 if self.length else 1)[0][0]
        return self.starts[chosen][:, None] + t[:, None] * tangents, tangents


def places(height: int, width: int) -> Tensor:
    """Return the centres of an image's pixels, (H, W, 2), as x to the right and y down; its longer side is [−1, 1]."""
    pixel = 2 / max(height, width)
    x, y = ((torch.arange(n) + 0.5 - n / 2) * pixel for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def differences(image: Tensor) -> Derivatives:
    """Return the differences of neighbouring pixels of an image (H, W): means of its derivatives between them.

    By the fundamental theorem they are that exactly, whatever the image is between its pixels.
    """
    at, pixel = places(*image.shape), 2 / max(image.shape)
    starts = torch.cat([at[:, :-1].reshape(-1, 2), at[:-1].reshape(-1, 2)])
    steps = [image.diff(dim=1).flatten() / pixel, image.diff(dim=0).flatten() / pixel]
    axes = torch.cat([torch.full((len(part),), axis) for axis, part in enumerate(steps)])
    return Derivatives(starts, axes, pixel, torch.cat(steps))


def sobel(image: Tensor) -> Derivatives:
    """Return the derivatives of an image (H, W) at its pixels by Sobel's filter, as SIREN has them.

    Its differences are of pixels two apart, averaged over three lines with the weights ¼, ½, ¼: a smoothed image's.
    """
    from scipy import ndimage

    at, pixel = places(*image.shape).reshape(-1, 2), 2 / max(image.shape)
    slopes = [torch.from_numpy(ndimage.sobel(image.numpy(), axis)).flatten() / (8 * pixel) for axis in (1, 0)]
    axes = torch.arange(2).repeat_interleave(len(at))
    return Derivatives(torch.cat([at, at]), axes, 0.0, torch.cat(slopes))


KINDS = {"differences": differences, "sobel": sobel}


@TASKS.register("image")
def image(
    config: RunConfig,
    with_data: bool,
    *,
    image: str = "camera",
    image_size: int | None = 256,
    derivatives: str = "differences",
) -> build.Task:
    """Build the task of finding an image from its gradients, up to a constant.

    Args:
        config: the run's configuration.
        with_data: whether to read the image; without it the module is to be filled from a checkpoint.
        image: a PNG or JPEG, which is taken as grey; or camera, of scikit-image.
        image_size: longer side in pixels, by area averaging; None keeps that of the file.
        derivatives: differences of neighbouring pixels, or sobel for the derivatives of a smoothed image.
    """
    one_of("derivatives", derivatives, KINDS)
    at_least_one(image_size=image_size)
    if config.fit != "grad_net":
        raise ValueError(f"fit={config.fit}: task=image observes derivatives, not the image; use fit=grad_net")
    net = build.integral_net(config, 2, 1)
    module = ImageFitting(build.grad_net(config, net), config)
    if with_data:
        module.observe(load_image(config))
    return build.Task(module, Steps(trainers.total_steps(config)) if with_data else None)


def load_image(config: RunConfig) -> Tensor:
    """Return the run's image in grey, (H, W) in [0, 1]."""
    name, size = config.options["image"], config.options["image_size"]
    if name == "camera":
        from skimage import data

        pixels = data.camera().astype(np.float32)[..., None] / 255
        if size is not None and size > len(pixels):
            raise ValueError(f"image_size={size} is larger than the image (512x512); at most 512")
        grey = torch.from_numpy(images.reduced(pixels, size))[..., 0]
    else:
        here = at_home(name)
        file = here if here.exists() else at_home(config.data_dir) / here
        rgba, _ = images.read_rgba(file, size)
        grey = metrics.over(rgba, torch.ones(3)) @ torch.tensor([0.2126, 0.7152, 0.0722])
    if max(grey.shape) > LARGEST or min(grey.shape) < 2:
        raise ValueError(
            f"image={name}: {grey.shape[1]}x{grey.shape[0]} pixels, where 2 to {LARGEST} a side are allowed; set "
            "image_size"
        )
    return grey


class ImageFitting(pl.LightningModule):
    """Trains Φ: R² → R by what is known of its derivatives.

    Args:
        psi: the grad network of Φ.
        config: the run's configuration.
    """

    columns = COLUMNS
    pixels: Tensor
    known: Derivatives
    scale: Tensor

    def __init__(self, psi: AbstractGradNet, config: RunConfig) -> None:
        super().__init__()
        self.psi, self.net = psi, psi.integral_net
        self.derivatives, self.name = config.options["derivatives"], str(config.options["image"])
        self.seed, self.batch_size, self.val_every = config.seed, config.batch_size, config.val_every
        self.optimizer: Optimizer = config.optimizer
        self.register_buffer("scale", torch.ones(()))

    def observe(self, pixels: Tensor) -> None:
        """Take the derivatives of an image (H, W); they are learned in units of their root mean square."""
        self.pixels, self.known = pixels, KINDS[self.derivatives](pixels)
        rms = self.known.means.square().mean().sqrt()
        self.scale.copy_(torch.where(rms > 0, rms, 1.0))

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        g = generator(self.seed, batch_idx, "sections")
        chosen = torch.randint(len(self.known.means), (self.batch_size,), generator=g)
        loss = (self.means(chosen) - self.known.means[chosen] / self.scale).square().mean()
        trainer: Any = self.trainer  # Lightning sets this attribute where no type checker sees it
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def means(self, chosen: Tensor) -> Tensor:
        """Return the means of Ψ over some sections, (P,), in units of ``scale``."""
        x, tangents = self.known.nodes(chosen)
        return self.psi.along(x, tangents.expand_as(x))[..., 0].mean(dim=-1)

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        trainer: Any = self.trainer
        if (batch_idx + 1) % self.val_every == 0 and self.global_rank == 0 and not trainer.fast_dev_run:
            folder = Path(trainer.default_root_dir) / "validation"
            self.log("val/psnr", self.write_picture(folder / f"step_{batch_idx + 1:07d}.png", self.pixels)["psnr"])

    def on_train_end(self) -> None:
        trainer: Any = self.trainer
        if trainer.fast_dev_run or self.global_rank != 0:
            return
        folder = Path(trainer.default_root_dir)
        row = self.write_picture(folder / "image.png", self.pixels)
        numbers = {f"test/{key}": v for key, v in row.items() if isinstance(v, float)}
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in numbers.items()})
        table = markdown([row], {key: head for key, head in COLUMNS.items() if key in row}, {})
        log.info("\n%s\npicture: %s", table, folder / "image.png")

    @torch.no_grad()
    def found(self, height: int, width: int) -> Tensor:
        """Return Φ at the centres of an image's pixels, (H, W), with the mean 0."""
        parts = places(height, width).reshape(-1, 2).split(AT_ONCE)
        values = torch.cat([self.net(part)[:, 0] for part in parts]).view(height, width) * self.scale
        return values - values.mean()

    @torch.no_grad()
    def write_picture(self, file: Path, pixels: Tensor) -> dict[str, Any]:
        """Write truth, Ψ, Φ and its error beside each other, and return the row of the table."""
        found = self.found(*pixels.shape) + pixels.mean()
        error = (found.clamp(0, 1) - pixels).abs()
        numbers = torch.arange(len(self.known.means)).split(AT_ONCE)
        residual = torch.cat([self.means(part) for part in numbers]) - self.known.means / self.scale
        shown, truth = (pictures.grey_image(v.clamp(0, 1)) for v in (found, pixels))
        row = {
            "image": Path(self.name).stem,
            "size": f"{pixels.shape[1]}x{pixels.shape[0]}",
            "derivatives": self.derivatives,
            "psnr": float(metrics.psnr(shown, truth)),
            "ssim": float(metrics.ssim(shown, truth)),
            "gradient_error": float(residual.square().mean().sqrt()),
            "parameters": sum(p.numel() for p in self.net.parameters()),
        }
        at = places(*pixels.shape)
        slopes = [
            torch.cat([self.psi.along(part, axis.expand_as(part))[:, 0] for part in at.reshape(-1, 2).split(AT_ONCE)])
            for axis in torch.eye(2)
        ]
        panels = {"truth": truth}
        for name, slope in zip(("learned: d/dx", "learned: d/dy"), slopes, strict=True):
            panels[name] = pictures.grey_image((0.5 + slope.view(pixels.shape) / 6).clamp(0, 1))
        panels[f"the image from them, {row['psnr']:.2f} dB"] = shown
        panels["error, 0 to 0.1"] = pictures.scale_image(error * 10, "inferno")
        file.parent.mkdir(parents=True, exist_ok=True)
        pictures.row_of(panels).save(file)
        return row

    @staticmethod
    def label(run: RunConfig) -> str:
        """Return what names the run in a folder."""
        return Path(str(run.options["image"])).stem

    def evaluate(
        self, config: EvaluateConfig, run: RunConfig, folder: Path
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the run's row of the table, and that once more as its values; draw the picture into ``folder``."""
        self.observe(load_image(run))
        row = self.write_picture(folder / "image.png", self.pixels)
        return row, [row]

    def configure_optimizers(self) -> Any:
        return adam(self.net, self.trainer, self.optimizer)
