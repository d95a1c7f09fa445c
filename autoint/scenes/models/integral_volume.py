"""The volume made of integral networks: antiderivatives of density and colour along every ray."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.integrals import quadrature
from autoint.integrals.definite import BLOCK
from autoint.networks.grad_nets import AbstractGradNet
from autoint.networks.integral_net import IntegralNet
from autoint.registry import COLORS, ENCODINGS, MODELS, PLACEMENTS
from autoint.runs import build
from autoint.runs.config import RunConfig
from autoint.scenes import rendering, sections
from autoint.scenes.colors import AbstractColor
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractSections, AbstractVolume, Draw, beside


@dataclass(frozen=True)
class Training:
    """How an :class:`IntegralVolume` is trained.

    Attributes:
        fit: ``integral_net`` takes section means from differences of Φ, ``grad_net`` from samples of Ψ (the paper).
        samples: stratified samples per section, for ``grad_net``.
        jitter: whether the edges move at random, by up to half a section, for ``integral_net``.
        direction_noise: standard deviation, in each coordinate, of what is added to the direction that the networks are
            told.
        anneal: every section begins as this many, and their number is halved until it is 1, over half of the training.
        nonnegative: weight of the mean of relu(−∫Ψ_σ) over random short stretches of the rays.
        consistent: weight of the mean squared difference between their opacities along two directions.
    """

    fit: str = "integral_net"
    samples: int = 8
    jitter: bool = True
    direction_noise: float = 0.0
    anneal: int = 1
    nonnegative: float = 0.0
    consistent: float = 0.0


class IntegralVolume(AbstractSections):
    """Density σ and colour c of a scene, as the antiderivatives Φ_σ and Φ_c along every ray (paper, Sec. 5).

    Args:
        networks: the integral networks, with the outputs that ``color`` needs together: density first. Each maps points
            (…, 3), in a box scaled to [−1, 1]³, and a direction to its share of the outputs.
        grad_nets: their grad networks, over the same parameters.
        placement: chooses the section edges, once for density and colour.
        color: makes density and colour of section means.
        occupancy: where the scene is.
        training: how it is trained.
    """

    def __init__(
        self,
        networks: list[IntegralNet],
        grad_nets: list[AbstractGradNet],
        placement: sections.AbstractPlacement,
        color: AbstractColor,
        occupancy: Occupancy,
        training: Training,
    ) -> None:
        super().__init__(placement, occupancy)
        self.networks = nn.ModuleList(networks)
        self.width = networks[0].hidden_features
        self.grad_nets = grad_nets  # a plain list: their parameters are those of `networks`
        self.color, self.training_options = color, training

    @property
    def nets(self) -> Iterable[nn.Module]:
        return self.networks

    @property
    def evaluations(self) -> int:
        return self.placement.sections + 1

    @property
    def colors(self) -> int:
        return self.placement.sections

    @property
    def fit(self) -> str:
        return self.training_options.fit

    def at_once(self, device: torch.device) -> int:
        return BLOCK[device.type == "cpu"] // (self.width * self.evaluations) + 1

    def density(self, rays: Rays, t: Tensor) -> Tensor:
        return self.integrand(rays, t)[..., 0]

    def section_values(self, rays: Rays, edges: Tensor) -> tuple[Tensor, Tensor]:
        means = self.means_from_differences(rays, edges)
        return means[..., 0], self.color(means, rays.directions)[1]

    def estimate(self, points: Tensor, directions: Tensor) -> Tensor:
        return self._optical_depth(points, directions) / self.occupancy.cell

    def integral(self, rays: Rays, t: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return Φ(o, d, t): t (R, …) → (R, …, C). Never in less than float32, because differences cancel.

        ``seen`` (R, 3) is the direction that the network is told, if not the ray's.
        """
        with torch.autocast(t.device.type, enabled=False):
            (x, _), d = self.points(rays, t), beside(rays.directions if seen is None else seen, t)
            return torch.cat([net(x, d) for net in self.networks], dim=-1)

    def integrand(self, rays: Rays, t: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return Ψ = ∂Φ/∂t at x = o + t·d: t (R, …) → (R, …, C), in the precision of t, whatever autocast did."""
        (x, velocity), d = self.points(rays, t), beside(rays.directions if seen is None else seen, t)
        psi = torch.cat([grad.along(x, velocity.expand_as(x), d) for grad in self.grad_nets], dim=-1)
        return psi.to(t.dtype)

    def means_from_samples(self, rays: Rays, edges: Tensor, u: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return section means (R, N, C) from stratified samples of Ψ, placed by u (R, N, M): the paper's training."""
        nodes, node_weights = quadrature.stratified(edges, u)
        values = self.integrand(rays, nodes, seen)
        with torch.autocast(values.device.type, enabled=False):
            return sections.means_from_samples(values, node_weights)

    def means_from_differences(self, rays: Rays, edges: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return section means (R, N, C) from differences of Φ over the edges: N + 1 evaluations per ray."""
        return sections.means_from_differences(self.integral(rays, edges, seen), edges)

    def composite(self, rays: Rays, means: Tensor, edges: Tensor, background: Tensor) -> Rendering:
        """Composite section means (R, N, C)."""
        density, rgb = self.color(means, rays.directions)
        return rendering.composite(density, rgb, edges, background)

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        return self.composite(rays, self.means_from_differences(rays, edges), edges, background)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], Tensor | float]:
        options, seen = self.training_options, None
        if options.direction_noise:
            noise = math.sqrt(12) * options.direction_noise * (draw("directions", *rays.directions.shape) - 0.5)
            seen = F.normalize(rays.directions + noise, dim=-1)
        if options.fit == "integral_net":
            parts = 2 ** math.ceil(math.log2(options.anneal) * max(0.0, 1 - 2 * used))
            edges = sections.subdivided(edges, parts) if parts > 1 else edges
            edges = sections.jittered(edges, draw("edges", *edges[:, 1:-1].shape)) if options.jitter else edges
            means = self.means_from_differences(rays, edges, seen)
        else:
            means = self.means_from_samples(rays, edges, draw("samples", *edges[:, 1:].shape, options.samples), seen)
        return [self.composite(rays, means, edges, background)], self._penalty(rays, edges, draw)

    def _penalty(self, rays: Rays, edges: Tensor, draw: Draw) -> Tensor | float:
        """What one random stretch per ray, as long as a cell, lacks: a sign, and agreement with another direction."""
        options = self.training_options
        if not options.nonnegative and not options.consistent:
            return 0.0
        u, ends = draw("points", len(rays), 2), edges.shape[-1] - 1
        section = (u[:, :1] * ends).long().clamp_max(ends - 1)
        points = rays.at(torch.lerp(edges.gather(-1, section), edges.gather(-1, section + 1), u[:, 1:])[:, 0])
        depth = self._optical_depth(points, rays.directions)
        penalty = options.nonnegative * torch.relu(-depth).mean()
        if options.consistent:
            other = self._optical_depth(points, rays.directions.roll(1, dims=0))
            opacities = (-torch.expm1(-torch.relu(d)) for d in (depth, other))
            penalty = penalty + options.consistent * torch.stack(list(opacities)).diff(dim=0).square().mean()
        return penalty

    def _optical_depth(self, points: Tensor, directions: Tensor) -> Tensor:
        """Return ∫Ψ_σ over the length of a cell, around ``points`` (P, 3) along ``directions`` (P, 3), as (P,)."""
        half = 0.5 * self.occupancy.cell.expand(len(points), 1)
        ends = torch.cat([-half, half], dim=1)
        return self.integral(Rays(points, directions, ends[:, 0], ends[:, 1]), ends)[..., 0].diff(dim=-1)[:, 0]


@MODELS.register("autoint")
def autoint(
    config: RunConfig,
    occupancy: Occupancy,
    *,
    jitter: bool = True,
    direction_noise: float = 0.0,
    anneal: int = 1,
    nonnegative: float = 0.0,
    consistent: float = 0.0,
    density_frequencies: int | None = None,
) -> AbstractVolume:
    """Integral networks along the rays.

    Args:
        config: the run's configuration.
        occupancy: where the scene is.
        jitter: fit=integral_net moves the edges at random.
        direction_noise: standard deviation of what is added to the direction that the networks are told, in training.
        anneal: every section begins as this many (a power of two), for fit=integral_net.
        nonnegative: weight of a penalty on negative densities inside sections.
        consistent: weight of a penalty on densities that depend on the direction.
        density_frequencies: bands of the direction for the density network, with networks=2; None as for colour.
    """
    options = config.options
    if anneal < 1 or not math.log2(anneal).is_integer():
        raise ValueError(f"model.anneal={anneal} must be a power of two, such as 4; 1 does not anneal")
    for key, value in {
        "direction_noise": direction_noise,
        "nonnegative": nonnegative,
        "consistent": consistent,
    }.items():
        if value < 0:
            raise ValueError(f"model.{key}={value} cannot be negative; 0 leaves it out")
    if density_frequencies is not None and options["networks"] == 1:
        raise ValueError(f"model.density_frequencies={density_frequencies} needs networks=2, density and colour apart")
    if config.fit == "grad_net" and options["samples"] % options["sections"]:
        fits = max(1, options["samples"] // options["sections"]) * options["sections"]
        raise ValueError(
            f"samples={options['samples']} must be a multiple of sections={options['sections']}, for instance "
            f"samples={fits}"
        )
    directions = options["direction_encoding"]
    color = COLORS.build(options["color"], ENCODINGS.build(directions, 3))
    of_density = directions
    if density_frequencies is not None:
        of_density = {**directions, "num_frequencies": density_frequencies}
    heads = (
        [(color.outputs, directions)]
        if options["networks"] == 1
        else [(1, of_density), (color.outputs - 1, directions)]
    )
    nets = [build.integral_net(config, 3, outputs, ENCODINGS.build(choice, 3)) for outputs, choice in heads]
    return IntegralVolume(
        nets,
        [build.grad_net(config, net) for net in nets],
        PLACEMENTS.build(options["placement"], options["sections"], occupancy),
        color,
        occupancy,
        Training(
            fit=config.fit,
            samples=options["samples"] // options["sections"],
            jitter=jitter,
            direction_noise=direction_noise,
            anneal=anneal,
            nonnegative=nonnegative,
            consistent=consistent,
        ),
    )
