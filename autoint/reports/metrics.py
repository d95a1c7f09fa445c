"""Image metrics, per image."""

from __future__ import annotations

import functools
import logging
import math
import socket
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from autoint.files import torch_files

log = logging.getLogger(__name__)


def over(rgba: Float[Tensor, "*n 4"], background: Float[Tensor, "*#n 3"]) -> Float[Tensor, "*n 3"]:
    """Return premultiplied RGBA (…, 4) over a background (…, 3)."""
    return rgba[..., :3] + (1 - rgba[..., 3:]) * background


def psnr(
    image: Float[Tensor, "*n 3"], truth: Float[Tensor, "*n 3"], valid: Bool[Tensor, "*n"] | None = None
) -> Float[Tensor, ""]:
    """Return the peak signal-to-noise ratio of one image, −10·log10(mean squared error), for values in [0, 1], in dB.

    Only pixels that are ``valid`` count; NaN where none is.

    Examples:
        >>> round(float(psnr(torch.full((2, 2, 3), 0.1), torch.zeros(2, 2, 3))), 4)
        20.0
    """
    error = (image.clamp(0, 1) - truth).square()
    return -10 * (error if valid is None else error[valid]).mean().log10()


SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


def ssim(
    image: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"], valid: Bool[Tensor, "h w"] | None = None
) -> Float[Tensor, ""]:
    """Return the structural similarity (Wang et al. 2004) of two images (H, W, 3) in [0, 1], as the field counts it.

    The mean over channels and over all Gaussian windows (σ = 1.5, 11×11) that lie inside the image and hold nothing but
    ``valid`` pixels, as scikit-image with ``gaussian_weights=True, use_sample_covariance=False`` and ``tf.image.ssim``
    have it, with K₁ = 0.01 and K₂ = 0.03. NaN where there is no such window, as in images of less than 11 pixels.
    """
    x, y = (v.clamp(0, 1).double().movedim(-1, 0)[:, None] for v in (image, truth))  # (3, 1, H, W)
    if min(x.shape[-2:]) < SSIM_WINDOW:
        return image.new_tensor(math.nan)
    places = torch.arange(SSIM_WINDOW, device=x.device, dtype=x.dtype) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (places / SSIM_SIGMA) ** 2)
    window = window / window.sum()

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    values = values / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    if valid is not None:
        masked = (~valid).to(x.dtype)[None, None]
        values = values[:, 0, F.max_pool2d(masked, SSIM_WINDOW, 1)[0, 0] == 0]
    return values.mean().to(image.dtype)


DOWNLOAD = "download"
"""What stands for weights that may be fetched from the network."""
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
    """The LPIPS metric, or None after one line that says why there is none; None without a word for ``none``.

    Weights come from the file ``weights``, or from torch's cache; only ``download`` fetches what is not there.
    """
    if net == "none":
        return None
    cache = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]
    mend = f"lpips_weights=FILE with torchvision's {cache.name}, or lpips_weights={DOWNLOAD} to fetch it to {cache}"
    if weights is None and not cache.is_file():
        log.warning("LPIPS is n/a: there is no %s; give %s, or lpips=none", cache, mend)
        return None
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # torch's download has no time limit of its own
    try:
        return load_lpips(net, None if weights == DOWNLOAD else weights)
    except (ImportError, OSError, RuntimeError) as error:
        log.warning("LPIPS is n/a: %s; give %s, or lpips=none", str(error).splitlines()[0], mend)
        return None
    finally:
        socket.setdefaulttimeout(before)


def lpips(metric: torch.nn.Module, image: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the LPIPS distance of two images (H, W, 3) in [0, 1].

    Its network looks at whole images: pixels that are not ``valid`` (H, W) show the truth in both.
    """
    if valid is not None:
        image = torch.where(valid[..., None], image, truth)
    first, second = (x.clamp(0, 1).movedim(-1, 0)[None] * 2 - 1 for x in (image, truth))
    with torch.no_grad():
        return metric(first, second).squeeze()
