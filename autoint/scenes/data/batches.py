"""From views to batches: a loader that is indexed by step, and Lightning's data module around it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoint.runs.seeding import generator
from autoint.runs.steps import StepLoader
from autoint.scenes.data.views import Views
from autoint.scenes.rays import Rays

log = logging.getLogger(__name__)
Hit = Callable[[Rays], Tensor]
FEW, LOST = 0.02, 0.1
"""Shares worth a warning: so few training rays meet the scene, or so many of those that show something miss it."""


@dataclass(frozen=True)
class Batch:
    """Rays, the premultiplied RGBA (R, 4) that each of them shows, and the (height, width) of a whole image.

    An image that another process counts already is not ``counted``. Of a whole image with a mask only the pixels that
    are ``valid`` (R,) are measured; None for all.
    """

    rays: Rays
    rgba: Tensor
    shape: tuple[int, int] | None = None
    counted: bool = True
    valid: Tensor | None = None

    def to(self, target: torch.device | torch.dtype, **kwargs: bool) -> Batch:
        """Return the batch on another device or in another precision."""
        valid = self.valid
        if valid is not None and not isinstance(target, torch.dtype):
            valid = valid.to(target)
        return dataclasses.replace(self, rays=self.rays.to(target), rgba=self.rgba.to(target), valid=valid)


class Pixels:
    """All pixels of a set of views that count and whose rays hit the scene's box, in an order drawn anew each epoch.

    Args:
        views: the training views.
        hit: which rays meet the scene; those that miss it show the background and teach nothing.
        batch_size: rays per step, over all ranks.
        seed: of the order.
        rank, world: this process's share of every batch, and the number of shares.
        images: how many images the rays of a batch come from, drawn anew each step; None takes the pixels in order.
        device: where the images and the cameras are kept, and the rays made.
    """

    def __init__(
        self,
        views: Views,
        hit: Hit,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        images: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.batch_size, self.seed, self.images = batch_size, seed, images
        self.rank, self.world = rank, world
        hits = [hit(views.rays_of(v)) for v in range(len(views))]
        if rank == 0:
            _tell(hits, views)
        if views.mask is not None:
            hits = [h & one.flatten() for h, one in zip(hits, views.mask, strict=True)]
        self.counts = torch.tensor([int(h.sum()) for h in hits])
        self.index = torch.cat(hits).nonzero()[:, 0]
        if not len(self.index):
            counted = "" if views.mask is None else ", of the pixels that the masks leave"
            mend = "check the poses and their axes, scene.near and scene.far"
            raise ValueError(f"no ray of the training views meets the scene's box{counted}; {mend}")
        self.views = views.to(device)
        self.index, self.rgba = self.index.to(device), self.views.images.reshape(-1, 4)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Batch:
        """Return the batch of this ``step``."""
        if self.images is not None:
            some = self._of_few_images(step, self.images)[self.rank :: self.world]
            return self.at(self.index[some.to(self.index.device)])
        per_epoch = max(1, len(self.index) // self.batch_size)
        epoch, position = divmod(step, per_epoch)
        if epoch != self._epoch:
            g = generator(self.seed, epoch, "pixels")
            # Drawn on the CPU, so that the order is the same on every device.
            self._epoch, self._order = epoch, torch.randperm(len(self.index), generator=g).to(self.index.device)
        chosen = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        chosen = chosen[self.rank :: self.world]
        return self.at(self.index[chosen])

    def _of_few_images(self, step: int, images: int) -> Tensor:
        """Which entries of ``index`` a batch takes: random ones of each of ``images`` random views."""
        g = generator(self.seed, step, "pixels")
        useful = self.counts.nonzero()[:, 0]
        views = useful[torch.randperm(len(useful), generator=g)[:images]].repeat_interleave(self.batch_size // images)
        within = (torch.rand(len(views), generator=g) * self.counts[views]).long()
        return (self.counts.cumsum(0) - self.counts)[views] + within

    def at(self, index: Tensor) -> Batch:
        """Return the batch of these pixels, counted through all views row by row."""
        height, width = self.views.images.shape[1:3]
        view, pixel = index // (height * width), index % (height * width)
        rays = self.views.rays(view, pixel // width, pixel % width)
        return Batch(rays, self.rgba[index])


def _tell(hits: list[Tensor], views: Views) -> None:
    """Say how many of the training rays meet the scene; what looks like cameras that miss it is worth a warning."""
    met, seeing = torch.cat(hits), sum(bool(h.any()) for h in hits)
    share, lost = float(met.float().mean()), 0.0
    if bool((views.alpha < 0.5).any()):  # only then it is known which pixels show the scene
        opaque = views.images[..., 3] > 0.5
        opaque = opaque if views.mask is None else opaque & views.mask
        lost = float((~met[opaque.flatten()]).float().sum() / opaque.sum().clamp_min(1))
    found = f"{share:.1%} of the training rays meet the scene's box, in {seeing} of {len(hits)} views"
    if share >= FEW and seeing == len(hits) and lost <= LOST:
        log.info("%s", found)
        return
    found = f"{found}; it is missed by {lost:.1%} of those whose pixels are opaque" if lost > LOST else found
    mend = "check the poses and their axes, scene.near and scene.far"
    log.warning("%s (near %.4g, far %.4g); %s", found, views.near, views.far, mend)


class WholeImages(Dataset[Batch]):
    """Every item is one whole image, as a batch of all of its rays.

    Of several processes each has every ``world``-th image; one that would have none has one that is not counted, so
    that all of them take part in what follows.
    """

    def __init__(self, views: Views, rank: int = 0, world: int = 1) -> None:
        self.views, self.rank, self.world = views, rank, world

    def __len__(self) -> int:
        return max(1, len(range(self.rank, len(self.views), self.world)))

    def __getitem__(self, item: int) -> Batch:
        view = self.rank + item * self.world
        image = self.views.images[view % len(self.views)]
        shape = (image.shape[0], image.shape[1])
        valid = None if self.views.mask is None else self.views.mask[view % len(self.views)].flatten()
        rays, counted = self.views.rays_of(view % len(self.views)), view < len(self.views)
        return Batch(rays, image.reshape(-1, 4), shape, counted, valid)


class ViewsData(pl.LightningDataModule):
    """Training pixels and validation images of one scene."""

    def __init__(
        self,
        train: Views,
        val: Views,
        hit: Hit,
        *,
        batch_size: int,
        images_per_batch: int | None,
        total_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        if images_per_batch is not None and batch_size % images_per_batch:
            raise ValueError(f"batch_size={batch_size} must be a multiple of images_per_batch={images_per_batch}")
        self.train, self.hit, self.seed, self.images = train, hit, seed, images_per_batch
        self.batch_size, self.total_steps = batch_size, total_steps
        self.val = val

    def train_dataloader(self) -> StepLoader:
        rank, world = self._share()
        if self.batch_size % world:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of the {world} processes that share it")
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        pixels = Pixels(self.train, self.hit, self.batch_size, self.seed, rank, world, self.images, device)
        return StepLoader(pixels, self.total_steps)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(WholeImages(self.val, *self._share()), batch_size=None)

    def _share(self) -> tuple[int, int]:
        """Return the number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
