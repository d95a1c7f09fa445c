"""A field with a sparse gradient, and little that is negative, that explains measured line integrals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from autoint.tomography.patches import denoised
from autoint.tomography.projector import Lattice

ROUGH, FINE = 0.5, 5e-4  # ε: differences below it count as none; it shrinks over the first 80 % of the passes
SOLVER_STEPS, SHORT = 15, 8  # of conjugate gradients in a pass, and in one between two looks at the patches
CLOSE = 5.0  # how closely the field follows its denoised patches, in terms of the mean diagonal of AᵀA
NOISIER = 3.0  # times its deviation that noise is taken to have at first; once over the first 60 % of the passes
FLAT = 5e-3  # ε where patches tell what is flat


@dataclass(frozen=True)
class Prior:
    """How much a field may change from node to node: λ/p Σ |∇c|ᵖ, total variation for p = 1, sparser for p < 1.

    Attributes:
        exponent: p.
        strength: λ.
        deviation: of what counts as noise in groups of similar patches; zero leaves patches as they are.
    """

    exponent: float
    strength: float
    deviation: float = 0.0


class SparseGradient:
    """Minimises ½ Σ w (A c − y)² + λ/p Σ_k (|∇c|_k² + ε²)^{p/2} + ½μ|min(c, 0)|², by least squares of changing weights.

    With a deviation also + ½η|c − z|², where z is c with its similar patches denoised, anew in every pass, and then the
    field: half quadratic splitting of a prior by which groups of them are of low rank (Dong, Shi and Li, Nonlocal image
    restoration with bilateral variance estimation: a low-rank approach, 2013).

    Each pass replaces the prior by the parabola that touches it from above at the present c, and takes a few steps of
    conjugate gradients, preconditioned by the diagonal, towards the minimum of the sum. μ is the mean diagonal of AᵀA.

    Args:
        matrix: A, (M, K).
        transposed: Aᵀ, by rows too.
        measured: y, (M,), of largest magnitude 1 or so, as ε and λ are.
        lattice: whose K nodes c lives on; it is zero outside.
        prior: p and λ.
        weights: w, (M,), of mean 1 or so; None weighs all alike.
    """

    def __init__(
        self,
        matrix: csr_matrix,
        transposed: csr_matrix,
        measured: np.ndarray,
        lattice: Lattice,
        prior: Prior,
        weights: np.ndarray | None = None,
    ) -> None:
        self.matrix, self.transposed, self.prior = matrix, transposed, prior
        self.inside = lattice.inside().numpy()
        w = np.ones(len(measured), np.float32) if weights is None else weights.astype(np.float32)
        self.weights = None if weights is None else w
        self.right = self.transposed @ (w * measured.astype(np.float32))
        self.diagonal = np.asarray(self.transposed.power(2) @ w).astype(np.float32)

    def step(self, c: np.ndarray, done: float) -> np.ndarray:
        """Return the field after one pass; ``done`` is the share of the passes before it."""
        p, lam, patches = self.prior.exponent, self.prior.strength, self.prior.deviation > 0
        image = np.zeros(self.inside.shape, np.float32)
        image[self.inside] = c
        right, down = self._gradient(image)
        epsilon = FLAT if patches else ROUGH * (FINE / ROUGH) ** min(1.0, done / 0.8)
        weights = lam * (right**2 + down**2 + np.float32(epsilon**2)) ** (p / 2 - 1)
        mean = self.diagonal.mean()
        close = np.float32(CLOSE * mean if patches else 0)
        negative = np.where(c < 0, mean, 0).astype(np.float32) + close
        steepness = self.diagonal + 4 * weights[self.inside] + negative + np.float32(1e-9)

        def times(v: np.ndarray) -> np.ndarray:
            image[self.inside] = v
            right, down = self._gradient(image)
            right, down = right * weights, down * weights
            total = -right - down
            total[:, 1:] += right[:, :-1]
            total[1:] += down[:-1]
            lines = self.matrix @ v
            if self.weights is not None:
                lines *= self.weights
            return self.transposed @ lines + total[self.inside] + negative * v

        if not patches:
            return conjugate_gradients(times, self.right, c, steepness)
        image[self.inside] = conjugate_gradients(times, self.right + close * c, c, steepness, SHORT)
        deviation = self.prior.deviation * NOISIER ** (1 - min(1.0, done / 0.6))
        return denoised(image, deviation)[self.inside]

    @staticmethod
    def _gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right, down = np.zeros_like(image), np.zeros_like(image)
        right[:, :-1], down[:-1] = np.diff(image, axis=1), np.diff(image, axis=0)
        return right, down


def conjugate_gradients(times, right, x, diagonal, steps: int = SOLVER_STEPS):  # type: ignore[no-untyped-def]
    """Return x after a few steps towards the solution of times(x) = right."""
    residual = right - times(x)
    z = residual / diagonal
    direction, size = z, float(residual @ z)
    for _ in range(steps):
        if size <= 1e-20:
            break
        image = times(direction)
        length = size / float(direction @ image)
        x, residual = x + np.float32(length) * direction, residual - np.float32(length) * image
        z = residual / diagonal
        before, size = size, float(residual @ z)
        direction = z + np.float32(size / before) * direction
    return x
