"""Scans from files: nothing of them is dropped or taken for something else without a word."""

import logging
import math

import numpy as np
import pytest
from PIL import Image

from autoint.registry import PHANTOMS
from autoint.tomography.data import phantoms
from autoint.tomography.data.center import by_mass, by_mirror, find_center
from autoint.tomography.data.mending import dead_columns
from autoint.tomography.data.sinograms import interpolated
from tests.tomography.test_task import exchange, read

PIXELS, VIEWS = 65, 32
RHO, THETA = (np.arange(PIXELS) - 32) / 32, np.arange(VIEWS) * math.pi / VIEWS


def disc(radius, x=0.0, y=0.0, rho=RHO, theta=THETA):
    s = rho[None] - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return 2 * np.sqrt(np.maximum(radius**2 - s**2, 0))


def noisy(values, size=2e-3):
    return values + np.random.default_rng(0).normal(0, size, values.shape)


OBJECT = noisy(disc(0.6, 0.1, 0.05) + disc(0.2, 0.3, -0.2))


def sinogram(path="s.npy", **options):
    return PHANTOMS.build({"name": "sinogram", "path": str(path), **options}, "", None, None)


def saved(values, **options):
    np.save("s.npy", values)
    return sinogram(**options)


def write_pages(file, pages, **options):
    first, *others = (Image.fromarray(np.ascontiguousarray(page)) for page in pages)
    first.save(file, save_all=True, append_images=others, **options)


STACK = np.stack([OBJECT, 2 * OBJECT, 3 * OBJECT]).astype(np.float32)


@pytest.mark.parametrize("suffix", ["tif", "npy", "npz"])
def test_a_stack_needs_to_be_told_which_slice_is_meant(suffix):
    """Of three sinograms, and of as many views as the sinograms have rows, by three rows of the detector."""

    def write(name, pages):
        if suffix == "tif":
            write_pages(name, pages)
        elif suffix == "npy":
            np.save(name, pages)
        else:
            np.savez(name, sinogram=pages)
        return name

    slices = write(f"sinograms.{suffix}", STACK)
    with pytest.raises(ValueError, match=rf"sinograms\.{suffix}: 3 \w+ of 32×65 numbers; .*phantom.slice=0 to 2 if"):
        sinogram(slices)
    assert (sinogram(slices, slice=2).values == STACK[2]).all()
    with pytest.raises(ValueError, match=r"phantom\.slice=3: .* has slices 0 to 2"):
        sinogram(slices, slice=3)
    views = write(f"views.{suffix}", STACK.transpose(1, 0, 2))
    with pytest.raises(ValueError, match=r"32 \w+ of 3×65 numbers; .*phantom.row=0 to 2 if each is a view"):
        sinogram(views)
    assert (sinogram(views, row=1).values == STACK[1]).all()
    with pytest.raises(ValueError, match=r"phantom\.slice=1, phantom\.row=1: give one"):
        sinogram(views, row=1, slice=1)
    for alone in (STACK[:1], STACK[0][:, None]):
        assert (sinogram(write(f"alone.{suffix}", alone)).values == STACK[0]).all()


def test_the_number_of_angles_says_what_the_pages_are():
    np.savetxt("angles.txt", np.rad2deg(THETA))
    write_pages("views.tif", STACK.transpose(1, 0, 2))
    with pytest.raises(ValueError, match=r"is reconstructed: give phantom\.row=0 to 2 if each is a view$"):
        sinogram("views.tif", angles="angles.txt")


def test_pages_that_cannot_be_read_as_one_stack_are_refused():
    write_pages("sizes.tif", [OBJECT.astype(np.float32), OBJECT[:9].astype(np.float32)])
    with pytest.raises(ValueError, match=r"sizes\.tif: page 1 has 9×65 pixels and page 0 has 32×65"):
        sinogram("sizes.tif")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("colours.tif")
    with pytest.raises(ValueError, match=r"colours\.tif: page 0 has colours or a palette"):
        sinogram("colours.tif")
    write_pages("imagej.tif", STACK[:1], tiffinfo={270: "ImageJ=1.53\nimages=5\nslices=5\n"})
    with pytest.raises(ValueError, match=r"imagej\.tif: ImageJ's stack of 5 images, of which 1 can be read"):
        sinogram("imagej.tif")
    write_pages("thumbnail.tif", [OBJECT.astype(np.float32)])
    small = Image.fromarray(OBJECT[::4, ::4].astype(np.float32))
    big = Image.open("thumbnail.tif")
    big.save("with.tif", save_all=True, append_images=[small])
    with pytest.raises(ValueError, match="page 1 has 8×17"):
        sinogram("with.tif")


@pytest.mark.parametrize(("c0", "c1"), [(-32768.0, 1.0), (-1.0, 1e-4)])
def test_the_numbers_of_imagej_mean_what_it_says(c0, c1):
    stored = np.rint((OBJECT / OBJECT.max() * (1000 if c1 == 1 else 1) - c0) / c1).astype(np.uint16)
    said = f"ImageJ=1.53t\nunit=pixel\ncf=0\nc0={c0}\nc1={c1:E}\nvunit=Gray Value\n"
    write_pages("s.tif", [stored], tiffinfo={270: said})
    assert sinogram("s.tif").values == pytest.approx(c0 + c1 * stored.astype(float), abs=1e-6)
    write_pages("s.tif", [stored], tiffinfo={270: said.replace("cf=0", "cf=20")})
    assert (sinogram("s.tif").values == stored).all()
    write_pages("s.tif", [stored], tiffinfo={270: said.replace("cf=0", "cf=7")})
    with pytest.raises(ValueError, match=r"s\.tif: calibrated by ImageJ's function 7; .*: save it as 32-bit, or as"):
        sinogram("s.tif")


def test_a_picture_whose_zero_is_white_is_turned_or_refused():
    levels = np.rint(OBJECT.clip(0) * 100)
    write_pages("s.tif", [levels.astype(np.uint16)], tiffinfo={262: 0})
    with pytest.raises(ValueError, match=r"s\.tif: page 0 says that zero is white .*; save it with zero for black"):
        sinogram("s.tif")
    write_pages("s.tif", [levels.astype(np.uint8)], tiffinfo={262: 0})
    assert (sinogram("s.tif").values == levels).all()


@pytest.mark.parametrize("name", ["angles", "Theta", "theta_deg", "ANGLE", "projAngles", "phi", "degrees", "ang"])
def test_angles_are_known_by_their_usual_names(name, caplog):
    np.savez("s.npz", sinogram=OBJECT, **{name: np.linspace(0, 90, VIEWS)})
    assert sinogram("s.npz").theta[-1] == pytest.approx(math.pi / 2)
    assert not caplog.records


@pytest.mark.parametrize("name", ["radians", "theta_rad", "angles (rad)", "AnglesRad"])
def test_the_name_of_the_angles_says_their_unit(name):
    np.savez("s.npz", sinogram=OBJECT, **{name: THETA})
    assert sinogram("s.npz").theta == pytest.approx(THETA)
    with pytest.raises(ValueError, match=r"phantom\.unit=degrees: .* says radians by its name"):
        sinogram("s.npz", unit="degrees")


def test_what_else_is_in_an_archive_is_named(caplog):
    np.savez("s.npz", sinogram=OBJECT, theta=np.rad2deg(THETA), flat=np.ones(7))
    sinogram("s.npz")
    assert "s.npz: not used: flat" in caplog.text
    assert "180" not in caplog.text
    np.savez("s.npz", sinogram=OBJECT, t=np.rad2deg(THETA) / 2)
    with pytest.raises(ValueError, match=r"s\.npz: t could be the angles, .*; give phantom\.angles=t"):
        sinogram("s.npz")
    assert sinogram("s.npz", angles="t").theta == pytest.approx(THETA / 2)
    np.savez("s.npz", sinogram=OBJECT, angles=np.rad2deg(THETA), phi=np.rad2deg(THETA) / 2)
    with pytest.raises(ValueError, match="angles, phi could all be the angles"):
        sinogram("s.npz")
    np.savez("other.npz", tilt=np.ones(VIEWS), angles=np.rad2deg(THETA) / 3)
    assert sinogram("s.npz", angles="other.npz").theta == pytest.approx(THETA / 3)
    assert "s.npz: not used: angles, phi" in caplog.text


def test_angles_that_nobody_gave_are_told_of(caplog):
    assert saved(OBJECT).theta == pytest.approx(THETA)
    assert (
        "s.npy: no angles in it or by phantom.angles=FILE; its 32 views count as evenly spread over 180" in caplog.text
    )
    assert caplog.records[0].levelno == logging.WARNING


def test_a_transposed_sinogram_is_recognised():
    """By its angles, and without any by its totals; also a square one."""
    theta = np.arange(40) * 4.5
    turned = PHANTOMS.build("shepp_logan", "", 40, 40).values.T
    for values, angles in ((OBJECT.T, np.rad2deg(THETA)), (turned, theta)):
        with pytest.raises(ValueError, match=r"looks transposed: .*; give phantom.transpose=true, or false"):
            saved(values)
        np.savez("s.npz", sinogram=values, theta=angles)
        with pytest.raises(ValueError, match=r"transposed.*; give phantom.transpose=true, or false"):
            sinogram("s.npz")
        found = sinogram("s.npz", transpose=True)
        assert (found.values == values.T).all()
        assert found.theta == pytest.approx(np.deg2rad(angles))
    assert saved(OBJECT.T, transpose=False).values.shape == (PIXELS, VIEWS)


ROUND = {
    "cylinder": disc(0.5),
    "cylinder with a small rod": disc(0.9) + disc(0.1, 0.3, 0.2),
    "wire on the axis, and a rod": disc(0.07) + disc(0.2, 0.6, 0.3),
    "tube": disc(0.8) - disc(0.77),
    "tube about a square of rods": disc(0.9)
    - disc(0.87)
    + sum(disc(0.2, x, y) for x in (-0.3, 0.3) for y in (-0.3, 0.3)),
    "beads, few views": (disc(0.9) + disc(0.03, 0.5, 0.1) + disc(0.03, -0.2, 0.3))[::8],
    "two halves": disc(0.7) + np.where(RHO > 0, 1, -1) * 0.1 * np.sin(2 * THETA)[:, None] * disc(0.7),
    "transmission": np.exp(-disc(0.3, 0.2, 0.1)),
    "ellipses": phantoms.line_integrals(phantoms.SHEPP_LOGAN, RHO * 1.2, THETA),
    "light": np.exp(-phantoms.line_integrals(phantoms.SHEPP_LOGAN, RHO * 1.2, THETA)),
}


@pytest.mark.parametrize("name", ROUND)
def test_an_object_round_about_its_axis_has_no_dead_columns(name):
    assert (saved(ROUND[name]).values == ROUND[name]).all()


@pytest.mark.parametrize(
    ("values", "columns", "stuck"),
    [
        (OBJECT, [20], 0.0),
        (OBJECT, [30, 31, 32], 0.0),
        (OBJECT, [30, 31], 2.5),
        (OBJECT, [0], 0.7),
        (ROUND["cylinder"], [28], 0.0),
        (ROUND["ellipses"], [25, 40], 0.9),
    ],
)
def test_columns_that_do_not_fit_among_their_neighbours_are_dead(values, columns, stuck, caplog):
    damaged = values.copy()
    damaged[:, columns] = stuck
    assert np.flatnonzero(dead_columns(damaged)).tolist() == columns
    found = saved(damaged).values
    assert np.abs(found - values).max() < 0.3
    assert f"dead detector columns {', '.join(map(str, columns))} were interpolated" in caplog.text


def test_dead_frames_are_named_and_left_out(tmp_path, caplog):
    damaged = OBJECT.copy()
    damaged[[3, 7]] = 0
    np.savez("s.npz", sinogram=damaged, theta=np.rad2deg(THETA))
    found = sinogram("s.npz")
    assert found.theta == pytest.approx(np.delete(THETA, [3, 7]))
    assert (found.values == np.delete(OBJECT, [3, 7], 0)).all()
    assert "s.npz: views 3, 7 are dead frames" in caplog.text
    damaged[5:] = 0
    with pytest.raises(ValueError, match="28 of 32 views are dead frames of one value, the first is view 3"):
        saved(damaged)
    values = exchange(tmp_path / "scan.h5", damage=lambda arrays: arrays["data"].__setitem__(4, 100.0))
    assert read(tmp_path / "scan.h5").values == pytest.approx(np.delete(values, 4, 0), abs=1e-9)
    assert "scan.h5: views 4 are dead frames" in caplog.text


def test_light_that_is_no_absorption_is_told_of(caplog):
    saved(ROUND["light"])
    assert "as the light's are that passes beside an object; give −log of the transmission" in caplog.text
    caplog.clear()
    saved(ROUND["ellipses"])
    assert "light" not in caplog.text


def test_counts_of_an_object_that_fills_the_detector_are_told_of(caplog):
    filling = disc(1.3, 0.05) + disc(0.3, 0.2, 0.1)
    saved(np.rint(50000 * np.exp(-filling)).astype(np.uint16))
    assert "s.npy: values up to 1.08e+04 and hardly a zero; " in caplog.text
    assert "if these are counts, give −log of their share of the light" in caplog.text
    caplog.clear()
    saved(filling)
    saved(100 * disc(0.9, 0.05))  # in pixels
    assert "counts" not in caplog.text


def truncated(turn, step, center, size=1.3, noise=2e-3):
    theta = np.deg2rad(np.arange(0, turn, step))
    rho = (np.arange(101) - center) / 50
    return noisy(disc(size, 0.02, rho=rho, theta=theta) + disc(0.2, 0.4, 0.1, rho=rho, theta=theta), noise), theta


@pytest.mark.parametrize(
    ("turn", "step", "center", "size", "noise"),
    [
        (360, 6, 8.0, 0.9, 2e-3),  # half acquisitions
        (360, 6, 25.0, 0.9, 2e-3),
        (360, 7, 72.3, 1.0, 2e-2),
        (180, 6, 47.0, 1.3, 2e-3),  # interior tomography
        (180, 11.25, 55.5, 1.2, 2e-3),
        (181, 1, 52.8, 1.1, 2e-2),
    ],
)
def test_the_centre_is_found_where_the_object_leaves_the_detector(turn, step, center, size, noise, caplog):
    values, theta = truncated(turn, step, center, size, noise)
    found, unsure = by_mirror(values, theta)
    assert found == pytest.approx(center, abs=min(0.5, unsure + 0.05))
    assert unsure < 1.5
    assert find_center(values, theta) == found
    assert (
        f"the object leaves the detector; the centre of rotation by views half a turn apart is pixel {found:.2f} ± "
        in (caplog.text)
    )


def test_a_truncated_scan_of_less_than_half_a_turn_is_unsure(caplog):
    values, theta = truncated(120, 6, 47.0)
    assert find_center(values, theta) == by_mass(values, theta)
    assert "may be far off: give it by phantom.center=PIXEL" in caplog.text


def test_an_object_on_the_detector_is_found_by_its_mass_in_silence(caplog):
    assert find_center(OBJECT, THETA) == pytest.approx(32, abs=0.05)
    assert not caplog.records


def test_views_of_a_whole_turn_are_not_mixed_with_mirror_images_that_nobody_measured():
    """The detector sees beyond the axis for three pixels only: linear interpolation is that of the views alone."""
    theta, rho = np.arange(24) * math.tau / 24, (np.arange(40) - 3) / 36
    values = disc(0.5, 0.3, 0.2, rho=rho, theta=theta)
    at = theta[:-1] + math.pi / 24
    exact = disc(0.5, 0.3, 0.2, rho=rho, theta=at)
    assert np.abs(interpolated(values, theta, rho, at) - exact).max() < 0.25
    assert interpolated(values, theta, rho, theta)[:, 7:] == pytest.approx(values[:, 7:], abs=1e-12)
