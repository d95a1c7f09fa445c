"""An object from a sinogram in one call, and how much of the remainder is believed."""

import numpy as np
import pytest

import autoint
from autoint.registry import PHANTOMS
from autoint.tomography.data.phantoms import SHEPP_LOGAN, line_integrals
from autoint.tomography.data.sinograms import Scan, interpolated, noise_level
from autoint.tomography.remainder import BANDS, earned_share, shared

THETA = np.arange(0, 180, 7.5)
SQUARE = line_integrals(SHEPP_LOGAN, np.linspace(-1, 1, 24), np.deg2rad(THETA))


@pytest.fixture(scope="module")
def scan():
    """Two soft blobs and their line integrals."""
    theta, rho = np.arange(96) * np.pi / 96, (np.arange(49) - 24) / 24
    values = sum(
        m * np.exp(-np.square((rho - x * np.cos(theta)[:, None] - y * np.sin(theta)[:, None]) / 0.15) / 2)
        for m, x, y in ((1.0, 0.3, 0.1), (0.7, -0.3, -0.2))
    )
    return Scan(values, theta, center=24.0)


def reconstruct(values, theta, **options):
    return autoint.reconstruct(values, theta, progress=False, **{"passes": 30, **options})


def test_the_object_and_the_views_between(scan, tmp_path):
    seen = np.arange(0, 96, 6)[::-1]  # any order will do
    views, at = np.degrees(scan.theta[seen]), np.degrees(scan.theta)
    found = reconstruct(scan.values[seen], views, angles=at, center=24.0)
    unseen = np.arange(96) % 6 > 0
    error = np.sqrt(np.square(found.sinogram - scan.values)[unseen].mean())
    linear = interpolated(scan.values[::6], scan.theta[::6], scan.rho, scan.theta)
    assert error < 0.4 * np.sqrt(np.square(linear - scan.values)[unseen].mean())
    assert error / 2 < found.held_out_error < 8 * error
    assert found.explained > 0.9999
    assert found.image.sum() == pytest.approx(scan.values.sum(1).mean(), rel=0.01)  # per pixel
    row, column = np.unravel_index(found.image.argmax(), (49, 49))
    assert (row, column) == pytest.approx((24 - 0.1 * 24, 24 + 0.3 * 24), abs=1)
    folder = found.save(tmp_path / "out")
    assert np.load(folder / "slice.npy") == pytest.approx(found.image)
    assert np.load(folder / "sinogram.npy") == pytest.approx(found.sinogram)
    assert (folder / "reconstruction.png").stat().st_size > 10_000


def test_pixels_have_a_length_and_priors_can_be_given(scan):
    some = scan.values[::8], np.degrees(scan.theta[::8])
    options = {"center": 24.0, "exponent": 1.0, "strength": 1e-4, "passes": 3}
    plain, long = (reconstruct(*some, **options, pixel_size=size) for size in (None, 2.0))
    assert long.image == pytest.approx(plain.image / 2)
    assert (plain.prior.exponent, plain.prior.strength) == (1.0, 1e-4)
    assert plain.held_out_error is plain.error is None
    assert plain.sinogram.shape == (49, 49)


def test_columns_may_be_views():
    options = {"center": 11.5, "exponent": 1.0, "strength": 1e-4, "passes": 2, "angles": [7.5]}
    turned = reconstruct(SQUARE.T, THETA, transpose=True, **options)
    assert (turned.scan.values == SQUARE).all()
    assert turned.sinogram[0] == pytest.approx(SQUARE[1], abs=0.2 * SQUARE.max())
    as_rows = reconstruct(SQUARE.T, THETA, transpose=False, **options)
    assert (as_rows.scan.values == SQUARE.T[1:-1]).all()  # without its dead frames


@pytest.mark.parametrize(
    ("values", "theta", "options", "words"),
    [
        (np.eye(24), THETA[:-1], {}, "sinogram: 24 views but 23 angles"),
        (np.eye(9, 24), THETA, {}, "9 views but 24 angles; .* may be transposed"),
        (np.ones(24), THETA, {}, r"sinogram: shape \(24,\); expected \(angles"),
        (np.full((24, 9), np.nan), THETA, {}, "216 values are NaN or infinite"),
        (np.eye(24), np.deg2rad(THETA), {}, "looks like radians; set unit=radians"),
        (np.eye(24), THETA, {"center": 99.0}, "^center=99.0: must lie on the detector"),
        (np.eye(24), THETA, {"strength": -1.0}, "strength=-1.0 must be positive"),
        (np.eye(24), THETA, {"passes": 0}, "passes=0"),
        (SQUARE.T, THETA, {}, "^sinogram: it looks transposed: .*; give transpose=true, or false"),
        (np.eye(24), THETA, {"center": 12.0, "angles": [0, 1, 3.14]}, "^angles: .* looks like radians; set unit"),
        (np.eye(24), THETA, {"center": 12.0, "angles": [0, np.nan]}, "^angles: angle 1 is not a finite number"),
    ],
)
def test_what_cannot_be_meant_is_one_line(values, theta, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        reconstruct(values, theta, **options)
    assert "\n" not in str(caught.value)


def test_the_remainder_has_the_share_that_neighbours_show():
    """Structure at low frequencies is kept, noise at high ones is not, and noise of the found views changes nothing."""
    g = np.random.default_rng(0)
    smooth = np.sin(np.arange(128) * 2 * np.pi / 64 + g.uniform(0, 6, (200, 1)))
    guess, found = smooth + g.standard_normal((200, 128)), smooth + g.standard_normal((200, 128))
    share = earned_share(guess, found)
    power = 200 * 128 / 2, 200 * 128 / BANDS  # of the structure, all in the first band, and of the noise there
    assert share[0] == pytest.approx(power[0] / sum(power), abs=0.05)
    assert share[1:].max() < 0.1
    assert np.square(shared(guess, share) - smooth).mean() < 0.2 * np.square(guess - smooth).mean()
    assert (earned_share(smooth, smooth + 0.01 * g.standard_normal((200, 128))) == 1).all()
    assert shared(guess, np.ones(BANDS)) is guess
    assert shared(guess, np.full(BANDS, 0.5)) == pytest.approx(guess / 2)


def test_the_noise_is_estimated_from_the_views():
    big = PHANTOMS.build("ellipses", "", 256, 64)
    for gaussian in (0.003, 0.01, 0.03):
        noisy = big.with_noise(gaussian, None, seed=0)
        assert noise_level(noisy.values) == pytest.approx(gaussian * big.values.max(), rel=0.15)


def test_noise_is_not_carried_between_the_views(scan):
    """They have less than half of the noise of the views that they are made from."""
    noise = 0.02 * scan.values.max()
    values = scan.values + noise * np.random.default_rng(0).standard_normal(scan.values.shape)
    found = reconstruct(values[::4], np.degrees(scan.theta[::4]), angles=np.degrees(scan.theta), center=24.0)
    error = np.sqrt(np.square(found.sinogram - scan.values)[np.arange(96) % 4 > 0].mean())
    assert error < noise / 2
    assert found.noise == pytest.approx(noise, rel=0.15)
