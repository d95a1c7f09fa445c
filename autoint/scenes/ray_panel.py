"""One ray, looked at: the density along it, its sections, what each of them adds, and where it is in the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autoint.files.whole_files import write_whole
from autoint.reports import charts
from autoint.reports.pictures import write_figure
from autoint.scenes.rays import Rays
from autoint.scenes.volume import AbstractSections

NUM_SAMPLES = 1000


@dataclass(frozen=True)
class RayProfile:
    """What a volume knows along one ray, on the CPU.

    Attributes:
        t: where the density is sampled, (P,).
        density: there, (P,); what is below 0 is rendered as 0.
        edges: of the sections, (N+1,).
        mean_density: the sections' means, (N,).
        mean_rgb: their colours, (N, 3).
        weights: what each section adds to the pixel, (N,).
        rgb: the pixel, (3,).
    """

    t: Tensor
    density: Tensor
    edges: Tensor
    mean_density: Tensor
    mean_rgb: Tensor
    weights: Tensor
    rgb: Tensor


@torch.no_grad()
def ray_profile(volume: AbstractSections, rays: Rays, background: Tensor) -> RayProfile:
    """Return what ``volume`` knows along the first of ``rays``. The only place that asks a volume for its insides."""
    ray = rays[:1]
    t = ray.clipped_to(volume.occupancy.lower, volume.occupancy.upper).even_edges(NUM_SAMPLES)
    edges = volume.edges(ray)
    mean_density, mean_rgb = volume.section_values(ray, edges)
    out = volume.render(ray, edges, background)
    values = t, volume.density(ray, t), edges, mean_density, mean_rgb, out.weights, out.rgb
    return RayProfile(*(value[0].detach().float().cpu() for value in values))


def pixel_of(ray: list[int] | str, shape: tuple[int, int], error: Tensor, hit: Tensor) -> tuple[int, int]:
    """Return the (row, column) that was asked for; ``auto``: the largest error (H·W,) of rays that meet the scene."""
    height, width = shape
    if ray == "auto":
        row, column = divmod(int(torch.where(hit, error, -1).argmax()), width)
        return row, column
    row, column = int(ray[0]), int(ray[1])
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"ray=[{row},{column}] must be [row,column] inside the image, which has {height} x {width}")
    if not bool(hit[row * width + column]):
        raise ValueError(f"ray=[{row},{column}] misses the scene: it shows the background; use ray=auto or another")
    return row, column


def draw_ray(file: Path, profile: RayProfile) -> Path:
    """Write the two plots of :func:`write_ray` alone, as a small SVG."""
    one = {key: value.tolist() for key, value in vars(profile).items() if key != "rgb"}
    return write_whole(file, charts.ray(**one).encode())


def write_ray(file: Path, name: str, pixel: tuple[int, int], truth: Tensor, image: Tensor, profile: RayProfile) -> Path:
    """Write the panel of one ray through an image: ``truth`` and ``image`` (H, W, 3), the ray's ``pixel`` and profile.

    Two plots over t, the density with its section means above and the weights, as bars in their sections' colours,
    below; beside them the two images with the ray marked.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), layout="constrained")
    axes = figure.subplot_mosaic([["density", "truth"], ["weights", "image"]], width_ratios=[3, 1])
    _plot_profile(axes["density"], axes["weights"], profile)
    row, column = pixel
    for key, title, shown in (("truth", "truth", truth), ("image", "rendering", image)):
        axes[key].imshow(shown.clamp(0, 1).numpy(), interpolation="nearest")
        axes[key].plot(column, row, "o", mfc="none", mec="white", ms=13, mew=4)
        axes[key].plot(column, row, "o", mfc="none", mec="tab:red", ms=13, mew=2)
        color = ", ".join(f"{value:.2f}" for value in shown[row, column].tolist())
        axes[key].set_title(f"{title}: {color}", fontsize=10)
        axes[key].set(xticks=[], yticks=[])
    figure.suptitle(f"{name}, the ray through row {row}, column {column}", fontsize=11)
    return write_figure(file, figure, dpi=110)


def _plot_profile(upper: object, lower: object, profile: RayProfile) -> None:
    from matplotlib.axes import Axes

    assert isinstance(upper, Axes)
    assert isinstance(lower, Axes)
    edges = profile.edges.numpy()
    upper.plot(profile.t.numpy(), profile.density.numpy(), color="black", lw=1.2, label="along the ray")
    upper.stairs(profile.mean_density.numpy(), edges, color="tab:blue", lw=2, label="means of sections")
    upper.axhline(0, color="black", lw=0.6)
    upper.set(ylabel="density σ (below 0: empty)")
    upper.tick_params(labelbottom=False)
    upper.legend(fontsize=8, loc="upper right")
    colors = profile.mean_rgb.clamp(0, 1).numpy()
    lower.bar(edges[:-1], profile.weights.numpy(), profile.edges.diff().numpy(), align="edge", color=colors, ec="grey")
    lower.set(ylabel="weight of the section's colour", xlabel=f"t, {len(edges) - 1} sections", ylim=(0, None))
    for plot in (upper, lower):
        plot.vlines(edges, 0, 1, transform=plot.get_xaxis_transform(), color="tab:blue", lw=0.5, alpha=0.5)
        plot.set_xlim(float(profile.t[0]), float(profile.t[-1]))
