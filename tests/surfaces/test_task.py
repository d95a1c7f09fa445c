"""task=surface from the command line: training, evaluation, resuming, and files of strangers."""

import json

import numpy as np
import pytest
import torch

from autoint.registry import SHAPES
from autoint.reports import mesh_pictures
from autoint.runs import restoring
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from autoint.surfaces import sampling

trimesh = pytest.importorskip("trimesh")
SMALL = ("task=surface", "shape=sphere", "network.hidden_features=32", "network.num_layers=3", "batch_size=128")
QUICK = (*SMALL, "resolution=32", "trainer.max_steps=150", "optimizer.lr=0.005", "+trainer.enable_progress_bar=false")


@pytest.fixture(autouse=True)
def _small(monkeypatch, one_thread, undrawn):
    monkeypatch.setattr(mesh_pictures, "SAMPLES", 2000)
    monkeypatch.setattr(sampling, "POOL", 2**13)


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


@pytest.mark.parametrize(
    ("extra", "worst"),
    [
        ((), 0.03),
        (("normals=false",), 0.04),
        (("method=occupancy",), 0.08),
        (("method=siren_sdf", "optimizer.lr=0.001", "activation.omega_0=10"), 0.08),
    ],
)
def test_a_sphere_is_learned_and_evaluated_in_another_run(extra, worst, program, tmp_path):
    run = tmp_path / "run"
    status, _, err = program("train", *QUICK, *extra, f"hydra.run.dir={run}", "val_every=100")
    assert status == 0, err
    row = json.loads((run / "errors.json").read_text())
    assert row["distance"] < worst
    assert row["iou"] > 0.6
    assert row["normal_consistency"] > 0.85
    assert (run / "validation" / "step_0000100.png").is_file()
    mesh = trimesh.load(run / "mesh.ply", process=False)
    assert len(mesh.vertices) == row["vertices"]
    assert (mesh.volume > 0) or not row["watertight"]
    for kind in ("ply", "obj", "glb") if not extra else ():
        made = tmp_path / f"made.{kind}"
        status, out, err = program("autoint", "export", str(run), str(made), "--resolution=20")
        assert status == 0, err
        assert "watertight" in out
        mesh = trimesh.load(made, process=False, force="mesh")
        assert np.linalg.norm(mesh.vertices, axis=1).mean() == pytest.approx(0.4, abs=0.05)
        assert "exists; remove it" in program("autoint", "export", str(run), str(made))[2]
    status, out, err = program("evaluate", f"runs={run}", "hydra.run.dir=evaluation")
    assert status == 0, err
    assert f"| {row['distance']:.1e}" in out
    for name in ("normals.png", "error.png", "slice.png", "mesh.ply"):
        assert list((tmp_path / "evaluation" / "images").rglob(name)) or list(tmp_path.rglob(f"images/*/{name}")), name


def test_a_resumed_run_is_the_run_itself(tmp_path):
    slowly = {"decay_steps": 1000}  # a schedule that does not look at the budget
    part = {"max_steps": 20, "accelerator": "cpu", "enable_progress_bar": False}
    fit(config(optimizer=slowly), tmp_path / "whole")
    fit(config(optimizer=slowly, trainer=part), tmp_path / "parts")
    fit(config(optimizer=slowly, ckpt_path="last"), tmp_path / "parts")
    ours, theirs = (
        restoring.restored(tmp_path / name / "checkpoints" / "last.ckpt")[1].state_dict() for name in ("parts", "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_training_that_ends_without_a_surface_is_whole_and_says_so(program, tmp_path, monkeypatch):
    from autoint.surfaces import evaluation

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
        "flat": (str(tmp_path / "flat.npy"), r"shape \(50, 2\); give an array"),
        "kind": (str(tmp_path / "cloud.stl"), "'.stl' is no kind of mesh"),
        "gone": (str(tmp_path / "gone.ply"), "no such file"),
    }


@pytest.mark.parametrize("case", ["nan", "one", "same", "zero", "text", "huge", "flat", "kind", "gone"])
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
