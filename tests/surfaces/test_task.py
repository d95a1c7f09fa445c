"""task=surface from the command line: training, evaluation, resuming, and files of strangers."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from autoint.registry import SHAPES
from autoint.reports import mesh_pictures
from autoint.runs import restoring
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from autoint.surfaces import cleaning, evaluation, orienting, sampling
from autoint.surfaces.task import SurfaceFitting, load_samples, load_shape

trimesh = pytest.importorskip("trimesh")
SMALL = ("task=surface", "shape=sphere", "network.hidden_features=32", "network.num_layers=3", "batch_size=128")
QUICK = (*SMALL, "resolution=32", "trainer.max_steps=150", "optimizer.lr=0.005", "+trainer.enable_progress_bar=false")
FEW = ((mesh_pictures, "SAMPLES", 2000), (sampling, "POOL", 2**13), (evaluation, "SAMPLES", 3000))
FEW += ((evaluation, "DENSE", 10_000), (evaluation, "MOST_VERTICES", 2000))


@pytest.fixture(autouse=True)
def _small(monkeypatch, one_thread, undrawn):
    for module, name, number in FEW:
        monkeypatch.setattr(module, name, number)


def config(**changes):
    plain = {
        "task": "surface",
        "shape": "sphere",
        "activation": {"name": "softplus", "beta": 100.0},
        "encoding": "identity",
        "network": {"hidden_features": 16, "num_layers": 3},
        "trainer": {"max_steps": 40, "accelerator": "cpu", "enable_progress_bar": False},
        "resolution": 24,
        "batch_size": 64,
        "save_every": 7,
        "val_every": 1000,
    }
    return RunConfig.from_plain({**plain, **changes})


def learned(folder, **changes):
    """A sphere, learned in a second: the run's row of the table."""
    small = {"network": {"hidden_features": 32, "num_layers": 3}, "optimizer": {"lr": 0.005}, "batch_size": 128}
    trainer = {"max_steps": 150, "accelerator": "cpu", "enable_progress_bar": False}
    fit(config(**{**small, "trainer": trainer, "save_every": 1000, "resolution": 32, **changes}), folder)
    return json.loads((folder / "errors.json").read_text())


@pytest.fixture(scope="module")
def sphere(tmp_path_factory):
    """One run for all who need one."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, number in FEW:
            patch.setattr(module, name, number)
        folder = tmp_path_factory.mktemp("sphere") / "run"
        learned(folder, val_every=100)
    return folder


def test_a_sphere_is_learned_and_evaluated_in_another_run(sphere, program, tmp_path):
    row = json.loads((sphere / "errors.json").read_text())
    assert row["distance"] < 0.03
    assert row["iou"] > 0.8
    assert row["normal_consistency"] > 0.95
    assert (sphere / "validation" / "step_0000100.png").is_file()
    mesh = trimesh.load(sphere / "mesh.ply", process=False)
    assert len(mesh.vertices) == row["vertices"]
    assert mesh.volume > 0
    status, out, err = program("evaluate", f"runs={sphere}", "hydra.run.dir=evaluation")
    assert status == 0, err
    assert f"| {row['distance']:.1e}" in out
    for name in ("normals.png", "error.png", "slice.png", "mesh.ply"):
        assert list((tmp_path / "evaluation" / "images").rglob(name)), name


def test_a_run_s_surface_is_exported_by_its_command(sphere, program, tmp_path):
    for kind in ("ply", "obj", "glb"):
        made = tmp_path / f"made.{kind}"
        status, out, err = program("autoint", "export", str(sphere), str(made), "--resolution=20")
        assert status == 0, err
        assert "watertight" in out
        mesh = trimesh.load(made, process=False, force="mesh")
        assert np.linalg.norm(mesh.vertices, axis=1).mean() == pytest.approx(0.4, abs=0.05)
        assert "exists; remove it" in program("autoint", "export", str(sphere), str(made))[2]


def test_points_of_a_run_s_surface_are_exported_with_normals(sphere, program, tmp_path):
    made = tmp_path / "cloud.ply"
    status, out, err = program("autoint", "export", str(sphere), str(made), "--resolution=20", "--points=500")
    assert status == 0, err
    assert "500 points of the surface at f = 0" in out
    shape = SHAPES.build({"name": "points", "path": str(made)}, "")
    length = np.linalg.norm(shape.points, axis=1)
    assert length == pytest.approx(0.4, abs=0.05)
    assert (shape.points * shape.normals).sum(axis=1) / length == pytest.approx(1, abs=0.2)
    for name, count, words in (("cloud.obj", 5, "give .ply"), ("more.ply", 0, "--points=0 must be between 1 and")):
        status, _, err = program("autoint", "export", str(sphere), str(tmp_path / name), f"--points={count}")
        assert status == 2
        assert words in err


@pytest.mark.parametrize(
    ("changes", "worst"),
    [
        ({"normals": False}, 0.04),
        (
            {"loss": "siren_sdf", "optimizer": {"lr": 0.001}, "activation": {"name": "sine", "omega_0": 10.0}},
            0.08,
        ),
    ],
)
def test_a_sphere_is_learned_by_other_losses(changes, worst, tmp_path):
    row = learned(tmp_path / "run", **changes)
    assert row["distance"] < worst
    assert row["iou"] > 0.6
    assert row["normal_consistency"] > 0.85


def test_a_run_that_was_stopped_or_killed_goes_on_to_be_the_run_itself(elsewhere, tmp_path):
    slowly = {"decay_steps": 1000}  # a schedule that does not look at the budget
    part = {"max_steps": 20, "accelerator": "cpu", "enable_progress_bar": False}
    fit(config(optimizer=slowly), tmp_path / "whole")
    fit(config(optimizer=slowly, trainer=part), tmp_path / "parts")

    def killed():
        step = SurfaceFitting.training_step

        def fatal(self, batch, number):
            if number == 17:  # 3 steps after a checkpoint
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, batch, number)

        SurfaceFitting.training_step = fatal
        fit(config(optimizer=slowly), tmp_path / "killed")

    assert elsewhere(killed)[0] == -signal.SIGKILL
    weights = {}
    for name, way in (("parts", "last"), ("killed", "auto")):
        fit(config(optimizer=slowly, ckpt_path=way), tmp_path / name)
    for name in ("whole", "parts", "killed"):
        weights[name] = restoring.restored(tmp_path / name / "checkpoints" / "last.ckpt")[1].state_dict()
    for name in ("parts", "killed"):
        assert all(torch.equal(weights[name][key], weights["whole"][key]) for key in weights["whole"])


def test_what_is_inside_of_a_mesh_file_is_learned_and_evaluated(program, tmp_path):
    trimesh.creation.icosphere(subdivisions=3, radius=200.0).export(tmp_path / "ball.ply")
    shape = {"name": "mesh", "path": str(tmp_path / "ball.ply")}
    faster = {"radius": 0.9, "batch_size": 256, "optimizer": {"lr": 0.01}}
    row = learned(tmp_path / "run", shape=shape, loss="occupancy", **faster)
    assert row["iou"] > 0.85
    assert row["distance"] < 0.08
    status, out, err = program("evaluate", f"runs={tmp_path / 'run'}", "hydra.run.dir=evaluation")
    assert status == 0, err
    assert f"| {row['iou']:.4f}" in out
    (made,) = (tmp_path / "evaluation" / "images").rglob("mesh.ply")
    assert np.linalg.norm(trimesh.load(made).vertices, axis=1).mean() == pytest.approx(200, rel=0.15)


def test_a_training_that_ends_without_a_surface_is_whole_and_says_so(program, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "values", lambda net, x: np.ones(len(x)))
    status, out, err = program("train", *QUICK, "trainer.max_steps=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert status == 0, err
    assert "there is no surface: nothing crosses 0" in out + err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["collapsed"]


def cloud(count=400, units=1.0):
    shape = SHAPES.build("sphere", "")
    points, normals = shape.sample(count, 0)
    return points * units + 3 * units, normals


def write_ply(file, points, normals=None):
    rows = points if normals is None else np.concatenate([points, normals], axis=1)
    names = ("x", "y", "z", "nx", "ny", "nz")[: rows.shape[1]]
    head = "".join(f"property float {name}\n" for name in names)
    text = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{head}end_header\n"
    file.write_bytes(text.encode() + rows.astype("<f4").tobytes())
    return str(file)


def test_a_cloud_in_thousands_with_normals_is_learned_in_its_own_units(program, tmp_path):
    file = write_ply(tmp_path / "cloud.ply", *cloud(units=5000.0))
    status, _, err = program("train", *QUICK, "shape=points", f"shape.path={file}", f"hydra.run.dir={tmp_path / 'run'}")
    assert status == 0, err
    mesh = trimesh.load(tmp_path / "run" / "mesh.ply", process=False)
    assert mesh.centroid == pytest.approx(np.full(3, 15000.0), rel=0.02)
    assert np.linalg.norm(mesh.vertices - 15000.0, axis=1) == pytest.approx(2000.0, rel=0.15)
    assert json.loads((tmp_path / "run" / "errors.json").read_text())["points"] < 0.05


def test_a_mesh_is_sampled_and_has_an_inside_where_it_is_closed(tmp_path):
    made = trimesh.creation.icosphere(subdivisions=3, radius=2.0)
    for kind in ("ply", "obj", "glb"):
        made.export(tmp_path / f"ball.{kind}")
        shape = SHAPES.build({"name": "mesh", "path": f"ball.{kind}"}, str(tmp_path))
        assert shape.closed
        x = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
        assert shape.distance(x) == pytest.approx([-2.0, 1.0], rel=0.02)
    points, normals = shape.sample(500, 0)
    assert np.abs(shape.distance(points)).max() < 1e-6
    assert (points * normals).sum(1) == pytest.approx(2, rel=0.02)


def test_parts_of_a_mesh_may_overlap_and_a_part_that_is_inside_out_is_a_hole(tmp_path):
    ball, box = trimesh.creation.icosphere(subdivisions=2), trimesh.creation.box((1, 1, 1))
    hole = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    hole.invert()
    box.apply_translation([0.8, 0, 0])
    trimesh.util.concatenate([ball, box, hole]).export(tmp_path / "parts.stl")
    shape = SHAPES.build({"name": "mesh", "path": str(tmp_path / "parts.stl")}, "")
    x = np.array([[-0.5, 0, 0], [0.8, 0, 0], [1.2, 0, 0], [0, 0, 0], [0, 0, 1.1]])
    assert shape.inside(x).tolist() == [True, True, True, False, False]


def test_a_table_of_points_is_read_and_colours_are_not_taken_for_normals(tmp_path, caplog):
    points, normals = cloud()
    for columns, with_normals in (
        (points, False),
        (np.c_[points, normals], True),
        (np.c_[points, 255 + points], False),
    ):
        np.savetxt(tmp_path / "cloud.xyz", columns)
        np.save(tmp_path / "cloud.npy", columns)
        for kind in ("xyz", "npy"):
            shape = SHAPES.build({"name": "points", "path": str(tmp_path / f"cloud.{kind}")}, "")
            assert shape.points == pytest.approx(points)
            assert (shape.normals is not None) == with_normals
    assert caplog.text.count("columns 4 to 6 are no directions") == 2


def test_points_far_from_all_others_are_left_out(tmp_path, caplog):
    points, normals = cloud()
    file = write_ply(tmp_path / "far.ply", np.r_[points, [[400.0, 3, 3]]], np.r_[normals, normals[:1]])
    shape = SHAPES.build({"name": "points", "path": file}, "")
    assert len(shape.points) == len(shape.normals) == len(points)
    assert shape.half < 0.5
    assert "1 of 401 points are far from all others" in caplog.text
    assert SHAPES.build({"name": "points", "path": file, "outliers": 0}, "").half > 100
    with pytest.raises(ValueError, match=r"outliers=1\.0 must be 0, which keeps all points, or 2 and more"):
        SHAPES.build({"name": "points", "path": file, "outliers": 1.0}, "")
    uneven = points * np.where(points[:, :1] > 3.2, 100, 1)  # a tenth of the points
    assert not cleaning.outliers(uneven, 10.0).any()


def test_normals_that_point_either_way_are_turned_outward(tmp_path):
    points, normals = cloud(800)
    assert cleaning.disagreement(points, normals) == 0
    either = normals * np.random.default_rng(0).choice([-1, 1], (800, 1))
    assert cleaning.disagreement(points, either) == pytest.approx(0.5, abs=0.05)
    shape = {"name": "points", "path": write_ply(tmp_path / "either.ply", points, either)}
    samples = load_samples(config(shape=shape, loss="siren_sdf"), load_shape(config(shape=shape)))
    assert samples.oriented
    assert samples.normals.numpy() == pytest.approx(normals, abs=1e-6)


def test_a_cloud_without_normals_has_estimated_ones(tmp_path, caplog):
    points, normals = cloud(800)
    shape = {"name": "points", "path": write_ply(tmp_path / "bare.ply", points)}
    caplog.set_level("INFO")
    samples = load_samples(config(shape=shape), load_shape(config(shape=shape)))
    assert 0 < samples.trust < 1
    assert "normals are estimated from the points" in caplog.text
    assert (samples.normals.numpy() * normals).sum(1).min() > 0.9
    with pytest.raises(ValueError, match="loss=siren_sdf needs normals; use method=igr"):
        fit(config(shape=shape, loss="siren_sdf"), tmp_path / "sines")


def test_what_is_no_sheet_is_learned_without_a_side(tmp_path, caplog):
    rng = np.random.default_rng(0)
    cloud = rng.random((400, 3))
    file = write_ply(tmp_path / "cloud.ply", cloud)
    row = learned(
        tmp_path / "run", shape={"name": "points", "path": file}, trainer={"max_steps": 3, "accelerator": "cpu"}
    )
    assert "which side is inside is the training's own choice" in caplog.text
    assert row["points"] == row["points"]
    either = np.c_[np.zeros((400, 2)), rng.choice([-1.0, 1.0], 400)]
    file = write_ply(tmp_path / "either.ply", cloud, either)
    samples = load_samples(config(), load_shape(config(shape={"name": "points", "path": file})))
    assert not samples.oriented
    with pytest.raises(ValueError, match="needs normals that are all outward, and these point to either side"):
        fit(config(shape={"name": "points", "path": file}, loss="siren_sdf"), tmp_path / "sines")


@pytest.mark.parametrize(("name", "most"), [("torus", 0.01), ("csg", 0.01), ("box", 0.01), ("gyroid", 0.003)])
def test_estimated_normals_point_outward(name, most):
    points, normals = SHAPES.build(name, "").sample(6000, 0)
    noise = np.random.default_rng(0).standard_normal(points.shape)
    for x in (points, points + most * noise):
        assert ((orienting.outward(x) * normals).sum(1) > 0).mean() > 0.96


def test_walls_of_cavities_point_into_them():
    u = np.random.default_rng(0).standard_normal((4000, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    radius = np.repeat([1.0, 0.7, 0.3], [2000, 1400, 600])[:, None]
    beside = u[:900] * 0.4 + [3, 0, 0]
    wanted = np.r_[u * np.where(radius == 0.7, -1, 1), u[:900]]
    assert ((orienting.outward(np.r_[u * radius, beside]) * wanted).sum(1) > 0.5).all()


def test_very_many_points_have_the_normals_of_some(monkeypatch):
    monkeypatch.setattr(orienting, "PART", 1000)
    points, normals = SHAPES.build("torus", "").sample(5000, 0)
    assert ((orienting.outward(points) * normals).sum(1) > 0.8).mean() > 0.99


def bad_files(tmp_path):
    points, normals = cloud()
    spoiled = points.copy()
    spoiled[17, 1] = np.nan
    half = trimesh.creation.icosphere(subdivisions=2)
    half.update_faces(half.triangles_center[:, 2] > 0)
    half.export(tmp_path / "open.ply")
    (tmp_path / "text.ply").write_text("no mesh")
    (tmp_path / "huge.ply").write_text(
        "ply\nformat binary_little_endian 1.0\nelement vertex 9999999999999\nproperty float x\nend_header\n"
    )
    np.save(tmp_path / "flat.npy", np.zeros((50, 2)))
    (tmp_path / "words.xyz").write_text("1 2 3\n4 five 6\n")
    no_normals = normals.copy()
    no_normals[3] = 0
    write_ply(tmp_path / "cloud.ply", points)
    return {
        "nan": (write_ply(tmp_path / "nan.ply", spoiled), "1 of 400 points are not finite, the first in row 17"),
        "one": (write_ply(tmp_path / "one.ply", points[:1]), "1 different point; a surface needs 16"),
        "same": (write_ply(tmp_path / "same.ply", np.ones((40, 3))), "1 different point"),
        "zero": (write_ply(tmp_path / "zero.ply", points, no_normals), "1 of 400 normals are zero, the first in row 3"),
        "text": (str(tmp_path / "text.ply"), "cannot be read as .ply"),
        "huge": (str(tmp_path / "huge.ply"), "huge.ply"),
        "flat": (str(tmp_path / "flat.npy"), r"shape \(50, 2\) of float64; give rows"),
        "kind": (str(tmp_path / "cloud.las"), "'.las' is no kind of mesh"),
        "words": (str(tmp_path / "words.xyz"), "give rows of 3 numbers"),
        "gone": (str(tmp_path / "gone.ply"), "no such file"),
    }


@pytest.mark.parametrize("case", ["nan", "one", "same", "zero", "text", "huge", "flat", "kind", "gone", "words"])
def test_a_bad_cloud_is_refused_in_one_line(case, tmp_path):
    file, words = bad_files(tmp_path)[case]
    with pytest.raises(ValueError, match=words) as found:
        SHAPES.build({"name": "points", "path": file}, "")
    assert "\n" not in str(found.value)


def test_what_a_loss_needs_and_is_not_there_is_said(program, tmp_path):
    bad_files(tmp_path)
    for path, extra, words in (
        ("open.ply", ("shape=mesh", "method=occupancy"), "it is not closed"),
        ("cloud.ply", ("shape=mesh",), "without triangles; use shape=points"),
        ("cloud.ply", ("shape=points", "method=siren_sdf"), "loss=siren_sdf needs normals"),
        ("cloud.ply", ("shape=points", "method=occupancy"), "it is not closed"),
    ):
        status, _, err = program("train", *SMALL, *extra, f"shape.path={tmp_path / path}", "hydra.run.dir=run")
        assert status == 2
        assert err.startswith("error: ")
        assert words in err
        assert err.count("\n") == 1


def test_most_points_of_a_large_cloud_are_left_out_and_that_is_said(tmp_path, monkeypatch, caplog):
    from autoint.surfaces import files

    monkeypatch.setattr(files, "MOST", 100)
    shape = SHAPES.build({"name": "points", "path": write_ply(tmp_path / "cloud.ply", *cloud())}, "")
    assert len(shape.points) == len(shape.normals) == 100
    assert "400 points; 100 of them are taken" in caplog.text
    samples = sampling.on_surface(shape, None, True, 0.0, 0)
    assert float(samples.points.abs().max()) == pytest.approx(1, abs=1e-6)
    assert samples.spread.shape == (100, 1)
