"""Where scenes are found: scene=FOLDER, scene.path, and links inside a scene's folder."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoint.files import reading
from autoint.runs.command_line.scene_folders import kind_of, with_scene_folders
from autoint.scenes.data.blender import blender
from autoint.scenes.data.procedural import orbit
from autoint.scenes.data.transforms import transforms
from tests.scenes import captures
from tests.scenes.captures import Camera

SMALL = Camera(9.0, 9.0, 4.0, 3.0, 8, 6)
WRITERS = {
    "blender": lambda f: captures.write_blender(f, SMALL),
    "transforms": lambda f: captures.write_transforms(f, [SMALL], orbit(9, 0.0)),
    "llff": lambda f: captures.write_llff(f, SMALL, captures.facing(9)),
    "deepvoxels": lambda f: captures.write_deepvoxels(f, SMALL, orbit(9, 0.0)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_says_what_it_is(kind, tmp_path):
    folder = tmp_path / "it's, mine"
    WRITERS[kind](folder)
    quoted = str(folder).replace("'", "\\'")
    for given in (folder, f"'{folder}'", "it's, mine", "./it's, mine/"):
        assert with_scene_folders([f"scene={given}"], tmp_path) == [f"scene={kind}", f"scene.path='{quoted}'"]


def test_a_folder_trains(program, tiny, tmp_path):
    WRITERS["transforms"](tmp_path / "my photos")
    arguments = [*tiny, "image_size=8", "trainer.max_steps=1", "hydra.run.dir=run"]
    status, _, err = program("train", f"scene={tmp_path / 'my photos'}", *arguments)
    assert status == 0, err
    log = Path("run/train.log").read_text()
    assert re.search(r"100.0% of the training rays meet the scene's box, in 7 of 7 views", log)
    assert log.count("of the training rays") == 1
    status, _, err = program("train", "scene=/nowhere/at all", *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(
        "error: scene=/nowhere/at all: no such folder; give a scene's folder, or a data set (blender, "
    )


def test_choices_of_the_group_stay(tmp_path, monkeypatch):
    """Also where a folder of that name is there, and where a configuration of one's own has a slash in it."""
    (tmp_path / "lego").mkdir()
    conf = tmp_path / "conf"
    (conf / "scene" / "mine").mkdir(parents=True)
    for name in ("lego", "mine/two"):
        (conf / "scene" / f"{name}.yaml").touch()
    for line in (
        ["scene=lego"],
        ["scene=blender", "scene.path=lego"],
        ["-m", "scene=lego,procedural"],
        ["scene=mine/two"],
        ["scene=unknown"],
        ["scene=glob(*)"],
        ["scene.name=/a"],
        ["x=scene=/a"],
    ):
        assert with_scene_folders(line, conf) == line
    assert with_scene_folders(["--config-dir", str(conf), "scene=mine/two"], tmp_path)[-1] == "scene=mine/two"


def test_folders_are_found_below_data_dir_and_swept(blender_scene, tmp_path):
    WRITERS["blender"](tmp_path / "b")
    disc = blender_scene / "nerf_synthetic" / "disc"
    line = with_scene_folders([f"data_dir={blender_scene}", "scene=nerf_synthetic/disc"], tmp_path)
    assert line[1:] == ["scene=blender", f"scene.path='{disc}'"]
    swept = with_scene_folders(["-m", f"scene={disc},./b"], tmp_path)
    assert swept == ["-m", "scene=blender", f"scene.path='{disc}','{tmp_path / 'b'}'"]
    WRITERS["llff"](tmp_path / "c")
    with pytest.raises(ValueError, match=r"folders of blender and llff in one sweep"):
        with_scene_folders(["-m", "scene=./b,./c"], tmp_path)


def test_a_folder_of_images_is_one_of_photos(tmp_path):
    photos = tmp_path / "photos"
    (photos / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"photos: no scene there: none of transforms.json"):
        kind_of(photos)
    Image.new("RGB", (4, 4)).save(photos / "images" / "a.JPG", "JPEG")
    assert with_scene_folders(["scene=./photos"], tmp_path) == ["scene=photos", f"scene.path='{photos}'"]
    with pytest.raises(ValueError, match=r"transforms.json: file not found.*ns-process-data.*colmap2nerf.py"):
        transforms(str(tmp_path), "train", None, path="photos")
    WRITERS["llff"](tmp_path / "scenes" / "fern")
    with pytest.raises(ValueError, match=r"a folder of scenes; give one of them: fern"):
        kind_of(tmp_path / "scenes")


@pytest.mark.parametrize("path", ["/nonexistent", "nonexistent", "nerf_synthetic/a/b"])
def test_a_path_that_does_not_exist_says_so(path, blender_scene):
    with pytest.raises(ValueError, match=rf"scene folder not found: .*scene.path={path} does not exist: give") as told:
        blender(str(blender_scene), "train", None, path=path)
    assert "nerf_synthetic.zip" not in str(told.value)


def test_the_archive_is_named_for_its_scenes_alone(blender_scene):
    with pytest.raises(ValueError, match=r"nerf_synthetic/lego .*autoint download lego, or get the NeRF-s"):
        blender(str(blender_scene), "train", None, path="nerf_synthetic/lego")
    Path("here").mkdir()
    with pytest.raises(ValueError, match=rf"did you mean scene.path={Path('here').absolute()}\?"):
        blender(str(blender_scene), "train", None, path="here")
    Path("file").touch()
    with pytest.raises(ValueError, match="is a file; give the folder"):
        blender(str(blender_scene), "train", None, path=str(Path("file").absolute()))


def linked(scene, elsewhere):
    """The images of a capture moved away, and a link to their folder."""
    (scene / "images").rename(elsewhere)
    (scene / "images").symlink_to(elsewhere)


def test_links_of_the_user_are_followed(tmp_path):
    """To a folder and to a file, and a scene's folder that is a link itself."""
    WRITERS["transforms"](tmp_path / "scene")
    before = transforms(str(tmp_path), "train", None, path="scene")
    linked(tmp_path / "scene", tmp_path / "elsewhere")
    (tmp_path / "scene" / "images" / "frame_00001.jpg").rename(tmp_path / "one.jpg")
    (tmp_path / "elsewhere" / "frame_00001.jpg").symlink_to("../one.jpg")
    (tmp_path / "also").symlink_to("scene")
    for path in ("scene", "also"):
        views = transforms(str(tmp_path), "train", None, path=path)
        assert np.array_equal(views.images, before.images)


def test_links_of_others_are_refused_and_named_once(tmp_path, monkeypatch):
    WRITERS["blender"](tmp_path / "scene")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "scene" / "train").rename(elsewhere)
    (tmp_path / "scene" / "train").symlink_to(elsewhere)
    monkeypatch.setattr(reading, "trusted", lambda link: False)
    with pytest.raises(ValueError, match=rf"scene/train: another user's link, .* for '{elsewhere}'; put") as told:
        blender(str(tmp_path), "train", None, path="scene")
    assert len(str(told.value).splitlines()) == 1
    (tmp_path / "scene" / "train").unlink()
    (tmp_path / "scene" / "train").mkdir()
    for file in elsewhere.iterdir():
        (tmp_path / "scene" / "train" / file.name).symlink_to(file)
    with pytest.raises(ValueError, match=r"train/r_0.png: another user's link.*; 29 more links do so") as told:
        blender(str(tmp_path), "train", None, path="scene")
    assert len(str(told.value).splitlines()) == 1


def test_links_within_the_scene_are_anybodys_and_dead_ones_are_named(tmp_path, monkeypatch):
    WRITERS["blender"](tmp_path / "scene")
    image = tmp_path / "scene" / "train" / "r_2.png"
    image.rename(tmp_path / "scene" / "kept.png")
    image.symlink_to("../kept.png")
    monkeypatch.setattr(reading, "trusted", lambda link: False)
    assert len(blender(str(tmp_path), "train", None, path="scene")) == 30
    (tmp_path / "scene" / "kept.png").unlink()
    with pytest.raises(ValueError, match=r"r_2.png.* not found; it is a link to '../kept.png', where no file is"):
        blender(str(tmp_path), "train", None, path="scene")


def test_two_dots_behind_a_link_do_not_lead_out(tmp_path):
    """images/../x.png is x.png of the scene, not one beside what the link leads to."""
    WRITERS["transforms"](tmp_path / "scene")
    (tmp_path / "far").mkdir()
    linked(tmp_path / "scene", tmp_path / "far" / "images")
    Image.new("RGB", (8, 6)).save(tmp_path / "far" / "x.png")
    file = tmp_path / "scene" / "transforms.json"
    contents = json.loads(file.read_text())
    contents["frames"][0]["file_path"] = "images/../x.png"
    file.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"1 of 9 images are missing: images/../x.png"):
        transforms(str(tmp_path), "train", None, path="scene")
