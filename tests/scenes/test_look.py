"""A look before training: the box where the images have it, and wrong axes seen at once."""

import dataclasses
import types

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


def test_in_a_terminal_the_scene_is_shown_in_the_browser_too(undrawn, tmp_path, capsys, monkeypatch):
    pytest.importorskip("viser", reason="viser is not installed: pip install 'autoint[viewer]'")
    served = []
    monkeypatch.setattr(look, "wait", lambda: None)
    monkeypatch.setattr(look.sys.stdout, "isatty", lambda: True, raising=False)
    of_look = look.show
    monkeypatch.setattr(look, "show", lambda views: served.append(of_look(views, port=0)) or served[0])
    words = ["scene=procedural", "image_size=12", "--to", str(tmp_path / "p.png")]
    COMMANDS["look"](words)
    assert capsys.readouterr().out.splitlines()[-2:] == [f"http://127.0.0.1:{served[0].get_port()}", "Ctrl-C ends it"]
    COMMANDS["look"]([*words, "--no-viewer"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("picture: ")
    assert len(served) == 1


def test_the_browser_has_cameras_box_hull_and_rays(monkeypatch):
    views, drawn = DATASETS.build("procedural", "", "train", 12, 6), {}
    kinds = ("add_camera_frustum", "add_line_segments", "add_point_cloud")
    scene = types.SimpleNamespace(set_up_direction=lambda up: drawn.update(up=up))
    for kind in kinds:
        setattr(scene, kind, lambda name, *arguments, **options: drawn.update({name: arguments[0]}))
    monkeypatch.setattr("autoint.scenes.viewer.start", lambda host, port: types.SimpleNamespace(scene=scene))
    look.show(views)
    assert drawn.keys() == {"up", *(f"/cameras/{k}" for k in range(6)), "/box", "/rays", "/hull"}
    assert drawn["/box"].shape == (12, 2, 3)
    assert drawn["up"] == pytest.approx((0, 0, 1), abs=1e-5)
    lower, upper = drawn["/box"].min((0, 1)), drawn["/box"].max((0, 1))
    for inside in (drawn["/rays"], drawn["/hull"]):
        assert ((inside >= lower - 1e-4) & (inside <= upper + 1e-4)).all()


def test_axes_of_another_convention_are_seen(undrawn, tmp_path):
    views = DATASETS.build("procedural", "", "train", 12, 6)
    opaque = dataclasses.replace(views, images=torch.ones_like(views.images), box=(-torch.ones(3), torch.ones(3)))
    turned = dataclasses.replace(opaque, poses=opaque.poses * torch.tensor([1.0, -1, -1, 1]))  # OpenCV's
    shares = [look.look(v, "x", tmp_path / "p.png").rpartition("; ")[2] for v in (opaque, turned)]
    assert [share.partition("%")[0] for share in shares][1] == "0.0"
    assert float(shares[0].partition("%")[0]) > 80
