"""The baseline: neural radiance fields, rendered by quadrature at hierarchical samples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from autoint.integrals import quadrature
from autoint.registry import MODELS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes import rendering, sections
from autoint.scenes.models.radiance_field import RadianceField, radiance_field
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractVolume, Draw


class Nerf(AbstractVolume):
    """Two radiance fields: ``coarse`` stratified samples tell where ``fine`` more are drawn (Mildenhall et al. 2020).

    The pixel is what the second field shows at all samples; while training, the first one's rendering counts as well.
    """

    def __init__(self, fields: list[RadianceField], coarse: int, fine: int, occupancy: Occupancy) -> None:
        super().__init__(occupancy)
        self.width = fields[0].density.in_features
        self.fields, self.coarse, self.fine = nn.ModuleList(fields), coarse, fine

    @property
    def nets(self) -> Iterable[nn.Module]:
        return self.fields

    @property
    def evaluations(self) -> int:
        return 2 * self.coarse + self.fine

    @property
    def colors(self) -> int:
        return self.coarse + self.fine

    def radiance(self, points: Tensor, directions: Tensor, length: float) -> tuple[Tensor, Tensor]:
        density, rgb = self.fields[1](self.in_cube(points)[:, None], directions)
        assert rgb is not None
        return rendering.density_from_mean(density[:, 0]), rgb[:, 0]

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        t = quadrature.midpoint(edges, self.coarse)[0][:, 0]
        coarse = self._composite(0, rays, t, edges, background, with_color=False)
        return self._composite(1, rays, self._refined(t, coarse, edges, None), edges, background)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], float]:
        t = quadrature.stratified(edges, draw("coarse", len(rays), 1, self.coarse))[0][:, 0]
        coarse = self._composite(0, rays, t, edges, background)
        t = self._refined(t, coarse, edges, draw("fine", len(rays), self.fine))
        return [coarse, self._composite(1, rays, t, edges, background)], 0.0

    def _refined(self, t: Tensor, coarse: Rendering, edges: Tensor, u: Tensor | None) -> Tensor:
        """``t`` (R, M) and ``fine`` samples more, drawn by the inverse CDF of the coarse weights, in order."""
        with torch.no_grad():
            bins = sections.inverse_cdf(_around(t, edges), coarse.weights + 1e-5, self.fine)
            middle = 0.5 if u is None else u
            more = bins[:, :-1] + bins.diff(dim=-1) * middle
            return torch.cat([t, more], dim=-1).sort(dim=-1).values

    def _composite(
        self, field: int, rays: Rays, t: Tensor, edges: Tensor, background: Tensor, with_color: bool = True
    ) -> Rendering:
        x, _ = self.points(rays, t)
        mean, rgb = self.fields[field](x, rays.directions if with_color else None)
        if rgb is None:
            rgb = torch.zeros_like(x)
        return rendering.composite(rendering.density_from_mean(mean), rgb, _around(t, edges), background)


def _around(t: Tensor, edges: Tensor) -> Tensor:
    """Return the bounds (R, M+1) of the parts of the ray that samples t (R, M) stand for: halfway between them."""
    return torch.cat([edges[:, :1], 0.5 * (t[:, 1:] + t[:, :-1]), edges[:, -1:]], dim=-1)


@MODELS.register("nerf")
def nerf(config: RunConfig, occupancy: Occupancy, *, coarse: int = 64, fine: int = 128) -> AbstractVolume:
    """Neural radiance fields (Mildenhall et al. 2020): the same widths, bands and renderer, by quadrature.

    Args:
        config: the run's configuration.
        occupancy: where the scene is.
        coarse: stratified samples per ray.
        fine: samples more, where the coarse ones found something.
    """
    at_least_one(**{"model.coarse": coarse, "model.fine": fine})
    # NeRF's own encoding, with as many bands: normalising is for derivatives, and grids came later.
    encoding, directions = (
        {"name": "positional", "num_frequencies": choice.get("num_frequencies", 10)}
        for choice in (config.encoding, config.options["direction_encoding"])
    )
    fields = [radiance_field(config, encoding, directions) for _ in range(2)]
    return Nerf(fields, coarse, fine, occupancy)
