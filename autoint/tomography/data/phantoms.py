"""Objects that are known: Shepp and Logan's head phantom, as an image and as ellipses, and one's own image."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from autoint.registry import PHANTOMS
from autoint.tomography.data.fans import Fan
from autoint.tomography.data.sinograms import Scan

SIZE = 128
SHEPP_LOGAN = (  # absorption, half axes, centre, degrees from the x axis: Toft's high-contrast values
    (1.0, 0.69, 0.92, 0.0, 0.0, 0),
    (-0.8, 0.6624, 0.8740, 0.0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
)


def angles_of(theta: int | None) -> np.ndarray:
    """Return ``theta`` angles (128 if None), evenly over half a turn."""
    count = theta or SIZE
    return np.arange(count) * math.pi / count


def line_integrals(ellipses: tuple[tuple[float, ...], ...], rho: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return ∫ along the lines (ρ, θ) through filled ellipses, exactly: (A, P), of angles (A,) or one for each, (A, P).

    An ellipse with half axes a, b and absorption m adds 2mab·√(q² − d²)/q², q² = a²cos²(θ − φ) + b²sin²(θ − φ), at the
    distance d of the line from its centre (Kak and Slaney, Principles of Computerized Tomographic Imaging, eq. 3.6).
    """
    total, theta = np.zeros((len(theta), len(rho))), theta if theta.ndim == 2 else theta[:, None]
    for m, a, b, x, y, degrees in ellipses:
        turned = theta - math.radians(degrees)
        q = (a * np.cos(turned)) ** 2 + (b * np.sin(turned)) ** 2
        d = rho - (x * np.cos(theta) + y * np.sin(theta))
        total += 2 * m * a * b * np.sqrt(np.clip(q - d**2, 0, None)) / q
    return total


def absorption(ellipses: tuple[tuple[float, ...], ...], rho: np.ndarray) -> np.ndarray:
    """Return the object at the points (ρ_j, −ρ_i), (P, P)."""
    total = np.zeros((len(rho), len(rho)))
    for m, a, b, x, y, degrees in ellipses:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        across, up = rho[None] - x, -rho[:, None] - y
        total += m * (((across * c + up * s) / a) ** 2 + ((up * c - across * s) / b) ** 2 <= 1)
    return total


@PHANTOMS.register("ellipses")
def ellipses(
    data_dir: str, rho: int | None, theta: int | None, *, source: float | None = None, curved: bool = False
) -> Scan:
    """Shepp and Logan's phantom as ten ellipses, with exact line integrals.

    Args:
        data_dir: is not used.
        rho: detector pixels.
        theta: angles, over half a turn, or a whole one of a fan.
        source: of a fan beam: its distance from the detector in pixels; None: parallel rays.
        curved: whether the fan's detector is an arc about the source.
    """
    pixels, angles = rho or SIZE, angles_of(theta)
    fan = None if source is None else Fan(source, curved).checked(pixels // 2)
    angles = angles if fan is None else 2 * angles
    scan = Scan(np.zeros((len(angles), pixels)), angles, center=float(pixels // 2), fan=fan)
    lines = angles if scan.gamma is None else angles[:, None] - scan.gamma
    half = int(scan.radius)  # of the lattice of one detector pixel, or the pixels themselves
    at = scan.rho if fan is None else np.arange(-half, half + 1) / scan.radius
    return replace(scan, values=line_integrals(SHEPP_LOGAN, scan.rho, lines), image=absorption(SHEPP_LOGAN, at))


@PHANTOMS.register("shepp_logan")
def shepp_logan(data_dir: str, rho: int | None, theta: int | None) -> Scan:
    """Shepp and Logan's phantom as scikit-image has it: an image, projected by its ``radon``."""
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    size = rho or SIZE
    return projected(resize(shepp_logan_phantom(), (size, size), anti_aliasing=False), theta)


@PHANTOMS.register("image")
def image(data_dir: str, rho: int | None, theta: int | None, *, path: str = "") -> Scan:
    """One's own image, grey, scaled to ``rho`` pixels, projected by scikit-image's ``radon``.

    Args:
        data_dir: where a relative path begins.
        rho: detector pixels; None keeps the image's longer side.
        theta: angles.
        path: of the picture; what lies outside of the inscribed circle is taken for empty.
    """
    from autoint.files.images import read_rgba

    if not path:
        raise ValueError("phantom.path is empty: give the picture's file, as in phantom=image phantom.path=FILE")
    rgba, _ = read_rgba(Path(data_dir) / path, None)
    grey = (rgba[..., :3].double() @ rgba.new_tensor([0.2126, 0.7152, 0.0722]).double()).numpy()
    size = rho or max(grey.shape)
    square = np.zeros((max(grey.shape),) * 2, np.float32)
    top, left = ((len(square) - n) // 2 for n in grey.shape)
    square[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
    return projected(np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BOX), float), theta)


def projected(image: np.ndarray, theta: int | None) -> Scan:
    """Return scikit-image's scan of a square image, whose pixel (n//2, n//2) is the axis of rotation."""
    from skimage.transform import radon

    size, angles = len(image), angles_of(theta)
    if size < 4:
        raise ValueError(f"phantom: a picture of {size}×{size} pixels; at least 4×4 are needed")
    scan = Scan(np.zeros((len(angles), size)), angles, center=float(size // 2))
    inside = scan.rho**2 + scan.rho[:, None] ** 2 <= 1
    image = image * inside
    if not image.any():
        raise ValueError("phantom: the picture is black within its inscribed circle; there is nothing to reconstruct")
    values = radon(image, np.rad2deg(angles), circle=True).T / scan.radius
    return Scan(values, angles, scan.center, image=image)
