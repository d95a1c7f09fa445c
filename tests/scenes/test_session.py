"""Scenes from Python: the training of the command line, and cameras that see what evaluation sees."""

import lzma
import math
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import autoint
from autoint.reports.pictures import to_bytes
from autoint.runs import checkpoints
from autoint.runs.command_line.from_python import composed, words_of
from autoint.scenes import Intrinsics
from tests.conftest import ROOT, TINY


def test_python_trains_what_the_command_line_trains(trained, program):
    status, _, err = program("train", *TINY, f"trainer.max_steps={3}", "hydra.run.dir=cli")
    assert status == 0, err
    ours, theirs = (checkpoints.load(f"{folder}/checkpoints/last.ckpt") for folder in (trained.folder, "cli"))
    assert ours["autoint"]["config"] == theirs["autoint"]["config"]
    assert all(torch.equal(ours["state_dict"][key], value) for key, value in theirs["state_dict"].items())
    assert trained.result["steps"] == 3
    assert autoint.load(trained.folder).result == trained.result


def test_a_camera_of_the_scene_sees_what_evaluation_writes(trained, no_lpips):
    found = trained.evaluate(max_images=2, lpips="none")
    camera = trained.cameras("test", 2)[1]
    written = iio.imread(next(found.folder.rglob("renders/test_007.png")))
    seen = trained.render(camera, chunk_size=100)
    assert np.array_equal(to_bytes(seen.rgb).numpy(), written)
    assert np.array_equal(iio.imread(seen.save("view.png")), written)
    assert seen.depth.shape == seen.opacity.shape == (12, 12)
    assert [row["psnr"] for row in found.rows] == [pytest.approx(np.mean([v["psnr"] for v in found.per_image]))]
    assert found.table == (found.folder / "table.md").read_text()
    own = autoint.Camera(camera.pose[:3], camera.intrinsics, camera.near, camera.far)
    assert torch.equal(trained.render(own, chunk_size=100).rgb, seen.rgb)
    far_away = trained.render(autoint.Camera(own.pose, own.intrinsics, near=50.0, far=60.0))  # where nothing is
    assert bool((far_away.rgb == 1).all() & (far_away.opacity == 0).all())
    assert trained.render(own.resized(6, 4)).rgb.shape == (4, 6, 3)


def test_a_mesh_is_that_of_the_export(trained, monkeypatch):
    monkeypatch.setattr("autoint.runs.export.export_mesh", lambda *arguments: arguments)
    assert trained.mesh("out.glb", resolution=32) == (str(trained.folder), "out.glb", 32)


def test_a_camera_that_looks_at_a_point_has_it_in_the_middle():
    camera = autoint.Camera.looking_at((1, 2, 3), position=(4, -2, 5), fov=0.5, width=31, height=21)
    rays = camera.rays()
    middle = 10 * 31 + 15
    reached = rays.origins[middle] + rays.directions[middle] * math.sqrt(9 + 16 + 4)
    assert torch.allclose(reached, torch.tensor([1.0, 2.0, 3.0]), atol=1e-5)
    assert rays.directions[:31, 2].mean() > rays.directions[-31:, 2].mean()  # the first row is up


def test_words_mean_what_python_says():
    settings = {"optimizer": {"lr": 1e-3, "betas": (0.5, 0.9)}, "encoding": {"name": "grid", "features": 4}, "seed": 3}
    words = [*words_of({**settings, "background": "black", "compile": False, "teacher": None})]
    config, told = composed([*words, *words_of({"trainer": {"max_steps": 7, "log_every_n_steps": 2}})])
    assert (config.optimizer.lr, config.optimizer.betas, config.seed) == (1e-3, [0.5, 0.9], 3)
    assert (config.encoding["name"], config.encoding["features"]) == ("grid", 4)
    assert config.trainer["max_steps"] == 7
    assert config.trainer.get("max_time") is None  # as on the command line, steps lift the limit of time
    assert (config.options["background"], config.options["teacher"]) == ("black", None)
    assert "CPU" in told[0] or "GPU" in told[0]
    assert list(words_of({"data_dir": "a b's", "function": "true"})) == ["data_dir='a b\\'s'", "function='true'"]


def test_a_folder_says_what_it_is(blender_scene):
    folder = blender_scene / "nerf_synthetic" / "disc"
    for scene in (autoint.Scene(folder), autoint.Scene.from_blender(folder)):
        assert scene.name == "disc"
        assert len(scene.views("test", at_most=2)) == 2
    assert len(autoint.Scene.procedural(num_solids=1).views("val", image_size=4)) == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sectoins": 3}, "unknown key 'sectoins'; did you mean 'sections'?"),
        ({"model": "nerv"}, "model='nerv' is unknown; did you mean 'nerf'?"),
        ({"minutes": -1}, "minutes=-1 must be positive"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_leaves_nothing(settings, told, tmp_path):
    with pytest.raises(ValueError, match=r".") as refused:
        autoint.train("procedural", **settings)
    assert str(refused.value).startswith(told)
    assert not (tmp_path / "outputs").exists()


def test_scenes_cameras_and_runs_that_are_none(trained, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        autoint.Scene("./nowhere")
    with pytest.raises(ValueError, match=r"scene\.num_solid"):
        autoint.Scene("procedural", num_solid=3).views("train")
    with pytest.raises(ValueError, match="a camera has a finite"):
        autoint.Camera(torch.eye(3), Intrinsics.from_fov(0.5, 4, 4))
    with pytest.raises(ValueError, match="intrinsics of 2 cameras"):
        autoint.Camera(torch.eye(4), Intrinsics(torch.ones(2, 4), 4, 4))
    with pytest.raises(ValueError, match="along up"):
        autoint.Camera.looking_at((0, 0, 0), position=(0, 0, 2))
    with pytest.raises(ValueError, match="nothing: no such file or folder"):
        autoint.load("nothing")
    with pytest.raises(ValueError, match="unknown key 'max_image'; did you mean 'max_images'"):
        trained.evaluate(max_image=1)


def test_a_run_is_baked_from_python_and_finds_its_data_where_they_are(trained, tmp_path):
    tree = trained.bake(tmp_path / "tree", resolution=16, directions=4, steps=2)
    assert type(tree.module.volume).__name__ == "NerfTree"
    assert tree.render(tree.cameras("test")[0]).rgb.shape == (12, 12, 3)
    moved = autoint.load(trained.folder, data_dir="elsewhere")
    assert moved.config.data_dir == "elsewhere"
    assert trained.config.data_dir == "data"


def test_several_runs_and_other_tasks_are_refused_by_name(trained, tmp_path):
    for name in "ab":
        shutil.copytree(trained.folder, tmp_path / "two" / name)
    with pytest.raises(ValueError, match="2 runs below it"):
        autoint.load("two")
    with lzma.open(ROOT / "tests" / "golden" / "checkpoints" / "function.ckpt.xz") as packed:
        Path("function.ckpt").write_bytes(packed.read())
    with pytest.raises(ValueError, match=r"a run of task=function; autoint\.load gives scenes"):
        autoint.load("function.ckpt")


IMPORTING = """
import sys, time
start = time.perf_counter()
import autoint
ours = time.perf_counter() - start
assert not {"torch", "pytorch_lightning", "lightning_fabric", "hydra", "viser", "matplotlib"} & set(sys.modules)
start = time.perf_counter()
import torch
assert ours <= 1.5 * (time.perf_counter() - start), ours
autoint.Scene, autoint.Camera
assert not {"pytorch_lightning", "hydra", "viser", "matplotlib"} & set(sys.modules), sorted(sys.modules)
"""


def test_importing_takes_no_longer_than_torch_and_loads_no_framework():
    subprocess.run([sys.executable, "-c", IMPORTING], check=True, timeout=120)
