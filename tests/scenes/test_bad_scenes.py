"""Scenes as they arrive from others, damaged or hostile: rows 20 to 46 of the table of bad inputs.

A list per topic: a row is its number, a name, what is done to a good scene, and what the error or warning must say.
"""

import json
import logging
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from autoint.files import images, reading
from autoint.files.images import read_rgba
from autoint.runs.command_line.telling import one_line
from autoint.scenes.data.batches import Pixels
from autoint.scenes.data.blender import blender
from autoint.scenes.data.llff import llff
from autoint.scenes.data.procedural import orbit
from autoint.scenes.data.transforms import transforms
from tests.scenes import captures
from tests.scenes.captures import Camera

SMALL = Camera(9.0, 9.0, 4.0, 3.0, 8, 6)


class Row(NamedTuple):
    number: int
    name: str
    damage: Callable[[Path], object]
    words: str
    warns: bool = False


def table(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: f"{row.number}-{row.name}")


def write(name: str, contents: bytes) -> Callable[[Path], object]:
    return lambda scene: (scene / name).write_bytes(contents)


def replaced(before: str, after: str) -> Callable[[Path], object]:
    def damage(scene):
        file = scene / "transforms_train.json"
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after, 1))

    return damage


def edited(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(scene):
        file = scene / "transforms_train.json"
        contents = json.loads(file.read_text())
        change(contents)
        file.write_text(json.dumps(contents))

    return damage


def angle(value):
    return edited(lambda c: c.update(camera_angle_x=value))


def path(value):
    return edited(lambda c: c["frames"][1].update(file_path=value))


def pose(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    def edit(contents):
        matrix = np.array(contents["frames"][1]["transform_matrix"])
        contents["frames"][1]["transform_matrix"] = change(matrix).tolist()

    return edited(edit)


def matrix(value):
    return edited(lambda c: c["frames"][1].update(transform_matrix=value))


TRAIN = "transforms_train.json"
SCENES = [
    Row(20, "missing", lambda s: (s / TRAIN).unlink(), r"file not found \(there: transforms_test.json, .*; a Blender"),
    Row(20, "empty", write(TRAIN, b""), r"transforms_train.json:1:1: malformed JSON: Expecting value; mend the file"),
    Row(20, "truncated", write(TRAIN, b'{"frames": [\n{"file'), r"json:2:2: malformed JSON: Unterminated string"),
    Row(20, "no object", write(TRAIN, b"[1]"), "expected an object with 'frames'"),
    Row(20, "bytes", write(TRAIN, b'{"a": "\xff"}'), "not UTF-8 text at byte 7"),
    Row(20, "deep", write(TRAIN, b"[" * 10**6), "nested too deeply"),
    Row(21, "NaN", angle(math.nan), r"transforms_train.json:1:20: NaN or infinity \(NaN\)"),
    Row(21, "infinity", matrix([[-math.inf] * 4] * 4), r"NaN or infinity \(-Infinity\)"),
    Row(21, "twice", replaced('{"camera', '{"frames": [], "camera'), "the key 'frames' stands twice"),
    Row(21, "digits", replaced("0.7", "9" * 5000), "camera_angle_x=inf must be an angle"),
    Row(22, "no frames", edited(lambda c: c.pop("frames")), "split 'train' is empty: 'frames' must list at least one"),
    Row(22, "empty frames", edited(lambda c: c.update(frames=[])), "split 'train' is empty"),
    Row(22, "frames of text", edited(lambda c: c.update(frames=["a"])), r"frames\[0\]='a' must be an object"),
    Row(23, "no angle", edited(lambda c: c.pop("camera_angle_x")), "camera_angle_x=None must be an angle in radians"),
    Row(23, "angle 0", angle(0), "camera_angle_x=0 must be"),
    Row(23, "angle of text", angle("0.7"), "camera_angle_x='0.7' must be"),
    Row(23, "degrees", angle(39.6), "camera_angle_x=39.6 must be .*it looks like degrees, which would be 0.6912"),
    Row(38, "no alpha", lambda s: [iio.imwrite(f, np.zeros((6, 8, 3), np.uint8)) for f in (s / "train").iterdir()],
        "none of 6 images has transparency", True),
    Row(44, "leak", lambda s: (s / TRAIN).write_text((s / "transforms_test.json").read_text()),
        r"_test.json: frames\[0\] is the same pose as pose 0 of transforms_train.json.*seen in training", True),
]  # fmt: skip
POSES = [
    Row(24, "3x3", matrix(np.eye(3).tolist()), r"frames\[1\].transform_matrix has shape \(3, 3\); give a 4x4"),
    Row(24, "4x3", pose(lambda m: m[:, :3]), r"shape \(4, 3\); give a 4x4"),
    Row(24, "ragged", matrix([[1, 0, 0, 0], [1]]), r"its rows have \[4, 1\] of them; give a 4x4"),
    Row(24, "text", matrix([["a"] * 4] * 4), r"transform_matrix\[0\]\[0\]='a': not a matrix of numbers"),
    Row(24, "null", matrix(None), "is not a matrix of numbers; give a 4x4"),
    Row(24, "deep", matrix([[[1]] * 4] * 4), r"transform_matrix\[0\]\[0\]=\[1\]: not a matrix of numbers"),
    Row(25, "infinite", replaced("1.0]]", "1e999]]"), r"transform_matrix\[3\]\[3\]=inf: NaN or infinity"),
    Row(26, "tilted", pose(lambda m: m + np.diag([1e-3, 0, 0, 0])), "in 1 of 6 poses; the nearest rotations", True),
    Row(26, "skewed", pose(lambda m: m + np.diag([0.1, 0, 0, 0])), r"frames\[1\].* not a rotation \(\|RRᵀ−I\| up to"),
    Row(26, "scaled", pose(lambda m: m @ np.diag([2, 2, 2, 1])), "it contains the scale 2; divide the rotation by it"),
    Row(26, "mirrored", pose(lambda m: m @ np.diag([1, 1, -1, 1])), r"mirrored \(its determinant is -1\); negate one"),
    Row(26, "zero", pose(lambda m: m * 0), r"frames\[1\].* not a rotation"),
    Row(27, "last row", pose(lambda m: m + np.eye(4)[[1, 2, 3, 0]].T * 0 + np.outer([0, 0, 0, 1], [0, 0, 1, 0])),
        r"its last row is \[0.0, 0.0, 1.0, 1.0\]; it must be 0, 0, 0, 1"),
    Row(28, "same pose", edited(lambda c: c["frames"][3].update(transform_matrix=c["frames"][1]["transform_matrix"])),
        r"frames\[3\].transform_matrix is the same pose as .*frames\[1\]", True),
    Row(28, "same file", path("./train/r_0.png"), r"train/r_0.png is the image of 2 views \(\[0, 1\]\)", True),
]  # fmt: skip


def png(width: int, height: int, text: bytes = b"") -> bytes:
    """A PNG that announces a size, and holds one pixel and perhaps a compressed text."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(4)))]
    chunks.insert(1, (b"zTXt", b"a\0\0" + zlib.compress(text)))
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in [*chunks, (b"IEND", b"")]:
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


def cut(share: float) -> Callable[[Path], object]:
    def damage(scene):
        file = scene / "train" / "r_2.png"
        iio.imwrite(file, np.random.default_rng(0).integers(0, 255, (6, 8, 4)).astype(np.uint8))
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return damage


def picture(save: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda scene: save(scene / "train" / "r_2.png")


def link(to: str, name: str = "train/r_2.png") -> Callable[[Path], object]:
    def damage(scene):
        Path("secret.png").write_bytes((scene / "train" / "r_1.png").read_bytes())
        (scene / name).unlink(missing_ok=True)
        (scene / name).symlink_to(Path(to).absolute() if to == "secret.png" else to)

    return damage


exif = Image.Exif()
exif[0x0112] = 6
R2 = "train/r_2.png"
IMAGES = [
    Row(30, "two missing", lambda s: [(s / f"train/r_{i}.png").unlink() for i in (1, 4)],
        r"frames\[1\]\.file_path='./train/r_1.png': image .* not found.*\n.*frames\[4\].*; restore the file"),
    Row(30, "case", lambda s: (s / R2).rename(s / "train/R_2.PNG"), r"r_2\[.png\] not found; did you mean 'R_2.PNG'"),
    Row(31, "cut", cut(0.7), r"r_2.png: not a readable PNG or JPEG image \(a damaged PNG\); restore the file"),
    Row(31, "header cut", cut(0.08), "r_2.png: not a readable PNG or JPEG image"),
    Row(31, "empty", write(R2, b""), r"r_2.png: not a readable .*\(the file is empty\)"),
    Row(31, "404", write(R2, b"\n<!DOCTYPE html>"), r"r_2.png: not a readable .*\(a web page\)"),
    Row(33, "size", picture(lambda f: iio.imwrite(f, np.zeros((6, 9, 4), np.uint8))), "is 9x6, but r_0.png is 8x6"),
    Row(37, "float TIFF", picture(lambda f: Image.fromarray(np.full((6, 8), np.nan, np.float32)).save(f, "TIFF")),
        r"r_2.png: not a readable PNG or JPEG image \(TIFF\)"),
    Row(40, "turned", picture(lambda f: Image.new("RGB", (8, 6)).save(f, "JPEG", exif=exif)), "EXIF orientation 6"),
    Row(41, "144 Mpx", write(R2, png(12000, 12000)), r"r_2.png: too large an image \(12000x12000; at most 67108864"),
    Row(41, "400 Mpx", write(R2, png(20000, 20000)), "r_2.png: too large an image"),
    Row(41, "strip", write(R2, png(10**9, 1)), "r_2.png: too large an image"),
    Row(41, "text", write(R2, png(8, 6, bytes(10**8))), "r_2.png: not a readable PNG or JPEG image"),
    Row(42, "EPS", write(R2, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n"), r"\(EPS\)"),
    Row(42, "PSD", write(R2, b"8BPS\0\1" + bytes(40)), r"\(PSD\)"),
    Row(42, "FITS", write(R2, b"SIMPLE  =                    T" + bytes(50)), r"\(FITS\)"),
    *[Row(43, repr(name)[:12], path(name), r"frames\[1\]\.file_path='.* leaves the scene folder")
      for name in ("../../secret.png", "/etc/passwd", "train/../../../x", "..\\..\\secret.png", "train/../..")],
    *[Row(43, name[:8], path(name), r"file_path=.* is a URL or names a drive")
      for name in ("http://a.b/c.png", "file:///etc/passwd", "C:\\x.png")],
    Row(43, "NUL", path("train/r\0.png"), "is no path of an image"),
    Row(43, "5000", path("x" * 5000), r"is no path of an image \(5000 characters\)"),
    Row(43, "300", path("x" * 300), r"is no path of an image \(300 characters\)"),
    Row(43, "home", path("~/x.png"), r"file_path='~/x.png': image .* not found"),
    Row(43, "empty", path(""), "file_path='' must be the path of an image"),
    Row(43, "link out", link("secret.png"), "r_2.png: another user's link, which leaves the scene folder"),
    Row(43, "link to itself", link("r_2.png"), "r_2.png: another user's link, which leaves the scene folder"),
]  # fmt: skip


def load(scene: Path, split: str = "train"):
    return blender(str(scene.parent), split, None, path=scene.name)


@table([*SCENES, *POSES, *IMAGES])
def test_a_bad_scene_is_named(row, blender_scene, caplog, monkeypatch):
    """A line per finding, that names the file and the mend; decoding begins only where the headers are good."""
    scene = blender_scene / "nerf_synthetic" / "disc"
    row.damage(scene)
    monkeypatch.setattr(reading, "trusted", lambda link: False)
    if row.warns:
        load(scene, "test" if row.number == 44 else "train")
        assert len(caplog.messages) == 1
        assert re.search(row.words, caplog.text)
        return
    if row.number in (33, 41):
        monkeypatch.setattr(images, "_premultiplied", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=row.words) as caught:
        load(scene)
    text = str(caught.value)
    assert len(text.splitlines()) == (2 if "\n" in row.words or r"\n" in row.words else 1)
    assert all(str(scene) in line for line in text.splitlines())
    assert one_line(caught.value, []) == text  # what the programs show, instead of a traceback


def test_a_pose_may_have_three_rows_and_is_made_a_rotation(blender_scene, caplog):
    """Rows 24 and 26: 3x4 is accepted, rounding left alone, and a slight skew replaced by the nearest rotation."""
    scene = blender_scene / "nerf_synthetic" / "disc"
    before = load(scene).poses
    pose(lambda m: m[:3])(scene)
    assert torch.equal(load(scene).poses, before)
    pose(lambda m: m + np.diag([1e-6, 0, 0])[:, [0, 1, 2, 2]] * [1, 1, 1, 0])(scene)
    load(scene)
    assert not caplog.messages
    pose(lambda m: m + np.diag([1e-3, 0, 0])[:, [0, 1, 2, 2]] * [1, 1, 1, 0])(scene)
    rotation = load(scene).poses[1, :3, :3].double()
    assert float((rotation @ rotation.T - torch.eye(3)).abs().max()) < 1e-6
    assert float((rotation - before[1, :3, :3]).abs().max()) < 1.1e-3


def test_many_findings_are_counted(blender_scene):
    scene = blender_scene / "nerf_synthetic" / "disc"
    edited(lambda c: c.update(frames=[{**c["frames"][0], "file_path": f"x_{i}"} for i in range(25)]))(scene)
    with pytest.raises(ValueError, match=r"frames\[19\].*\n… and 5 more like these$") as caught:
        load(scene)
    assert len(str(caught.value).splitlines()) == 21


def test_a_scene_that_no_ray_meets(tmp_path):
    """Row 29."""
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(8, 0.0))
    file = tmp_path / "scene" / "transforms.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "offset": [900, 900, 900]}))
    views = transforms(str(tmp_path), "train", None, path="scene", bounds="aabb_scale")
    with pytest.raises(ValueError, match="no ray of the training views meets the scene's box; check the poses"):
        Pixels(views, lambda rays: rays.clipped_to(*views.box).hit, 16, 0)


WHITE, CLEAR = (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0)
GOOD = {
    "36 grey with alpha": (lambda: Image.new("LA", (2, 2), (255, 51)), (0.2, 0.2, 0.2, 0.2)),
    "37 palette with transparency": (lambda: Image.new("P", (2, 2), 0), CLEAR),
    "37 one bit": (lambda: Image.new("1", (2, 2), 1), WHITE),
    "37 CMYK": (lambda: Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (1.0, 0.0, 0.0, 1.0)),
    "39 colour above its alpha, which is not premultiplied": (
        lambda: Image.new("RGBA", (2, 2), (255, 0, 0, 51)),
        (0.2, 0.0, 0.0, 0.2),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_pictures_are_read_as_they_are_meant(name, tmp_path):
    make, color = GOOD[name]
    options = {"format": "JPEG", "quality": 100} if "CMYK" in name else {"format": "PNG"}
    make().save(tmp_path / "a.png", **options, **({"transparency": 0} if "palette" in name else {}))
    rgba, _ = read_rgba(tmp_path / "a.png", None)
    assert torch.allclose(rgba, torch.tensor(color).expand(2, 2, 4), atol=0.005)


def test_a_folder_without_rights_is_named(blender_scene):
    """Row 45: the operating system's error, in one line."""
    folder = blender_scene / "nerf_synthetic"
    folder.chmod(0)
    me = os.geteuid()
    if me == 0:  # root may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError) as caught:
            load(folder / "disc")
    finally:
        if me == 0:
            os.seteuid(0)
        folder.chmod(0o755)
    assert one_line(caught.value, []).endswith("Permission denied; check the path, its rights and the disk")


def test_a_scene_larger_than_memory_is_refused_before_it_is_read(blender_scene, monkeypatch):
    """Row 46."""
    monkeypatch.setattr(images, "installed_memory", lambda: 4000)
    monkeypatch.setattr(images, "_premultiplied", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"6 images of 8x6 take .* GiB, and this machine has .* by image_size"):
        load(blender_scene / "nerf_synthetic" / "disc")


class Canary:
    def __reduce__(self):
        return Path.touch, (Path("canary"),)


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


# Sinograms, rows 47 to 54: a list SINOGRAMS of such rows belongs here, with a test like that of ARRAYS.
ARRAYS = [
    Row(53, "pickled", lambda f: np.save(f, np.array([Canary()] * 17, dtype=object)), "pickled objects"),
    Row(53, "10^12 rows", lambda f: f.write_bytes(header("(1000000000000, 17)")), r"takes 136000000000000 bytes"),
    Row(53, "negative", lambda f: f.write_bytes(header("(-1, -17)") + bytes(136)), r"shape \(-1, -17\)"),
    Row(53, "cut", lambda f: f.write_bytes(f.read_bytes()[:-8]), "takes 408 bytes, but 400 are there"),
    Row(53, "npz", lambda f: f.write_bytes(b"PK\3\4" + bytes(99)), "not a readable .npy array"),
    Row(53, "code", lambda f: f.write_bytes(header("__import__('os').system('touch canary')")), "not a readable .npy"),
    Row(53, "complex", lambda f: np.save(f, np.zeros((3, 17), complex)), "holds complex128, not real numbers; save"),
    Row(53, "text", lambda f: f.write_text("1 2 3"), "not a readable .npy array"),
    Row(53, "tiny", lambda f: np.save(f, np.where(np.arange(17) == 15, 1e-300, np.load(f))), "need 0 < near < far"),
    Row(53, "huge", lambda f: np.save(f, np.load(f) * 1e300), "NaN or infinity in row 0"),
]  # fmt: skip


@table(ARRAYS)
def test_a_bad_array_is_named_and_nothing_in_it_runs(row, tmp_path):
    captures.write_llff(tmp_path / "scene", SMALL, captures.facing(3))
    row.damage(tmp_path / "scene" / "poses_bounds.npy")
    with pytest.raises(ValueError, match=f"poses_bounds.npy: .*{row.words}") as caught:
        llff(str(tmp_path), "train", None, path="scene")
    assert "\n" not in str(caught.value)
    assert not Path("canary").exists()


def test_links_out_of_other_formats_are_refused(tmp_path, monkeypatch):
    captures.write_llff(tmp_path / "scene", SMALL, captures.facing(3))
    file = tmp_path / "scene" / "images_2" / "IMG_001.png"
    file.rename(tmp_path / "elsewhere.png")
    file.symlink_to(tmp_path / "elsewhere.png")
    monkeypatch.setattr(reading, "trusted", lambda link: False)
    with pytest.raises(ValueError, match=r"IMG_001.png: another user's link, which leaves the scene folder"):
        llff(str(tmp_path), "train", None, path="scene")


def test_a_capture_whose_splits_share_views_is_told(tmp_path, caplog):
    """Row 44, of the other format."""
    captures.write_blender(tmp_path / "scene", SMALL)
    text = (tmp_path / "scene" / "transforms_test.json").read_text()
    (tmp_path / "scene" / "transforms_train.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        transforms(str(tmp_path), "test", None, path="scene")
    assert "is the same pose as pose 0 of transforms_train.json" in caplog.text


@pytest.mark.parametrize("read", [blender, transforms])
def test_an_image_of_two_files_that_trains_and_is_tested_is_told(read, tmp_path, caplog):
    """Under another pose, and without the suffix that the other file gives it."""
    captures.write_blender(tmp_path / "scene", SMALL)
    file = tmp_path / "scene" / "transforms_test.json"
    file.write_text(file.read_text().replace("./test/r_2", "train/r_3.png"))
    read(str(tmp_path), "test", None, path="scene")
    assert caplog.messages == [
        f"{file}: frames[2]: file_path='train/r_3.png' is the image of views that train and of views that are tested; "
        "check the file"
    ]


def test_an_image_that_trains_and_is_tested_is_told(tmp_path, caplog):
    """Two cameras with one image, of which one is held out."""
    captures.write_transforms(tmp_path / "~a scene", [SMALL], orbit(9, 0.0))  # which is nobody's home
    file = tmp_path / "~a scene" / "transforms.json"
    contents = json.loads(file.read_text())
    contents["frames"][1]["file_path"] = contents["frames"][0]["file_path"]
    file.write_text(json.dumps(contents))
    transforms(str(tmp_path), "train", None, path="~a scene")
    told = f"{contents['frames'][0]['file_path']} is the image of views that train and of views that are tested"
    assert told in caplog.text
