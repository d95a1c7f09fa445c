"""The paper's experiments as one command each: to their end, resumed, restricted, with scenes missing."""

import csv
import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from autoint.reports import closeups
from autoint.reports import paper_numbers as paper
from autoint.runs import checkpoints
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from tests.runs.test_resume import interrupt_after
from tests.scenes.test_task import digest, tiny_config

QUICK = ("scale=tiny", "image_size=16", "trainer.max_steps=4", "+trainer.enable_progress_bar=false")


@pytest.fixture
def scenes(tmp_path):
    """Blender scenes named as the paper's, made from the embedded one, under the default data folder."""

    def make(*names):
        from autoint.scenes.data.procedural import procedural

        for number, name in enumerate(names):
            folder = tmp_path / "data" / "nerf_synthetic" / name
            for split in ("train", "val", "test"):
                views = procedural("", split, 16, 3, scene_seed=number, num_solids=3)
                (folder / split).mkdir(parents=True)
                frames = []
                for i, (image, pose) in enumerate(zip(views.images, views.poses, strict=True)):
                    rgb = torch.where(image[..., 3:] > 0, image[..., :3] / image[..., 3:].clamp_min(1e-6), 0)
                    straight = torch.cat([rgb, image[..., 3:]], dim=-1).clamp(0, 1)
                    iio.imwrite(folder / split / f"r_{i}.png", (straight * 255).round().to(torch.uint8).numpy())
                    frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()})
                contents = {"camera_angle_x": 0.55, "frames": frames}
                (folder / f"transforms_{split}.json").write_text(json.dumps(contents))

    return make


def test_table1_to_its_end_again_and_with_missing_scenes(program, scenes, no_lpips, monkeypatch):
    """One of two scenes is there: a table of what there is, one line for the other, and nothing is done twice."""
    scenes("lego")
    command = ("train", "experiment=table1", "scene=ship,lego", "method=autoint_8,autoint_16", *QUICK)
    status, out, err = program(*command)
    assert status == 2
    assert [line for line in err.splitlines() if line.startswith("error")] == [
        line for line in err.splitlines() if "scene folder not found: data/nerf_synthetic/ship" in line
    ]
    folder = Path("outputs/volrend/table1_tiny")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["lego_autoint_16", "lego_autoint_8"]
    table = (folder / "table.md").read_text()
    assert table in out
    with (folder / "table.csv").open() as stream:
        rows = {(row["scene"], row["method"]): row for row in csv.DictReader(stream)}
    assert len(rows) == 2
    assert rows["lego", "autoint_8"]["paper_psnr"] == "25.09"
    mine = f"{float(rows['lego', 'autoint_8']['psnr']):.2f}"
    lines = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in psnr_part(table)}
    assert lines["AutoInt (N=8)"] == ["–"] * 4 + [mine, "–", "–", "–"]
    assert lines["AutoInt (N=8), paper"] == [f"{v:.2f}" for v in paper.PER_SCENE["psnr"]["autoint_8"]]
    assert lines["Neural Volumes, paper"] == [f"{v:.2f}" for v in paper.PER_SCENE["psnr"]["neural_volumes"]]
    assert iio.imread(folder / "closeups.png").shape[1] == 3 * (closeups.WIDTH + closeups.GAP) - closeups.GAP

    from autoint.runs import restoring, trainers

    def forbidden(*_, **__):
        raise AssertionError("a finished run was trained or evaluated again")

    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/checkpoints/last.ckpt")}
    monkeypatch.setattr(trainers, "trainer", forbidden)
    monkeypatch.setattr(restoring, "restored", forbidden)
    status, out, err = program("train", "experiment=table1", "scene=lego", "method=autoint_8", *QUICK)
    assert status == 0, err
    assert "finished before, nothing to do" in out
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("*/checkpoints/last.ckpt")}
    assert (folder / "table.md").read_text() == table
    status, _, err = program("train", "experiment=table1", "scene=lego", "method=autoint_8", *QUICK, "seed=3")
    assert status == 2
    assert "lego_autoint_8 holds a run with another seed (0 there, 3 here); remove the folder, or give another" in err


def test_another_model_has_a_row_of_its_own(program, scenes, no_lpips):
    scenes("lego")
    assert program("train", "experiment=table1", "scene=lego", "method=object_8", *QUICK)[0] == 0
    table = Path("outputs/volrend/table1_tiny/table.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in psnr_part(table)}
    assert "shared field (N=8)" in rows
    assert "shared field (N=8), paper" not in rows
    assert "AutoInt (N=8), paper" in rows


def psnr_part(table):
    part = table.split("## PSNR (dB), by scene")[1].split("##")[0]
    return [line for line in part.splitlines() if line.startswith("| ")][2:]


def test_figure5_and_an_interrupted_run(program, scenes, no_lpips):
    """A run that was cut off goes on from its last checkpoint, to the weights of a run that was not."""
    scenes("lego")
    command = ("train", "experiment=figure5", "sections=4", *QUICK, "trainer.max_steps=12", "save_every=4")
    assert program(*command)[0] == 0
    folder = Path("outputs/volrend/figure5_tiny")
    run = folder / "lego_predicted_4"
    whole = digest(run / "checkpoints" / "last.ckpt")
    config = checkpoints.load(run / "checkpoints" / "last.ckpt")["autoint"]["config"]
    shutil.rmtree(run)
    interrupt_after(RunConfig.from_plain(config), run, 8)
    status, out, err = program(*command)
    assert status == 0, err
    assert f"{run}: going on from" in out
    assert digest(run / "checkpoints" / "last.ckpt") == whole
    assert [path.name for path in run.glob("metrics*")] == ["metrics.csv"]
    table = (folder / "table.md").read_text()
    assert "| PSNR (dB), sampling network |" in table
    assert "| PSNR (dB), uniform" in table
    assert (folder / "psnr_lego.png").stat().st_size > 0
    assert iio.imread(folder / "closeups_lego.png").shape[1] == 2 * (closeups.WIDTH + closeups.GAP) - closeups.GAP


def test_a_folder_of_another_run_is_left_alone(tmp_path):
    fit(tiny_config(resume=True, trainer={"max_steps": 2}), tmp_path)
    again = tiny_config(resume=True, trainer={"max_steps": 2}, data_dir="elsewhere")
    assert fit(again, tmp_path)["steps"] == 2
    with pytest.raises(ValueError, match=r"another seed \(0 there, 1 here\), sections \(4 there, 2 here\);"):
        fit(tiny_config(resume=True, sections=2, seed=1, trainer={"max_steps": 3}), tmp_path)
    assert (
        fit(tiny_config(resume=True, trainer={"max_steps": 3}), tmp_path)["steps"] == 3
    )  # a larger budget is the same run


def test_no_run_finished_means_no_table(program):
    status, _, err = program("train", "experiment=deepvoxels", "scene=lego", "method=autoint_8", *QUICK)
    assert status == 2
    assert "scene folder not found" in err
    assert "Traceback" not in err
    assert not Path("outputs/volrend/deepvoxels_tiny/table.md").exists()


def test_the_papers_numbers_agree_with_each_other():
    """The printed means are those of the printed scenes."""
    for method, values in paper.PER_SCENE["psnr"].items():
        assert sum(values) / 8 == pytest.approx(paper.TABLE_1[method]["psnr"], abs=0.0501)
    for metric in paper.PER_SCENE.values():
        assert list(metric) == list(paper.METHODS)
        assert all(len(values) == len(paper.SCENES) for values in metric.values())


def test_closeups_are_taken_where_the_detail_is():
    image = torch.full((40, 60, 3), 0.5)
    g = np.random.default_rng(0)
    image[5:13, 40:48] = torch.from_numpy(g.random((8, 8, 1), dtype=np.float32))
    image[28:36, 10:18] += 0.2 * torch.from_numpy(g.random((8, 8, 1), dtype=np.float32))
    (first, second), size = closeups.detailed(image, 8), 8
    assert max(abs(first[0] - 5), abs(first[1] - 40)) <= 1
    assert max(abs(second[0] - 28), abs(second[1] - 10)) <= 1
    assert closeups.detailed(image[:size, :size], size) == ((0, 0), (0, 0))
