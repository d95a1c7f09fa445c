"""Quadrature on given edges: nodes inside each section, and weights that sum to 1 there (so that they form means)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def _place(edges: Float[Tensor, "*r n_plus_1"], fractions: Tensor) -> Float[Tensor, "*r n m"]:
    left, delta = edges[..., :-1, None], edges.diff(dim=-1)[..., None]
    return left + delta * fractions


def stratified(
    edges: Float[Tensor, "*r n_plus_1"], u: Float[Tensor, "*r n m"]
) -> tuple[Float[Tensor, "*r n m"], Float[Tensor, " m"]]:
    """One sample in each of M equal bins of every section (paper, after eq. 18).

    t_{i,j} ~ U(t_{i−1} + (j−1)/M δ_i, t_{i−1} + j/M δ_i).

    Args:
        edges: t_0 … t_N, (…, N+1), in units of length.
        u: where in its bin each sample lies, uniform in [0, 1).

    Returns:
        nodes (…, N, M) and node_weights (M,), equal and of sum 1.
    """
    num_samples = u.shape[-1]
    bins = torch.arange(num_samples, dtype=edges.dtype, device=edges.device)
    return _place(edges, (bins + u) / num_samples), edges.new_full((num_samples,), 1 / num_samples)


def midpoint(
    edges: Float[Tensor, "*r n_plus_1"], num_samples: int
) -> tuple[Float[Tensor, "*r n m"], Float[Tensor, " m"]]:
    """Centres of ``num_samples`` equal bins of every section: nodes (…, N, M), node_weights (M,); error O(M⁻²)."""
    bins = torch.arange(num_samples, dtype=edges.dtype, device=edges.device)
    return _place(edges, (bins + 0.5) / num_samples), edges.new_full((num_samples,), 1 / num_samples)


def gauss_legendre(
    edges: Float[Tensor, "*r n_plus_1"], num_samples: int
) -> tuple[Float[Tensor, "*r n m"], Float[Tensor, " m"]]:
    """Gauss-Legendre nodes (…, N, M) and node_weights (M,), exact for polynomials of degree 2M − 1.

    Examples:
        >>> edges = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> nodes, node_weights = gauss_legendre(edges, 3)
        >>> round(float((nodes**5 * node_weights).sum()), 12)  # the mean of t⁵ over [0, 1] is 1/6
        0.166666666667
    """
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(num_samples)
    nodes, node_weights = (torch.as_tensor(v).to(edges) for v in ((x + 1) / 2, w / 2))
    return _place(edges, nodes), node_weights
