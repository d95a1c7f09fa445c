"""Line integrals of one object: a field on a lattice whose integral is closed-form along every line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

SLANTED = 1e-5  # the smaller of |cos θ| and |sin θ| counts as at least this: an error of at most SLANTED/3


def footprint(u: Tensor, theta: float | Tensor) -> Tensor:
    """Return ∫ Λ(x)Λ(y) dt along the line x cos θ + y sin θ = u, Λ being the tent max(0, 1 − |x|).

    The thrice iterated antiderivative of a truncated power, differenced twice over a = |cos θ| and twice over
    b = |sin θ|: (6a²b²)⁻¹ Σ_{ij} w_i w_j (u + (1−i)a + (1−j)b)₊³ with w = (1, −2, 1).

    Args:
        u: signed distance of the line from the node, in units of the lattice's spacing, (…).
        theta: angle of the line's normal, in radians: one, or one for each.

    Returns:
        (…), in units of the spacing; zero for |u| ≥ a + b, and of integral 1 over u.
    """
    angle = torch.as_tensor(theta, dtype=u.dtype)
    a, b = angle.cos().abs().clamp_min(SLANTED), angle.sin().abs().clamp_min(SLANTED)
    v = -u.abs()  # even in u; this half needs the fewest terms
    total = (v + a + b).clamp_min(0) ** 3 - 2 * (v + a).clamp_min(0) ** 3 - 2 * (v + b).clamp_min(0) ** 3
    total += (v + (a - b).abs()).clamp_min(0) ** 3
    return total / (6 * a * a * b * b)


@dataclass(frozen=True)
class Lattice:
    """Nodes (x, y) = spacing·(i, j) inside the unit disc, i and j counted from the axis of rotation.

    Attributes:
        spacing: h, in units of the disc's radius.
    """

    spacing: float

    @property
    def half(self) -> int:
        """Nodes on each side of the axis."""
        return int(1 / self.spacing + 1e-9)

    def inside(self) -> Tensor:
        """Which nodes of the square are in the disc, (2·half + 1, 2·half + 1), rows from y = 1 downwards."""
        i = torch.arange(-self.half, self.half + 1)
        return (i.square() + i[:, None].square()) * self.spacing**2 <= 1 + 1e-9

    def nodes(self) -> Tensor:
        """Return the nodes in the disc, (K, 2)."""
        row, column = self.inside().nonzero().T
        return torch.stack([column - self.half, self.half - row], -1).double() * self.spacing

    def image(self, values: Tensor) -> Tensor:
        """Return values (K,) as an image, zero outside of the disc."""
        inside = self.inside()
        image = values.new_zeros(inside.shape)
        image[inside] = values
        return image


def projection_matrix(lattice: Lattice, rho: Tensor, theta: Tensor, gamma: Tensor | None = None) -> csr_matrix:
    """Return the line integrals of every node's tent, as a sparse matrix (A·P, K) in float32.

    A field Ψ(x) = Σ_k c_k Λ((x − x_k)/h) has ∫Ψ dt = h Σ_k c_k·footprint((ρ − x_k·n)/h, θ) along the line
    (ρ, θ), n = (cos θ, sin θ); this is Φ at the line's far end, where Φ is Ψ's antiderivative along it that begins
    with zero (paper, eq. 1 and Sec. 3.4).

    Args:
        lattice: the nodes.
        rho: signed distances of the lines from the axis, evenly spaced, (P,), in units of the disc's radius.
        theta: angles in radians, (A,).
        gamma: of a fan, what each pixel's ray is turned by, (P,): line (ρ_j, θ_i − γ_j); ρ may then be spaced as it is.
    """
    if gamma is not None:
        views = [ray_matrix(lattice, rho, angle - gamma) for angle in theta]
        return vstack(views, "csr")
    nodes, h, rows = lattice.nodes(), lattice.spacing, len(rho)
    start, step = float(rho[0]), float(rho[1] - rho[0])
    reach = torch.arange(int(2 * math.sqrt(2) * h / step) + 1)
    lines, values = [], []
    for number, angle in enumerate(theta.tolist()):
        a, b = abs(math.cos(angle)), abs(math.sin(angle))
        across = nodes @ torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        first = torch.ceil((across - (a + b) * h - start) / step)
        line = first[:, None] + reach
        value = h * footprint((start + step * line - across[:, None]) / h, angle)
        value[(line < 0) | (line >= rows)] = 0
        lines.append((line.clamp(0, rows - 1) + number * rows).to(torch.int32))
        values.append(value.float())
    count = len(theta) * len(reach)
    columns, entries = torch.cat(lines, 1).numpy().ravel(), torch.cat(values, 1).numpy().ravel()
    shape = (len(nodes), len(theta) * rows)
    transposed = csr_matrix((entries, columns, np.arange(len(nodes) + 1) * count), shape=shape)
    matrix = transposed.T.tocsr()
    matrix.eliminate_zeros()
    return matrix


def ray_matrix(lattice: Lattice, rho: Tensor, theta: Tensor) -> csr_matrix:
    """Return the integrals of every node's tent along rays that have each an angle of their own, (M, K) in float32.

    Along a ray that is nearer to the columns of the lattice than to its rows, at most four nodes of every row are
    within reach of its footprint, and of every column for the other rays.

    Args:
        lattice: the nodes.
        rho: signed distances of the rays from the axis, (M,), in units of the disc's radius.
        theta: angles of their normals in radians, (M,).
    """
    half, inside = lattice.half, lattice.inside()
    number = inside.new_full(inside.shape, -1, dtype=torch.int64)
    number[inside] = torch.arange(int(inside.sum()))
    u, cos, sin = (v.double()[:, None] for v in (rho / lattice.spacing, theta.cos(), theta.sin()))
    upright = cos.abs() >= sin.abs()
    along, across = torch.where(upright, sin, cos), torch.where(upright, cos, sin)
    step = torch.arange(-half, half + 1)
    middle = (u - step * along) / across  # where the ray meets each row, or column, (M, 2·half + 1)
    first = (middle - 1 - (along / across).abs()).floor().long() + 1
    other = first[..., None] + torch.arange(4)
    value = lattice.spacing * footprint(
        u[..., None] - step[:, None] * along[..., None] - other * across[..., None], theta.double()[:, None, None]
    )
    there = (value > 0) & (other.abs() <= half)
    ray, place, nth = there.nonzero(as_tuple=True)
    along_, across_ = step[place], other[ray, place, nth]
    x, y = (torch.where(upright[ray, 0], *pair) for pair in ((across_, along_), (along_, across_)))
    column = number[half - y, x + half]
    kept = column >= 0
    starts = np.concatenate([[0], np.cumsum(np.bincount(ray[kept].numpy(), minlength=len(rho)))])
    entries = value[ray, place, nth][kept].float().numpy(), column[kept].to(torch.int32).numpy(), starts
    return csr_matrix(entries, shape=(len(rho), int(inside.sum())))


def resampled(image: np.ndarray, lattice: Lattice, to: Lattice) -> np.ndarray:
    """Return an image on another lattice, linear between the nodes."""
    if math.isclose(lattice.spacing, to.spacing):
        return image
    from scipy.ndimage import map_coordinates

    at = np.arange(-to.half, to.half + 1) * (to.spacing / lattice.spacing) + lattice.half
    return np.asarray(map_coordinates(image, np.stack(np.meshgrid(at, at, indexing="ij")), order=1))
