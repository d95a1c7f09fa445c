"""UNISURF: a surface learned from images, by volume rendering in an interval around it that shrinks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.networks.activations import Activation
from autoint.networks.distance_net import DistanceNet
from autoint.networks.encodings import AbstractEncoding
from autoint.networks.grad_nets.gradient import gradient
from autoint.registry import ACTIVATIONS, ENCODINGS, MODELS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes import rendering
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractVolume, Draw

SOFTEST, WITHIN = 10.0, 4.0
"""k is the paper's at least, and more once the interval is so short that σ(−k f) would be near ½ all over it."""
RADIUS, BANDS, BANDS_OF_DIRECTIONS = 0.6, 6, 4
BESIDE = 0.01
"""How far around a point of the surface its normal is compared with another."""


@dataclass(frozen=True)
class Sampling:
    """Where a :class:`Unisurf` is evaluated; lengths are those where the box's longest side is [−1, 1].

    Attributes:
        march: even steps of a ray, between which the surface is looked for.
        secant: steps of the secant method, which then find it.
        inside: samples in the interval around the surface.
        before: samples between the box and the interval, which keep the air clear.
        wide, narrow: half the interval's length, at the beginning and from ``settled`` on.
        settled: share of the budget after which the interval is narrow.
    """

    march: int = 64
    secant: int = 8
    inside: int = 16
    before: int = 8
    wide: float = 2.0
    narrow: float = 0.05
    settled: float = 0.5


class Appearance(nn.Module):
    """The colour of a surface, from the point, the normal, the direction of view, and features of the point.

    Args:
        directions: encoding of the direction.
        features: how many.
        hidden_features: width of its two hidden layers.
        activation: between them.
    """

    def __init__(self, directions: AbstractEncoding, features: int, hidden_features: int, activation: Activation):
        super().__init__()
        self.directions, self.activation = directions, activation
        widths = [6 + directions.out_features + features, hidden_features, hidden_features]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.rgb = nn.Linear(hidden_features, 3)
        for k, layer in enumerate(self.hidden):
            activation.init(layer, k == 0)  # type: ignore[arg-type]

    def forward(self, x: Tensor, normals: Tensor, directions: Tensor, features: Tensor) -> Tensor:
        """Return rgb (P, 3) in [0, 1]; x, normals and directions are (P, 3)."""
        h = torch.cat([x, normals, self.directions(directions), features], dim=-1)
        for layer in self.hidden:
            h = self.activation.function(layer(h))
        return torch.sigmoid(self.rgb(h))


class Unisurf(AbstractVolume):
    """The zeros of a network f, below 0 inside, rendered by opacities σ(−k f) (Oechsle et al., ICCV 2021).

    A sample's opacity, whatever its part of the ray (their eq. 5 to 7), is that of a section of optical depth
    −log(1 − σ(−k f)) = softplus(−k f). Samples lie in an interval around the first zero on a ray, whose half length
    falls geometrically (their eq. 9), and before it; where a ray has none, all along it. Colour is a network of the
    point, ∇f/|∇f|, the direction, and features; normals of points near each other are to agree (their eq. 11). Nothing
    is outside of the visual hull.

    Args:
        field: maps points (P, 3), in a box scaled to [−1, 1]³, to f and features.
        appearance: what makes a colour of them.
        sampling: where they are evaluated.
        smooth: weight of the difference between normals.
        occupancy: where the scene is.
    """

    interval: Tensor

    def __init__(
        self, field: DistanceNet, appearance: Appearance, sampling: Sampling, smooth: float, occupancy: Occupancy
    ) -> None:
        super().__init__(occupancy)
        self.width = field.hidden_features
        self.field, self.appearance, self.sampling, self.smooth = field, appearance, sampling, smooth
        self.register_buffer("interval", torch.tensor(sampling.wide))

    @property
    def nets(self) -> Iterable[nn.Module]:
        return (self.field, self.appearance)

    @property
    def evaluations(self) -> int:
        return self.sampling.march + 1 + self.sampling.secant + self.colors

    @property
    def colors(self) -> int:
        return self.sampling.inside + self.sampling.before

    @property
    def sharpness(self) -> Tensor:
        """k: within the interval σ(−k f) goes from nearly 1 to nearly 0 where f is a distance."""
        return (WITHIN / self.interval).clamp_min(SOFTEST)

    def signed(self, points: Tensor) -> Tensor:
        return self.field(self.in_cube(points))[..., 0]

    def radiance(self, points: Tensor, directions: Tensor, length: float) -> tuple[Tensor, Tensor]:
        depth, rgb = self._evaluated(points, directions)
        return depth / length, rgb

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        bounds = self.bounds(edges, *self.surface(rays, edges))
        return self._composite(rays, 0.5 * (bounds[:, 1:] + bounds[:, :-1]), bounds, background)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], Tensor]:
        self.interval.fill_(self.half_length(used))
        at, hit = self.surface(rays, edges)
        bounds = self.bounds(edges, at, hit)
        t = torch.lerp(bounds[:, :-1], bounds[:, 1:], draw("samples", len(rays), self.colors))
        beside = (2 * draw("beside", len(rays), 3)[hit] - 1) * BESIDE
        shown = self._composite(rays, t, bounds, background)
        return [shown], self.smooth * self.roughness(self.in_cube(rays.at(at))[hit], beside)

    def half_length(self, used: float) -> float:
        """Return half the interval's length after a share of the budget: from wide to narrow, geometrically."""
        s = self.sampling
        return s.narrow * (s.wide / s.narrow) ** max(0.0, 1 - used / s.settled)

    @torch.no_grad()
    def surface(self, rays: Rays, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each ray first goes inside, t (R,), and whether it does, (R,); t is the far end where not."""
        share = torch.linspace(0, 1, self.sampling.march + 1, device=edges.device)
        t = torch.lerp(edges[:, :1], edges[:, -1:], share)
        f = self._in_hull(rays.at(t))
        enters = (f[:, 1:] < 0) & (f[:, :-1] >= 0)
        hit, k = enters.any(dim=-1), enters.to(torch.uint8).argmax(dim=-1, keepdim=True)
        some = hit.nonzero()[:, 0]
        (low, high), (above, below) = (
            [v.gather(1, k + step)[some, 0] for step in (0, 1)] for v in (t, f)
        )  # of those that do, where f is above and below 0
        own = rays[some]
        for _ in range(self.sampling.secant):
            middle = torch.lerp(low, high, above / (above - below))
            value = self._in_hull(own.at(middle))
            inside = value < 0
            low, above = torch.where(inside, low, middle), torch.where(inside, above, value)
            high, below = torch.where(inside, middle, high), torch.where(inside, value, below)
        at = edges[:, -1].clone()
        at[some] = torch.lerp(low, high, above / (above - below))
        return at, hit

    def bounds(self, edges: Tensor, at: Tensor, hit: Tensor) -> Tensor:
        """Return the bounds (R, S+1) of what the samples of a ray stand for, from where it meets the surface."""
        near, far = edges[:, 0], edges[:, -1]
        half = self.interval / self.scale
        first = torch.where(hit, torch.maximum(near, at - half), torch.lerp(near, far, self._share_before))
        last = torch.where(hit, torch.minimum(far, at + half), far)
        parts = [
            torch.lerp(a[:, None], b[:, None], torch.linspace(0, 1, count + 1, device=at.device))
            for a, b, count in ((near, first, self.sampling.before), (first, last, self.sampling.inside))
        ]
        return torch.cat([parts[0][:, :-1], parts[1]], dim=-1)

    @property
    def _share_before(self) -> float:
        return self.sampling.before / self.colors

    def roughness(self, x: Tensor, beside: Tensor) -> Tensor:
        """Return the mean of |n(x) − n(x + beside)|, x (P, 3)."""
        _, slope = gradient(self.field)(torch.cat([x, x + beside]))
        one, other = F.normalize(slope, dim=-1).chunk(2)
        return (one - other).norm(dim=-1).sum() / max(1, len(x))

    def _in_hull(self, points: Tensor) -> Tensor:
        """Return f (…) at points (…, 3), and 1 outside of the hull."""
        inside = self.occupancy.at(points) > 0
        f = torch.ones(points.shape[:-1], device=points.device)
        f[inside] = self.signed(points[inside]).to(f.dtype)
        return f

    def _composite(self, rays: Rays, t: Tensor, bounds: Tensor, background: Tensor) -> Rendering:
        points, length = rays.at(t), bounds.diff(dim=-1)
        wanted = ((self.occupancy.at(points) > 0) & (length > 0)).flatten().nonzero()[:, 0]
        depth, rgb = self._evaluated(points.flatten(0, 1)[wanted], rays.directions[wanted // t.shape[1]])
        depth, rgb = rendering.scattered(depth, rgb, wanted, t.shape)
        return rendering.composite(depth / torch.where(length > 0, length, 1.0), rgb, bounds, background)

    def _evaluated(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return a sample's optical depth (P,) and its colour (P, 3)."""
        x = self.in_cube(points)
        value, slope = gradient(self.field)(x)
        rgb = self.appearance(x, F.normalize(slope, dim=-1), directions, value[:, 1:])
        return F.softplus(-self.sharpness * value[:, 0]), rgb


@MODELS.register("unisurf")
def unisurf(
    config: RunConfig,
    occupancy: Occupancy,
    *,
    march: int = 64,
    inside: int = 16,
    before: int = 8,
    wide: float = 2.0,
    narrow: float = 0.05,
    settled: float = 0.5,
    smooth: float = 0.001,
) -> AbstractVolume:
    """UNISURF (Oechsle et al. 2021): a surface, by volume rendering in an interval around it that shrinks.

    Args:
        config: the run's configuration; the field is a softplus network that begins as a sphere, whatever activation
            and encoding that of the colour has.
        occupancy: where the scene is.
        march: even steps of a ray, between which the surface is looked for.
        inside: samples in the interval around it.
        before: samples before the interval.
        wide: half the interval's length at the beginning, in halves of the box's longest side.
        narrow: the same from ``settled`` on.
        settled: share of the budget after which the interval is narrow.
        smooth: weight of the difference between normals of points near each other.
    """
    at_least_one(**{"model.march": march, "model.inside": inside, "model.before": before})
    if not 0 < narrow <= wide <= 4:
        raise ValueError(f"model.narrow={narrow}, model.wide={wide}: it must be 0 < narrow ≤ wide ≤ 4")
    if not 0 < settled <= 1 or smooth < 0:
        raise ValueError(f"model.settled={settled} must be above 0 and at most 1, model.smooth={smooth} not negative")
    width = config.network.hidden_features
    field = DistanceNet(
        3,
        1 + width,
        width,
        config.network.num_layers,
        {"name": "softplus", "beta": 100.0},
        {"name": "positional", "num_frequencies": BANDS},
        radius=RADIUS,
    )
    directions = ENCODINGS.build({"name": "positional", "num_frequencies": BANDS_OF_DIRECTIONS}, 3)
    appearance = Appearance(directions, width, width, ACTIVATIONS.build(config.activation))
    sampling = Sampling(march=march, inside=inside, before=before, wide=wide, narrow=narrow, settled=settled)
    return Unisurf(field, appearance, sampling, smooth, occupancy)
