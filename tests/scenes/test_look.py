"""A look before training: the box where the images have it, and wrong axes seen at once."""

import dataclasses

import pytest
import torch
from PIL import Image

from autoint.registry import COMMANDS, DATASETS
from autoint.scenes import look
from autoint.scenes.occupancy import visual_hull


def test_what_is_drawn_over_an_image_is_where_the_scene_is():
    views = DATASETS.build("procedural", "", "train", 24, 12)
    occupancy = visual_hull(views)
    found = look.cells(occupancy)
    assert 0 < len(found) <= look.CELLS
    for view in range(len(views)):
        x, y, depth = views.project(view, found)
        assert bool((depth > 0).all())
        opaque = torch.nn.functional.max_pool2d(views.alpha[view][None], 5, 1, 2)[0] > 0.002
        row, column = (v.long().clamp(0, 23) for v in (y, x))
        assert float(opaque[row, column].float().mean()) > 0.97
    assert look.corners(occupancy)[[0, -1]].tolist() == [occupancy.lower.tolist(), occupancy.upper.tolist()]
    sides = [look.corners(occupancy)[list(pair)].diff(dim=0) for pair in look.PAIRS]
    assert all(int((side != 0).sum()) == 1 for side in sides)  # every edge is along an axis


def test_the_command_writes_a_picture_and_says_what_it_shows(tmp_path, capsys):
    COMMANDS["look"](["scene=procedural", "image_size=16", "--to", "p.png"])
    out = capsys.readouterr().out
    assert out.startswith("procedural: 40 training views of 16×16, box of ")
    with Image.open("p.png") as picture:
        assert min(picture.size) > 800
        red = [color for _, color in picture.convert("RGB").getcolors(2**20) if color == (214, 39, 40)]
    assert red  # the box's lines
    with pytest.raises(ValueError, match="'procedural': not an argument of look; give KEY=VALUE"):
        COMMANDS["look"](["procedural"])


def test_axes_of_another_convention_are_seen(undrawn, tmp_path):
    views = DATASETS.build("procedural", "", "train", 12, 6)
    opaque = dataclasses.replace(views, images=torch.ones_like(views.images), box=(-torch.ones(3), torch.ones(3)))
    turned = dataclasses.replace(opaque, poses=opaque.poses * torch.tensor([1.0, -1, -1, 1]))  # OpenCV's
    shares = [look.look(v, "x", tmp_path / "p.png").rpartition("; ")[2] for v in (opaque, turned)]
    assert [share.partition("%")[0] for share in shares][1] == "0.0"
    assert float(shares[0].partition("%")[0]) > 80
