"""Fan beams: their rays, the lattice's integrals along them, their axis, and objects that reach beyond the detector."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import autoint
from autoint.registry import PHANTOMS
from autoint.runs import restoring
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from autoint.tomography import classics
from autoint.tomography.data import fans, phantoms, scans
from autoint.tomography.data.sinograms import Scan
from autoint.tomography.evaluation import psnr, true_image
from autoint.tomography.models import training_lines
from autoint.tomography.projector import Lattice, projection_matrix
from tests.tomography.test_task import config

KINDS = [{"source": 60.0}, {"source": 60.0, "curved": True}]


def ellipses(pixels=33, views=45, **options):
    return PHANTOMS.build({"name": "ellipses", **options}, "", pixels, views)


@pytest.mark.parametrize("curved", [False, True])
def test_rays_go_from_the_source_through_their_pixels(curved):
    """The line of every ray holds the source and a point of the detector, as it is drawn."""
    fan, beta, u = fans.Fan(5.0, curved), 0.7, np.array([-1.2, 0.0, 0.4, 2.0])
    across, along = np.array([math.cos(beta), math.sin(beta)]), np.array([-math.sin(beta), math.cos(beta)])
    source = -5.0 * along
    arc = np.outer(np.sin(u / 5), across) + np.outer(np.cos(u / 5), along)
    pixels = source + 5.0 * arc if curved else np.outer(u, across)
    gamma = fan.gamma(u)
    normal = np.stack([np.cos(beta - gamma), np.sin(beta - gamma)], -1)
    rho = 5.0 * np.sin(gamma)
    assert normal @ source == pytest.approx(rho)
    assert (normal * pixels).sum(1) == pytest.approx(rho)
    assert fan.place(gamma) == pytest.approx(u)


def test_rays_without_a_fan_are_parallel():
    """The two ways to the matrix agree to the rounding of float32, and both with the lines of a fan one by one."""
    lattice, rho = Lattice(1 / 9), torch.linspace(-1.1, 1.1, 21, dtype=torch.float64)
    theta, gamma = torch.linspace(0, 3.3, 12, dtype=torch.float64), torch.linspace(-0.3, 0.3, 21, dtype=torch.float64)
    straight = projection_matrix(lattice, rho, theta)
    assert abs(straight - projection_matrix(lattice, rho, theta, 0 * gamma)).max() < 1e-6
    fan = projection_matrix(lattice, rho, theta, gamma).toarray()
    for view, angle in enumerate(theta):
        for pixel in (0, 7, 20):
            two = torch.stack([rho[pixel], rho[pixel] + 1])
            alone = projection_matrix(lattice, two, (angle - gamma[pixel])[None])[0].toarray()[0]
            assert fan[view * 21 + pixel] == pytest.approx(alone, abs=1e-7)


@pytest.mark.parametrize("options", KINDS)
def test_ellipses_are_found_from_a_fan_as_from_parallel_rays(options):
    found = {}
    for kind in ({}, options):
        scan = ellipses(**kind)
        seen, unseen = np.arange(0, 45, 3), np.arange(45) % 3 > 0
        ours = autoint.reconstruct(
            scan.values[seen], scan.theta[seen], unit="radians", angles=scan.theta, center=scan.center, progress=False,
            exponent=1.0, strength=1e-4, passes=20, **kind
        )  # fmt: skip
        truth = true_image(scan) * scan.pixel_units[0]
        found[len(kind)] = (
            psnr(ours.sinogram[unseen], scan.values[unseen], scan.values.max()),
            psnr(ours.image, truth, truth.max()),
        )
    assert found[len(options)][0] > found[0][0] - 1.5
    assert found[len(options)][1] > found[0][1] - 1.5


@pytest.mark.parametrize("options", KINDS)
def test_a_fan_s_lines_are_parallel_ones_in_another_order(options):
    """Rebinned views are the parallel ones, the network's lines are on the object, and the axis is where they agree."""
    scan = ellipses(65, 180, **options | {"source": 150.0})
    pixels, angles = np.arange(-20, 21), np.linspace(0, 3, 7)
    ours = fans.parallel(scan.values, scan.theta, scan.center, scan.fan, pixels, angles)
    exact = phantoms.line_integrals(phantoms.SHEPP_LOGAN, pixels / scan.radius, angles)
    assert np.sqrt(np.square(ours - exact).mean()) < 0.03 * exact.max()
    rho, theta, values = training_lines(scan.values[::20], scan.theta[::20], scan.rho, scan.gamma)
    exact = phantoms.line_integrals(phantoms.SHEPP_LOGAN, rho.numpy()[:, None], theta.numpy()[:, None])[:, 0]
    assert values.numpy() == pytest.approx(exact, abs=1e-3)
    assert -0.8 < float(theta.min()) < 0 < math.pi < float(theta.max()) < math.pi + 0.8
    shifted = replace(scan, values=scan.values[:, 5:], center=None).centred(np.arange(0, 180, 4))
    assert shifted.center == pytest.approx(scan.center - 5, abs=0.2)
    image = classics.filtered_back_projection(scan.values, scan.theta, scan)
    assert psnr(image, true_image(scan), 1.0) > 17


def test_an_object_beyond_the_detector_needs_padding():
    """What is seen is right where the disc reaches as far as the object, wrong towards the rim where it does not."""
    theta = np.arange(0, 180, 5.0)
    pixels = np.arange(-12, 13) / 24  # of a disc of radius 0.8, of which the detector sees the middle
    values = np.tile(2 * np.sqrt(0.64 - pixels**2), (len(theta), 1))
    errors = []
    for padding in (0.0, 0.8):
        found = autoint.reconstruct(
            values, theta, center=12.0, padding=padding, exponent=1.0, strength=1e-4, passes=15, progress=False
        )
        half = len(found.image) // 2
        errors.append(np.abs(found.image[half, half - 11 : half + 12] * 24 - 1).max())
    assert errors[1] < 0.1 < 0.5 < errors[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": 5.0}, "seen from 5 pixels away, .* 73 degrees off the axis"),
        ({"curved": True}, "curved=True: of a fan beam; give source, too"),
        ({"source": 50.0, "axis": 60.0}, "axis=60.0: must be positive, and at most source=50"),
        ({"source": 50.0, "padding": 2.5}, "padding=2.5: .* give 0 to 2"),
        ({"source": 20.0, "padding": 2.0}, "padding=2.0: the object would reach to the source"),
    ],
)
def test_fans_that_cannot_be_meant_are_one_line(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        autoint.reconstruct(np.eye(33), np.arange(33) * 10, center=16.0, **options)
    assert "\n" not in str(caught.value)


def test_lengths_are_those_at_the_axis():
    scan = Scan(np.ones((4, 9)), np.arange(4.0), 4.0, pixel_size=0.2)
    found = scans.seen_by(scan, 10.0, 4.0, False, 0.0)
    assert found.fan.source == pytest.approx(50)  # pixels of the detector
    assert found.pixel_size == pytest.approx(0.2 * 4 / 10)  # seen from the source


def test_cones_are_refused_by_name(tmp_path):
    np.save(tmp_path / "s.npy", np.random.default_rng(0).random((12, 5, 9)))
    with pytest.raises(ValueError, match="of a cone beam on 5 rows only the middle one, 2,"):
        PHANTOMS.build({"name": "sinogram", "path": "s.npy", "row": 0, "source": 40.0}, str(tmp_path), None, None)


def test_a_run_with_a_fan_comes_back_from_its_checkpoint(tmp_path, undrawn):
    run: RunConfig = config(phantom={"name": "ellipses", "source": 80.0}, views=None, subsample=5, theta=45)
    fit(run, tmp_path)
    _, module = restoring.restored(tmp_path / "checkpoints" / "last.ckpt")
    assert module.search.object.gamma.shape == (32,)
    rows, _ = module.evaluate(None, run, tmp_path / "out")
    found = {row["method"]: row["psnr"] for row in rows if row["psnr"] == row["psnr"]}
    assert set(found) == {"AutoInt object", "AutoInt line", "linear", "cubic", "SART", "TV"}
    assert min(found["AutoInt object"], found["linear"], found["TV"]) > 15
