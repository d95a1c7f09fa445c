"""What makes a network a surface: losses on f and its gradient, in a cube of side 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autoint.networks.grad_nets.gradient import Gradient

REACH = 1.1
"""Half the side of the cube in which f is learned and looked for; the shape itself reaches to 1."""
FADING = 1500
"""Steps after which estimated normals, which are round at edges and noisy, weigh nothing any more."""


@dataclass(frozen=True)
class Samples:
    """What is known of a surface, in units of half its cube's side.

    Attributes:
        points: on the surface, (P, 3); of an occupancy, anywhere.
        normals: outward, (P, 3), or None.
        spread: how far to look around each point, (P, 1).
        oriented: whether the normals' signs mean something.
        inside: of an occupancy, whether the points are inside, (P,).
        trust: τ, how much the normals weigh: 1, or at first less where they are estimated from the points.
    """

    points: Tensor
    normals: Tensor | None
    spread: Tensor | None
    inside: Tensor | None = None
    oriented: bool = True
    trust: float = 1.0

    def at(self, step: int) -> Samples:
        """Return what a step learns from: estimated normals fade, once they have told inside from outside."""
        if self.normals is None or self.trust == 1:
            return self
        left = 1 - step / FADING
        return replace(self, trust=left * self.trust) if left > 0 else replace(self, normals=None)


Loss = Callable[[Gradient, Samples, int, torch.Generator], Tensor]


def igr(net: Gradient, samples: Samples, count: int, g: torch.Generator) -> Tensor:
    """Return |f| + τ |∇f − n| on the surface + λ (|∇f| − 1)² beside it (IGR, eq. 2 and Sec. 5), λ = 0.1.

    Beside it is at each point's own distance to its neighbours, and an eighth as many points anywhere. Normals that may
    point either way are compared with whichever side of ∇f is nearer.
    """
    x, normals, spread = _chosen(samples, count, g)
    beside = x + spread * torch.randn(x.shape, generator=g)
    anywhere = _anywhere(max(1, count // 8), g)
    value, slope = net(torch.cat([x, beside, anywhere]))
    on, off = slope[:count], slope[count:]
    loss = value[:count].abs().mean() + 0.1 * (off.norm(dim=-1) - 1).square().mean()
    if normals is not None:
        if not samples.oriented:
            normals = normals * (on.detach() * normals).sum(-1, keepdim=True).sign()
        loss = loss + samples.trust * (on - normals).norm(dim=-1).mean()
        if samples.trust == 1:
            return loss
    return loss + 0.1 * (on.norm(dim=-1) - 1).square().mean()


def siren_sdf(net: Gradient, samples: Samples, count: int, g: torch.Generator) -> Tensor:
    """Return 3000 |f| + 100 (1 − cos(∇f, n)) on the surface, 100 exp(−100 |f|) beside it, 50 | |∇f| − 1 | everywhere.

    (SIREN, eq. 6, with the weights of its supplement.) Beside it is anywhere, as often as on it.
    """
    x, normals, _ = _chosen(samples, count, g)
    assert normals is not None
    value, slope = net(torch.cat([x, _anywhere(count, g)]))
    on = 3e3 * value[:count].abs().mean() + 1e2 * (1 - F.cosine_similarity(slope[:count], normals, dim=-1)).mean()
    return on + 1e2 * torch.exp(-1e2 * value[count:].abs()).mean() + 5e1 * (slope.norm(dim=-1) - 1).abs().mean()


def occupancy(net: Gradient, samples: Samples, count: int, g: torch.Generator) -> Tensor:
    """Return the cross entropy of inside and outside, −f being the logit of inside (Occupancy Networks, eq. 3)."""
    assert samples.inside is not None
    chosen = torch.randint(len(samples.points), (count,), generator=g)
    value = net.net(samples.points[chosen])[..., 0]
    return F.binary_cross_entropy_with_logits(-value, samples.inside[chosen])


LOSSES: dict[str, Loss] = {"igr": igr, "occupancy": occupancy, "siren_sdf": siren_sdf}


def _chosen(samples: Samples, count: int, g: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor]:
    chosen = torch.randint(len(samples.points), (count,), generator=g)
    assert samples.spread is not None
    normals = None if samples.normals is None else samples.normals[chosen]
    return samples.points[chosen], normals, samples.spread[chosen]


def _anywhere(count: int, g: torch.Generator) -> Tensor:
    return REACH * (2 * torch.rand(count, 3, generator=g) - 1)
