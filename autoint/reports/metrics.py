"""Image metrics, per image."""

from __future__ import annotations

import functools
import logging
import socket
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autoint.files import torch_files

log = logging.getLogger(__name__)


def over(rgba: Float[Tensor, "*n 4"], background: Float[Tensor, "*#n 3"]) -> Float[Tensor, "*n 3"]:
    """Return premultiplied RGBA (…, 4) over a background (…, 3)."""
    return rgba[..., :3] + (1 - rgba[..., 3:]) * background


def psnr(image: Float[Tensor, "*n 3"], truth: Float[Tensor, "*n 3"]) -> Float[Tensor, ""]:
    """Return the peak signal-to-noise ratio of one image, −10·log10(mean squared error), for values in [0, 1], in dB.

    Example:
        >>> round(float(psnr(torch.full((2, 2, 3), 0.1), torch.zeros(2, 2, 3))), 4)
        20.0
    """
    return -10 * (image.clamp(0, 1) - truth).square().mean().log10()


def ssim(image: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> Float[Tensor, ""]:
    """Return the structural similarity of two images (H, W, 3) in [0, 1] (Gaussian window, σ = 1.5, 11×11)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = (x.clamp(0, 1).movedim(-1, 0)[None] for x in (image, truth))
    value = structural_similarity_index_measure(first, second, data_range=1.0)
    assert isinstance(value, Tensor)
    return value


BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


@functools.cache
def load_lpips(net: str, weights: str | None) -> torch.nn.Module:
    """Return the ``lpips`` package's metric with its pretrained backbone.

    Args:
        net: ``vgg`` or ``alex``.
        weights: a local file with torchvision's weights of the backbone; None uses (or fills) torch's cache.

    Raises:
        ValueError: for a weights file that does not exist or does not fit.
        ImportError, OSError: where lpips cannot be imported or the weights cannot be had.
    """
    import lpips

    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"lpips_weights={weights}: no such file; give torchvision's {BACKBONES[net]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated argument
        metric = lpips.LPIPS(net=net, verbose=False, pnet_rand=weights is not None)
    if weights is not None:
        _fill_backbone(metric, net, weights)
    return metric.eval()


def _fill_backbone(metric: torch.nn.Module, net: str, weights: str) -> None:
    try:
        state = torch_files.read(Path(weights))
        features = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
        backbone: Any = metric.net
        for name, parameter in backbone.named_parameters():
            key = name.split(".", 1)[1]  # "slice2.3.weight": lpips keeps torchvision's layer numbers
            with torch.no_grad():
                parameter.copy_(features[key])
    except Exception as error:
        found = f"not torchvision's weights of {net} ({type(error).__name__})"
        raise ValueError(f"lpips_weights={weights}: {found}; give {BACKBONES[net]}") from error


@functools.cache
def lpips_metric(net: str, weights: str | None) -> torch.nn.Module | None:
    """The LPIPS metric, or None after one line that says why there is none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # torch's download has no time limit of its own
    try:
        return load_lpips(net, weights)
    except (ImportError, OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]
        log.warning(
            "LPIPS is n/a: %s; put torchvision's %s at %s, or give it by lpips_weights=FILE",
            str(error).splitlines()[0],
            cache.name,
            cache,
        )
        return None
    finally:
        socket.setdefaulttimeout(before)


def lpips(metric: torch.nn.Module, image: Tensor, truth: Tensor) -> Tensor:
    """Return the LPIPS distance of two images (H, W, 3) in [0, 1]."""
    first, second = (x.clamp(0, 1).movedim(-1, 0)[None] * 2 - 1 for x in (image, truth))
    with torch.no_grad():
        return metric(first, second).squeeze()
