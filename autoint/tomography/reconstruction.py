"""An object from a sinogram in one call."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import trange

from autoint.registry import at_least_one
from autoint.tomography import evaluation
from autoint.tomography.classics import Filled
from autoint.tomography.data.scans import check_sinogram, checked_span, measured, rows_are_views, seen_by
from autoint.tomography.data.sinograms import Scan, noise_level
from autoint.tomography.models import LatticeObject
from autoint.tomography.search import Search, check_prior, trials_of
from autoint.tomography.sparse_gradient import Prior

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` has found.

    Attributes:
        image: attenuation per pixel, or per unit of length, (n, n) in float32, rows from the top, the axis of rotation
            in the middle; what little is negative in the fit is cut, so that its mass is that much larger.
        sinogram: line integrals at `angles`, between the measured views too, (A', P).
        angles: of these, in radians, (A',).
        held_out_error: root mean square error at measured views that a fit had not seen, noise and all: what to expect
            at most between the views, since those beside a held-out one are farther apart. None without such a fit.
        noise: standard deviation of the noise of the measured views, estimated from these alone; of views without noise
            it is what their pixels do not resolve.
        explained: share of the measured views, 1 − Σ(s − ∫Ψ)²/Σs².
        prior: exponent and strength of the sparse gradient, and the deviation of noise in similar patches.
        scan: the measured views in order of their angles, with the axis of rotation in `scan.center`.
    """

    image: Float[np.ndarray, "n n"] = field(repr=False)
    sinogram: Float[np.ndarray, "a p"] = field(repr=False)
    angles: Float[np.ndarray, "a"] = field(repr=False)
    held_out_error: float | None
    noise: float
    explained: float
    prior: Prior
    scan: Scan = field(repr=False)

    @property
    def error(self) -> float | None:
        """Root mean square error to expect between the measured views: the held-out error without the noise in it."""
        if self.held_out_error is None:
            return None
        return math.sqrt(max(self.held_out_error**2 - self.noise**2, 0.0))

    def figure(self) -> Figure:
        """Draw the measured views, the filled sinogram, and the image with its unit."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 4), layout="constrained")
        panels, high = figure.subplots(1, 3), float(self.scan.values.max())
        degrees = np.degrees(self.scan.theta), np.degrees(self.angles)
        views = {"measured": self.scan.values, "filled": self.sinogram}
        for axes, (name, values), at in zip(panels, views.items(), degrees, strict=False):
            axes.pcolormesh(
                self.scan.rho, at, values, cmap="gray", vmin=0, vmax=high, shading="nearest", rasterized=True
            )
            axes.set(title=f"{len(values)} views, {name}", xlabel="ρ", ylabel="θ / degrees")
            axes.invert_yaxis()
        shown = panels[2].imshow(self.image, cmap="gray", vmin=0, vmax=float(np.percentile(self.image, 99.9)))
        panels[2].set_title(
            "object"
            if self.error is None
            else f"object; error between the views {self.error / high:.2%} of the largest"
        )
        panels[2].axis("off")
        figure.colorbar(shown, ax=panels[2], label=self.scan.pixel_units[1])
        return figure

    def save(self, folder: str | Path) -> Path:
        """Write `slice.npy`, `slice.tif`, `sinogram.npy` and `reconstruction.png` into a folder; return it."""
        from autoint.reports.pictures import write_figure

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        evaluation.write_slice(folder, self.image)
        evaluation.write_numbers(folder / "sinogram.npy", self.sinogram)
        write_figure(folder / "reconstruction.png", self.figure(), dpi=evaluation.DPI)
        return folder


def reconstruct(
    sinogram: Any,
    theta: Any,
    *,
    angles: Any = None,
    unit: str = "degrees",
    transpose: bool | None = None,
    center: float | None = None,
    pixel_size: float | None = None,
    source: float | None = None,
    axis: float | None = None,
    curved: bool = False,
    padding: float = 0.0,
    spacing: float | None = None,
    exponent: float | None = None,
    strength: float | None = None,
    patches: float | None = None,
    counted: bool = False,
    passes: int = 60,
    progress: bool = True,
) -> Reconstruction:
    """Return the object behind a sinogram, of parallel rays or a fan's, and the views between those that were measured.

    Ψ on a lattice, whose line integrals are closed-form, minimises ½‖∫Ψ − s‖² + λ/p Σ|∇Ψ|ᵖ and a penalty of what is
    negative; lattice, p and λ are those that do best at every fourth *measured* view while the fit does not see it. Of
    noisy views groups of similar patches of Ψ have a low rank besides, where that does better there.

    Args:
        sinogram: s = −log of the transmission, a row for each view, (A, P).
        theta: angle of each view, over one turn at most, in any order, (A,).
        angles: of the sinogram to return, any; by default as many as there are pixels, evenly over half a turn, or a
            whole one of a fan.
        unit: of `theta` and `angles`: `degrees` or `radians`.
        transpose: whether the sinogram has a column for each view; None takes rows, unless they cannot be views.
        center: pixel of the axis of rotation; None finds it.
        pixel_size: of the detector; the image is per this unit of length, and per pixel by default.
        source: of a fan, at (sin θ, −cos θ) from the axis: its distance from the detector, in pixels or in the unit
            of `pixel_size`; None: parallel rays.
        axis: of rotation: its distance from a fan's source likewise; None: pixels are of the size at the axis.
        curved: whether the fan's detector is an arc about the source.
        padding: how far the object reaches beyond what the detector sees, as a share of that.
        spacing: of the lattice in pixels; None chooses, as for the next two.
        exponent: p, 1 for total variation and less for sparser gradients.
        strength: λ, of a sinogram whose largest value is 1.
        patches: deviation of what counts as noise in similar patches; None chooses, where the views are noisy.
        counted: weigh lines by the light that they let through, exp(−s): for the noise of few photons.
        passes: of the last fit.
        progress: whether to draw a bar.

    Raises:
        ValueError: for a sinogram or angles that cannot be meant, in one line.

    Examples:
        >>> from autoint.tomography import reconstruct
        >>> theta = np.arange(0, 180, 15)
        >>> rho = np.arange(-12, 13) / 12 + 0.2 * np.cos(np.deg2rad(theta))[:, None]  # a disc beside the axis
        >>> disc = 0.1 * np.sqrt(np.maximum(0.3 - rho**2, 0))
        >>> found = reconstruct(disc, theta, center=12.0, passes=20, progress=False)
        >>> found.image.shape, found.sinogram.shape, found.explained > 0.98
        ((25, 25), (25, 25), True)
    """
    at_least_one(passes=passes)
    check_prior(spacing, exponent, strength, patches)
    try:
        values = np.array(sinogram, dtype=float)
        if values.ndim != 2 or min(values.shape) < 2:
            raise ValueError(f"sinogram: shape {values.shape}; expected (angles, detector pixels), each at least 2")
        values = rows_are_views("sinogram", values, np.size(theta), transpose)
        check_sinogram("sinogram", values)
        scan = measured("sinogram", values, theta, center, unit, pixel_size)
        scan = seen_by(scan, source, axis, curved, padding, "")
        scan = scan.centred(np.arange(len(scan.theta)))
        at = scan.turn(len(scan.rho)) if angles is None else np.asarray(angles, float).ravel()
        if angles is not None:
            checked_span("angles", at, unit)
            at = np.deg2rad(at) if unit == "degrees" else at
    except ValueError as error:
        raise ValueError(str(error).replace("phantom.", "")) from None
    obj = LatticeObject(scan.values, scan.theta, scan.rho, counted=counted, gamma=scan.gamma)
    search = Search(obj, trials_of(spacing, exponent, strength, patches, scan.radius), passes)
    for step in trange(search.steps, desc="passes", leave=False, disable=not progress):
        search.advance(step)
    share = evaluation.explained(obj.integrals(scan.rho, scan.theta), scan.values, "the object")
    held_out = float(search.scores.min()) if search.tried else math.inf
    return Reconstruction(
        evaluation.slice_of(Filled(None, evaluation.image_of(obj, scan)), scan),
        obj.sinogram(scan.rho, at),
        at,
        math.sqrt(held_out) * float(obj.scale) if math.isfinite(held_out) else None,
        noise_level(scan.values),
        share,
        search.best[1],
        scan,
    )
