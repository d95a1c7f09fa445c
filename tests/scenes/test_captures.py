"""Other people's scenes: each format is read, its rays are those that made it, and it trains."""

import dataclasses
import json
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from autoint.files.images import read_rgba
from autoint.reports import metrics
from autoint.runs import restoring
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from autoint.scenes.data.batches import WholeImages
from autoint.scenes.data.blender import blender
from autoint.scenes.data.deepvoxels import deepvoxels
from autoint.scenes.data.frames import frames_of, intrinsics_of
from autoint.scenes.data.llff import llff
from autoint.scenes.data.procedural import orbit
from autoint.scenes.data.transforms import nearest_point, transforms
from autoint.scenes.data.views import Views, held_out, names_of
from autoint.scenes.rays import DeviceCoordinates, Intrinsics, distorted, undistorted
from autoint.scenes.task import load_views
from tests.scenes import captures
from tests.scenes.captures import Camera

SMALL = Camera(9.0, 9.0, 4.0, 3.0, 8, 6)
LENS = (-0.25, 0.08, -0.01, 0.004, -0.006)
BENT = Camera(8.0, 8.5, 3.2, 4.3, 6, 8, LENS)
OTHER = Camera(7.5, 7.0, 2.9, 4.1, 6, 8, (0.1, -0.02, 0.005, -0.003, 0.002))


def gap(views, view, rays, similarity=None) -> float:
    """The largest difference of a view's rays from the generator's, which a similarity (4, 4) may have moved."""
    ours, origins, directions = views.rays_of(view), rays.origins, rays.directions
    if similarity is not None:
        origins = origins @ similarity[:3, :3].T + similarity[:3, 3]
        directions = torch.nn.functional.normalize(directions @ similarity[:3, :3].T, dim=-1)
    return max(float((ours.origins - origins).abs().max()), float((ours.directions - directions).abs().max()))


def test_blender_rays_are_the_generators(tmp_path):
    poses = captures.write_blender(tmp_path / "scene", SMALL)["test"]
    views = blender(str(tmp_path), "test", None, path="scene")
    assert max(gap(views, v, SMALL.rays(poses[v])) for v in range(3)) < 1e-5


def test_deepvoxels_rays_are_the_generators(tmp_path):
    camera, poses = dataclasses.replace(SMALL, cx=3.6, cy=3.3), orbit(9, 0.0)
    captures.write_deepvoxels(tmp_path / "scene", camera, poses)
    splits = {split: deepvoxels(str(tmp_path), split, None, path="scene") for split in ("train", "val", "test")}
    assert len(splits["train"]) == 5
    assert splits["val"].names == splits["test"].names
    assert sorted(splits["train"].names + splits["test"].names) == [f"{i:06d}" for i in range(9)]
    for views in splits.values():
        assert max(gap(views, v, camera.rays(poses[int(name)])) for v, name in enumerate(views.names)) < 1e-5
        corner = views.rays_of(0).clipped_to(*views.box)
        assert corner.hit.any()
    assert splits["train"].box[0].tolist() == [-1, -1, -1]


def test_deepvoxels_finds_the_folders_of_its_splits(tmp_path):
    for place in ("cube/train", "validation/cube", "cube/test"):
        captures.write_deepvoxels(tmp_path / place, SMALL, orbit(2 + len(place) % 3, 0.0))
    for split, place in {"train": "cube/train", "val": "validation/cube", "test": "cube/test"}.items():
        assert len(deepvoxels(str(tmp_path), split, None, path="cube")) == 2 + len(place) % 3


def test_deepvoxels_square_images_are_the_middle_of_a_wide_camera_and_poses_may_be_inverted(tmp_path):
    square, poses = dataclasses.replace(SMALL, width=6, cx=3.0), orbit(2, 0.0)
    captures.write_deepvoxels(tmp_path / "scene", square, poses)
    (tmp_path / "scene" / "intrinsics.txt").write_text("18 8 6 0.\n0 0 0\n0.\n1.\n12 16\n1\n")
    for file in (tmp_path / "scene" / "pose").iterdir():
        numbers = np.linalg.inv(np.loadtxt(file).reshape(4, 4))
        file.write_text("\n".join(" ".join(map(str, row)) for row in numbers))
    views = deepvoxels(str(tmp_path), "train", None, path="scene")
    assert gap(views, 0, square.rays(poses[int(views.names[0])])) < 1e-5


def test_transforms_rays_through_lenses_are_the_generators(tmp_path):
    poses, cameras = orbit(17, 0.0), [BENT, OTHER]
    captures.write_transforms(tmp_path / "scene", cameras, poses)
    train, test = (transforms(str(tmp_path), split, None, path="scene") for split in ("train", "test"))
    assert test.names == ("frame_00000", "frame_00008", "frame_00016")
    assert len(train) == 14
    for views in (train, test):
        for v, name in enumerate(views.names):
            number = int(name[-5:])
            assert gap(views, v, cameras[number % 2].rays(poses[number])) < 1e-5
    half = transforms(str(tmp_path), "test", 4, path="scene")
    assert half.images.shape == (3, 4, 3, 4)
    assert (half.intrinsics.width, half.intrinsics.height) == (3, 4)
    assert torch.allclose(half.intrinsics.pinhole, test.intrinsics.pinhole / 2)


def similarity_of(views, poses, scale):
    """The similarity (4, 4) that took the generator's first pose to the loader's."""
    stretched = poses[0].double().clone()
    stretched[:3, 3] *= scale
    motion = views.poses[0].double() @ torch.linalg.inv(stretched)
    return motion @ torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("ndc", [False, True])
def test_llff_rays_are_the_generators(ndc, tmp_path):
    poses = captures.facing(9)
    captures.write_llff(tmp_path / "scene", SMALL, poses)
    world = llff(str(tmp_path), "train", None, path="scene", ndc=False, hold_every=4)
    assert world.names == tuple(f"IMG_{i:03d}" for i in (1, 2, 3, 5, 6, 7))
    scale = 1 / (0.75 * 2.8)
    similarity = similarity_of(world, poses[1:], scale)
    assert (world.near, world.far) == pytest.approx((0.9 * scale * 2.8, scale * 5.5))
    center = similarity[:3, :3] @ poses[:, :3, 3].double().mean(0) + similarity[:3, 3]
    assert float(center.abs().max()) < 1e-6  # the mean of all cameras is the origin
    assert float((similarity[:3, :3] @ poses[:, :3, 2].double().sum(0))[:2].abs().max()) < 1e-6  # and looks along −z
    if not ndc:
        for v, name in enumerate(world.names):
            assert gap(world, v, SMALL.rays(poses[int(name[-3:])]), similarity) < 1e-5
        return
    views = llff(str(tmp_path), "train", None, path="scene", hold_every=4)
    for v, name in enumerate(views.names):
        ours, rays = views.rays_of(v), SMALL.rays(poses[int(name[-3:])])
        assert torch.allclose(ours.directions.norm(dim=-1), torch.ones(48))
        depths = torch.tensor([2.9, 4.0, 5.5, 50.0], dtype=torch.float64).expand(48, 4)
        x, y, z = (rays.at(depths) @ similarity[:3, :3].T + similarity[:3, 3]).unbind(-1)
        # NeRF's equations 25 to 27, with n = 1 and f → ∞
        cube = torch.stack([-9 / 4 * x / z, -9 / 3 * y / z, 1 + 2 / z], dim=-1)
        t = ((cube - ours.origins[:, None]) * ours.directions[:, None]).sum(-1)
        assert float((ours.at(t.float()) - cube).abs().max()) < 1e-5
        assert (t > ours.near[:, None]).all()
        assert (t < ours.far[:, None]).all()
        assert (ours.clipped_to(*views.box).far - ours.far).abs().max() < 1e-5  # the box cuts nothing off
        assert torch.allclose(ours.at(ours.far[:, None])[:, 0, 2], torch.ones(48), atol=1e-5)


@pytest.mark.parametrize("kind", ["transforms", "llff", "deepvoxels"])
def test_project_inverts_rays(kind, tmp_path):
    if kind == "transforms":
        captures.write_transforms(tmp_path / "scene", [BENT, OTHER], orbit(8, 0.0))
        views = transforms(str(tmp_path), "train", None, path="scene")
    elif kind == "llff":
        captures.write_llff(tmp_path / "scene", SMALL, captures.facing(8))
        views = llff(str(tmp_path), "train", None, path="scene")
    else:
        captures.write_deepvoxels(tmp_path / "scene", SMALL, orbit(8, 0.0))
        views = deepvoxels(str(tmp_path), "train", None, path="scene")
    for v in range(2):
        rays = views.rays_of(v)
        x, y, depth = views.project(v, rays.at(rays.span(torch.tensor([0.3])))[:, 0])
        row, column = torch.meshgrid(
            torch.arange(views.intrinsics.height), torch.arange(views.intrinsics.width), indexing="ij"
        )
        assert float((x - column.flatten() - 0.5).abs().max()) < 1e-3
        assert float((y - row.flatten() - 0.5).abs().max()) < 1e-3
        assert (depth > 0).all()


def test_undistortion_is_exact_in_float64_and_leaves_straight_lenses_alone():
    grid = torch.cartesian_prod(*2 * [torch.linspace(-0.7, 0.7, 21, dtype=torch.float64)])
    lens = torch.tensor([LENS], dtype=torch.float64)
    again = undistorted(*distorted(*grid.T, lens), lens)
    assert float((torch.stack(again, dim=-1) - grid).abs().max()) < 1e-12
    straight = Intrinsics(torch.tensor([[2.0, 3.0, 1.0, 1.5]]), 2, 3)
    bent = dataclasses.replace(straight, distortion=torch.zeros(1, 5))
    x, y = torch.rand(2, 5)
    assert all(torch.equal(a, b) for a, b in zip(straight.local(x, y), bent.local(x, y), strict=True))


def test_device_coordinates_go_there_and_back():
    device = DeviceCoordinates(2.5, 3.5)
    points = torch.randn(20, 3, dtype=torch.float64) - torch.tensor([0.0, 0.0, 8.0])
    assert torch.allclose(device.world(device.of(points)), points)


def test_the_centre_of_a_capture_is_where_its_cameras_look(tmp_path):
    poses = orbit(12, 0.0)
    poses[:, :3, 3] += torch.tensor([3.0, -2.0, 1.0])
    assert torch.allclose(nearest_point(poses, tmp_path), torch.tensor([3.0, -2.0, 1.0]), atol=1e-5)
    parallel = torch.eye(4).repeat(3, 1, 1)
    parallel[:, 0, 3] = torch.arange(3.0)
    with pytest.raises(ValueError, match=r"axes are parallel.*set scene.bounds=frustum"):
        nearest_point(parallel, tmp_path)


def test_a_frame_has_its_own_focal_length_in_any_form(tmp_path):
    """Of fl_x at the top nothing stays where a frame has an angle, and the other way round."""
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(4, 0.0))
    forms = {"camera_angle_x": 1.2}, {"fl_x": 20.0}, {"fl_y": 21.0}, {"fl_x": 20.0, "camera_angle_y": 0.5}
    wide, upright = 8 / math.tan(0.6), 6 / math.tan(0.25)  # of images of 16x12, twice the size
    file = tmp_path / "scene" / "transforms.json"
    frames = json.loads(file.read_text())["frames"]
    edited(file, fl_x=18.0, fl_y=19.0, frames=[frame | own for frame, own in zip(frames, forms, strict=True)])
    focal = intrinsics_of(frames_of(file, ""), (16, 12)).pinhole[:, :2]
    assert torch.allclose(focal, torch.tensor([[wide, wide], [20.0, 20.0], [18.0, 21.0], [20.0, upright]]))


def test_a_lens_may_be_given_as_nerfstudio_does(tmp_path, caplog):
    """In the order k1, k2, k3, k4, p1, p2, at the top or in a frame, whatever form the other of them has."""
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(3, 0.0))
    file = tmp_path / "scene" / "transforms.json"
    frames = json.loads(file.read_text())["frames"]
    params = [0.1, 0.02, 0.003, 0, 0.0004, 0.0005]
    frames = [frame | own for frame, own in zip(frames, ({}, {"k1": 0.3}, {"distortion_params": params}), strict=True)]
    gone = dict.fromkeys(("k1", "k2", "k3", "p1", "p2"))
    edited(file, **gone, distortion_params=[0.2, 0, 0, 0, 0, 0], white_transparent=True, frames=frames)
    lens = intrinsics_of(frames_of(file, ""), (16, 12)).distortion
    assert torch.equal(lens, torch.tensor([[0.2, 0, 0, 0, 0], [0.3, 0, 0, 0, 0], [0.1, 0.02, 0.003, 0.0004, 0.0005]]))
    assert "white_transparent=True is not heeded" in caplog.text
    edited(file, k1=0.2, distortion_params=None)
    assert torch.equal(intrinsics_of(frames_of(file, ""), (16, 12)).distortion[2], lens[2])


def test_images_of_the_same_name_in_other_folders_are_told_apart(tmp_path):
    """Results are written by names; without this, those of one camera replaced those of the other."""
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(4, 0.0))
    file = tmp_path / "scene" / "transforms.json"
    frames = json.loads(file.read_text())["frames"]
    for i, frame in enumerate(sorted(frames, key=lambda frame: frame["file_path"])):
        old, frame["file_path"] = frame["file_path"], f"images/cam{i // 2}/{i % 2:04d}.jpg"
        (tmp_path / "scene" / "images" / f"cam{i // 2}").mkdir(exist_ok=True)
        (tmp_path / "scene" / old).rename(tmp_path / "scene" / frame["file_path"])
    edited(file, frames=frames)
    split = lambda split: transforms(str(tmp_path), split, None, path="scene", hold_every=2).names  # noqa: E731
    assert (split("train"), split("test")) == (("cam0_0001", "cam1_0001"), ("cam0_0000", "cam1_0000"))
    beside = [tmp_path / name for name in ("a.png", "b.png", "A.jpg")]
    assert names_of(beside) == ("00000_a", "00001_b", "00002_A")


def test_bounds_of_a_capture(tmp_path):
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(8, 0.0))
    load = lambda **options: transforms(str(tmp_path), "train", None, path="scene", **options)  # noqa: E731
    auto, box, frustum = load(radius=0.25), load(bounds="aabb_scale"), load(bounds="frustum", near=2.0, far=5.0)
    assert torch.allclose(torch.stack(auto.box), torch.tensor([[-1.0], [1.0]]).expand(2, 3), atol=1e-4)
    assert (auto.near, auto.far) == pytest.approx((4 - 3**0.5, 4 + 3**0.5), abs=1e-4)
    assert torch.allclose(torch.stack(box.box), torch.tensor([[-0.5], [0.5]]).expand(2, 3) / 0.33, atol=1e-5)
    assert (frustum.near, frustum.far) == (2, 5)
    edited(tmp_path / "scene" / "transforms.json", aabb=[[1, 2, 3], [2, 4, 7]], aabb_scale=2)
    assert torch.equal(torch.stack(load(bounds="aabb_scale").box), torch.tensor([[-2.5, -1, 1], [5.5, 7, 9]]))
    edited(tmp_path / "scene" / "transforms.json", aabb=[1, 2])
    with pytest.raises(ValueError, match=r"aabb=\[1, 2\] must be two corners of three numbers"):
        load(bounds="aabb_scale")
    assert (frustum.box[1] > 1).all()


def test_a_capture_with_transparency_leaves_its_box_to_the_visual_hull(tmp_path):
    poses = captures.write_blender(tmp_path / "scene", SMALL)
    views = transforms(str(tmp_path), "test", None, path="scene")
    assert views.box is None
    assert gap(views, 1, SMALL.rays(poses["test"][1])) < 1e-5
    (tmp_path / "scene" / "transforms_test.json").unlink()
    assert len(transforms(str(tmp_path), "test", None, path="scene")) == 2  # those of val


def test_a_capture_may_name_its_splits(tmp_path):
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(4, 0.0))
    name = "images/frame_{:05d}.jpg".format
    edited(tmp_path / "scene" / "transforms.json", train_filenames=[name(3), "./" + name(0)], test_filenames=["x"])
    assert transforms(str(tmp_path), "train", None, path="scene").names == ("frame_00000", "frame_00003")
    with pytest.raises(ValueError, match=r"test_filenames=\['x'\] names none of the images"):
        transforms(str(tmp_path), "test", None, path="scene")


def test_missing_images_are_counted_and_named(tmp_path, caplog):
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(10, 0.0), missing=(2, 5))
    with pytest.raises(ValueError, match=r"2 of 10 images are missing: images/frame_00002.jpg, .*_00005.jpg; restore"):
        transforms(str(tmp_path), "train", None, path="scene")
    views = transforms(str(tmp_path), "train", None, path="scene", missing="skip")
    assert len(views) == 7
    assert "2 of 10 images are missing" in caplog.text


def edited(file, **changes):
    contents = json.loads(file.read_text())
    frame = changes.pop("frame", {})
    contents.update(changes)
    contents["frames"][0].update(frame)
    file.write_text(json.dumps({k: v for k, v in contents.items() if v is not None}))


BAD_TRANSFORMS = {
    "fisheye": ({"camera_model": "OPENCV_FISHEYE"}, "camera_model='OPENCV_FISHEYE' is not supported .*undistort"),
    "fisheye of instant-ngp": ({"is_fisheye": True}, "is_fisheye=True is not supported"),
    "four radial terms": ({"k4": 0.1}, "k4=0.1 is not supported"),
    "six radial terms": ({"k6": 0.1}, "k6=0.1 is not supported"),
    "one radial term of COLMAP": ({"k": 0.1}, "k=0.1 is not supported; call the radial distortion k1"),
    "fisheye of nerfstudio": (
        {"frame": {"distortion_params": [0, 0, 0, 0.1, 0, 0]}},
        r"frames\[0\]: k4=0.1 is not supported; undistort",
    ),
    "parameters of another model": ({"distortion_params": [0.1]}, r"distortion_params=\[0.1\] must be 6 finite"),
    "two lenses": ({"distortion_params": [0.1] * 6}, r"distortion_params=\[.* and k1=0.0 disagree; remove one"),
    "axes of Mitsuba": ({"from_mitsuba": True}, r"from_mitsuba=True is not supported; write poses with \+x right"),
    "no focal length": ({"fl_x": None}, "neither fl_x nor camera_angle_x is given"),
    "negative focal length": ({"fl_x": -3}, "fl_x=-3 must be a positive finite number"),
    "text for a number": ({"cx": "middle"}, "cx='middle' must be a finite number"),
    "another shape": ({"w": 100}, "w=100, h=12, but its image is 8x6"),
    "centre of larger images": ({"w": None, "h": None, "cx": 400}, "cx=400 lies outside of its image of 8x6, and w is"),
    "folding lens": ({"k1": -9.0}, "the lens distortion folds the image"),
    "no frames": ({"frames": [{}]}, "file_path=None must be the path"),
    "outside": ({"frame": {"file_path": "../x.png"}}, "leaves the scene folder"),
    "last row": (
        {"frame": {"transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]}},
        "its last row is",
    ),
}


@pytest.mark.parametrize("case", BAD_TRANSFORMS)
def test_bad_captures_are_named(case, tmp_path):
    changes, words = BAD_TRANSFORMS[case]
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(3, 0.0))
    edited(tmp_path / "scene" / "transforms.json", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        transforms(str(tmp_path), "train", None, path="scene", hold_every=2)
    assert "transforms.json" in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_OPTIONS = {
    "hold_every": (1, "scene.hold_every=1 must be at least 2"),
    "missing": ("ignore", "scene.missing='ignore' is unknown"),
    "bounds": ("box", "scene.bounds='box' is unknown"),
    "radius": (0.0, "scene.radius=0.0"),
    "near": (50.0, "scene.near=50.0"),
    "path": ("elsewhere", "scene folder not found"),
}


@pytest.mark.parametrize("key", BAD_OPTIONS)
def test_bad_options_of_a_capture_are_named(key, tmp_path):
    value, words = BAD_OPTIONS[key]
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(3, 0.0))
    with pytest.raises(ValueError, match=words):
        transforms(str(tmp_path), "train", None, **{"path": "scene", key: value})
    (tmp_path / "scene" / "transforms.json").write_text('{"w": 1, "w": 2, "frames": []}')
    with pytest.raises(ValueError, match=r"transforms.json: the key 'w' stands twice"):
        transforms(str(tmp_path), "train", None, path="scene")


BAD_LLFF = {
    "columns": (lambda t: t[:, :15], r"shape \(3, 15\).*must be \(views, 17\)"),
    "nan": (lambda t: np.where(np.arange(17) == 3, np.nan, t), "NaN or infinity in row 0"),
    "rows": (lambda t: t[:2], "3 images, but poses_bounds.npy has 2 rows"),
    "bounds": (lambda t: t[:, [*range(15), 16, 15]], "row 0 has the bounds .*need 0 < near < far"),
    "scaled": (lambda t: t * np.where(np.arange(17) % 5 < 3, 2, 1), "row 0: not a rotation"),
    "sizes": (lambda t: t * np.where(np.arange(17) == 4, -1, 1), "must be positive"),
}


@pytest.mark.parametrize("case", BAD_LLFF)
def test_bad_llff_scenes_are_named(case, tmp_path):
    change, words = BAD_LLFF[case]
    captures.write_llff(tmp_path / "scene", SMALL, captures.facing(3))
    file = tmp_path / "scene" / "poses_bounds.npy"
    np.save(file, change(np.load(file)))
    with pytest.raises(ValueError, match=words) as caught:
        llff(str(tmp_path), "train", None, path="scene")
    assert "poses_bounds.npy" in str(caught.value)


def test_llff_reads_the_folder_that_has_enough_pixels(tmp_path):
    captures.write_llff(tmp_path / "scene", SMALL, captures.facing(3))
    sizes = {None: (6, 8), 8: (6, 8), 10: (8, 10), 16: (12, 16)}
    for image_size, size in sizes.items():
        views = llff(str(tmp_path), "train", image_size, path="scene")
        assert views.images.shape[1:3] == size
        assert torch.allclose(views.intrinsics.pinhole[0, 0], torch.tensor(9.0 * size[1] / 8))
    assert llff(str(tmp_path), "train", None, path="scene", factor=1).images.shape[1:3] == (12, 16)
    with pytest.raises(ValueError, match=r"scene.factor=4: no such reduction .*there: 1, 2"):
        llff(str(tmp_path), "train", None, path="scene", factor=4)
    (tmp_path / "scene" / "poses_bounds.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"poses_bounds.npy: not a readable .npy"):
        llff(str(tmp_path), "train", None, path="scene")


def test_llff_refuses_images_of_another_shape_than_the_cameras(tmp_path):
    captures.write_llff(tmp_path / "scene", SMALL, captures.facing(3))
    for file in (tmp_path / "scene" / "images_2").iterdir():
        Image.new("RGB", (6, 8)).save(file)
    with pytest.raises(ValueError, match=r"IMG_001.png: image is 6x8, but poses_bounds.npy is of 16x12; give the"):
        llff(str(tmp_path), "train", None, path="scene")


def test_llff_refuses_device_coordinates_for_views_from_all_around(tmp_path):
    captures.write_llff(tmp_path / "scene", SMALL, orbit(6, 0.0))
    with pytest.raises(ValueError, match=r"needs cameras that face one way; set scene\.ndc=false"):
        llff(str(tmp_path), "train", None, path="scene")


BAD_DEEPVOXELS = {
    "intrinsics.txt": ("1 2 3 0\n", r"lines of \[4\] numbers; it needs 'f cx cy 0'"),
    "pose/000001.txt": ("1 2 3", "3 numbers; a pose has 16"),
    "pose/000000.txt": ("a b c", "not a text file of numbers"),
}


@pytest.mark.parametrize("name", BAD_DEEPVOXELS)
def test_bad_deepvoxels_scenes_are_named(name, tmp_path):
    text, words = BAD_DEEPVOXELS[name]
    captures.write_deepvoxels(tmp_path / "scene", SMALL, orbit(2, 0.0))
    (tmp_path / "scene" / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: {words}"):
        [deepvoxels(str(tmp_path), split, None, path="scene") for split in ("train", "test")]
    (tmp_path / "scene" / name).unlink()
    with pytest.raises(ValueError, match=name.split("/")[-1]):
        [deepvoxels(str(tmp_path), split, None, path="scene") for split in ("train", "test")]


def test_every_eighth_view_is_held_out():
    assert held_out(17, 8, "test") == held_out(17, 8, "val") == [0, 8, 16]
    assert held_out(10, 8, "train") == [1, 2, 3, 4, 5, 6, 7, 9]
    with pytest.raises(ValueError, match="at least 2, to train with and to test"):
        held_out(1, 8, "train")


PICTURES = {
    "grey": (lambda v: Image.fromarray(v[..., 0]), 0),
    "16-bit grey": (lambda v: Image.fromarray(v[..., 0].astype(np.uint16) * 257), 0),
    "palette": (lambda v: Image.fromarray(v).quantize(256), None),
    "RGB": (Image.fromarray, None),
    "RGBA": (lambda v: Image.fromarray(np.dstack([v, np.full((5, 7), 255, np.uint8)])), None),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_all_kinds_are_read(kind, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    make, channel = PICTURES[kind]
    make(values).save(tmp_path / "a.png")
    rgba, size = read_rgba(tmp_path / "a.png", None)
    truth = torch.from_numpy(values / np.float32(255))
    truth = truth if channel is None else truth[..., channel, None].expand(5, 7, 3)
    assert size == (7, 5)
    assert torch.allclose(rgba[..., :3], truth, atol=1e-6)
    assert (rgba[..., 3] == 1).all()


def test_16_bit_pictures_keep_their_range(tmp_path):
    """Grey keeps all bits; colour its high byte."""
    ramp = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    grey, _ = read_rgba(tmp_path / "grey.png", None)
    assert np.abs(grey[..., 1].numpy() - ramp / 65535).max() < 1e-6
    color = np.stack([ramp, ramp[::-1], ramp.T.reshape(3, 4)], axis=-1)
    write_png16(tmp_path / "color.png", color)
    rgba, _ = read_rgba(tmp_path / "color.png", None)
    assert np.abs(rgba[..., :3].numpy() - color / 65535).max() < 1 / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_of_16_bits_may_be_transparent(channels, tmp_path):
    color = np.array([[[30000, 20000, 10000], [30000, 20000, 20000]]])
    if channels == 1:
        Image.fromarray(color[..., 2].astype(np.uint16)).save(tmp_path / "a.png", transparency=10000)
    else:
        write_png16(tmp_path / "a.png", color, color[0, 0])
    rgba, _ = read_rgba(tmp_path / "a.png", None)
    assert rgba[0, 0].tolist() == [0, 0, 0, 0]
    assert torch.allclose(rgba[0, 1, 2:], torch.tensor([20000 / 65535, 1]), atol=1 / 255)


def write_png16(file, color, clear=None):
    """A 16-bit RGB PNG, which Pillow cannot write, of which one colour may be transparent."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = color.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in color)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    tell = b"" if clear is None else chunk(b"tRNS", np.asarray(clear).astype(">u2").tobytes())
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + tell + end)


def test_turned_and_too_large_pictures_are_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 3)).save(tmp_path / "turned.jpg", exif=exif)
    with pytest.raises(ValueError, match=r"turned.jpg: EXIF orientation 6.*remove the tag"):
        read_rgba(tmp_path / "turned.jpg", None)
    for side in (12000, 20000):
        Image.new("1", (side, side)).save(tmp_path / "large.png")
        with pytest.raises(ValueError, match=r"large.png: too large an image .*reduce it"):
            read_rgba(tmp_path / "large.png", None)


LONG = Camera(42.0, 42.0, 16.0, 12.0, 32, 24)
SCENES = {
    "blender": ({}, lambda f: captures.write_blender(f, LONG)),
    "llff": ({}, lambda f: captures.write_llff(f, LONG, captures.facing(24))),
    "deepvoxels": (
        {"radius": 1.3},
        lambda f: captures.write_deepvoxels(f, dataclasses.replace(LONG, cx=15.2, cy=12.7), orbit(64, 0.0)),
    ),
    "transforms": (
        {"missing": "skip", "radius": 0.33},
        lambda f: captures.write_transforms(
            f,
            [
                Camera(42.0, 43.0, 12.4, 15.5, 24, 32, LENS),
                Camera(39.0, 39.5, 11.4, 16.5, 24, 32, (-0.2, 0.05, 0.0, 0.003, 0.002)),
            ],
            orbit(64, 0.0),
            missing=(3, 9),
        ),
    ),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", SCENES)
def test_a_scene_of_every_format_trains(name, tmp_path):
    options, write = SCENES[name]
    write(tmp_path / "scene")
    config = RunConfig.from_plain(
        {
            "task": "volrend",
            "scene": {"name": name, "path": "scene", **options},
            "data_dir": str(tmp_path),
            "batch_size": 256,
            # The field that learns fastest: what is tested is the reading, whoever learns from it.
            "model": {"name": "section_means", "nodes": 2},
            "encoding": {"name": "grid", "resolutions": [16, 32], "num_frequencies": 2},
            "direction_encoding": {"name": "normalized_positional", "num_frequencies": 1},
            "network": {"hidden_features": 32, "num_layers": 2},
            "optimizer": {"lr": 0.01, "warmup_steps": 5},
            "val_images": 1,
            "val_every": 10**6,
            "trainer": {"max_steps": 100, "accelerator": "cpu", "enable_progress_bar": False},
        }
    )
    fit(config, tmp_path / "run")
    _, module = restoring.restored(tmp_path / "run" / "checkpoints" / "last.ckpt")
    views: Views = load_views(config, "test")
    images = WholeImages(views)
    quality = []
    for batch in (images[i] for i in range(len(images))):
        rgb, _, _ = module.volume.view(batch.rays, module.canvas(), chunk_size=4096)
        quality.append(float(metrics.psnr(rgb, metrics.over(batch.rgba, module.canvas()))))
    print(name, f"{sum(quality) / len(quality):.2f}", "dB")
    assert sum(quality) / len(quality) > 25
