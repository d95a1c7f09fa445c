"""The classics of tomography, by scikit-image and by total variation, for comparison in the same run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from autoint.tomography.data.fans import parallel
from autoint.tomography.data.sinograms import Scan, interpolated
from autoint.tomography.models import LatticeObject
from autoint.tomography.projector import Lattice, projection_matrix, resampled
from autoint.tomography.search import STRENGTHS, STRONGER, Search, coarse_spacing
from autoint.tomography.sparse_gradient import Prior

SART_PASSES, TV_PASSES = 20, 40


@dataclass(frozen=True)
class Filled:
    """What a method makes of the measured views: a whole sinogram (A, P) or None, and an image or None."""

    sinogram: np.ndarray | None
    image: np.ndarray | None


def pixel_lattice(scan: Scan) -> Lattice:
    """Return the lattice of one detector pixel, on which images are compared."""
    return Lattice(1 / scan.radius)


def _columns(views: np.ndarray, theta: np.ndarray, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Return views (A, P) as scikit-image has them, (n, A), in pixels, the axis at n // 2; and their angles in degrees.

    Those of a fan become as many parallel ones over half a turn, bilinear between its rays.
    """
    half = pixel_lattice(scan).half
    pixels = np.arange(-half, half + 1)
    if scan.fan is not None:
        assert scan.center is not None
        angles = np.arange(len(theta)) * np.pi / len(theta)
        rows = parallel(views, theta, scan.center, scan.fan, pixels, angles)
        return rows.T * scan.radius, np.rad2deg(angles)
    rho = pixels / scan.radius
    columns = np.stack([np.interp(rho, scan.rho, view, left=0, right=0) for view in views], 1)
    return columns * scan.radius, np.rad2deg(theta)


def filtered_back_projection(views: np.ndarray, theta: np.ndarray, scan: Scan) -> np.ndarray:
    """Return the image by scikit-image's ``iradon`` with a ramp filter."""
    from skimage.transform import iradon

    return np.asarray(iradon(*_columns(views, theta, scan), circle=True))


def projected(image: np.ndarray, scan: Scan) -> np.ndarray:
    """Return the line integrals of an image, linear between its pixels: (A, P)."""
    lattice = pixel_lattice(scan)
    turned = None if scan.gamma is None else torch.as_tensor(scan.gamma)
    matrix = projection_matrix(lattice, torch.as_tensor(scan.rho), torch.as_tensor(scan.theta), turned)
    return np.asarray(matrix @ image[lattice.inside().numpy()]).reshape(len(scan.theta), len(scan.rho))


def linear(scan: Scan, seen: np.ndarray) -> Filled:
    """Interpolate between the measured angles, linearly."""
    return _interpolation(scan, seen, "linear")


def cubic(scan: Scan, seen: np.ndarray) -> Filled:
    """Interpolate between the measured angles by a cubic spline."""
    return _interpolation(scan, seen, "cubic")


def _interpolation(scan: Scan, seen: np.ndarray, kind: str) -> Filled:
    fan = scan.fan is not None
    filled = interpolated(scan.values[seen], scan.theta[seen], scan.rho, scan.theta, kind, fan)
    return Filled(filled, filtered_back_projection(filled, scan.theta, scan))


def fbp(scan: Scan, seen: np.ndarray) -> Filled:
    """Filtered back-projection of the measured views."""
    return Filled(None, filtered_back_projection(scan.values[seen], scan.theta[seen], scan))


def sart(scan: Scan, seen: np.ndarray) -> Filled:
    """Twenty passes of scikit-image's SART, not negative, and its projection."""
    from skimage.transform import iradon_sart

    image = None
    views, angles = _columns(scan.values[seen], scan.theta[seen], scan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(SART_PASSES):  # the upper bound must be finite: with infinity scikit-image returns NaN
            image = iradon_sart(views, angles, image, clip=(0, 1e6))
    assert image is not None
    return Filled(projected(image, scan), image)


def total_variation(scan: Scan, seen: np.ndarray) -> Filled:
    """Least squares with total variation, not negative; its strength by held-out measured views; and its projection.

    By the closed-form projector and solver of the object, with p = 1, without the interpolated remainder.
    """
    spacing = coarse_spacing(scan.radius) / scan.radius
    model = LatticeObject(scan.values[seen], scan.theta[seen], scan.rho, spacing, gamma=scan.gamma)
    strengths = (*STRENGTHS, *(prior.strength for prior in STRONGER if prior.exponent == 1))
    search = Search(model, [(spacing, Prior(1.0, strength)) for strength in strengths], TV_PASSES)
    for step in range(search.steps):
        search.advance(step)
    filled = model.integrals(scan.rho, scan.theta)
    return Filled(filled, resampled(model.absorption(), model.lattice, pixel_lattice(scan)))


METHODS: dict[str, Callable[[Scan, np.ndarray], Filled]] = {
    "linear": linear,
    "cubic": cubic,
    "FBP": fbp,
    "SART": sart,
    "TV": total_variation,
}
