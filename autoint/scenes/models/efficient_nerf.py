"""EfficientNeRF: a radiance field that is evaluated where a voxel grid, and then the coarse weights, find something."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoint.networks.integral_net import IntegralNet
from autoint.registry import MODELS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes import rendering, sections, spherical_harmonics
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractVolume, Draw

DEGREE = 2


@dataclass(frozen=True)
class Sampling:
    """Where an :class:`EfficientNerf` is evaluated.

    Attributes:
        coarse: N_c, equal parts of a ray; the first field is evaluated in the valid ones.
        fine: N_s, parts that each pivotal one of them is cut into for the second field.
        most: pivotal parts of a ray, at most; the heaviest ones.
        pivot: ε, the weight above which a part is pivotal.
        momentum: β, of the grid of densities.
        warm_up: part of the budget in which every part within the visual hull is valid.
        uniform: share of the rays for which that is so at any time, so that the grid can change its mind.
    """

    coarse: int = 64
    fine: int = 4
    most: int = 16
    pivot: float = 1e-4
    momentum: float = 0.1
    warm_up: float = 0.02
    uniform: float = 0.01


class EfficientNerf(AbstractVolume):
    """Two fields of density and spherical harmonics (Hu et al., CVPR 2022), by valid and by pivotal sampling.

    *Valid* is a coarse sample whose voxel of a grid V holds some density; V follows the coarse field by
    V ← (1 − β) V + β σ_c wherever it is evaluated, and starts from the visual hull. *Pivotal* is a coarse sample whose
    weight exceeds ε: its part of the ray is cut into N_s samples of the fine field. Elsewhere both densities are 0.

    Args:
        fields: coarse and fine; each maps points (P, 3), in a box scaled to [−1, 1]³, to a number whose
            ``rendering.density_of_network`` is the density, and to 3·9 coefficients of the colour before its sigmoid.
        sampling: where they are evaluated.
        voxels: per axis of V.
        occupancy: where the scene is.
    """

    voxels: Tensor

    def __init__(self, fields: list[IntegralNet], sampling: Sampling, voxels: int, occupancy: Occupancy) -> None:
        super().__init__(occupancy)
        self.width = fields[1].hidden_features
        self.fields, self.sampling = nn.ModuleList(fields), sampling
        # High, so that nothing is ruled out before it was looked at.
        self.register_buffer("voxels", torch.full((voxels, voxels, voxels), 10.0))
        self._made, self._rays = 0, 0

    @property
    def nets(self) -> Iterable[nn.Module]:
        return self.fields

    @property
    def evaluations(self) -> int:
        return self.sampling.coarse + self.sampling.most * self.sampling.fine

    @property
    def made(self) -> float:
        return self._made / max(1, self._rays)

    def radiance(self, points: Tensor, directions: Tensor, length: float) -> tuple[Tensor, Tensor]:
        rays = Rays(points, directions, *torch.zeros(2, len(points), device=points.device))
        everywhere = torch.ones(len(points), 1, dtype=torch.bool, device=points.device)
        density, rgb = self._evaluated(1, rays, torch.zeros(len(points), 1, device=points.device), everywhere)
        return density[:, 0], rgb[:, 0]

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        bounds = sections.subdivided(edges, self.sampling.coarse)
        t = 0.5 * (bounds[:, 1:] + bounds[:, :-1])
        valid = self.valid(rays, t)
        coarse = self._composite(0, rays, t, bounds, valid, background)
        pivotal = self.pivotal(coarse.weights)
        bounds, t, mask = self._refined(bounds, pivotal, None)
        made = int(valid.sum() + mask.sum())  # before it is added, since other threads may render, too
        self._made += made
        self._rays += len(rays)
        return self._composite(1, rays, t, bounds, mask, background)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], float]:
        sampling = self.sampling
        bounds = sections.subdivided(edges, sampling.coarse)
        t = torch.lerp(bounds[:, :-1], bounds[:, 1:], draw("coarse", len(rays), sampling.coarse))
        uniform = draw("uniform", len(rays), 1) < (1.0 if used < sampling.warm_up else sampling.uniform)
        valid = self.valid(rays, t, uniform)
        coarse = self._composite(0, rays, t, bounds, valid, background, follow=True)
        pivotal = self.pivotal(coarse.weights.detach())
        bounds, t, mask = self._refined(bounds, pivotal, draw)
        return [coarse, self._composite(1, rays, t, bounds, mask, background)], 0.0

    def valid(self, rays: Rays, t: Tensor, uniform: Tensor | bool = False) -> Tensor:
        """Return which samples at t (R, N) are valid, (R, N): in the hull, and in the grid unless ``uniform``."""
        points = rays.at(t)
        # As of the occupancy: what absorbs a hundredth of a ray within a voxel.
        some = self.voxels.flatten()[self._voxel(points)] > 0.01 / self._side()
        return (some | uniform) & (self.occupancy.at(points) > 0)

    def pivotal(self, weights: Tensor) -> Tensor:
        """Return which coarse samples of weights (R, N) are pivotal, (R, N): above ε, and among the heaviest."""
        most = min(self.sampling.most, weights.shape[-1])
        least = weights.topk(most, dim=-1).values[:, -1:]
        return (weights > self.sampling.pivot) & (weights >= least)

    def _side(self) -> Tensor:
        return (self.occupancy.upper - self.occupancy.lower).max() / len(self.voxels)

    def _voxel(self, points: Tensor) -> Tensor:
        size, lower, upper = len(self.voxels), self.occupancy.lower, self.occupancy.upper
        place = ((points - lower) * (size / (upper - lower))).long().clamp(0, size - 1)
        return (place[..., 0] * size + place[..., 1]) * size + place[..., 2]

    def _refined(self, bounds: Tensor, pivotal: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor, Tensor]:
        """Cut the pivotal parts of ``bounds`` (R, N+1) into ``fine`` each: bounds, samples, and which are wanted.

        What lies between two such parts is one of its own, and not wanted.
        """
        fine, most = self.sampling.fine, min(self.sampling.most, pivotal.shape[-1])
        part = pivotal.byte().topk(most, dim=-1, sorted=False).indices.sort(dim=-1).values
        share = torch.linspace(0, 1, fine + 1, device=bounds.device)
        cut = torch.lerp(bounds.gather(-1, part)[..., None], bounds.gather(-1, part + 1)[..., None], share).flatten(1)
        cut = torch.cat([cut, bounds[:, -1:]], dim=-1)
        u = torch.full_like(cut[:, 1:], 0.5) if draw is None else draw("fine", *cut[:, 1:].shape)
        wanted = torch.arange(fine + 1, device=bounds.device) < fine
        mask = pivotal.gather(-1, part)[..., None] & wanted
        return cut, torch.lerp(cut[:, :-1], cut[:, 1:], u), mask.flatten(1)

    def _composite(
        self,
        field: int,
        rays: Rays,
        t: Tensor,
        bounds: Tensor,
        mask: Tensor,
        background: Tensor,
        follow: bool = False,
    ) -> Rendering:
        density, rgb = self._evaluated(field, rays, t, mask, follow)
        return rendering.composite(density, rgb, bounds, background)

    def _evaluated(
        self, field: int, rays: Rays, t: Tensor, mask: Tensor, follow: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Evaluate a field at those t (R, N) that ``mask`` names: density (R, N) and rgb (R, N, 3), elsewhere 0."""
        wanted = mask.flatten().nonzero()[:, 0]
        ray, shape = wanted // t.shape[1], t.shape
        points = rays.origins[ray] + t.flatten()[wanted, None] * rays.directions[ray]
        values = self.fields[field](self.in_cube(points))
        density = rendering.density_of_network(values[:, 0])
        harmonics = spherical_harmonics.basis(rays.directions, DEGREE)[ray]
        rgb = torch.sigmoid(spherical_harmonics.colors(values[:, 1:], harmonics))
        if follow:
            self._follow(points, density.detach())
        return rendering.scattered(density, rgb, wanted, shape)

    @torch.no_grad()
    def _follow(self, points: Tensor, density: Tensor) -> None:
        """V ← (1 − β) V + β σ in the voxels of ``points`` (P, 3); in one that several are in, with their mean."""
        flat, index = self.voxels.view(-1), self._voxel(points)
        mean = torch.zeros_like(flat).index_add_(0, index, density)
        count = torch.zeros_like(flat).index_add_(0, index, torch.ones_like(density))
        rate = self.sampling.momentum * (count > 0)
        flat.lerp_(mean / count.clamp_min(1), rate)


@MODELS.register("efficient_nerf")
def efficient_nerf(
    config: RunConfig,
    occupancy: Occupancy,
    *,
    coarse: int = 64,
    fine: int = 4,
    most: int = 16,
    pivot: float = 1e-4,
    momentum: float = 0.1,
    warm_up: float = 0.02,
    uniform: float = 0.01,
    voxels: int = 64,
) -> AbstractVolume:
    """EfficientNeRF (Hu et al. 2022): fields evaluated at valid and pivotal samples, with spherical harmonics.

    Args:
        config: the run's configuration; the coarse field has half of the layers and of the width,
            and either has a layer more, that of its heads.
        occupancy: where the scene is.
        coarse: parts of a ray.
        fine: parts that each pivotal one is cut into.
        most: pivotal parts of a ray, at most.
        pivot: weight above which a part is pivotal.
        momentum: of the grid of densities.
        warm_up: part of the budget in which all within the hull is valid.
        uniform: share of the rays for which it always is.
        voxels: per axis of that grid.
    """
    at_least_one(**{"model.coarse": coarse, "model.fine": fine, "model.most": most, "model.voxels": voxels})
    shares = {"pivot": pivot, "momentum": momentum, "warm_up": warm_up, "uniform": uniform}
    for key, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"model.{key}={value} must be between 0 and 1")
    size, encoding = config.network, {**config.encoding}
    encoding = {"name": "positional", "num_frequencies": encoding.get("num_frequencies", 10)}
    fields = [
        IntegralNet(
            3,
            1 + 3 * (DEGREE + 1) ** 2,
            max(1, size.hidden_features // part),
            max(1, size.num_layers // part) + 1,
            config.activation,
            encoding,
        )
        for part in (2, 1)
    ]
    sampling = Sampling(coarse, fine, most, pivot, momentum, warm_up, uniform)
    return EfficientNerf(fields, sampling, voxels, occupancy)
