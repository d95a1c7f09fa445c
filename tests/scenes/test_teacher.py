"""Views that a finished run renders for another to learn from."""

import copy
import logging

import pytest
import torch

from autoint.runs.config import RunConfig
from autoint.runs.seeding import generator
from autoint.runs.training import fit
from autoint.scenes import volume
from autoint.scenes.occupancy import Occupancy, visual_hull
from autoint.scenes.teacher import novel_poses, taught
from tests.scenes.test_task import tiny_config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    options = {"model": "section_means", "placement": "occupied"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volume, "LOOK_AFTER", 0)
        fit(tiny_config(**options, trainer={"max_steps": 30, "log_every_n_steps": 10}), folder)
    return folder


def test_cameras_lie_between_neighbours_and_look_as_they_do():
    g = generator(0, "cameras")
    quaternions = torch.nn.functional.normalize(torch.randn(40, 3, generator=g), dim=-1)
    poses = torch.eye(4).repeat(40, 1, 1)
    back = quaternions
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([[0.0, 0, 1]]).expand_as(back), back), dim=-1)
    poses[:, :3, :3] = torch.stack([right, torch.linalg.cross(back, right), back], dim=-1)
    poses[:, :3, 3] = 4 * back
    chosen, novel = novel_poses(poses, 200, g)
    rotation = novel[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(200), atol=1e-5)
    toward = torch.nn.functional.normalize(novel[:, :3, 3], dim=-1)
    assert float((toward * rotation[:, :, 2]).sum(-1).min()) > 0.95  # they go on looking at the middle
    nearest = torch.cdist(poses[:, :3, 3], poses[:, :3, 3]).sort(dim=1).values[:, 8].max()
    moved = (novel[:, :3, 3] - poses[chosen, :3, 3]).norm(dim=-1)
    assert 0 < float(moved.median()) < float(moved.max()) <= 1.25 * float(nearest)
    assert bool((novel[:, 3] == torch.tensor([0.0, 0, 0, 1])).all())


def test_the_pupil_sees_what_the_teacher_renders(teacher, caplog):
    from autoint.runs import restoring
    from autoint.scenes.task import load_views

    config = tiny_config(teacher=str(teacher), teacher_views=3)
    real = load_views(config, "train")
    with caplog.at_level(logging.INFO):
        hull = visual_hull(real)
        occupancy, other = copy.deepcopy(hull), Occupancy(hull.lower - 1, hull.upper, hull.density > 0)
        both = taught(real, config, occupancy)
    assert f"3 views of {teacher} beside {len(real)} real ones" in caplog.text
    assert len(both) == len(real) + 3 == len(both.names) == len(both.intrinsics.pinhole)
    assert torch.equal(both.images[: len(real)], real.images)
    _, module = restoring.restored(teacher / "checkpoints" / "last.ckpt")
    for name in ("density", "mean"):  # of the same box
        assert torch.equal(getattr(occupancy, name), getattr(module.volume.occupancy, name))
    assert not torch.equal(occupancy.density, hull.density)
    rgb, _, acc = module.volume.view(both.rays_of(len(real) + 1), torch.zeros(3), 4096)
    seen = torch.cat([rgb, acc[:, None]], dim=-1).clamp(0, 1)
    assert torch.allclose(both.images[len(real) + 1].reshape(-1, 4), seen, atol=1e-6)
    alone = taught(real, tiny_config(teacher=str(teacher), teacher_views=3, teacher_only=True), other)
    assert torch.equal(other.density, Occupancy(hull.lower - 1, hull.upper, hull.density > 0).density)
    assert torch.equal(alone.images, both.images[len(real) :])


def test_a_pupil_of_any_model_trains(teacher, tmp_path):
    config = tiny_config(teacher=str(teacher), teacher_views=2, trainer={"max_steps": 3, "log_every_n_steps": 1})
    assert fit(config, tmp_path)["steps"] == 3


def test_a_teacher_that_is_none_is_refused(teacher, tmp_path):
    real = None
    with pytest.raises(ValueError, match=r"teacher=.*nowhere: no run is there; give the folder of one"):
        taught(real, tiny_config(teacher=str(tmp_path / "nowhere")), None)
    other = tiny_config(teacher=str(teacher), scene={"name": "procedural", "num_solids": 2})
    assert isinstance(other, RunConfig)
    with pytest.raises(ValueError, match=r"has learned .*procedural.*, and this run is to learn"):
        taught(real, other, None)
