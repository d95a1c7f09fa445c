"""A look at a scene before it is trained: what a wrong convention looks like is seen at once."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoint.registry import COMMANDS
from autoint.reports import metrics
from autoint.reports.pictures import write_figure
from autoint.runs.command_line.from_python import composed
from autoint.scenes.camera_paths import centre, up_axis
from autoint.scenes.data.views import Views, evenly
from autoint.scenes.evaluation import scene_name
from autoint.scenes.occupancy import Occupancy, visual_hull
from autoint.scenes.task import load_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES, CELLS, RAYS = 8, 4000, 5
PAIRS = [(0, 1), (0, 2), (0, 4), (1, 3), (1, 5), (2, 3), (2, 6), (3, 7), (4, 5), (4, 6), (5, 7), (6, 7)]
"""The edges of a box, by the numbers of its corners."""


def look(views: Views, name: str, file: Path) -> str:
    """Draw a scene's cameras, images, box, hull and the rays of an image; return what is to be known, a line.

    From above and from aside: the cameras as pyramids, the box, what the visual hull leaves of it, and rays of the
    first view where they are inside of it. Below, images with the box and the hull as their cameras see them.
    """
    from matplotlib.figure import Figure

    occupancy = visual_hull(views)
    shown = evenly(len(views), IMAGES)
    figure = Figure(figsize=(13, 10), layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=(2, 1, 1))
    up = up_axis(views.poses.double()).float()
    right = torch.nn.functional.normalize(torch.linalg.cross(up, _least_parallel(up)), dim=0)
    ahead = torch.linalg.cross(up, right)
    for panel, axes, title in ((grid[0, :2], (right, ahead), "from above"), (grid[0, 2:], (right, up), "from aside")):
        _map(figure.add_subplot(panel), views, occupancy, torch.stack(axes, dim=-1), title)
    for place, view in enumerate(shown):
        _image(figure.add_subplot(grid[1 + place // 4, place % 4]), views, view, occupancy)
    met = torch.cat([views.rays_of(v).clipped_to(occupancy.lower, occupancy.upper).hit for v in range(len(views))])
    size = " × ".join(f"{side:.4g}" for side in (occupancy.upper - occupancy.lower).tolist())
    hull = float((occupancy.density > 0).float().mean())
    told = (
        f"{name}: {len(views)} training views of {views.images.shape[2]}×{views.images.shape[1]}, box of {size}, hull "
        f"{hull:.0%} of it, near {views.near:.4g}, far {views.far:.4g}; {met.float().mean():.1%} of rays meet the box"
    )
    figure.suptitle(told, fontsize=10)
    write_figure(file, figure, dpi=100)
    return told


def _least_parallel(up: Tensor) -> Tensor:
    return torch.eye(3)[int(up.abs().argmin())]


def corners(occupancy: Occupancy) -> Tensor:
    """Return the corners of the box, (8, 3), x slowest."""
    return torch.cartesian_prod(*torch.stack([occupancy.lower, occupancy.upper], dim=-1))


def cells(occupancy: Occupancy) -> Tensor:
    """Return the middles of the hull's cells, (P, 3), at most ``CELLS``; none where the hull is the whole box."""
    inside = occupancy.density > 0
    if bool(inside.all()):
        return torch.empty(0, 3)
    found = inside.nonzero()
    found = found[evenly(len(found), CELLS)]
    return occupancy.lower + (found + 0.5) * (occupancy.upper - occupancy.lower) / len(occupancy.density)


def chords(views: Views, occupancy: Occupancy) -> Tensor:
    """Return where rays of the first image enter the box and where they leave it, (R, 2, 3)."""
    k, steps = views.intrinsics, torch.linspace(0.5, 0, RAYS + 1)[:-1].flip(0)
    grid = torch.cat([steps, 1 - steps])
    x, y = torch.cartesian_prod(grid * k.width, grid * k.height).unbind(-1)
    rays = views.through(torch.zeros(len(x), dtype=torch.long), x, y).clipped_to(occupancy.lower, occupancy.upper)
    return rays[rays.hit].at(torch.stack([rays.near, rays.far], dim=-1)[rays.hit])


def show(views: Views, port: int = 8080) -> Any:
    """Return a server that shows cameras, images, box, hull and the rays of an image in the browser.

    Args:
        views: the scene.
        port: 0, or one that is taken, for any that is free.
    """
    from autoint.scenes.viewer import add_cameras, start

    server = start("127.0.0.1", port)
    scene = server.scene
    scene.set_up_direction(tuple(up_axis(views.poses.double()).tolist()))
    add_cameras(scene, views)
    if views.device is None:  # the others' box is that of their device coordinates
        occupancy = visual_hull(views)
        sides, inside = corners(occupancy)[torch.tensor(PAIRS)].numpy(), cells(occupancy).numpy()
        scene.add_line_segments("/box", sides, colors=(214, 39, 40))
        scene.add_line_segments("/rays", chords(views, occupancy).numpy(), colors=(44, 160, 44))
        if len(inside):
            scene.add_point_cloud("/hull", inside, colors=(150, 150, 150), point_size=0.3 * float(occupancy.cell))
    return server


def _map(axes: Axes, views: Views, occupancy: Occupancy, plane: Tensor, title: str) -> None:
    """Draw the scene as projected on a plane, by two axes (3, 2)."""
    poses, k = views.poses, views.intrinsics
    reach = 0.15 * float((poses[:, :3, 3] - centre(poses.double()).float()).norm(dim=-1).median())
    for view in range(len(views)):
        x, y = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1]]) * torch.tensor([[k.width], [k.height]])
        a, b = k[view].local(x.float(), y.float())
        rim = torch.stack([a, -b, -torch.ones(4)], dim=-1) * reach @ poses[view, :3, :3].T + poses[view, :3, 3]
        eye = poses[view, :3, 3] @ plane
        for corner in rim @ plane:
            _line(axes, torch.stack([eye, corner]), "tab:blue", 0.5)
        _line(axes, torch.cat([rim, rim[:1]]) @ plane, "tab:blue", 0.8)
    if views.device is None:  # the others' box is that of their device coordinates
        found, edges = cells(occupancy) @ plane, corners(occupancy) @ plane
        axes.plot(found[:, 0].numpy(), found[:, 1].numpy(), ".", color="0.75", ms=2, zorder=0)
        for pair in PAIRS:
            _line(axes, edges[list(pair)], "tab:red", 1.0)
        for ends in chords(views, occupancy) @ plane:
            _line(axes, ends, "tab:green", 0.5)
    axes.set(title=title, aspect="equal")


def _line(axes: Axes, points: Tensor, color: str, width: float) -> None:
    axes.plot(points[:, 0].numpy(), points[:, 1].numpy(), "-", color=color, lw=width)


def _image(axes: Axes, views: Views, view: int, occupancy: Occupancy) -> None:
    """Show an image, with the box and the hull as its camera sees them."""
    axes.imshow(metrics.over(views.images[view], torch.ones(3)).clamp(0, 1).numpy(), extent=_extent(views))
    if not bool(occupancy.density.gt(0).all()):
        x, y, depth = views.project(view, cells(occupancy))
        axes.plot(x[depth > 0].numpy(), y[depth > 0].numpy(), ".", color="tab:green", ms=0.5, alpha=0.4)
    x, y, depth = views.project(view, corners(occupancy))
    for pair in PAIRS:
        if bool((depth[list(pair)] > 0).all()):
            _line(axes, torch.stack([x, y], dim=-1)[list(pair)], "tab:red", 1.0)
    axes.set(title=views.names[view], xticks=[], yticks=[])
    axes.set(xlim=(0, views.intrinsics.width), ylim=(views.intrinsics.height, 0))


def _extent(views: Views) -> Any:
    return 0, views.intrinsics.width, views.intrinsics.height, 0


@COMMANDS.register("look")
def main(arguments: list[str]) -> None:
    """A scene before training, cameras, box and rays, as a picture and in the browser: autoint look scene=FOLDER."""
    parser = argparse.ArgumentParser(prog="autoint look", description=(main.__doc__ or "").partition(":")[0])
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="as for train: scene=FOLDER image_size=200")
    parser.add_argument("--to", type=Path, default=Path("look.png"), metavar="FILE", help="the picture (look.png)")
    parser.add_argument("--no-viewer", action="store_true", help="only the picture, also where viser is installed")
    given = parser.parse_args(arguments)
    for word in given.words:
        if "=" not in word:
            raise ValueError(f"'{word}': not an argument of look; give KEY=VALUE as for train, such as scene={word}")
    config, _ = composed(["task=volrend", *given.words])
    views = load_views(config, "train")
    print(look(views, scene_name(config), given.to))
    print(f"picture: {given.to}")
    if given.no_viewer or not sys.stdout.isatty():
        return
    if importlib.util.find_spec("viser") is None:
        print("to turn it in a browser: pip install 'autoint[viewer]'")
        return
    server = show(views)
    print(f"http://127.0.0.1:{server.get_port()}\nCtrl-C ends it", flush=True)
    wait()
    with contextlib.redirect_stdout(None):  # where it would say so
        server.stop()


def wait() -> None:
    """Wait for Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
