import json
import math

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from autoint.files.images import reduced
from autoint.reports.metrics import over
from autoint.scenes.data.batches import Pixels, StepLoader, WholeImages
from autoint.scenes.data.blender import blender
from autoint.scenes.data.procedural import procedural
from autoint.scenes.rays import Intrinsics, Rays, rays_from_camera
from tests import reference
from tests.conftest import SHARED_DATA

LEGO = SHARED_DATA / "nerf_synthetic" / "lego"


def test_blender_loads_paths_with_and_without_suffix(blender_scene):
    views = blender(str(blender_scene), "train", None, path="nerf_synthetic/disc")
    assert views.images.shape == (6, 6, 8, 4)
    assert views.names == tuple(f"r_{i}" for i in range(6))
    assert float(views.intrinsics.pinhole[0, 0]) == pytest.approx(0.5 * 8 / math.tan(0.35))
    corner, middle = views.images[0, 0, 0], views.images[0, 2, 3]
    assert corner.tolist() == [0, 0, 0, 0]  # premultiplied: the hidden grey of a transparent pixel is gone
    assert torch.allclose(middle, torch.tensor([200, 60, 20, 255]) / 255)
    assert torch.allclose(over(corner, torch.ones(3)), torch.ones(3))


def test_image_size_averages_areas_of_premultiplied_colour():
    image = np.random.default_rng(0).random((6, 8, 4), dtype=np.float32)
    small = reduced(image, 4)
    assert small.shape == (3, 4, 4)
    blocks = image.reshape(3, 2, 4, 2, 4).mean((1, 3))
    assert np.abs(small - blocks).max() < 1e-6
    assert reduced(image, 5).shape == (4, 5, 4)
    assert reduced(image, 5).mean() == pytest.approx(image.mean(), abs=0.02)
    with pytest.raises(ValueError, match=r"image_size=9 is larger than the images \(8x6\)"):
        reduced(image, 9)


def test_a_part_of_a_blender_scene_reads_only_its_own_files(blender_scene):
    (blender_scene / "nerf_synthetic" / "disc" / "train" / "r_1.png").unlink()
    views = blender(str(blender_scene), "train", None, 3, path="nerf_synthetic/disc")
    assert views.names == ("r_0", "r_2", "r_5")


def edit_json(scene, change, split="train"):
    file = scene / "nerf_synthetic" / "disc" / f"transforms_{split}.json"
    contents = json.loads(file.read_text())
    change(contents)
    file.write_text(json.dumps(contents))


def set_frame(key, value):
    return lambda c: c["frames"][1].__setitem__(key, value)


BAD = {
    "empty split": (lambda c: c.update(frames=[]), "split 'train' is empty"),
    "no frames": (lambda c: c.pop("frames"), "split 'train' is empty"),
    "angle in degrees": (lambda c: c.update(camera_angle_x=39.6), "camera_angle_x=39.6 must be an angle in radians"),
    "no angle": (lambda c: c.pop("camera_angle_x"), "camera_angle_x=None"),
    "missing image": (
        set_frame("file_path", "./train/r_99"),
        r"frames\[1\].file_path='./train/r_99': image .* not found",
    ),
    "path outside": (set_frame("file_path", "../../../x.png"), "leaves the scene folder"),
    "path of no text": (set_frame("file_path", 3), r"frames\[1\].file_path=3 must be the path"),
    "pose of a wrong shape": (set_frame("transform_matrix", [[1, 0], [0, 1]]), r"shape \(2, 2\); give a 4x4"),
    "ragged pose": (set_frame("transform_matrix", [[1, 0], [0]]), "not a matrix of numbers"),
    "no pose": (lambda c: c["frames"][1].pop("transform_matrix"), "transform_matrix is missing"),
    "scaled pose": (
        lambda c: c["frames"][1].update(transform_matrix=(2 * np.eye(4)).tolist()),
        "not a rotation",
    ),
    "mirrored pose": (set_frame("transform_matrix", np.diag([1.0, 1, -1, 1]).tolist()), "not a rotation"),
    "pose with NaN": (
        lambda c: c["frames"][1].update(transform_matrix=[[math.nan] * 4] * 4),
        "NaN or infinity",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_transforms_are_named(case, blender_scene):
    change, words = BAD[case]
    edit_json(blender_scene, change)
    with pytest.raises(ValueError, match=words) as caught:
        blender(str(blender_scene), "train", None, path="nerf_synthetic/disc")
    assert "transforms_train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b'{"frames": [', "malformed JSON"),
        (b"", "malformed JSON"),
        (b"[]", "expected an object"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_malformed_json_is_named_with_its_place(contents, words, blender_scene):
    (blender_scene / "nerf_synthetic" / "disc" / "transforms_train.json").write_bytes(contents)
    with pytest.raises(ValueError, match=f"transforms_train.json.*{words}"):
        blender(str(blender_scene), "train", None, path="nerf_synthetic/disc")


def test_images_of_mixed_sizes_are_named(blender_scene):
    file = blender_scene / "nerf_synthetic" / "disc" / "train" / "r_3.png"
    iio.imwrite(file, np.zeros((6, 9, 4), np.uint8))
    with pytest.raises(ValueError, match=r"r_3.png: image is 9x6, but r_0.png is 8x6"):
        blender(str(blender_scene), "train", None, path="nerf_synthetic/disc")


@pytest.mark.parametrize("contents", [b"", b"<html>404</html>", None])
def test_unreadable_images_are_named(contents, blender_scene):
    file = blender_scene / "nerf_synthetic" / "disc" / "train" / "r_2.png"
    file.write_bytes(file.read_bytes()[:60] if contents is None else contents)
    with pytest.raises(ValueError, match=r"r_2.png: not a readable PNG or JPEG"):
        blender(str(blender_scene), "train", None, path="nerf_synthetic/disc")


def test_a_missing_scene_says_where_to_get_it(tmp_path, blender_scene):
    with pytest.raises(ValueError, match=r"disk; did you mean 'disc'\? \(there: disc\); get .*zip.* set data_dir="):
        blender(str(blender_scene), "train", None, path="nerf_synthetic/disk")
    with pytest.raises(ValueError, match=r"scene\.path is empty"):
        blender(str(blender_scene), "train", None)
    with pytest.raises(ValueError, match=r"near=6\.0, scene\.far=2\.0"):
        blender(str(blender_scene), "train", None, path="nerf_synthetic/disc", near=6.0, far=2.0)


def test_rays_of_a_camera():
    k = Intrinsics.from_fov(math.pi / 2, 4, 2)
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    rays = rays_from_camera(k, pose[None], torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0]), 0.5, 2.0)
    assert torch.allclose(rays.directions[0], torch.tensor([0.0, 0.0, -1.0]))  # the middle looks along −z
    assert torch.allclose(rays.directions[1], torch.tensor([1.0, 0.0, -1.0]) / math.sqrt(2))  # 45° at the right rim
    assert torch.allclose(rays.at(torch.tensor([[2.0], [0.0]]))[:, 0], torch.tensor([[1.0, 2.0, 1.0], [1.0, 2.0, 3.0]]))


def test_clipping_to_a_box_finds_the_range_inside():
    lower, upper = torch.tensor([-1.0, -0.5, -0.2]).double(), torch.tensor([0.5, 0.7, 0.4]).double()
    g = torch.Generator().manual_seed(0)
    origins = 3 * torch.nn.functional.normalize(torch.randn(40, 3, generator=g, dtype=torch.float64), dim=-1)
    aim = 0.8 * torch.randn(40, 3, generator=g, dtype=torch.float64)
    directions = torch.nn.functional.normalize(aim - origins, dim=-1)
    directions[0] = torch.tensor([1.0, 0.0, 0.0])
    near, far = torch.full((40,), 0.5).double(), torch.full((40,), 6.0).double()
    clipped = Rays(origins, directions, near, far).clipped_to(lower, upper)
    hits = 0
    for ray in range(40):
        truth = reference.rays_hitting(lower, upper, origins[ray], directions[ray], 0.5, 6.0)
        if truth is None:
            assert float(clipped.far[ray] - clipped.near[ray]) < 1e-3
        else:
            hits += 1
            assert (float(clipped.near[ray]), float(clipped.far[ray])) == pytest.approx(truth, abs=1e-3)
    assert 5 < hits < 40


def test_the_procedural_scene_is_deterministic():
    first, second, other = (procedural("", "val", 8, scene_seed=s) for s in (1, 1, 2))
    assert torch.equal(first.images, second.images)
    assert not torch.allclose(first.images, other.images)
    assert first.images.min() >= 0
    assert first.images.max() <= 1 + 1e-6


def test_batches_depend_on_their_number_alone_and_cover_every_pixel():
    views = procedural("", "val", 8)
    box = views.frustum_box()
    hit = lambda rays: rays.clipped_to(*box).hit  # noqa: E731
    pixels = Pixels(views, hit, batch_size=16, seed=0)
    per_epoch = len(pixels.index) // 16
    epoch = [pixels(step) for step in range(per_epoch)]
    late = Pixels(views, hit, batch_size=16, seed=0)(per_epoch - 1)
    assert torch.equal(late.rgba, epoch[-1].rgba)
    assert torch.equal(late.rays.origins, epoch[-1].rays.origins)
    seen = {tuple(d.tolist()) for b in epoch for d in b.rays.directions}
    assert len(seen) == 16 * per_epoch
    assert not torch.equal(pixels(per_epoch).rgba, epoch[0].rgba)
    halves = [Pixels(views, hit, 16, 0, rank, 2)(3) for rank in (0, 1)]
    both = torch.cat([h.rays.directions for h in halves])
    assert {tuple(d) for d in both.tolist()} == {tuple(d) for d in epoch[3].rays.directions.tolist()}


def test_the_loader_resumes_where_it_was():
    loader = StepLoader(lambda step: step, 7)
    iterator = iter(loader)
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    again = StepLoader(lambda step: step, 7)
    again.load_state_dict(loader.state_dict())
    assert list(again) == [3, 4, 5, 6]
    assert list(again) == [0, 1, 2, 3, 4, 5, 6]
    assert len(again) == 7


def test_a_part_of_the_views_is_spread_evenly():
    views, some = procedural("", "test", 4), procedural("", "test", 4, 3)
    images = WholeImages(some)
    assert some.names == ("test_000", "test_004", "test_007")
    assert torch.equal(some.images, views.images[[0, 4, 7]])
    assert images[1].shape == (4, 4)
    assert len(images[1].rays) == 16
