"""Two models of a sinogram: an integral network of the lines, and one object that all lines pass through."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from autoint.integrals import quadrature
from autoint.networks.grad_nets import AbstractGradNet
from autoint.networks.integral_net import IntegralNet
from autoint.tomography.data.sinograms import interpolated
from autoint.tomography.projector import Lattice, projection_matrix, resampled
from autoint.tomography.remainder import BANDS, earned_share, foretold, shared
from autoint.tomography.sparse_gradient import Prior, SparseGradient

SMOOTH = 1.5  # pixels: of the values in the weights of counts
BLOCK = 64  # views whose matrix is in memory at once, where it is used once
MARGIN = 2  # mirrored views beyond each end of the half turn: they tell a network that the circle closes


class LineNetwork(nn.Module):
    """s(ρ, θ) = scale·(Φ(t₊, ρ, θ) − Φ(t₋, ρ, θ)), t = ±√(1 − ρ²) (paper, Sec. 3.4 and supplement, Sec. 3.2).

    Two evaluations per line, whatever its length. Nothing ties the lines of one angle to those of another: this is an
    interpolator of the sinogram, as smooth in θ as the network is.

    Args:
        net: Φ of (t, ρ, 2θ/π − 1), with one output.
        grad: Ψ = ∂Φ/∂t, over the same parameters.
        samples: stratified samples of Ψ per line, for ``fit=grad_net`` (paper, eq. 8); None takes ``integral_net``.
    """

    label = "line"
    scale: Tensor

    def __init__(self, net: IntegralNet, grad: AbstractGradNet, samples: int | None) -> None:
        super().__init__()
        self.net, self.samples = net, samples
        self.grads = [grad]  # a plain list: its parameters are those of `net`
        self.register_buffer("scale", torch.ones(()))

    def points(self, t: Tensor, rho: Tensor, theta: Tensor) -> Tensor:
        """Return the network's coordinates of points along lines: t (R, N), rho and theta (R,) → (R, N, 3)."""
        fixed = torch.stack([rho, theta * (2 / math.pi) - 1], -1)[:, None]
        return torch.cat([t[..., None], fixed.expand(*t.shape, 2)], -1)

    @staticmethod
    def chord(rho: Tensor) -> Tensor:
        """Return t₋ and t₊, where the lines enter and leave the disc, (R, 2)."""
        half = (1 - rho.square()).clamp_min(0).sqrt()
        return torch.stack([-half, half], -1)

    def forward(self, rho: Tensor, theta: Tensor) -> Tensor:
        """Return the integrals over the lines, by two evaluations of Φ each: (R,) → (R,)."""
        ends = self.net(self.points(self.chord(rho), rho, theta))[..., 0]
        return self.scale * (ends[:, 1] - ends[:, 0])

    def estimate(self, rho: Tensor, theta: Tensor, u: Tensor) -> Tensor:
        """Return the integrals over the lines, estimated from samples of Ψ at u (R, 1, S) in [0, 1) (paper, eq. 8)."""
        chord = self.chord(rho)
        nodes, node_weights = quadrature.stratified(chord, u)
        values = self.grads[0](self.points(nodes[:, 0], rho, theta))[..., 0]
        return self.scale * (values @ node_weights) * (chord[:, 1] - chord[:, 0])

    @torch.no_grad()
    def sinogram(self, rho: np.ndarray, theta: np.ndarray, gamma: np.ndarray | None = None) -> np.ndarray:
        """Return the views at these angles, of a fan those with rays turned by γ (P,): (A, P)."""
        device, kind = self.scale.device, self.scale.dtype
        r, a = (torch.as_tensor(v, dtype=kind, device=device) for v in (rho, theta))
        lines = r.repeat(len(a)), a.repeat_interleave(len(r))
        if gamma is not None:
            lines = half_turn(lines[0], lines[1] - torch.as_tensor(gamma, dtype=kind, device=device).repeat(len(a)))
        parts = [self(*part) for part in zip(*(v.split(65536) for v in lines), strict=True)]
        return torch.cat(parts).reshape(len(a), len(r)).double().cpu().numpy()


def half_turn(rho: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same lines by angles from 0 to π: (ρ, θ) is (−ρ, θ + π)."""
    turns = (theta / math.pi).floor()
    return torch.where(turns % 2 == 0, rho, -rho), theta - turns * math.pi


def training_lines(
    values: np.ndarray, theta: np.ndarray, rho: np.ndarray, gamma: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ρ, θ and s of the measured lines, with the views next to 0 and π mirrored to the other side.

    Of a fan's, whose rays are turned by γ, all lines by angles from 0 to π, and those within two views of either end.
    """
    if gamma is not None:
        lines = np.tile(rho, len(theta)), (theta[:, None] - gamma).ravel()
        r, a = half_turn(*map(torch.as_tensor, lines))
        s, near = torch.as_tensor(values.ravel()), MARGIN * math.pi / len(theta)
        low, high = a < near, a > math.pi - near
        r, a = torch.cat([r, -r[low], -r[high]]), torch.cat([a, a[low] + math.pi, a[high] - math.pi])
        return r.float(), a.float(), torch.cat([s, s[low], s[high]]).float()
    views = [(view, angle, rho) for view, angle in zip(values, theta, strict=True)]
    views += [(view, angle + math.pi, -r) for view, angle, r in views[:MARGIN]] + [
        (view, angle - math.pi, -r) for view, angle, r in views[len(values) - MARGIN : len(values)]
    ]
    r = torch.as_tensor(np.concatenate([v[2] for v in views]))
    a = torch.as_tensor(np.repeat([v[1] for v in views], len(rho)))
    s = torch.as_tensor(np.concatenate([v[0] for v in views]))
    return r.float(), a.float(), s.float()


class LatticeObject(nn.Module):
    """Ψ(x) = scale·Σ_k c_k Λ((x − x_k)/h): one object, whose integral along every line is closed-form.

    What the object leaves unexplained of the measured views is interpolated in angle and added: s = ∫Ψ dt + remainder,
    of which each frequency has the share that the measured views show to be no noise.

    Attributes:
        values: c_k on the nodes of a lattice inside the unit disc, (K,).
        seen, theta, rho: the measured views (A, P), their angles, and the lines of their pixels.
        spacing: h, in units of the disc's radius.
        gamma: what the rays of a fan's pixels are turned by, (P,); None for parallel rays.
        counted: whether the values are −log of counts, so that a line counts by the light that it lets through.
    """

    label = "object"
    values: Tensor
    seen: Tensor
    theta: Tensor
    rho: Tensor
    spacing: Tensor
    scale: Tensor
    gamma: Tensor | None

    def __init__(
        self,
        seen: np.ndarray,
        theta: np.ndarray,
        rho: np.ndarray,
        spacing: float = 1.0,
        counted: bool = False,
        gamma: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.counted = counted
        double = {"seen": seen, "theta": theta, "rho": rho, "spacing": spacing}
        for name, value in double.items():
            self.register_buffer(name, torch.as_tensor(np.asarray(value, dtype=float)))
        self.register_buffer("gamma", None if gamma is None else torch.as_tensor(gamma, dtype=torch.float64))
        self.register_buffer("scale", torch.as_tensor(float(np.abs(seen).max()), dtype=torch.float64))
        self.values = nn.Parameter(torch.zeros(int(self.lattice.inside().sum())), requires_grad=False)
        self.register_load_state_dict_pre_hook(_take_shapes)
        self._matrix: Any = None
        self._part: Any = None

    def begin(self, spacing: float, warm: bool = False) -> None:
        """Begin on a lattice of this spacing, with zeros, or ``warm`` with what the present lattice has there."""
        before, values = self.lattice, self.values.detach().cpu()
        if spacing != float(self.spacing):
            self.spacing.fill_(spacing)
            self._matrix = self._part = None
        if not warm:
            self.values.data = self.values.data.new_zeros(int(self.lattice.inside().sum()))
        elif before != self.lattice:
            image = resampled(before.image(values).numpy(), before, self.lattice)[self.lattice.inside().numpy()]
            self.values.data = torch.as_tensor(image).to(self.values.data)

    @property
    def lattice(self) -> Lattice:
        """The lattice of the nodes."""
        return Lattice(float(self.spacing))

    @property
    def matrix(self) -> Any:
        """The line integrals of the nodes' tents in the measured views, (A·P, K)."""
        if self._matrix is None:
            self._matrix = projection_matrix(self.lattice, self.rho.cpu(), self.theta.cpu(), self._turned())
        return self._matrix

    def _turned(self) -> Tensor | None:
        return None if self.gamma is None else self.gamma.cpu()

    def _between(self, views: np.ndarray, theta: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return views at the angles θ interpolated at others."""
        return interpolated(views, theta, self.rho.cpu().numpy(), at, fan=self.gamma is not None)

    def rows(self, views: np.ndarray) -> Any:
        """Return the rows of ``matrix`` that belong to these views."""
        pixels = len(self.rho)
        return self.matrix[(views[:, None] * pixels + np.arange(pixels)).ravel()]

    def part(self, views: np.ndarray) -> tuple[Any, Any]:
        """Return the rows of these views, and their transpose; those that were asked for last are kept."""
        key = views.tobytes()
        if self._part is None or self._part[0] != key:
            self._part = None
            rows = self.matrix if len(views) == len(self.theta) else self.rows(views)
            self._part = key, rows, rows.T.tocsr()
        return self._part[1:]

    def solver(self, views: np.ndarray, prior: Prior) -> SparseGradient:
        """Return what fits the object to these of the measured views."""
        measured = (self.seen.cpu().numpy()[views] / float(self.scale)).ravel()
        weights = self.weights()
        own = None if weights is None else weights[views].ravel()
        return SparseGradient(*self.part(views), measured, self.lattice, prior, own)

    def weights(self) -> np.ndarray | None:
        """Return exp(−s) in terms of its mean, (A, P), s smoothed along the detector; None where all weigh alike.

        The variance of −log of N counts is 1/N, and N is in proportion to exp(−s) (Sauer and Bouman, A local update
        strategy for iterative reconstruction from projections, 1993); smoothed, because a value's own noise in its
        weight would favour the values that are too small.
        """
        if not self.counted:
            return None
        light = np.exp(-gaussian_filter1d(self.seen.cpu().numpy(), SMOOTH, axis=1))
        return np.asarray(light / light.mean())

    def score(self, views: np.ndarray, held_out: np.ndarray) -> float:
        """Return the mean squared error at views that the fit to ``views`` has not seen, in units of scale²."""
        seen, theta = (v.cpu().numpy() for v in (self.seen, self.theta))
        c, shape = self.values.cpu().numpy(), (-1, len(self.rho))
        remainder = seen[views] / float(self.scale) - (self.part(views)[0] @ c).reshape(shape)
        guess = self._between(remainder, theta[views], theta[held_out])
        found = seen[held_out] / float(self.scale) - (self.rows(held_out) @ c).reshape(shape)
        error = np.square(found - shared(guess, earned_share(guess, found)))
        weights = self.weights()
        return float(error.mean() if weights is None else (weights[held_out] * error).mean())

    def remainder(self) -> np.ndarray:
        """Return what the integrals of Ψ leave of the measured views, (A, P)."""
        seen = self.seen.cpu().numpy()
        return seen - float(self.scale) * (self.matrix @ self.values.cpu().numpy()).reshape(seen.shape)

    def share(self) -> np.ndarray:
        """Return the share of the remainder that measured views have in common with those beside them, (BANDS,)."""
        theta, rho, rest = self.theta.cpu().numpy(), self.rho.cpu().numpy(), self.remainder()
        if len(theta) <= 3:
            return np.ones(BANDS)
        return earned_share(foretold(rest, theta, rho, self.gamma is not None), rest)

    def sinogram(self, rho: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return the views at these angles, (A, P), by rays as the measured views have them."""
        own = self.rho.cpu().numpy()
        rest = self._between(shared(self.remainder(), self.share()), self.theta.cpu().numpy(), theta)
        return self.integrals(rho, theta) + np.stack([np.interp(rho, own, view) for view in rest])

    def integrals(self, rho: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return the integrals of Ψ alone along these lines, without the remainder, (A, P)."""
        values, lines, turned = self.values.detach().cpu().numpy(), torch.as_tensor(rho), self._turned()
        parts = [
            projection_matrix(self.lattice, lines, some, turned) @ values
            for some in torch.as_tensor(theta).split(BLOCK)
        ]
        return float(self.scale) * np.concatenate(parts).reshape(len(theta), len(rho))

    def absorption(self) -> np.ndarray:
        """Return Ψ on the lattice, rows from the top, cut at zero: its fit only penalises what is negative."""
        return self.lattice.image(self.values.detach().cpu() * float(self.scale)).clamp_min(0).numpy()


def _take_shapes(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the tensors of ``module`` the shapes of those that are about to be loaded: a scan decides about them.

    ``ValueError`` if these are of no scan and lattice.
    """
    assert isinstance(module, LatticeObject)
    own = dict([*module.named_parameters(), *module.named_buffers()])
    there = {name: state[prefix + name] for name in own if isinstance(state.get(prefix + name), Tensor)}
    if there.keys() < own.keys():
        return  # what is missing is told by load_state_dict
    shapes, nodes = {name: tuple(tensor.shape) for name, tensor in there.items()}, there["values"].numel()
    fan = shapes.get("gamma", shapes["rho"])
    if shapes["seen"] != (*shapes["theta"], *shapes["rho"]) or there["spacing"].numel() != 1 or fan != shapes["rho"]:
        raise ValueError(f"{prefix}seen, theta, rho and spacing have shapes {shapes}, which are no scan's")
    spacing = float(there["spacing"])
    across = 2 / spacing + 1 if spacing > 0 else math.inf  # a square about the disc holds 4/π of its nodes
    if not across**2 <= 2 * nodes + 64 or int(Lattice(spacing).inside().sum()) != nodes:
        raise ValueError(f"{prefix}values: {nodes} nodes are not those of a lattice of spacing {spacing:g}")
    for name, tensor in own.items():
        if there[name].shape != tensor.shape:
            tensor.data = tensor.data.new_zeros(there[name].shape)
    module._matrix = module._part = None
