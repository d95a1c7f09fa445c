"""Tomography: the projector and its geometry, the models, scans from files, and the task from the command line."""

import base64
import json
import math
import zlib

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from autoint.registry import PHANTOMS
from autoint.runs import build, restoring, trainers
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from autoint.tomography import classics
from autoint.tomography.data import exchange as data_exchange
from autoint.tomography.data import phantoms
from autoint.tomography.data.sinograms import Scan, find_center, interpolated, seen_views
from autoint.tomography.models import LatticeObject, training_lines
from autoint.tomography.projector import Lattice, footprint, projection_matrix
from autoint.tomography.sparse_gradient import Prior, SparseGradient
from tests.conftest import SHARED_DATA
from tests.scenes.test_task import digest

SMALL = ("task=ct", "rho=32", "theta=32", "views=8", "passes=6", "network.hidden_features=8", "network.num_layers=2")
QUICK = (*SMALL, "trainer.max_steps=60", "+trainer.enable_progress_bar=false")
TURNS = torch.tensor([0.0, 0.3, math.pi / 4, 1.2, math.pi / 2, 2.0, 3.0], dtype=torch.float64)


def config(**changes):
    plain = {
        "task": "ct",
        "network": {"hidden_features": 8, "num_layers": 2},
        "trainer": {"max_steps": 60, "accelerator": "cpu", "enable_progress_bar": False},
        "rho": 32,
        "theta": 32,
        "views": 8,
        "passes": 6,
        "save_every": 7,
        "batch_size": 64,
    }
    return RunConfig.from_plain({**plain, **changes})


@pytest.mark.parametrize("theta", TURNS.tolist())
def test_footprint_is_the_integral_of_a_tent_along_lines(theta):
    """Against the trapezoid rule, which is exact to its step squared here."""
    u = torch.linspace(-1.5, 1.5, 25, dtype=torch.float64)
    t = torch.linspace(-2, 2, 20001, dtype=torch.float64)
    x = u[:, None] * math.cos(theta) - t * math.sin(theta)
    y = u[:, None] * math.sin(theta) + t * math.cos(theta)
    tents = (1 - x.abs()).clamp_min(0) * (1 - y.abs()).clamp_min(0)
    assert footprint(u, theta) == pytest.approx(torch.trapezoid(tents, t), abs=1e-5)
    fine = torch.linspace(-2, 2, 40001, dtype=torch.float64)
    assert float(torch.trapezoid(footprint(fine, theta), fine)) == pytest.approx(1, abs=1e-6)


def test_projection_keeps_the_mass_and_mirrors():
    lattice, rho = Lattice(1 / 12), torch.linspace(-1.2, 1.2, 481, dtype=torch.float64)
    c = torch.rand(len(lattice.nodes()), generator=torch.Generator().manual_seed(0)).numpy()
    views = (projection_matrix(lattice, rho, TURNS) @ c).reshape(len(TURNS), -1)
    masses = views.sum(1) * float(rho[1] - rho[0])
    assert masses == pytest.approx(c.sum() / 12**2, rel=1e-4)
    turned = (projection_matrix(lattice, rho, TURNS + math.pi) @ c).reshape(len(TURNS), -1)
    assert turned == pytest.approx(views[:, ::-1], abs=1e-6)


def test_projection_is_that_of_scikit_image():
    """Of an image that is smooth between its pixels, which scikit-image samples and we integrate."""
    from skimage.transform import radon

    lattice = Lattice(1 / 32)
    x, y = lattice.nodes().T
    c = torch.exp(-8 * ((x - 0.2).square() + 2 * (y + 0.3).square())).float()
    theta = np.linspace(0, 170, 18)
    theirs = radon(lattice.image(c).numpy().astype(float), theta, circle=True).T / 32
    rho = torch.arange(-32, 33, dtype=torch.float64) / 32
    ours = (projection_matrix(lattice, rho, torch.deg2rad(torch.as_tensor(theta))) @ c.numpy()).reshape(theirs.shape)
    assert ours == pytest.approx(theirs, abs=4e-3 * theirs.max())


def test_ellipses_have_their_line_integrals():
    """Against quadrature, which is right to O(step) at the edges of discontinuous fields."""
    theta, rho = np.array([0.0, 0.4, 2.0]), np.linspace(-0.95, 0.95, 9)
    t = np.linspace(-1, 1, 20001)
    for number, angle in enumerate(theta):
        for place, r in enumerate(rho):
            x, y = r * math.cos(angle) - t * math.sin(angle), r * math.sin(angle) + t * math.cos(angle)
            total = 0.0
            for m, a, b, x0, y0, degrees in phantoms.SHEPP_LOGAN:
                c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
                u, v = (x - x0) * c + (y - y0) * s, (y - y0) * c - (x - x0) * s
                total += m * ((u / a) ** 2 + (v / b) ** 2 <= 1).sum() * (t[1] - t[0])
            exact = phantoms.line_integrals(phantoms.SHEPP_LOGAN, rho, theta)
            assert exact[number, place] == pytest.approx(total, abs=1e-3)
    turned = phantoms.line_integrals(phantoms.SHEPP_LOGAN, rho, theta + math.pi)
    assert turned == pytest.approx(exact[:, ::-1], abs=1e-12)


@pytest.mark.parametrize("name", ["ellipses", "shepp_logan"])
def test_the_object_lies_where_the_measurement_has_it(name):
    """All angles of the scan and the image agree: a filtered back-projection of all views is the image."""
    scan = PHANTOMS.build(name, "", 64, 96)
    image = classics.filtered_back_projection(scan.values, scan.theta, scan)
    errors = {
        shift: np.square(np.roll(image[:64, :64], shift, (0, 1)) - scan.image).mean()
        for shift in ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1))
    }
    here = errors.pop((0, 0))
    assert here < min(errors.values()) / 1.5


def test_interpolation_in_angle_closes_the_circle():
    scan = PHANTOMS.build("ellipses", "", 33, 36)
    seen = np.arange(0, 36, 6)
    for kind in ("linear", "cubic"):
        filled = interpolated(scan.values[seen], scan.theta[seen], scan.rho, scan.theta, kind)
        assert filled[seen] == pytest.approx(scan.values[seen], abs=1e-12)
        turned = interpolated(scan.values[seen], scan.theta[seen], scan.rho, scan.theta + math.pi, kind)
        assert turned == pytest.approx(filled[:, ::-1], abs=1e-6)  # 33 pixels: −ρ is a pixel too
        for fan in (False, True):
            once, later = (
                interpolated(scan.values[seen], scan.theta[seen], scan.rho, scan.theta + turns * math.tau, kind, fan)
                for turns in (0, 28)
            )
            assert later == pytest.approx(once, abs=1e-9)
    between = interpolated(scan.values[seen], scan.theta[seen], scan.rho, np.array([scan.theta[33]]))
    assert between[0] == pytest.approx((scan.values[30] + scan.values[0][::-1]) / 2, abs=1e-12)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 2.5])
def test_the_centre_of_rotation_is_found(shift):
    pixels, center = np.arange(80), 40 + shift
    theta = np.arange(0, 30) * math.pi / 30
    values = phantoms.line_integrals(phantoms.SHEPP_LOGAN, (pixels - center) / 36, theta)
    assert find_center(values, theta) == pytest.approx(center, abs=0.05)


def test_a_field_with_few_edges_is_found_from_few_views():
    """Least squares alone leaves an error a hundred times as large."""
    lattice = Lattice(1 / 16)
    x, y = lattice.nodes().T
    truth = ((x - 0.1).abs().maximum((y + 0.2).abs()) < 0.4).float().numpy()
    matrix = projection_matrix(lattice, torch.arange(-16, 17) / 16, torch.arange(5) * math.pi / 5)
    errors = {}
    for strength in (1e-12, 1e-5):
        solver, c = (
            SparseGradient(matrix, matrix.T.tocsr(), matrix @ truth, lattice, Prior(0.5, strength)),
            np.zeros_like(truth),
        )
        for done in range(40):
            c = solver.step(c, done / 40)
        errors[strength] = float(np.abs(c - truth).mean())
    assert errors[1e-5] < 1e-4 < errors[1e-12] / 10


def test_the_line_is_the_integral_of_its_grad_network():
    task = build.task(config())
    line = task.module.line.double()
    rho = torch.tensor([-0.9, 0.0, 0.3, 0.99], dtype=torch.float64)
    theta = torch.tensor([0.1, 1.0, 2.0, 3.0], dtype=torch.float64)
    u = torch.full((4, 1, 20000), 0.5, dtype=torch.float64)  # the midpoint rule
    with torch.no_grad():
        assert line.estimate(rho, theta, u) == pytest.approx(line(rho, theta), rel=1e-5, abs=1e-9)


def test_training_lines_are_the_measured_ones_and_their_mirror_images():
    scan = PHANTOMS.build("ellipses", "", 16, 12)
    rho, theta, values = training_lines(scan.values, scan.theta, scan.rho)
    exact = [
        phantoms.line_integrals(phantoms.SHEPP_LOGAN, np.array([r]), np.array([a]))[0, 0]
        for r, a in zip(rho.double().numpy(), theta.double().numpy(), strict=True)
    ]
    assert values.numpy() == pytest.approx(np.array(exact), abs=2e-3)
    assert float(theta.min()) < 0
    assert float(theta.max()) > math.pi


def test_views_that_are_measured():
    assert seen_views(12, None, 5).tolist() == [0, 5, 10]
    assert seen_views(128, 16, None).tolist() == list(range(0, 128, 8))
    assert len(seen_views(181, 46, None)) == 46
    for arguments in ((10, 11, None), (10, 1, None), (10, None, 6), (10, None, 0), (10, 2, 2)):
        with pytest.raises(ValueError, match="give"):
            seen_views(*arguments)


def test_noise_is_of_the_size_that_was_asked_for():
    scan = PHANTOMS.build("ellipses", "", 128, 64)
    noisy = scan.with_noise(0.02, None, seed=1)
    assert (noisy.values - scan.values).std() == pytest.approx(0.02 * scan.values.max(), rel=0.03)
    assert noisy.truth is scan.values
    counted = scan.with_noise(0, 1e4, seed=1)
    assert (counted.values - scan.values)[scan.values == 0].std() == pytest.approx(0.01, rel=0.05)  # 1/√photons
    with pytest.raises(ValueError, match="photons=0"):
        scan.with_noise(0, 0, seed=1)


def test_train_and_evaluate(program, tmp_path):
    status, out, err = program("train", *QUICK, "hydra.run.dir=run")
    assert status == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["test/psnr_object"] > result["metrics"]["test/psnr_linear"] + 1
    for name in ("sinograms.png", "images.png", "sinograms.npz"):
        assert (tmp_path / "run" / name).stat().st_size > 10_000
    assert f"the slice as numbers, attenuation per pixel: {tmp_path / 'run' / 'slice.tif'} and .npy" in out
    status, out, err = program("evaluate", "runs=run", "hydra.run.dir=table")
    assert status == 0, err
    rows = {r["method"]: r for r in json.loads((tmp_path / "table" / "result.json").read_text())["rows"]}
    assert list(rows) == ["AutoInt object", "AutoInt line", "linear", "cubic", "FBP", "SART", "TV"]
    assert rows["AutoInt object"]["psnr"] == pytest.approx(result["metrics"]["test/psnr_object"], abs=1e-4)
    assert rows["AutoInt object"]["image_psnr"] > rows["FBP"]["image_psnr"]
    assert rows["AutoInt line"]["image_psnr"] is None  # it knows no object
    [again] = (tmp_path / "table").rglob("slice.npy")
    assert np.load(again) == pytest.approx(np.load(tmp_path / "run" / "slice.npy"), abs=1e-6)
    assert "| shepp_logan | 8     | AutoInt object |" in out


class KilledError(Exception):
    pass


class Kill(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.step:
            raise KilledError


@pytest.mark.parametrize(("how", "stops"), [("integral_net", (10, 36, 57)), ("grad_net", (57,))])
def test_resumed_is_the_same_run(how, stops, tmp_path, undrawn):
    """Stopped while lattices and priors are tried, in the last fit of the object, and in the network's training."""

    def last(name):
        return tmp_path / name / "checkpoints" / "last.ckpt"

    whole = fit(config(fit=how), tmp_path / "whole")
    for stop in stops:
        folder = tmp_path / f"stopped_{stop}"
        task, trainer = build.task(config(fit=how)), trainers.trainer(config(fit=how), folder)
        trainer.callbacks.append(Kill(stop))
        with pytest.raises(KilledError):
            trainer.fit(task.module, task.data)
        fit(config(fit=how, ckpt_path=str(last(folder.name))), tmp_path / f"resumed_{stop}")
        assert digest(last(f"resumed_{stop}")) == digest(last("whole")), stop
    assert whole["steps"] == 60


def test_the_object_alone_ends_when_it_is_found(tmp_path, undrawn):
    result = fit(config(fields=["object"], strength=1e-4, exponent=1.0), tmp_path)
    assert result["steps"] == 6
    assert "test/psnr_line" not in result["metrics"]


def test_a_sweep_writes_figure_3(program, tmp_path):
    status, out, err = program(
        "train",
        "-m",
        *QUICK,
        "fields=[line]",
        "activation=swish,relu",
        "views=8,4",
        "trainer.max_steps=5",
        "hydra.sweep.dir=sweep",
    )
    assert status == 0, err
    table = (tmp_path / "sweep" / "table.md").read_text()
    assert table in out
    assert "| line, relu " in table
    assert "| 8 views | 4 views |" in table
    assert (tmp_path / "sweep" / "figure3.png").stat().st_size > 10_000


def exchange(file, *, angles=None, damage=None):
    """Write a scan of ellipses as the Data Exchange layout has it; ``damage`` changes the arrays before."""
    h5py = pytest.importorskip("h5py")
    theta = np.arange(24) * 7.5
    values = phantoms.line_integrals(phantoms.SHEPP_LOGAN, (np.arange(40) - 21) / 17, np.deg2rad(theta))
    dark, white = np.full((3, 2, 40), 100.0), np.full((3, 2, 40), 20100.0)
    data = np.stack([np.full_like(values, 20100.0), 100 + 20000 * np.exp(-values)], 1)
    arrays = {"data": data, "data_white": white, "data_dark": dark, "theta": theta if angles is None else angles}
    if damage is not None:
        damage(arrays)
    with h5py.File(file, "w") as out:
        for name, array in arrays.items():
            out[f"exchange/{name}"] = array
    return values


def read(file, **options):
    return PHANTOMS.build({"name": "scan", "path": str(file), "row": 1, **options}, "", None, None)


def test_a_scan_is_read_corrected_and_centred(tmp_path, caplog):
    values = exchange(tmp_path / "scan.h5")
    caplog.set_level("INFO", "autoint")
    scan = read(tmp_path / "scan.h5")
    assert f"{tmp_path / 'scan.h5'}: row 1 of 2, by phantom.row" in caplog.messages
    assert scan.values == pytest.approx(values, abs=1e-9)
    assert scan.centred(np.arange(24)).center == pytest.approx(21, abs=0.02)
    assert scan.theta == pytest.approx(np.arange(24) * 7.5 * math.pi / 180)


def test_damage_that_can_be_mended_is_mended_and_told_of(tmp_path, caplog):
    def damage(arrays):
        arrays["data_white"][:, 1, 7] = 100  # white = dark
        arrays["data"][3, 1, 20] = 100  # no light
        order = [1, 0, *range(2, 24), 5]  # not in order, and one view twice
        arrays["data"], arrays["theta"] = arrays["data"][order], arrays["theta"][order]

    values = exchange(tmp_path / "scan.h5", damage=damage)
    scan = read(tmp_path / "scan.h5")
    assert scan.values.shape == (24, 40)
    healthy = np.setdiff1d(np.arange(40), [7, 20])
    assert scan.values[:, healthy] == pytest.approx(values[:, healthy], abs=1e-9)
    assert np.isfinite(scan.values).all()
    for words in ("columns 7 were interpolated", "1 pixels without light", "not in order", "1 repeated angles"):
        assert words in caplog.text


# Found by fuzzing: the HDF5 library follows its tables in a circle.
ENDLESS = (
    "c-"
    "rgqaB<`1lHy_j0S*oZ76t(ZWbhvfHi)3|Ve$!3nh{EOK<O1sFmXn(oCH){5NbZUx{x4OSCH!eXaMdIsIxd2M!`q~9<Gi7AUXodho"
    "z?zOsMKoE0Qx3^U_mcsZRneeL9e7KO+Mx#0*9l-vUB2Lj+i$>R`@cgVMOfnSlwK5t^)-"
    "kP<j6FolD}nV6UuA?Y3B1E4h=s5uS>3I-"
    "%TaOLX=sD~@qh|AX=f)LtZG>MPqYap<I(lgjl)ukksB*N(U@{G)qRD^hZN@7tqR9#6%Dp(;bzbg!e{H%s8KPL>T{G7s&%8<s8&XB"
    ">7$&f_@-"
    "U5b&42u{RGb~|P%CL+EJVtP+!$|7$7?6uI1{Y{G5(1^;97c2UC>T+|d$i~vt>}P)(V}A%jDnF2g8lqmKqUlhD8qmSwTp`0g&GC;!"
    "jT0Yjtb29)x)|16NK=qgAIUvAQ1krF6#o}p&gC`KeTaRkPU61hX=%+jEtz^!2<WM1X!t{f;}`XIxv`UGno8`rbpcVR^Y_mN$nU^="
    ">q`wHO4y"
)


def test_a_file_that_the_library_never_ends_with_is_refused_in_time(tmp_path, monkeypatch):
    """Or that ends its process."""
    monkeypatch.setattr(data_exchange, "PATIENCE", 3.0)
    (tmp_path / "scan.h5").write_bytes(zlib.decompress(base64.b85decode(ENDLESS)))
    # The library goes on for ever or asks for ever more memory, of which its process has a limited amount.
    ends = r"scan.h5: not a readable HDF5 file \(.*( was not done after 3 s|memory allocation failed)"
    with pytest.raises(ValueError, match=ends):
        read(tmp_path / "scan.h5")
    exchange(tmp_path / "scan.h5")
    (tmp_path / "ends").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "ends").chmod(0o700)
    monkeypatch.setattr(data_exchange.sys, "executable", str(tmp_path / "ends"))
    with pytest.raises(ValueError, match=r"the HDF5 library ended with status -11\); restore the file"):
        read(tmp_path / "scan.h5")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda a: a["data"].__setitem__((0, 1, 3), np.nan),
            r"exchange/data\]: 1 values are NaN or infinite",
        ),
        (lambda a: a["data"].__setitem__((0, 1, 3), -5), "negative counts, -5 at"),
        (lambda a: a["data"].__setitem__(..., 0), "no light in any view"),
        (lambda a: a["data_white"].__setitem__(..., 100), "no light|white ≤ dark|dead"),
        (lambda a: a.__setitem__("theta", a["theta"][:-1]), "24 views but 23 angles"),
        (lambda a: a.__setitem__("theta", np.deg2rad(a["theta"])), "looks like radians"),
        (lambda a: a["theta"].__setitem__(2, np.nan), "angle 2 is not a finite number"),
        (lambda a: a["theta"].__setitem__(23, 700), "more than one turn"),
        (lambda a: a.pop("data_white"), "no dataset exchange/data_white"),
        (lambda a: a.__setitem__("data", a["data"][:, 1]), "expected \\(frames, rows, columns\\)"),
        (lambda a: a.__setitem__("data_white", a["data_white"][:, :, :9]), "the same columns"),
        (
            lambda a: a["data_white"].__setitem__((slice(None), 1, slice(0, 12)), 100),
            "12 of 40 detector columns are dead",
        ),
    ],
)
def test_bad_scans_are_refused(tmp_path, damage, words):
    exchange(tmp_path / "scan.h5", damage=damage)
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path / "scan.h5")
    assert str(tmp_path / "scan.h5") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["npy", "npz", "tif"])
def test_sinograms_in_arrays_and_pictures(tmp_path, suffix):
    from PIL import Image

    scan = PHANTOMS.build("ellipses", "", 32, 20)
    file = tmp_path / f"sinogram.{suffix}"
    angles = None
    if suffix == "npz":
        np.savez(file, sinogram=scan.values, theta=np.degrees(scan.theta))
    elif suffix == "npy":
        np.save(file, scan.values)
        angles = str(tmp_path / "angles.txt")
        np.savetxt(angles, np.degrees(scan.theta))
    else:
        Image.fromarray(scan.values.astype(np.float32)).save(file)
    found = PHANTOMS.build({"name": "sinogram", "path": str(file), "angles": angles, "center": 16.0}, "", None, None)
    assert found.values == pytest.approx(scan.values, abs=1e-6)
    assert found.theta == pytest.approx(scan.theta)
    assert found.rho == pytest.approx(scan.rho)


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.full((4, 5), np.nan), {}, "20 values are NaN or infinite, the first at \\(0, 0\\)"),
        (np.zeros((4, 5)), {}, "nothing to reconstruct"),
        (np.linspace(-1, 1, 20).reshape(4, 5), {}, "values go down to -1"),
        (np.ones((4, 5), complex), {}, "holds complex128, not real numbers"),
        (np.array([[object()]]), {}, "holds pickled objects"),
        (np.ones(5), {}, "expected \\(angles, detector pixels\\)"),
        (np.ones((1, 5)), {}, "expected \\(angles, detector pixels\\)"),
        (np.arange(20.0).reshape(4, 5), {"angles": "five.txt"}, "4 views but 5 angles; .* may be transposed"),
        (np.arange(20.0).reshape(4, 5), {"center": 9.0}, "phantom.center=9.0: must lie on the detector"),
        (np.arange(20.0).reshape(4, 5), {"pixel_size": 0.0}, "phantom.pixel_size=0.0: the length"),
        (np.arange(20.0).reshape(4, 5), {"unit": "turns"}, "phantom.unit='turns' is unknown"),
    ],
)
def test_bad_sinograms_are_refused(tmp_path, array, options, words):
    np.save(tmp_path / "sinogram.npy", array, allow_pickle=True)
    np.savetxt(tmp_path / "five.txt", np.arange(5) * 30.0)
    with pytest.raises(ValueError, match=words):
        PHANTOMS.build({"name": "sinogram", "path": "sinogram.npy", **options}, str(tmp_path), None, None)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("views=99",), "views=99: the scan has 32 views; give 2 to 32"),
        (("subsample=4",), "give one of them"),
        (("phantom=shep_logan",), "phantom='shep_logan' is unknown; did you mean 'shepp_logan'?"),
        (("phantom=scan",), "rho=32, theta=32: phantom=scan is measured"),
        (("phantom=scan", "rho=null", "theta=null", "phantom.path=nowhere.h5"), "nowhere.h5: no such file"),
        (("fields=[objct]",), "fields='objct' is unknown; did you mean 'object'?"),
        (("exponent=3",), "exponent=3.0 must be above 0 and at most 2"),
        (("spacing=0",), "spacing=0.0: detector pixels between"),
        (("gaussian=-1",), "gaussian=-1.0 must not be negative"),
    ],
)
def test_bad_input_is_one_line(program, tmp_path, overrides, words):
    status, _, err = program("train", *QUICK, *overrides)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_damaged_file_is_no_scan(tmp_path):
    exchange(tmp_path / "scan.h5")
    contents = (tmp_path / "scan.h5").read_bytes()
    for damaged in (b"", b"<html>", contents[: len(contents) // 2]):
        (tmp_path / "bad.h5").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"bad\.h5"):
            read(tmp_path / "bad.h5")


@pytest.mark.skipif(not (SHARED_DATA / "ct" / "tooth.h5").exists(), reason="shared data: ct/tooth.h5")
def test_the_tooth_is_read_and_centred():
    scan = PHANTOMS.build({"name": "scan", "path": "ct/tooth.h5"}, str(SHARED_DATA), None, None)
    assert scan.values.shape == (181, 640)
    assert scan.centred(np.arange(0, 181, 4)).center == pytest.approx(296, abs=0.2)


def test_an_object_comes_back_from_its_checkpoint(tmp_path, undrawn):
    """Of another size than the module is made with, and with the same sinogram."""
    fit(config(phantom="ellipses"), tmp_path)
    _, module = restoring.restored(tmp_path / "checkpoints" / "last.ckpt")
    written = np.load(tmp_path / "sinograms.npz")
    scan = Scan(written["sinogram"], written["theta"], 16.0)
    assert isinstance(module.search.object, LatticeObject)
    assert module.search.object.sinogram(scan.rho, scan.theta) == pytest.approx(written["object"], abs=1e-6)
    assert module.line.sinogram(scan.rho, scan.theta) == pytest.approx(written["line"], abs=1e-6)
