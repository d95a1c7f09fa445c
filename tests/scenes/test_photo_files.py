"""Photos as people have them: lying and upright, blurred, damaged, of other formats, and videos."""

import logging
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from autoint.registry import COMMANDS
from autoint.runs.command_line.scene_folders import kind_of
from autoint.scenes.camera_paths import up_axis
from autoint.scenes.data import photo_files, photos
from tests.scenes import captures


def photo(seed, width=96, height=64):
    grains = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.blend(Image.fromarray(grains), Image.new("RGB", (width, height), "red"), 0.5)


def brightness(file):
    return np.asarray(Image.open(file).convert("L"), float)


def test_every_photo_is_made_ready_or_left_out_by_name(tmp_path):
    folder, to = tmp_path / "Ferien in Köln", tmp_path / "to"
    folder.mkdir()
    to.mkdir()
    for i in range(5):
        photo(i).save(folder / f"Bild {i} ä.png")
    photo(5).transpose(Image.Transpose.ROTATE_270).save(folder / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    photo(6).transpose(Image.Transpose.ROTATE_180).save(folder / "headlong.png", exif=exif)
    photo(7).filter(ImageFilter.GaussianBlur(4)).save(folder / "shaken.png")
    photo(8, 80, 80).save(folder / "square.png")
    photo(9).convert("P").save(folder / "palette.png")
    whole = (folder / "upright.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_bytes(b"<html>")
    (folder / "IMG_7.HEIC").write_bytes(b"ftypheic")
    names, blurred, odd = photo_files.prepared(photo_files.source_of(folder), to)
    assert names == [*(f"Bild_{i}_ä.png" for i in range(5)), "headlong.png", "palette.png", "upright.png"]
    assert blurred == ["shaken.png"]
    assert sorted(odd) == ["IMG_7.HEIC", "page.jpg", "square.png", "torn.png"]
    assert odd["square.png"] == "it is 80x80, and most are 96x64"
    assert "is damaged" in odd["torn.png"]
    assert odd["page.jpg"] == "not a readable PNG or JPEG image (a web page); restore the file"
    assert odd["IMG_7.HEIC"].startswith("HEIC is not read; save them as JPEG")
    assert sorted(p.name for p in to.iterdir()) == names
    for number, name in ((5, "upright.png"), (6, "headlong.png"), (0, "Bild_0_ä.png")):
        assert np.array_equal(brightness(to / name), np.asarray(photo(number).convert("L"), float)), name


def test_cameras_that_were_turned_have_the_others_up():
    poses = captures.around(12).double()
    up = up_axis(poses)
    assert torch.allclose(up, torch.tensor([0.0, 0, 1]).double(), atol=1e-6)
    for quarter in (1, 2, 3):
        turn = torch.linalg.matrix_power(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).double(), quarter)
        held = poses.clone()
        held[::3, :3, :3] = held[::3, :3, :3] @ turn
        assert torch.allclose(up_axis(held), up, atol=1e-6)


def test_folders_without_anything_to_read_say_what_is_there(tmp_path):
    for name in ("a.HEIC", "b.heic", "c.dng"):
        (tmp_path / name).write_bytes(b"x")
    assert kind_of(tmp_path) == "photos"
    with pytest.raises(ValueError, match=r"3 photos in DNG and HEIC \(a\.HEIC, …\), not read here; save them as JPEG"):
        COMMANDS["photos"]([str(tmp_path)])
    for name in ("d.mp4", "e.MOV"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="2 videos there; give a folder of photos, or with one video"):
        photos.poses_of_photos(tmp_path)
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8")
    pytest.importorskip("pycolmap", reason="pycolmap is not installed: pip install 'autoint[photos]'")
    with pytest.raises(ValueError, match=r"none of 4 photos can be read; a\.HEIC: HEIC is not read"):
        photos.poses_of_photos(tmp_path)
    (tmp_path / "torn.jpg").unlink()
    for i in range(2):
        photo(i).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"2 usable images \(a\.HEIC: HEIC is not read.*it takes 3, better 30"):
        photos.poses_of_photos(tmp_path)


@pytest.fixture
def film(tmp_path):
    """A video of 30 frames that become brighter, of which every third one is blurred; held turned by 90°."""
    ffmpeg = pytest.importorskip(
        "imageio_ffmpeg", reason="imageio-ffmpeg is not installed: pip install 'autoint[video]'"
    )
    writer = ffmpeg.write_frames(str(tmp_path / "flat.mp4"), (96, 64), fps=30, quality=9, macro_block_size=2)
    writer.send(None)
    for i in range(30):
        frame = photo(i).point(lambda value, i=i: value * (i + 10) // 40)
        frame = frame.filter(ImageFilter.GaussianBlur(3)) if i % 3 == 0 else frame
        writer.send(np.asarray(frame).tobytes())
    writer.close()
    (tmp_path / "film").mkdir()
    turn = ["-display_rotation", "90", "-i", str(tmp_path / "flat.mp4"), "-c", "copy"]
    whole = [ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *turn, str(tmp_path / "film" / "turned.mp4")]
    subprocess.run(whole, check=True)
    return tmp_path / "film" / "turned.mp4"


def test_a_video_is_its_sharpest_frames_upright(film, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(photo_files, "FRAMES", 10)
    monkeypatch.setattr(photo_files, "CANDIDATES", 3)
    to = tmp_path / "to"
    to.mkdir()
    assert kind_of(film.parent) == "photos"
    assert photo_files.source_of(film.parent) == film
    with caplog.at_level(logging.WARNING):
        names, blurred, odd = photo_files.prepared(film, to)
    assert not caplog.records
    assert (len(names), blurred, odd) == (10, [], {})
    assert all((int(name[6:12]) - 1) % 3 for name in names)
    assert sorted(p.name for p in to.iterdir()) == names
    light = [brightness(to / name) for name in names]
    assert light[0].shape == (96, 64)
    assert list(np.argsort([frame.mean() for frame in light])) == list(range(10))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", None]
)
def test_what_is_no_video_is_refused_in_a_line(film, tmp_path, content):
    film.write_bytes(film.read_bytes()[:1000] if content is None else content)
    with pytest.raises(ValueError, match=r"turned\.mp4: no readable video .*convert it anew as mp4") as error:
        photo_files.prepared(film, tmp_path)
    assert "\n" not in str(error.value)
