"""Volumes: what a model of a scene does to be trained and rendered."""

from __future__ import annotations

import abc
import gc
import logging
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.files.machine import PARTS, each_on_a_thread
from autoint.networks.compilation import Compiled
from autoint.networks.encodings import AbstractEncoding
from autoint.scenes import sections
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering

log = logging.getLogger(__name__)
AT_ONCE = {True: 2**21, False: 2**26}
"""Numbers of a layer that are best rendered together, on a CPU or not: fewer are overhead, more leave its caches."""
LOOK_AFTER, LOOK_EVERY = 500, 50
LOOKED_AT = 4  # chunks whose edges are found together, since most of their rays may miss the scene
Draw = Callable[..., Tensor]
"""``draw(name, *shape)``: this step's random numbers in [0, 1) of that name."""


class AbstractVolume(nn.Module, abc.ABC):
    """A scene that can be rendered along rays.

    Args:
        occupancy: where the scene is.

    Attributes:
        width: of the networks' hidden layers.
    """

    width: int
    signed: Callable[[Tensor], Tensor] | None = None
    """f, points (P, 3) → (P,), below 0 inside, of a model whose surface is f = 0."""

    def __init__(self, occupancy: Occupancy) -> None:
        super().__init__()
        self.occupancy = occupancy

    @property
    @abc.abstractmethod
    def nets(self) -> Iterable[nn.Module]:
        """The networks that are evaluated."""

    def compile_networks(self) -> None:
        """Evaluate the networks through ``torch.compile`` from now on."""
        for net in self.nets:
            net.forward = Compiled(net.forward, self.width)

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """How many evaluations of its networks a rendered ray costs."""

    @property
    def look_ups(self) -> int:
        """How many points of a rendered ray are encoded."""
        return self.evaluations

    @property
    def colors(self) -> int:
        """How many colours a rendered ray is made of."""
        return self.evaluations

    @property
    def fit(self) -> str:
        """How rays are integrated, in a word or two for tables."""
        return "samples"

    @property
    def shares(self) -> bool:
        """Whether ``render`` shares its work among threads by itself."""
        return False

    def at_once(self, device: torch.device) -> int:
        """How many rays a thread best renders together: on a CPU so few that all between layers stays in its caches."""
        return AT_ONCE[device.type == "cpu"] // (self.width * max(self.evaluations, self.look_ups)) + 1

    @property
    def made(self) -> float:
        """How many evaluations were made for a rendered ray that meets the scene, in the mean of all so far."""
        return self.evaluations

    def radiance(self, points: Tensor, directions: Tensor, length: float) -> tuple[Tensor, Tensor]:
        """Return the density (P,) and the colour (P, 3) at ``points`` (P, 3), as seen along ``directions`` (P, 3).

        Of a model that knows sections only, they are those of one of this ``length``; a density below 0 counts as 0.

        Raises:
            ValueError: by a model that has no density at points.
        """
        raise ValueError(f"{type(self).__name__} has no density at points")

    @abc.abstractmethod
    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], Tensor | float]:
        """Render rays for training, after ``used`` of the budget: a rendering per term of the loss, and a penalty."""

    @abc.abstractmethod
    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        """Render rays that have ``edges``, all of which meet the scene; on a CPU, on several threads at once."""

    def edges(self, rays: Rays) -> Tensor:
        """Return where each ray is cut, (R, 2 or more), from where the scene begins to where it ends.

        A ray that misses the scene has edges of no length. On a CPU they are asked for on several threads at once.
        """
        clipped = rays.clipped_to(self.occupancy.lower, self.occupancy.upper)
        return torch.stack([clipped.near, clipped.far], dim=-1)

    def hit(self, rays: Rays) -> Tensor:
        """Return which rays meet the scene, (R,) of bool."""
        return (_length(self.edges(rays.to(self.occupancy.lower.device))) > 0).cpu()

    def total_variation(self, rays: Rays, edges: Tensor, u: Tensor) -> Tensor | float:
        """Return that of what is learned of positions, at K places in sections of each ray: u (R, K) in [0, 1)."""
        place = u * (edges.shape[-1] - 1)
        section = place.long()
        t = torch.lerp(edges.gather(-1, section), edges.gather(-1, section + 1), place - section)
        x = self.points(rays, t)[0].flatten(0, 1)
        found = dict.fromkeys(getattr(module, "encoding", None) for module in self.modules())
        return sum(encoding.total_variation(x) for encoding in found if isinstance(encoding, AbstractEncoding))

    def looks(self, step: int) -> bool:
        """Whether ``look`` is due before this training step."""
        return False

    def look(self, directions: Tensor, g: torch.Generator) -> None:
        """Bring up to date what is learned without a gradient, as seen along some of ``directions`` (R, 3)."""
        return

    def points(self, rays: Rays, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points at t (R, …), in [−1, 1] along the box's longest side, and their velocity ∂x/∂t."""
        return self.in_cube(rays.at(t)), beside(rays.directions, t) * self.scale

    @property
    def scale(self) -> Tensor:
        """What a length of 1 is where the box's longest side is [−1, 1]."""
        return 2 / (self.occupancy.upper - self.occupancy.lower).max()

    def in_cube(self, points: Tensor) -> Tensor:
        """Return where ``points`` (…, 3) are once the box's longest side is [−1, 1] and its middle the origin."""
        return (points - (self.occupancy.lower + self.occupancy.upper) / 2) * self.scale

    def restrict(self, encoding: AbstractEncoding) -> None:
        """Tell ``encoding`` where something may be, now and after loading: in the visual hull and a cell around."""
        encoding.restrict(self._near_hull)
        self.register_load_state_dict_post_hook(lambda model, _: encoding.restrict(model._near_hull))

    def _near_hull(self, points: Tensor) -> Tensor:
        """Return which ``points`` (…, 3), in the cube of ``in_cube``, are in cells of the hull or beside them, (…)."""
        near = F.max_pool3d((self.occupancy.density > 0).float()[None], 3, 1, 1)[0] > 0
        lower, upper = self.occupancy.lower, self.occupancy.upper
        size, scale = len(near), 0.5 * (upper - lower).max()
        # To the last bit as ever, since the rows of trained tables are counted by it.
        cells = ((points * scale + 0.5 * (lower + upper) - lower) * (size / (upper - lower))).floor().long()
        within = ((cells >= -1) & (cells <= size)).all(dim=-1)
        x, y, z = cells.clamp(0, size - 1).unbind(-1)
        return near[x, y, z] & within

    @torch.no_grad()
    def view(self, rays: Rays, background: Tensor, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Render any rays, at most ``chunk_size`` at a time: rgb (R, 3), depth (R,), acc (R,).

        On a CPU the chunk is shared by torch's threads, each of which renders rays of its own.
        Rays that miss the scene are not evaluated: they show the background, at the depth of their far end. At its peak
        the rendering holds less than ``chunk_size`` · n · (3·width + 4·(inputs + outputs)) numbers, whatever the size
        of the image; n are a ray's evaluations, or its look-ups where they are more. Where memory runs out, half of the
        chunk is tried, and so on.
        """
        rgb = background.expand(len(rays), 3).clone()
        depth, acc = rays.far.clone(), torch.zeros_like(rays.far)
        alone = rgb.device.type != "cpu" or self.shares
        threads = 1 if alone else min(torch.get_num_threads(), chunk_size)
        most, parts = chunk_size // threads, 1 if threads == 1 else PARTS * threads
        start, size = 0, min(most, self.at_once(rgb.device))

        def render(part: slice) -> None:
            edges = self.edges(rays[part])
            hit = (_length(edges) > 0).nonzero()[:, 0]
            index, edges = part.start + hit, edges[hit]
            pieces = max(1, -(-len(index) // size))
            for one, cut in zip(index.tensor_split(pieces), edges.tensor_split(pieces), strict=True):
                if len(one):
                    out = self.render(rays[one], cut, background)
                    for whole, seen in ((rgb, out.rgb), (depth, out.depth), (acc, out.acc)):
                        whole[one] = seen.to(whole.dtype)  # which may be shorter in a training of mixed precision

        while start < len(rays):
            some = min(most, LOOKED_AT * size, -(-(len(rays) - start) // parts))
            end = min(start + some * parts, len(rays))
            try:
                each_on_a_thread(render, [slice(a, min(a + some, end)) for a in range(start, end, some)], threads)
            except RuntimeError as error:
                if size == 1 or not out_of_memory(error):
                    raise
            else:
                start = end
                continue
            size = (size + 1) // 2  # outside of the except clause, which keeps the failed chunk's tensors
            gc.collect()
            torch.cuda.empty_cache()
            log.warning("out of memory: going on with %d rays at a time", size)
        return rgb, depth, acc


def beside(directions: Tensor, t: Tensor) -> Tensor:
    """Return directions (R, 3) so that they broadcast with points at t (R, …)."""
    return directions.view(len(directions), *(1,) * (t.ndim - 1), 3)


def _length(edges: Tensor) -> Tensor:
    return edges[:, -1] - edges[:, 0]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the device, or the CPU's allocator, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)


class AbstractSections(AbstractVolume):
    """A scene that is rendered from the sections of its rays.

    Args:
        placement: chooses the section edges; one that is adaptive has the occupancy kept up to date.
        occupancy: where the scene is.
    """

    def __init__(self, placement: sections.AbstractPlacement, occupancy: Occupancy) -> None:
        super().__init__(occupancy)
        self.placement = placement

    @abc.abstractmethod
    def density(self, rays: Rays, t: Tensor) -> Tensor:
        """Return the density at t (R, M) along the rays, (R, M); below 0 it counts as 0."""

    @abc.abstractmethod
    def section_values(self, rays: Rays, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is rendered of each section: its mean density (R, N), likewise, and its colour (R, N, 3)."""

    def estimate(self, points: Tensor, directions: Tensor) -> Tensor:
        """Return the density (P,) around ``points`` (P, 3), as seen along ``directions`` (P, 3), for the occupancy."""
        here = torch.zeros_like(points[:, :1])
        return self.density(Rays(points, directions, here[:, 0], here[:, 0]), here)[:, 0]

    def radiance(self, points: Tensor, directions: Tensor, length: float) -> tuple[Tensor, Tensor]:
        half = torch.full((len(points), 1), 0.5 * length, device=points.device)
        rays = Rays(points, directions, -half[:, 0], half[:, 0])
        density, rgb = self.section_values(rays, torch.cat([-half, half], dim=-1))
        return density[:, 0], rgb[:, 0]

    def edges(self, rays: Rays) -> Tensor:
        return self.placement(rays.clipped_to(self.occupancy.lower, self.occupancy.upper))

    def looks(self, step: int) -> bool:
        return self.placement.adaptive and step >= LOOK_AFTER and step % LOOK_EVERY == 0

    def look(self, directions: Tensor, g: torch.Generator) -> None:
        def density(points: Tensor) -> Tensor:
            some = torch.randint(len(directions), (len(points),), generator=g).to(directions.device)
            return self.estimate(points, directions[some])

        self.occupancy.update(density, 1 / 8, g)
