"""Camera paths in nerfstudio's JSON: what it means, and what is refused."""

import json
import math

import pytest
import torch
from PIL import Image

from autoint.scenes.camera_paths import read_path, write_path
from autoint.scenes.data.procedural import orbit
from autoint.scenes.rays import Intrinsics


def written(tmp_path, **changes):
    """A path of two frames as nerfstudio's viewer saves it."""
    frames = [{"camera_to_world": p.flatten().tolist(), "fov": 50.0, "aspect": 1.5} for p in orbit(2, 0.0)]
    told = {"camera_type": "perspective", "render_height": 20, "render_width": 30, "camera_path": frames, "fps": 24}
    file = tmp_path / "path.json"
    file.write_text(json.dumps({**told, "seconds": 2, "keyframes": [], "crop": None, **changes}))
    return file


def test_a_path_of_nerfstudio_is_read_as_it_is_meant(tmp_path):
    poses, k, fps = read_path(written(tmp_path))
    assert torch.allclose(poses, orbit(2, 0.0))
    assert (k.width, k.height, fps) == (30, 20, 24)
    focal = 10 / math.tan(math.radians(25))  # half of the height, at half of the vertical angle
    assert torch.allclose(k.pinhole, torch.tensor([[focal, focal, 15.0, 10.0]]))


def test_a_path_is_what_was_written(tmp_path):
    k = Intrinsics(torch.tensor([[30.0, 30, 20, 15], [40.0, 40, 20, 15]]), 40, 30)
    poses, again, fps = read_path(write_path(tmp_path / "new" / "p.json", orbit(2, 1.0), k, 12))
    assert torch.allclose(poses, orbit(2, 1.0))
    assert torch.allclose(again.pinhole, k.pinhole)
    assert fps == 12


def test_what_a_path_cannot_say_is_told(tmp_path, caplog):
    write_path(tmp_path / "p.json", orbit(1, 1.0), Intrinsics(torch.tensor([[30.0, 30, 20, 15]]), 40, 30), 12)
    assert not caplog.messages
    bent = Intrinsics(torch.tensor([[30.0, 33, 20, 12]]), 40, 30, torch.tensor([[0.1, 0, 0, 0, 0]]))
    write_path(tmp_path / "p.json", orbit(1, 1.0), bent, 12)
    read_path(written(tmp_path, crop={"crop_center": [0, 0, 0]}))
    assert caplog.messages == [
        f"{tmp_path}/p.json: fx, cx and cy, the lens of the cameras have no place in nerfstudio's paths; left out",
        f"{tmp_path}/path.json: crop={{'crop_center': [0, 0, 0]}} is not heeded: all of the scene is shown",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"render_width": 0}, "render_width=0 must be a number of pixels up to 8192"),
        ({"render_height": 1e9}, "render_height=1000000000.0 must be"),
        ({"camera_path": []}, "camera_path must list 1 to"),
        ({"camera_path": [{"fov": 50}]}, r"camera_path\[0\]\.camera_to_world must be 16 finite numbers"),
        ({"camera_path": [{"camera_to_world": [1.0] * 16, "fov": 0}]}, r"camera_path\[0\]\.fov=0 must be a vertical"),
        ({"camera_path": [{"camera_to_world": [1.0] * 16, "fov": 9}]}, "not a rotation"),
        ({"camera_type": "fisheye"}, "camera_type='fisheye' is not supported; use perspective"),
    ],
)
def test_what_is_no_path_is_refused_in_a_line(changes, told, tmp_path):
    with pytest.raises(ValueError, match=told) as refused:
        read_path(written(tmp_path, **changes))
    assert str(refused.value).startswith(str(tmp_path))


def test_a_video_follows_it(trained, no_lpips, undrawn, tmp_path, monkeypatch):
    monkeypatch.setattr("autoint.scenes.video.video_format", lambda: "webp")
    found = trained.evaluate(max_images=1, lpips="none", video=str(written(tmp_path)))
    with Image.open(next(found.folder.rglob("path.webp"))) as video:
        assert (video.size, video.n_frames) == ((30, 20), 2)
