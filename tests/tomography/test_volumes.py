"""Stacks of slices: what is found, written, resumed and refused."""

import json
from dataclasses import asdict

import h5py
import numpy as np
import pytest
from PIL import Image, ImageSequence

from autoint.tomography.volumes import Recipe, _resumed, slices_of

COUNT, PIXELS, VIEWS = 5, 25, 12
RADII = 0.3 + 0.1 * np.arange(COUNT)
ASKED = ("phantom=sinogram", "phantom.path=stack.npy", "data_dir=.", "passes=6", "--to", "out")


@pytest.fixture
def stack(tmp_path):
    """Discs of growing radius beside an axis that moves a little from slice to slice."""
    theta = np.arange(VIEWS) * np.pi / VIEWS
    rho = (np.arange(PIXELS) - 12 - 0.2 * np.arange(COUNT)[:, None, None]) / 12
    away = rho - 0.1 * np.cos(theta)[None, :, None]
    np.save(tmp_path / "stack.npy", 2 * np.sqrt(np.maximum(RADII[:, None, None] ** 2 - away**2, 0)))
    return tmp_path


def pages(file):
    with Image.open(file) as picture:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(picture)])


def test_a_stack_becomes_a_volume_and_a_stopped_one_goes_on(stack, program):
    status, out, err = program("autoint", "volume", *ASKED)
    assert status == 0, err
    assert "out/volume.tif" in out
    assert err.count("no angles in it") == 1  # and not of every slice
    assert "slice 3 of 5" not in err
    assert "prior of all slices: spacing" in err
    volume = pages(stack / "out" / "volume.tif")
    assert volume.dtype == np.float32
    middle = volume.shape[1] // 2
    assert volume.shape[:2] == (COUNT, volume.shape[2])
    assert volume.sum((1, 2)) == pytest.approx(np.pi * RADII**2 * 12, rel=0.05)  # per pixel, of radius 12
    assert volume[:, middle, middle] == pytest.approx(np.ones(COUNT) / 12, abs=0.02)
    assert (stack / "out" / "cuts.png").stat().st_size > 5_000
    recipe = json.loads((stack / "out" / "volume.json").read_text())
    assert recipe["center"] == pytest.approx([12, 0.2], abs=0.05)

    files = sorted((stack / "out" / "slices").iterdir())
    files[2].unlink()
    before = [file.stat().st_mtime_ns for file in files if file.exists()]
    (stack / "out" / "volume.tif").unlink()
    status, _, err = program("autoint", "volume", *ASKED, "--output", "hdf5", "--workers", "2")
    assert status == 0, err
    assert [file.stat().st_mtime_ns for file in files if file != files[2]] == before
    with h5py.File(stack / "out" / "volume.h5") as found:
        assert np.array(found["volume"]) == pytest.approx(volume, abs=1e-6)
        assert found["volume"].attrs["unit"] == "attenuation per pixel"
    status, _, err = program("autoint", "volume", *ASKED, "--output", "npz")
    assert status == 0, err
    with np.load(stack / "out" / "volume.npz") as found:
        assert found["volume"] == pytest.approx(volume, abs=1e-6)

    status, _, err = program("autoint", "volume", *ASKED, "strength=1e-3")
    assert status == 2
    assert err.strip().endswith("give another folder by --to")
    assert "holds slices of another asked" in err
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:100])
    status, _, err = program("autoint", "volume", *ASKED)
    assert status == 2
    assert "slice_00000.tif" in err
    files[0].write_bytes(whole)
    np.save(stack / "stack.npy", 2 * np.load(stack / "stack.npy"))
    status, _, err = program("autoint", "volume", *ASKED)
    assert status == 2
    assert "out: holds slices of another file, ['12128 bytes of 20" in err
    del recipe["file"]  # as those of before
    (stack / "out" / "volume.json").write_text(json.dumps(recipe))
    assert program("autoint", "volume", *ASKED)[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("phantom=shepp_logan",), "phantom=shepp_logan: has one slice"),
        (("phantom=sinogram", "phantom.path=no.npy"), "no.npy: no such file"),
        ((*ASKED, "--slices", "3:9"), "--slices 3:9: give FIRST:AFTER with 0 <= FIRST < AFTER <= 5, such as 0:5"),
        ((*ASKED, "phantom.source=90"), "rays of a fan leave the slice in all rows but one: a cone"),
        ((*ASKED, "--workers", "0"), "workers=0"),
        (("stack.npy",), "'stack.npy': not an argument of volume; give KEY=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_one_line(stack, program, words, told):
    status, _, err = program("autoint", "volume", *words)
    assert status == 2
    assert told in err
    assert "Traceback" not in err
    assert not (stack / "out" / "slices").exists()


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("size", (10**9, "a", -1, None, 1e9, True)),
        ("center", ("x", [1], [1e308, 1e308], ["a", "b"], [0, 1e4])),
        ("prior", (None, [1], ["a", 1, 1, 1], [1e-300, 1, 1, 0], [1e9, 1, 1, 0], [1, 3, 1, 0])),
    ],
)
def test_what_a_folder_has_noted_is_used_where_it_can_have_been_found(stack, key, values):
    phantom = {"name": "sinogram", "path": "stack.npy"}
    recipe = Recipe(phantom, "slice", str(stack), 1, False, 6, (None,) * 4, (0, COUNT))
    good = {**asdict(recipe), "prior": [1.0, 0.5, 1e-3, 0.0], "center": [12.0, 0.2], "size": 2 * PIXELS}
    file = stack / "volume.json"
    file.write_text(json.dumps(good))
    assert _resumed(recipe, stack).size == 2 * PIXELS
    for value in values:
        file.write_text(json.dumps({**good, key: value}))
        with pytest.raises(ValueError, match=rf"volume.json: damaged \({key} is .*\); remove the folder, or give"):
            _resumed(recipe, stack)
    damage = {"[" * 100_000: "nested too deeply", '{"size": NaN}': "NaN", "{}": "phantom, along.* missing"}
    for text, words in damage.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"volume.json.*{words}"):
            _resumed(recipe, stack)


def test_slices_are_chosen_by_their_bounds():
    assert slices_of(":", 7) == (0, 7)
    assert slices_of("2:", 7) == (2, 7)
    assert slices_of("2:4", 7) == (2, 4)
    assert slices_of("3", 7) == (3, 4)
    for wrong in ("7", "4:2", "-1:3", "a:b", "3:3"):
        with pytest.raises(ValueError, match=f"--slices {wrong}: give FIRST:AFTER"):
            slices_of(wrong, 7)
