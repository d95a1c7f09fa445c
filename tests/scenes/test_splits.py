"""Which views train, which are evaluated, and what a file says of its cameras, for transforms files of both kinds."""

import dataclasses
import json
import math

import pytest
import torch

from autoint.scenes.data.blender import blender
from autoint.scenes.data.procedural import orbit
from autoint.scenes.data.transforms import transforms
from tests.scenes import captures
from tests.scenes.captures import Camera

SMALL = Camera(9.0, 9.0, 4.0, 3.0, 8, 6)
NAMES = [f"images/frame_{i:05d}.jpg" for i in range(9)]


def edited(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def scene(tmp_path):
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(9, 0.0))
    return tmp_path / "scene"


def numbers(scene, split, **options):
    views = transforms(str(scene.parent), split, None, path="scene", **options)
    return [int(name[-5:]) for name in views.names]


def splits(scene):
    return {split: numbers(scene, split) for split in ("train", "val", "test")}


def test_val_and_test_stand_for_each_other(scene, caplog):
    edited(scene / "transforms.json", train_filenames=NAMES[:6], val_filenames=NAMES[6:])
    assert splits(scene) == {"train": [0, 1, 2, 3, 4, 5], "val": [6, 7, 8], "test": [6, 7, 8]}
    assert "no test_filenames; those of val stand for them" in caplog.text
    edited(scene / "transforms.json", val_filenames=[], test_filenames=NAMES[7:])
    assert splits(scene) == {"train": [0, 1, 2, 3, 4, 5], "val": [7, 8], "test": [7, 8]}


@pytest.mark.parametrize(
    ("lists", "train", "held"),
    [
        ({"train": NAMES[1:4]}, [1, 2, 3], [0, 4, 5, 6, 7, 8]),
        ({"test": NAMES[:2]}, [2, 3, 4, 5, 6, 7, 8], [0, 1]),
        ({"val": NAMES[8:]}, [0, 1, 2, 3, 4, 5, 6, 7], [8]),
    ],
)
def test_a_split_without_a_list_has_what_no_list_names(lists, train, held, scene, caplog):
    """Never every eighth of all, which would evaluate training views."""
    edited(scene / "transforms.json", **{f"{split}_filenames": names for split, names in lists.items()})
    assert splits(scene) == {"train": train, "val": held, "test": held}
    assert "images that no list names are" in caplog.text


def test_no_image_left_for_a_split_is_refused(scene):
    edited(scene / "transforms.json", train_filenames=NAMES)
    with pytest.raises(
        ValueError, match=r"transforms.json: no test_filenames, and train_filenames name every image; list"
    ):
        numbers(scene, "test")


def test_lists_that_share_images_are_told_of(scene, caplog):
    edited(scene / "transforms.json", train_filenames=NAMES, val_filenames=NAMES[8:], test_filenames=NAMES[6:])
    assert numbers(scene, "test") == [6, 7, 8]
    assert "train_filenames and test_filenames share 3 of 3 images: images/frame_00006.jpg, images" in caplog.text
    assert "train_filenames and val_filenames share 1 of 1 images: images/frame_00008.jpg" in caplog.text
    caplog.clear()
    edited(scene / "transforms.json", train_filenames=NAMES[:6], val_filenames=NAMES[6:])
    splits(scene)
    assert not caplog.messages  # val and test may be the same


def test_names_are_compared_as_paths(scene):
    """Backslashes, ./ and a suffix that the frame's own path leaves out make no difference."""
    frames = json.loads((scene / "transforms.json").read_text())["frames"]
    for frame in frames[:3]:
        frame["file_path"] = frame["file_path"].removesuffix(".jpg")
    written = ["images\\frame_00000.jpg", ".\\images\\frame_00001.jpg", "./images//frame_00008.jpg"]
    edited(scene / "transforms.json", frames=frames, train_filenames=written, val_filenames=NAMES[3:5])
    assert numbers(scene, "train") == [0, 1, 8]


def test_names_of_no_frame_are_named(scene, caplog):
    edited(scene / "transforms.json", train_filenames=[*NAMES[:6], "images/a.jpg", "b"], val_filenames=NAMES[6:])
    with pytest.raises(ValueError, match=r"train_filenames: 2 of 8 names are of no frame: b, images/a.jpg; mend them"):
        numbers(scene, "train")
    assert numbers(scene, "train", missing="skip") == [0, 1, 2, 3, 4, 5]
    assert "2 of 8 names are of no frame" in caplog.text
    for wrong in ("images", [1], {"a": 1}):
        edited(scene / "transforms.json", train_filenames=wrong)
        with pytest.raises(ValueError, match=r"train_filenames=.* must be a list of file_paths"):
            numbers(scene, "test")


def test_a_listed_image_that_is_missing_is_a_missing_image(scene, caplog):
    edited(scene / "transforms.json", train_filenames=NAMES[:6], val_filenames=NAMES[6:])
    (scene / NAMES[2]).unlink()
    for _ in range(2):
        assert numbers(scene, "train", missing="skip") == [0, 1, 3, 4, 5]
    assert len(caplog.messages) == 1  # once, however often the file is read
    assert "1 of 9 images are missing" in caplog.text


@pytest.mark.parametrize(("gone", "stands"), [("val", "test"), ("test", "val")])
def test_val_and_test_of_blender_stand_for_each_other(gone, stands, blender_scene, caplog):
    disc = blender_scene / "nerf_synthetic" / "disc"
    (disc / f"transforms_{gone}.json").unlink()
    load = lambda split: blender(str(blender_scene), split, None, path="nerf_synthetic/disc")  # noqa: E731
    assert torch.equal(load(gone).poses, load(stands).poses)
    assert f"transforms_{gone}.json: not there; transforms_{stands}.json stands for it" in caplog.text
    (disc / f"transforms_{stands}.json").unlink()
    with pytest.raises(ValueError, match=r"_val.json or _test.json, of which one may stand for the other"):
        load(gone)


def test_blender_takes_all_that_a_file_says_of_its_camera(tmp_path):
    """Focal lengths, principal point, size and lens, at the top and in a frame, as scene=transforms does."""
    lens = (-0.25, 0.08, -0.01, 0.004, -0.006)
    camera = dataclasses.replace(SMALL, fx=8.0, fy=8.6, cx=3.2, cy=3.4, lens=lens)
    other = dataclasses.replace(camera, fx=7.0)
    captures.write_blender(tmp_path / "scene", SMALL)
    for split in ("train", "val", "test"):
        file = tmp_path / "scene" / f"transforms_{split}.json"
        frames = json.loads(file.read_text())["frames"]
        frames[1] |= captures.keys_of(other)
        edited(file, frames=frames, **captures.keys_of(camera))
    ours, theirs = (read(str(tmp_path), "test", None, path="scene") for read in (blender, transforms))
    assert torch.equal(ours.intrinsics.pinhole, theirs.intrinsics.pinhole)
    assert torch.equal(ours.intrinsics.distortion, theirs.intrinsics.distortion)
    looks = camera.rays(ours.poses[0])
    assert float((ours.rays_of(0).directions - looks.directions).abs().max()) < 1e-5
    assert float(ours.intrinsics.pinhole[1, 0]) == pytest.approx(7.0)


def test_blender_takes_a_vertical_angle_and_refuses_what_it_cannot(blender_scene):
    disc = blender_scene / "nerf_synthetic" / "disc"
    load = lambda: blender(str(blender_scene), "train", None, path="nerf_synthetic/disc")  # noqa: E731
    edited(disc / "transforms_train.json", camera_angle_y=0.5)
    fx, fy = load().intrinsics.pinhole[0, :2].tolist()
    assert (fx, fy) == pytest.approx((4 / math.tan(0.35), 3 / math.tan(0.25)))
    for change, words in (
        ({"k1": -9.0}, "the lens distortion folds the image"),
        ({"camera_model": "OPENCV_FISHEYE"}, "is not supported"),
        ({"w": 100}, "w=100, h=6, but its image is 8x6"),
    ):
        before = (disc / "transforms_train.json").read_text()
        edited(disc / "transforms_train.json", **change)
        with pytest.raises(ValueError, match=f"transforms_train.json.*{words}"):
            load()
        (disc / "transforms_train.json").write_text(before)
