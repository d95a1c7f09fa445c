"""Groups of similar patches of a field: what they have in common, noise has not."""

from __future__ import annotations

import numpy as np

STRIDE, REACH, ALIKE = 4, 10, 16
"""Nodes from one patch to the next, and to the farthest similar one; and patches in a group."""
PATCH = 2 * STRIDE  # nodes across a patch


def denoised(image: np.ndarray, deviation: float) -> np.ndarray:
    """Return an image (n, n) without what counts as noise of this deviation in its groups of similar patches."""
    size = len(image)
    padded = np.pad(image, (0, max(-size % STRIDE, PATCH - size)))
    return shrunk(padded, similar(padded), deviation)[:size, :size]


def similar(image: np.ndarray) -> np.ndarray:
    """Return groups of similar patches: numbers of their first nodes in the image's order, (R, ALIKE).

    About every STRIDE-th node stands a group: the patch there, and those within REACH whose sum of squared differences
    from it is least.

    Args:
        image: (n, n), n a multiple of STRIDE.
    """
    size, blocks = len(image), len(image) // STRIDE
    last, beside, steps = size - PATCH, np.pad(image, REACH), np.arange(-REACH, REACH + 1)
    y, x = (v.ravel() for v in np.meshgrid(*[np.arange(blocks - 1) * STRIDE] * 2, indexing="ij"))
    apart = np.empty((len(steps) ** 2, len(y)), np.float32)
    for number, (down, right) in enumerate((a, b) for a in steps for b in steps):
        moved = beside[REACH + down : REACH + down + size, REACH + right : REACH + right + size]
        rows = np.square(image - moved).reshape(blocks, STRIDE, size).sum(1)
        squares = rows.reshape(blocks, blocks, STRIDE).sum(2)  # a patch is two blocks by two
        pairs = squares[:-1] + squares[1:]
        off = (y + down < 0) | (y + down > last) | (x + right < 0) | (x + right > last)
        apart[number] = np.where(off, np.inf, (pairs[:, :-1] + pairs[:, 1:]).ravel())
    own = len(apart) // 2
    apart[own] = -1  # first, where others are no different
    nearest = np.argpartition(apart, ALIKE - 1, axis=0)[:ALIKE]
    nearest = np.where(np.isfinite(np.take_along_axis(apart, nearest, 0)), nearest, own)  # of the few of a small image
    return ((y + steps[nearest // len(steps)]) * size + x + steps[nearest % len(steps)]).T


def shrunk(image: np.ndarray, groups: np.ndarray, deviation: float) -> np.ndarray:
    """Return an image whose groups of similar patches are of low rank, about their means; overlapping ones averaged.

    Each singular value λ of a group of patches of q nodes, without their mean, becomes λ·max(0, 1 − q σ²/λ²), of white
    noise of deviation σ the Wiener filter's gain; a group counts in the mean by the inverse of its rank.
    """
    size, corner = image.shape[1], np.arange(PATCH)
    nodes = groups[..., None] + (corner[:, None] * size + corner).ravel()  # (R, K, q)
    patches = image.ravel()[nodes]
    mean = patches.mean(1, keepdims=True)
    patches -= mean
    energy, vectors = np.linalg.eigh(patches @ patches.transpose(0, 2, 1))
    gain = np.maximum(1 - PATCH**2 * deviation**2 / np.maximum(energy, 1e-20), 0).astype(np.float32)
    patches = (vectors * gain[:, None]) @ (vectors.transpose(0, 2, 1) @ patches) + mean
    weight = np.broadcast_to(1 / (1 + (gain > 0).sum(1))[:, None, None], nodes.shape).ravel()
    total, count = (np.bincount(nodes.ravel(), v, image.size) for v in (weight * patches.ravel(), weight))
    return np.asarray(total / count, np.float32).reshape(image.shape)
