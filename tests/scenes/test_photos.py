"""From COLMAP models, and from photos alone, to rays: against the cameras that took the pictures."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import autoint
from autoint.registry import COMMANDS, DATASETS
from autoint.runs.command_line.scene_folders import kind_of
from autoint.scenes.camera_paths import up_axis
from autoint.scenes.data import colmap, colmap_files, photos
from tests.scenes import captures

CAMERAS = [
    captures.Camera(26.0, 25.0, 9.5, 7.0, 18, 14, (0.08, 0.01, 0.0, 0.002, -0.001)),
    captures.Camera(22.0, 22.0, 9.0, 7.0, 18, 14),
]


@pytest.fixture(params=["bin", "txt"])
def model(request, tmp_path):
    """A COLMAP model of ten images through two lenses, and the poses that were written; the points fill a box."""
    poses = captures.orbit(10, 0.0)
    points = np.random.default_rng(0).uniform(-1, 1, (300, 3)) * [0.5, 0.6, 0.4]
    captures.write_colmap(tmp_path / "scene", CAMERAS, poses, request.param, points)
    return tmp_path / "scene", poses


def test_the_rays_of_a_model_are_those_of_the_cameras(model):
    folder, poses = model
    assert kind_of(folder) == "colmap"
    views = DATASETS.build({"name": "colmap", "path": str(folder), "upright": False}, "", "train", None)
    assert views.names == tuple(f"IMG_{i:03d}" for i in range(10) if i % 8)
    assert views.images.shape == (8, 14, 18, 4)
    for number, i in enumerate(i for i in range(10) if i % 8):
        ours, truth = views.rays_of(number), CAMERAS[i % 2].rays(poses[i])
        assert (ours.directions - truth.directions).abs().max() < 2e-6
        assert (ours.origins - truth.origins).abs().max() < 2e-6
    test = DATASETS.build({"name": "colmap", "path": str(folder), "factor": 1}, "", "test", 18)
    assert test.names == ("IMG_000", "IMG_008")
    assert torch.allclose(test.images, DATASETS.build({"name": "colmap", "path": str(folder)}, "", "val", None).images)


def test_the_sparse_points_bound_the_scene_and_all_rays_meet_it(model):
    folder, poses = model
    lower, upper = colmap.bounds(colmap_files.read_model(folder / "sparse" / "0"), 1.0, folder)
    assert torch.allclose(upper, 1.2 * torch.tensor([0.5, 0.6, 0.4]), rtol=0.03)
    assert torch.allclose(lower, -upper, rtol=0.05)
    views = DATASETS.build({"name": "colmap", "path": str(folder), "keep": 1.0, "upright": False}, "", "train", None)
    factors = torch.cat([views.box[0] / lower, views.box[1] / upper])
    assert 1 < float(factors.mean()) <= 3
    assert float(factors.std()) < 0.1  # the same box, only larger
    met = torch.cat([views.rays_of(v).clipped_to(*views.box).hit for v in range(len(views))])
    assert float(met.float().mean()) > 0.99
    distances = poses[:, :3, 3].norm(dim=-1)
    assert 0 < views.near < float(distances.min()) - 0.5
    assert views.far > float(distances.max())
    with pytest.raises(ValueError, match=r"scene\.keep=0\.1 must be between"):
        DATASETS.build({"name": "colmap", "path": str(folder), "keep": 0.1}, "", "train", None)


@pytest.mark.parametrize("up", [[0.0, 0.0, -1.0], [0.6, 0.0, 0.8], [1.0, 0.0, 0.0]])
def test_a_model_is_turned_upright_as_a_whole(tmp_path, up):
    """Seen from every camera, each point is where it was; and what the cameras have as up is +z."""
    turn = captures.Rotation.align_vectors([up], [[0.0, 0.0, 1.0]])[0].as_matrix()
    poses = captures.around(8)
    poses[:, :3] = torch.as_tensor(turn).float() @ poses[:, :3]
    points = np.random.default_rng(0).uniform(-1, 1, (60, 3))
    captures.write_colmap(tmp_path / "scene", CAMERAS, poses, "bin", points @ turn.T)
    model = colmap_files.read_model(tmp_path / "scene" / "sparse" / "0")
    turned = colmap._turned(model)
    for before, after in zip(model.images, turned.images, strict=True):
        seen = [(m.points - image.pose[:3, 3]) @ image.pose[:3, :3] for m, image in ((model, before), (turned, after))]
        assert (seen[0] - seen[1]).abs().max() < 1e-6
    assert abs(float(torch.stack([image.pose for image in turned.images])[:, 2, 0].abs().max())) < 1e-5
    assert float(turned.images[0].pose[2, 1]) > 0.5


def test_models_are_read_as_colmap_reads_them(model):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    ours = colmap_files.read_model(model[0] / "sparse" / "0")
    theirs = pycolmap.Reconstruction()
    if (model[0] / "sparse" / "0" / "cameras.bin").is_file():
        theirs.read_binary(model[0] / "sparse" / "0")
    else:
        theirs.read_text(model[0] / "sparse" / "0")
    for image in ours.images:
        world = theirs.images[image.number].cam_from_world().inverse().matrix()
        assert np.abs(image.pose[:3].numpy() * [1, -1, -1, 1] - world).max() < 1e-12
        lens, camera = ours.cameras[image.camera], theirs.images[image.number].camera
        assert [*lens.pinhole, *(lens.distortion[k] for k in (0, 1, 3, 4))] == pytest.approx(list(camera.params))
    assert np.array_equal(ours.points.numpy(), np.stack([p.xyz for _, p in sorted(theirs.points3D.items())]))


def lens_of(model, number, values):
    packed = struct.pack("<QiiQQ", 1, 1, number, 36, 28) + struct.pack(f"<{len(values)}d", *values)
    (model / "cameras.bin").write_bytes(packed)
    return colmap_files.read_model(model).cameras[1]


def test_every_camera_is_a_lens_or_refused_by_name(tmp_path):
    captures.write_colmap(tmp_path, CAMERAS[:1], captures.orbit(3, 0.0), "bin", np.zeros((30, 3)))
    model = tmp_path / "sparse" / "0"
    assert lens_of(model, 0, (9, 4, 5)).pinhole == (9, 9, 4, 5)
    assert lens_of(model, 1, (9, 8, 4, 5)).pinhole == (9, 8, 4, 5)
    assert lens_of(model, 2, (9, 4, 5, 0.1)).distortion == (0.1, 0, 0, 0, 0)
    assert lens_of(model, 3, (9, 4, 5, 0.1, 0.2)).distortion == (0.1, 0.2, 0, 0, 0)
    assert lens_of(model, 6, (9, 8, 4, 5, 0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0)).distortion == (0.1, 0.2, 0.5, 0.3, 0.4)
    with pytest.raises(ValueError, match="has k4, k5 or k6 other than 0"):
        lens_of(model, 6, (9, 8, 4, 5, 0.1, 0.2, 0.3, 0.4, 0.5, 0.1, 0, 0))
    for name, (number, count) in colmap_files.OTHERS.items():
        with pytest.raises(ValueError, match=f"model '{name}', which is not supported"):
            lens_of(model, number, (1.0,) * count)
    with pytest.raises(ValueError, match="of model 99, which is unknown"):
        lens_of(model, 99, ())


def test_damaged_models_are_one_line_that_names_the_file(model):
    folder, _ = model
    place, suffix = folder / "sparse" / "0", "bin" if (folder / "sparse" / "0" / "cameras.bin").is_file() else "txt"
    for name in ("cameras", "images", "points3D"):
        file = place / f"{name}.{suffix}"
        whole = file.read_bytes()
        rng = np.random.default_rng(0)
        damaged = [whole[: len(whole) // 2], b"", b"\xff" * 64]
        for _ in range(20):
            flipped = bytearray(whole)
            for at in rng.integers(0, min(len(whole), 400), 3):
                flipped[at] = rng.integers(256)
            damaged.append(bytes(flipped))
        refused = 0
        for content in damaged:
            file.write_bytes(content)
            try:
                colmap_files.read_model(place)
            except ValueError as error:
                refused += 1
                assert str(file.parent) in str(error)  # noqa: PT017
        assert refused >= 2
        file.write_bytes(whole)
    (place / f"points3D.{suffix}").unlink()
    with pytest.raises(ValueError, match=r"points3D.*: file not found; a COLMAP model has"):
        colmap_files.read_model(place)


def test_images_without_their_second_lines_are_refused(tmp_path):
    """Every other image was passed over without a word."""
    captures.write_colmap(tmp_path, CAMERAS[:1], captures.orbit(4, 0.0), "txt", np.zeros((30, 3)))
    file = tmp_path / "sparse" / "0" / "images.txt"
    lines = file.read_text().splitlines()
    for kept in (lines[1::2], ["", *lines[1:]]):
        file.write_text("\n".join(kept))
        with pytest.raises(ValueError, match=r"txt: a line that ends in 'IMG_00.\.png' stands .* put one in"):
            colmap_files.read_model(file.parent)


def test_a_larger_model_beside_the_first_is_told(tmp_path, caplog):
    captures.write_colmap(tmp_path, CAMERAS[:1], captures.orbit(5, 0.0), "txt", np.zeros((30, 3)))
    (tmp_path / "sparse" / "0").rename(tmp_path / "sparse" / "1")
    captures.write_colmap(tmp_path, CAMERAS[:1], captures.orbit(4, 0.0), "bin", np.zeros((30, 3)))
    images = tmp_path / "sparse" / "1" / "images.txt"
    images.write_text(images.read_text() + "\n" * 10_000)
    assert colmap_files.find_model(tmp_path) == tmp_path / "sparse" / "0"
    assert "sparse/1: its images file has" in caplog.text
    assert "which is read; exchange the two folders' names" in caplog.text


def test_masks_of_colmap_are_honoured(model):
    folder, _ = model
    for place, shape in {"masks": (28, 36), "masks_2": (14, 18)}.items():
        (folder / place).mkdir()
        counts = np.full(shape, 255, np.uint8)
        counts[: shape[0] // 2] = 0
        Image.fromarray(counts).save(folder / place / "IMG_008.png.png")
    for factor in (1, 2):
        views = DATASETS.build({"name": "colmap", "path": str(folder), "factor": factor}, "", "test", None)
        assert [float(mask.float().mean()) for mask in views.mask] == [1, 0.5]


def test_images_that_are_missing_are_named(model):
    folder, _ = model
    for name in ("images", "images_2"):
        (folder / name / "IMG_003.png").unlink()
    choice = {"name": "colmap", "path": str(folder)}
    with pytest.raises(ValueError, match=r"1 of 10 images of the model are missing: IMG_003\.png.*scene\.missing=skip"):
        DATASETS.build(choice, "", "train", None)
    assert len(DATASETS.build({**choice, "missing": "skip"}, "", "train", None)) == 7


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Photos of a textured box, one of them blurred and one of something else; with the poses of the others."""
    pytest.importorskip("pycolmap", reason="pycolmap is not installed: pip install 'autoint[photos]'")
    folder = tmp_path_factory.mktemp("photos") / "box"
    camera, poses = captures.Camera(190.0, 190.0, 80.0, 80.0, 160, 160), captures.around(24)[:9]
    captures.write_photos(folder, camera, poses)
    with Image.open(folder / "IMG_004.jpg") as image:
        image.filter(ImageFilter.GaussianBlur(5)).save(folder / "IMG_004_blurred.jpg")
        turned = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # turn it back by 90 degrees
        turned.save(folder / "IMG_004.jpg", exif=exif, quality=97)
    captures.save(folder / "IMG_other.jpg", captures.texture(99, 160))
    captures.save(folder / "IMG_wide.jpg", captures.texture(99, 160)[:90])
    found = photos.poses_of_photos(folder)
    return folder, poses, found


def test_photos_are_placed_where_they_were_taken(capture):
    """Up to a similarity, to half a percent of the scene's size."""
    folder, truth, found = capture
    assert (found.placed, found.total) == (9, 12)
    assert found.error < 1
    views = autoint.Scene(folder).views("train")
    test = autoint.Scene(folder).views("test")
    names = [*views.names, *test.names]
    ours = torch.cat([views.poses, test.poses])[:, :3, 3].double().numpy()
    theirs = np.stack([truth[int(name[4:7]), :3, 3].double().numpy() for name in names])
    error, _ = captures.aligned(ours, theirs)
    assert error.max() < 0.005 * 2 * 3.2
    assert views.images.shape[1:3] == (160, 160)


def test_what_became_of_each_photo_is_told_by_name(capture, capsys, monkeypatch):
    folder, _, found = capture
    assert found.blurred == ["IMG_004_blurred.jpg"]
    assert list(found.unplaced) == ["IMG_wide.jpg", "IMG_other.jpg"]
    assert found.unplaced["IMG_wide.jpg"] == "it is 160x90, and most are 160x160"
    assert "overlaps no other image" in found.unplaced["IMG_other.jpg"]
    # The model is beside the photos, and used again.
    monkeypatch.setattr(photos, "_mapped", None)
    assert photos.poses_of_photos(folder) == found
    COMMANDS["photos"]([str(folder)])
    out = capsys.readouterr().out
    assert "9 of 12 images placed" in out
    assert "dropped as blurred: IMG_004_blurred.jpg" in out
    assert f"next: python train.py scene={folder}" in out
    assert not list(folder.glob(".colmap-*"))


@pytest.mark.slow
def test_from_forty_photos_to_a_scene(tmp_path, program, no_lpips):
    """One command, five minutes of training; as large as a capture is, and with a lens."""
    pytest.importorskip("pycolmap", reason="pycolmap is not installed: pip install 'autoint[photos]'")
    truth = captures.around(40)
    camera = captures.Camera(500.0, 500.0, 200.0, 200.0, 400, 400, (0.03, 0.0, 0.0, 0.0, 0.0))
    captures.write_photos(tmp_path / "box", camera, truth)
    status, _, err = program("train", f"scene={tmp_path / 'box'}", "trainer.max_time=5m", "hydra.run.dir=run")
    assert status == 0, err
    model = colmap_files.read_model(tmp_path / "box" / "colmap" / "sparse" / "0")
    assert len(model.images) >= 38
    ours = np.stack([image.pose[:3, 3].numpy() for image in model.images])
    theirs = np.stack([truth[int(image.name[4:7]), :3, 3].double().numpy() for image in model.images])
    assert captures.aligned(ours, theirs)[0].max() < 0.005 * 2.8  # the disc's diameter
    assert autoint.load("run").evaluate(lpips="none").rows[0]["psnr"] > 24


@pytest.mark.slow
def test_a_walk_with_a_phone_ends_where_it_began(tmp_path):
    """So many that neighbours alone are compared, some held upright, in other light, with names as people give them."""
    pytest.importorskip("pycolmap", reason="pycolmap is not installed: pip install 'autoint[photos]'")
    folder, truth, rng = tmp_path / "Ferien in Köln", captures.around(110), np.random.default_rng(0)
    captures.write_photos(folder, captures.Camera(310.0, 310.0, 160.0, 120.0, 320, 240), truth)
    for i, file in enumerate(sorted(folder.iterdir())):
        with Image.open(file) as image:
            light = rng.uniform(0.7, 1.2)
            image = image.point(lambda value, light=light: min(255, int(value * light)))
            image = image.transpose(Image.Transpose.ROTATE_270) if i % 4 == 3 else image
            image.save(folder / f"Bild {i:03d} ä.jpg", quality=92)
        file.unlink()
    found = photos.poses_of_photos(folder)
    assert found.placed >= 105
    model = colmap_files.read_model(folder / "colmap" / "sparse" / "0")
    ours = np.stack([image.pose[:3, 3].numpy() for image in model.images])
    theirs = np.stack([truth[int(image.name[5:8]), :3, 3].double().numpy() for image in model.images])
    assert captures.aligned(ours, theirs)[0].max() < 0.005 * 2.8
    views = autoint.Scene(folder).views("train", 64)
    assert views.images.shape[1:3] == (48, 64)
    assert abs(float(up_axis(views.poses)[2])) > 0.999


def test_folders_that_hold_no_scene_are_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no PNG or JPEG images, and no video there"):
        photos.poses_of_photos(tmp_path / "empty")
    for i in range(3):
        captures.save(tmp_path / "grey" / f"{i}.png", np.full((40, 40, 3), 0.2 * i))
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    with pytest.raises(ValueError, match=r"needs pycolmap .*pip install 'autoint\[photos\]'"):
        photos.poses_of_photos(tmp_path / "grey")
    monkeypatch.undo()
    pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    with pytest.raises(ValueError, match=r"no two of 3 images could be placed .*little texture"):
        photos.poses_of_photos(tmp_path / "grey")
    assert sorted(p.name for p in (tmp_path / "grey").iterdir()) == ["0.png", "1.png", "2.png"]
