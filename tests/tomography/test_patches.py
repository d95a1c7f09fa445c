"""Similar patches: which they are, what is left of their noise, and objects from noisy views."""

import numpy as np
import pytest
import torch

import autoint
from autoint.registry import PHANTOMS
from autoint.tomography import evaluation
from autoint.tomography.models import LatticeObject
from autoint.tomography.patches import ALIKE, PATCH, REACH, STRIDE, denoised, shrunk, similar
from autoint.tomography.projector import Lattice, projection_matrix
from autoint.tomography.search import Search, trials_of

SIZE = 8 * STRIDE


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)


def patch(image, number):
    y, x = divmod(int(number), SIZE)
    return image[y : y + PATCH, x : x + PATCH]


def test_groups_are_those_that_differ_least(image):
    """Against a loop over all places within reach."""
    groups = similar(image)
    assert groups.shape == ((SIZE // STRIDE - 1) ** 2, ALIKE)
    last = SIZE - PATCH
    for row, own in ((0, 0), (17, (17 // 7 * SIZE + 17 % 7) * STRIDE), (48, (SIZE + 1) * last)):
        y, x = divmod(own, SIZE)
        near = [
            a * SIZE + b
            for a in range(max(0, y - REACH), min(last, y + REACH) + 1)
            for b in range(max(0, x - REACH), min(last, x + REACH) + 1)
        ]
        apart = [float(np.square(patch(image, n) - patch(image, own)).sum()) for n in near]
        assert set(groups[row]) == {near[n] for n in np.argsort(apart)[:ALIKE]}


def test_groups_are_shrunk_by_their_singular_values(image):
    """Against a singular value decomposition of one group after the other."""
    groups, deviation = similar(image), 0.7
    total, count = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for group in groups:
        rows = np.stack([patch(image, n).ravel() for n in group]).astype(float)
        mean = rows.mean(0)
        u, size, v = np.linalg.svd(rows - mean, full_matrices=False)
        gain = np.maximum(0, 1 - PATCH**2 * deviation**2 / np.maximum(size, 1e-9) ** 2)
        for n, row in zip(group, (u * size * gain) @ v + mean, strict=True):
            patch(total, n)[:] += row.reshape(PATCH, PATCH) / (1 + (gain > 0).sum())
            patch(count, n)[:] += 1 / (1 + (gain > 0).sum())
    assert shrunk(image, groups, deviation) == pytest.approx(total / count, abs=1e-4)


def test_what_repeats_is_kept_and_noise_is_not(image):
    y, x = np.mgrid[:40, :41]
    motif = np.sin(y * 0.9).astype(np.float32)[:, :40] + (x > y)[:, :40]  # a texture and an edge
    noise = 0.2 * np.random.default_rng(1).standard_normal(motif.shape).astype(np.float32)
    found = denoised(motif + noise, 0.2)
    assert np.square(found - motif).mean() < 0.25 * np.square(noise).mean()
    assert denoised(motif, 1e-6) == pytest.approx(motif, abs=1e-5)
    flat = np.zeros((31, 31), np.float32)  # where all are alike, and none is left out
    assert (denoised(flat, 0.1) == 0).all()
    for size in (2, 5, 9):  # of fewer patches than a group has
        assert denoised(image[:size, :size], 1e-6) == pytest.approx(image[:size, :size], abs=1e-4)


def test_noisy_views_are_better_explained_with_patches():
    """Of a striped disc; the prior that held-out views choose, against the best total variation by the truth."""
    lattice, theta = Lattice(1 / 24), np.arange(60) * np.pi / 60
    x, y = lattice.nodes().numpy().T
    truth = np.where(x**2 + y**2 < 0.8, 1 + 0.5 * np.sin(9 * x + 14 * y), 0).astype(np.float32)
    rho = np.arange(-24, 25) / 24
    exact = (projection_matrix(lattice, torch.as_tensor(rho), torch.as_tensor(theta)) @ truth).reshape(60, 49)
    noisy = exact + 0.02 * exact.max() * np.random.default_rng(0).standard_normal(exact.shape)
    image, seen, unseen = (
        lattice.image(torch.as_tensor(truth)).numpy() / 24,
        np.arange(60) % 3 == 0,
        np.arange(60) % 3 > 0,
    )
    options = {"unit": "radians", "angles": theta, "center": 24.0, "progress": False, "passes": 20}

    def errors(**prior):
        found = autoint.reconstruct(noisy[seen], theta[seen], **options, **prior)
        return found.prior, [
            np.sqrt(np.square(found.sinogram - exact)[unseen].mean()),
            np.sqrt(np.square(found.image - image).mean()),
        ]

    chosen, ours = errors()
    assert chosen.deviation > 0
    best = np.min([errors(exponent=1.0, strength=s)[1] for s in (3e-4, 1e-3)], axis=0)
    assert (np.array(ours) < 0.9 * best).all()
    _, alone = errors(patches=chosen.deviation, strength=1e-5)  # begins with what total variation finds
    assert (np.array(alone) < best).all()


def test_patches_are_for_noise():
    scan = PHANTOMS.build("ellipses", "", 24, 24)
    model = LatticeObject(scan.values[::2], scan.theta[::2], scan.rho)
    search = Search(model, trials_of(None, None, None, None, scan.radius), 2)
    for step in range(search.steps):
        search.advance(step)
    scores = zip(search.trials, search.scores.tolist(), strict=True)
    assert all(np.isinf(score) for (_, prior), score in scores if prior.deviation)
    with pytest.raises(ValueError, match=r"patches=1.5: deviation of noise .* give 0 to 1"):
        autoint.reconstruct(np.eye(9), np.arange(9) * 20, patches=1.5)


def test_edges_between_the_nodes_want_a_finer_lattice_though_there_is_noise():
    """Of ellipses, whose exact integrals a coarse lattice cannot explain; against what it has at best, by the truth."""
    scan = PHANTOMS.build("ellipses", "", 48, 90).with_noise(0.01, None, 0)
    seen = np.arange(0, 90, 2)
    trials = [trial for trial in trials_of(None, None, None, 0.0, scan.radius) if trial[1].exponent == 1]

    def found(own):
        search = Search(LatticeObject(scan.values[seen], scan.theta[seen], scan.rho), own, 40)
        for step in range(search.steps):
            search.advance(step)
        return search, evaluation.errors(evaluation.ours(search.object, scan), scan, seen)

    search, ours = found(trials)
    spacing, _ = search.best
    assert spacing * scan.radius == 0.5
    coarse = [found([(h, p)])[1] for h, p in trials if h > spacing and 1e-4 < p.strength < 1]
    assert ours["psnr"] > max(row["psnr"] for row in coarse) + 1
    assert ours["image_psnr"] > max(row["image_psnr"] for row in coarse) + 0.5


def test_where_no_object_is_better_than_interpolation_the_image_is_that_of_its_views():
    scan = PHANTOMS.build("ellipses", "", 32, 48)
    model = LatticeObject(scan.values[::2], scan.theta[::2], scan.rho)
    filled = evaluation.ours(model, scan)
    assert np.corrcoef(filled.image.ravel(), evaluation.true_image(scan).ravel())[0, 1] > 0.7
    assert filled.sinogram[::2] == pytest.approx(scan.values[::2], abs=0.02)
