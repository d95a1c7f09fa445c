"""Neural Volumes: colour and opacity of voxels, decoded from a code all at once, and looked up through a warp."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.registry import MODELS, at_least_one
from autoint.runs.config import RunConfig
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.volume import AbstractVolume, Draw

CODE, COARSEST, WARPED, AFFINE = 256, 4, 16, 16
"""Features of the code, voxels per axis where the decoder begins and of the warp, and its affine maps."""
DECODING = threading.Lock()


class Decoder(nn.Sequential):
    """A code to a volume of C channels and ``resolution``³ voxels: each layer has twice as many per axis."""

    def __init__(self, channels: int, resolution: int) -> None:
        doublings = int(math.log2(resolution // COARSEST))
        widths = [4 * 2**k for k in range(doublings, 0, -1)] + [channels]
        layers: list[nn.Module] = [nn.Linear(CODE, widths[0] * COARSEST**3), nn.LeakyReLU(0.2)]
        layers.append(nn.Unflatten(-1, (widths[0], COARSEST, COARSEST, COARSEST)))
        for k in range(doublings):
            layers.append(nn.ConvTranspose3d(widths[k], widths[k + 1], 4, stride=2, padding=1))
            layers += [nn.LeakyReLU(0.2)] if k + 1 < doublings else []
        super().__init__(*layers)


class NeuralVolumes(AbstractVolume):
    """RGBα on a grid, from a learned code, behind a mixture of affine warps (Lombardi et al., SIGGRAPH 2019).

    Alpha adds up along a ray and is cut at 1: w_i = min(1, A_{i−1} + α_i δ) − A_{i−1} (their eq. 5), where the other
    models have 1 − e^{−σδ}. A point x is looked up at Σ_m w_m(x) (A_m x + b_m), with w and the maps from the same code.

    Args:
        resolution: voxels per axis, 4 times a power of two.
        samples: per ray.
        smooth: weight of the total variation of log α.
        decided: weight of a prior by which a ray is opaque or clear.
        occupancy: where the scene is.
    """

    width = 4

    def __init__(self, resolution: int, samples: int, smooth: float, decided: float, occupancy: Occupancy) -> None:
        super().__init__(occupancy)
        self.samples, self.smooth, self.decided = samples, smooth, decided
        self.code = nn.Parameter(torch.randn(CODE))
        self.decoder, self.mixture = Decoder(4, resolution), Decoder(AFFINE, WARPED)
        self.maps = nn.Linear(CODE, AFFINE * 12)
        nn.init.normal_(self.maps.weight, std=1e-3)
        nn.init.zeros_(self.maps.bias)
        self._decoded: tuple[Tensor, Tensor] | None = None
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "_decoded", None))

    @property
    def nets(self) -> Iterable[nn.Module]:
        return ()

    @property
    def evaluations(self) -> int:
        return 0  # but one for all rays together

    @property
    def look_ups(self) -> int:
        return self.samples

    @property
    def colors(self) -> int:
        return self.samples

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Return RGBα (1, 4, D, D, D) and where each place is looked up (1, 3, W, W, W); without gradients, once."""
        if torch.is_grad_enabled():
            self._decoded = None
            return self._decode()
        with DECODING:
            if self._decoded is None:
                self._decoded = self._decode()
            return self._decoded

    def _decode(self) -> tuple[Tensor, Tensor]:
        code = self.code[None]
        color, alpha = self.decoder(code).split([3, 1], dim=1)
        # In the middle of grey and nearly clear: an opaque start hides all that is behind it for good.
        volume = torch.cat([torch.sigmoid(color), F.softplus(alpha - 2)], dim=1)
        axis = torch.linspace(-1, 1, WARPED, device=code.device)
        # The last axis of a grid is that of the first coordinate, as F.grid_sample has it.
        places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=0).flip(0)
        maps = self.maps(code).view(AFFINE, 3, 4)
        moved = places[None] + torch.einsum("mij,jxyz->mixyz", maps[..., :3], places) + maps[..., 3, None, None, None]
        shares = torch.softmax(self.mixture(code), dim=1)[0]
        return volume, torch.einsum("mxyz,mixyz->ixyz", shares, moved)[None]

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        return self._rendered(rays, edges, background, 0.5)[0]

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], Tensor]:
        shown, volume = self._rendered(rays, edges, background, draw("start", len(rays), 1))
        log_alpha = torch.log(0.1 + volume[0, 3])
        steps = [log_alpha.diff(dim=axis).abs().mean() for axis in range(3)]
        acc = shown.acc
        # Least at 0 and at 1, where it is 0 (their Sec. 5.3).
        prior = (torch.log(0.1 + acc) + torch.log(1.1 - acc)).mean() - math.log(0.1 * 1.1)
        return [shown], self.smooth * torch.stack(steps).sum() + self.decided * prior

    def _rendered(
        self, rays: Rays, edges: Tensor, background: Tensor, shift: Tensor | float
    ) -> tuple[Rendering, Tensor]:
        volume, warp = self.decoded()
        step = (edges[:, -1:] - edges[:, :1]) / self.samples
        t = edges[:, :1] + step * (torch.arange(self.samples, device=step.device) + shift)
        places = F.grid_sample(warp, self.points(rays, t)[0][None, None], align_corners=True, padding_mode="border")
        found = F.grid_sample(volume, places.movedim(1, -1), align_corners=True)[0, :, 0]  # clear outside of the box
        total = (found[3] * step).cumsum(-1).clamp_max(1)
        weights = torch.cat([total[:, :1], total.diff(dim=-1)], dim=-1)
        acc = total[:, -1]
        rgb = torch.einsum("rn,crn->rc", weights, found[:3]) + (1 - acc)[:, None] * background
        depth = torch.where(acc > 1e-6, (weights * t).sum(-1) / acc.clamp_min(1e-6), edges[:, -1])
        return Rendering(rgb, depth, acc, weights), volume


@MODELS.register("neural_volumes")
def neural_volumes(
    config: RunConfig,
    occupancy: Occupancy,
    *,
    resolution: int = 64,
    samples: int = 64,
    smooth: float = 0.01,
    decided: float = 0.001,
) -> AbstractVolume:
    """Neural Volumes (Lombardi et al. 2019): voxels of colour and opacity from a decoder, and a warp; one static scene.

    Args:
        config: the run's configuration, whose networks and sections say nothing to this model.
        occupancy: where the scene is.
        resolution: voxels per axis: 8, 16, 32, 64 or 128.
        samples: per ray.
        smooth: weight of the total variation of the logarithm of alpha.
        decided: weight of a prior by which every ray is opaque or clear.
    """
    at_least_one(**{"model.samples": samples})
    if resolution not in (8, 16, 32, 64, 128):
        raise ValueError(f"model.resolution={resolution} must be 8, 16, 32, 64 or 128")
    for key, value in {"smooth": smooth, "decided": decided}.items():
        if value < 0:
            raise ValueError(f"model.{key}={value} cannot be negative; 0 leaves it out")
    return NeuralVolumes(resolution, samples, smooth, decided, occupancy)
