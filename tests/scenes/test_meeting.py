"""Cameras that miss the scene: how many rays meet it is told; where none does, or images contradict, it is refused."""

import dataclasses
import logging
import re

import pytest
import torch

from autoint.scenes.data.batches import Pixels
from autoint.scenes.data.procedural import orbit, procedural
from autoint.scenes.data.transforms import transforms
from autoint.scenes.occupancy import visual_hull
from tests.scenes import captures
from tests.scenes.captures import Camera

SMALL = Camera(9.0, 9.0, 4.0, 3.0, 8, 6)


def test_how_many_rays_meet_the_scene_is_told(caplog):
    """Once, by the first process; few, or views that see nothing of it, are worth a warning."""
    views, every = procedural("", "val", 8), lambda rays: torch.ones(len(rays), dtype=torch.bool)
    with caplog.at_level(logging.INFO, logger="autoint"):
        for rank in (0, 1):
            Pixels(views, every, 16, 0, rank, 2)
    assert caplog.messages == ["100.0% of the training rays meet the scene's box, in 4 of 4 views"]
    assert caplog.records[0].levelname == "INFO"
    blank = dataclasses.replace(views, images=torch.ones_like(views.images))
    Pixels(blank, lambda rays: every(rays) & (rays.origins[:, 2] > 1.3), 16, 0)
    assert re.match(r"50.0% of .* box, in 2 of 4 views \(near 2.5, far 5.5\); check the poses", caplog.messages[-1])
    Pixels(blank, lambda rays: torch.arange(len(rays)) == 5, 16, 0)
    assert caplog.messages[-1].startswith("1.6% of the training rays meet")
    opaque = (views.images[..., 3] > 0.5).flatten(1)
    half = torch.where(opaque.cumsum(1) > opaque.sum(1, keepdim=True) // 2, True, ~opaque)  # without half of what shows
    shown = iter(half)
    Pixels(views, lambda rays: next(shown), 16, 0)
    missed = float((~half & opaque).sum() / opaque.sum())
    assert f"in 4 of 4 views; it is missed by {missed:.1%} of those whose pixels are opaque" in caplog.messages[-1]
    assert {record.levelname for record in caplog.records[1:]} == {"WARNING"}


FAULTS = {
    "near and far behind the scene": {"near": 20.0, "far": 30.0},
    "near and far before the scene": {"near": 0.1, "far": 1.0},
    "axes of OpenCV": {"poses": lambda poses: poses @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_cameras_that_contradict_the_images_are_refused(fault):
    """Instead of training everything between near and far on rays that do not meet the scene."""
    views = procedural("", "train", 12, 12)
    changes = dict(FAULTS[fault])
    if "poses" in changes:
        changes["poses"] = changes["poses"](views.poses)
    wrong = dataclasses.replace(views, **changes)
    words = r"the visual hull is empty: no point between near=.* check the poses and their axes"
    with pytest.raises(ValueError, match=words):
        visual_hull(wrong)


def test_a_box_that_the_images_contradict_is_refused():
    """A place below the scene that some of the views see as transparent; what no view has in it is not ruled out."""
    views = procedural("", "train", 12, 12)
    below = torch.tensor([0.0, 0.0, -1.2])
    with pytest.raises(ValueError, match="no cell of the box between near=0 and far=50 is opaque"):
        visual_hull(dataclasses.replace(views, box=(below, below + 0.05), near=0.0, far=50.0))
    far = visual_hull(dataclasses.replace(views, box=(10 * below, 10 * below + 1), near=0.0, far=50.0))
    assert (far.density > 0).all()
    with pytest.raises(
        ValueError, match="no ray of the training views meets the scene's box; check the poses and their"
    ):
        Pixels(views, lambda rays: rays.clipped_to(far.lower, far.upper).hit, 16, 0)


def test_axes_of_another_convention_are_told_of(tmp_path, caplog):
    poses = orbit(9, 0.0)
    captures.write_transforms(tmp_path / "scene", [SMALL], poses)
    transforms(str(tmp_path), "train", None, path="scene")
    assert not caplog.messages
    captures.write_transforms(tmp_path / "scene", [SMALL], poses @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))
    transforms(str(tmp_path), "train", None, path="scene")
    assert "9 of 9 cameras look away from the point nearest to their axes; unless" in caplog.text
