"""PSNR, SSIM and LPIPS are the field's, and of images with a mask they are those of what the mask leaves."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from autoint.reports import metrics

SIZES = ((11, 11), (12, 17), (40, 33))


def pair(kind, shape):
    """A truth and a rendering of it, (H, W, 3) each, float32 in [0, 1]."""
    g = np.random.default_rng(0)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    if kind == "noise":
        return g.random((*shape, 3), dtype=np.float32), g.random((*shape, 3), dtype=np.float32)
    disc = ((x - shape[1] / 2) ** 2 + (y - shape[0] / 2) ** 2 < (min(shape) / 3) ** 2)[..., None]
    truth = np.where(disc, 0.5 + 0.4 * np.sin(np.stack([x, y, x + y], -1) / 2), 1.0).astype(np.float32)
    if kind == "constant":
        return np.full_like(truth, 0.3), np.full_like(truth, 0.4)
    error = 0.2 * g.standard_normal(truth.shape) * (disc if kind == "inside" else x[..., None] < 4)
    return truth, np.clip(truth + error, 0, 1).astype(np.float32)


def of_skimage(truth, image, **options):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, **options}
    return structural_similarity(truth, image, data_range=1.0, channel_axis=-1, **options)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("kind", ["noise", "inside", "rim", "constant"])
def test_ssim_and_psnr_are_those_of_scikit_image(kind, shape):
    truth, image = pair(kind, shape)
    ours = float(metrics.ssim(torch.from_numpy(image), torch.from_numpy(truth)))
    assert ours == pytest.approx(of_skimage(truth, image), abs=1e-4)
    psnr = float(metrics.psnr(torch.from_numpy(image), torch.from_numpy(truth)))
    assert psnr == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=1.0), abs=1e-4)
    assert float(metrics.ssim(torch.from_numpy(truth), torch.from_numpy(truth))) == pytest.approx(1, abs=1e-6)


def test_values_beyond_white_count_as_white():
    truth, image = map(torch.from_numpy, pair("noise", (16, 16)))
    assert float(metrics.ssim(3 * image, truth)) == float(metrics.ssim((3 * image).clamp(0, 1), truth))


@pytest.mark.parametrize("shape", [(10, 40), (40, 10), (1, 1)])
def test_an_image_smaller_than_the_window_has_no_ssim(shape):
    image = torch.rand(*shape, 3)
    assert math.isnan(float(metrics.ssim(image, image)))
    assert float(metrics.psnr(image, image)) == math.inf


def test_what_is_masked_does_not_count():
    """SSIM: the mean of scikit-image's map over the windows that hold no masked pixel."""
    truth, image = pair("inside", (40, 33))
    valid = np.ones((40, 33), bool)
    valid[7, 20], valid[30:, :5] = False, False
    _, map_ = of_skimage(truth, image, full=True)
    whole = [map_[y, x].mean() for y in range(5, 35) for x in range(5, 28) if valid[y - 5 : y + 6, x - 5 : x + 6].all()]
    spoilt = np.where(valid[..., None], image, 7.0).astype(np.float32)
    mask = torch.from_numpy(valid)
    found = metrics.ssim(torch.from_numpy(spoilt), torch.from_numpy(truth), mask)
    assert float(found) == pytest.approx(np.mean(whole), abs=1e-4)
    psnr = float(metrics.psnr(torch.from_numpy(spoilt), torch.from_numpy(truth), mask))
    assert psnr == pytest.approx(-10 * math.log10(np.square(image - truth)[valid].mean()), abs=1e-4)
    nothing = torch.zeros_like(mask)
    assert math.isnan(float(metrics.psnr(torch.from_numpy(image), torch.from_numpy(truth), nothing)))
    assert math.isnan(float(metrics.ssim(torch.from_numpy(image), torch.from_numpy(truth), nothing)))


def test_lpips_sees_the_truth_where_a_mask_hides_the_image():
    seen = []

    class Metric(torch.nn.Module):
        def forward(self, first, second):
            seen.append(float((first - second).abs().max()))
            return torch.zeros(1)

    metric = Metric()
    image, truth = torch.rand(2, 16, 16, 3)
    valid = torch.zeros(16, 16, dtype=torch.bool)
    metrics.lpips(metric, image, truth)
    metrics.lpips(metric, image, truth, valid)
    assert seen[0] > 0 == seen[1]
