"""Counts, stripes and spikes: what measurements do to a sinogram, and what is done about it."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from autoint.registry import PHANTOMS
from autoint.tomography.data.mending import without_rings, without_spikes
from autoint.tomography.models import LatticeObject
from autoint.tomography.projector import Lattice, projection_matrix
from autoint.tomography.sparse_gradient import Prior, SparseGradient
from tests.tomography.test_reconstruction import scan  # noqa: F401 (a fixture)


def test_weights_are_those_of_the_lines():
    """A line that weighs nothing may say anything; weights of two are every line twice."""
    lattice = Lattice(1 / 8)
    g = np.random.default_rng(0)
    matrix = projection_matrix(lattice, torch_line(8), torch_line(5) + 1)
    measured = matrix @ g.uniform(0, 1, matrix.shape[1]).astype(np.float32)

    def fitted(y, weights, m=matrix):
        solver = SparseGradient(m, m.T.tocsr(), y, lattice, Prior(1.0, 1e-3), weights)
        c = np.zeros(m.shape[1], np.float32)
        for done in range(10):
            c = solver.step(c, done / 10)
        return c

    weights = np.ones(len(measured), np.float32)
    weights[::3] = 0
    spoilt = np.where(weights == 0, 7, measured)
    assert fitted(spoilt, weights) == pytest.approx(fitted(measured, weights), abs=1e-5)
    from scipy.sparse import vstack

    twice = fitted(np.concatenate([measured, measured]), None, vstack([matrix, matrix]).tocsr())
    assert fitted(measured, np.full(len(measured), 2.0)) == pytest.approx(twice, abs=1e-3)


def torch_line(count):
    import torch

    return torch.linspace(-1, 1, count, dtype=torch.float64)


def test_counts_are_weighed_by_their_light(scan):  # noqa: F811
    """Of a dense object and few photons, the weighted fit is the better one."""
    counts = np.random.default_rng(0).poisson(300 * np.exp(-8 * scan.values / scan.values.max()))
    values = -np.log(np.maximum(counts, 1) / 300) / 8
    exact = scan.values / scan.values.max()
    errors = {}
    for counted in (False, True):
        obj = LatticeObject(8 * values[::6], scan.theta[::6], scan.rho, 1 / scan.radius, counted)
        solver = obj.solver(np.arange(16), Prior(1.0, 1e-3))
        for done in range(20):
            c = solver.step(obj.values.numpy(), done / 20)
            obj.values.copy_(type(obj.values.data)(c))
        errors[counted] = float(np.square(obj.integrals(scan.rho, scan.theta) / 8 - exact).mean()) ** 0.5
    assert errors[True] < 0.9 * errors[False]


def test_stripes_and_spikes_are_removed_and_told_of(scan, caplog):  # noqa: F811
    caplog.set_level("INFO", "autoint")
    fine = zoom(scan.values, (1, 8), order=1)  # pixels that a stripe is thin beside
    striped = fine.copy()
    striped[:, 160] += 0.05 * fine.max()
    clean = without_rings("s", striped, 9)
    assert np.abs(clean - fine)[:, 160].mean() < 0.2 * 0.05 * fine.max()
    assert np.abs(clean - fine).mean() < 0.002 * fine.max()
    assert "s: rings removed by sorting, median over 9 columns" in caplog.text
    noisy = scan.values + 1e-3 * np.random.default_rng(0).standard_normal(scan.values.shape)
    spiked = noisy.copy()
    spiked[[3, 50, 80], [10, 25, 40]] += 1.0
    found = without_spikes("s", spiked, 0.3)
    assert np.abs(found - noisy).max() < 0.1
    assert "s: 3 bad pixels" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rings": 4}, "phantom.rings=4: an odd number"), ({"spikes": 0.0}, "phantom.spikes=0.0: how far off")],
)
def test_repairs_that_cannot_be_meant(tmp_path, scan, options, words):  # noqa: F811
    np.savez(tmp_path / "s.npz", sinogram=scan.values, theta=np.degrees(scan.theta))
    with pytest.raises(ValueError, match=words):
        PHANTOMS.build({"name": "sinogram", "path": "s.npz", **options}, str(tmp_path), None, None)
