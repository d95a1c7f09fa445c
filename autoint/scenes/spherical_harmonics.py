"""Real spherical harmonics: colours that depend on the direction, as coefficients that do not."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

HIGHEST = 2
"""The highest degree there is."""


def basis(directions: Float[Tensor, "*r 3"], degree: int) -> Float[Tensor, "*r k"]:
    """Return Y_00, Y_1−1, Y_10, Y_11, Y_2−2 … of unit directions (…, 3), up to ``degree``: (…, (degree + 1)²).

    They are orthonormal over the sphere: ∫ Y_i Y_j dω = δ_ij.
    """
    assert 0 <= degree <= HIGHEST
    x, y, z = directions.unbind(-1)
    out = [torch.full_like(x, 0.28209479177387814)]
    if degree > 0:
        out += [0.4886025119029199 * axis for axis in (y, z, x)]
    if degree > 1:
        out += [1.0925484305920792 * pair for pair in (x * y, y * z)]
        out += [0.31539156525252005 * (3 * z * z - 1), 1.0925484305920792 * x * z]
        out += [0.5462742152960396 * (x * x - y * y)]
    return torch.stack(out, dim=-1)


def colors(coefficients: Float[Tensor, "*n c"], harmonics: Float[Tensor, "*n k"]) -> Float[Tensor, "*n 3"]:
    """Return Σ_k c_k Y_k for red, green and blue: coefficients (…, 3·K), channel by channel, and Y (…, K) → (…, 3)."""
    return (coefficients.unflatten(-1, (3, -1)) * harmonics[..., None, :]).sum(-1)
