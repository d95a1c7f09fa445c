"""Masks: pixels that neither train, nor carve the visual hull, nor are measured."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoint.files import reading
from autoint.scenes.data.batches import Pixels, WholeImages
from autoint.scenes.data.blender import blender
from autoint.scenes.data.llff import llff
from autoint.scenes.data.procedural import orbit, procedural
from autoint.scenes.data.transforms import transforms
from autoint.scenes.occupancy import visual_hull
from tests.scenes import captures
from tests.scenes.captures import Camera

SMALL = Camera(9.0, 9.0, 4.0, 3.0, 8, 6)
COUNTS = np.ones((6, 8), bool)
COUNTS[1:3, 4:7] = False


def mask(file: Path, values) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values.save(file) if isinstance(values, Image.Image) else Image.fromarray(values).save(file)


def edited(file: Path, change) -> None:
    contents = json.loads(file.read_text())
    for i, frame in enumerate(contents["frames"]):
        change(i, frame)
    file.write_text(json.dumps(contents))


@pytest.fixture
def scene(tmp_path):
    captures.write_transforms(tmp_path / "scene", [SMALL], orbit(9, 0.0))
    return tmp_path / "scene"


def load(scene, split="train", image_size=None):
    return transforms(str(scene.parent), split, image_size, path=scene.name)


def rgba(counts):
    """A mask that is black, or white and transparent, where nothing counts."""
    out = np.full((*counts.shape, 4), 255, np.uint8)
    out[~counts, :3] = 0
    out[2, ~counts[2]] = (255, 255, 255, 0)
    return out


KINDS = {
    "white": lambda c: c.astype(np.uint8) * 255,
    "one": lambda c: c.astype(np.uint8),
    "colour": lambda c: np.where(c[..., None], [0, 0, 9], 0).astype(np.uint8),
    "one bit": lambda c: Image.fromarray(c.astype(np.uint8) * 255).convert("1"),
    "transparent": rgba,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_mask_ignores_what_is_black(kind, scene):
    mask(scene / "masks" / "a.png", KINDS[kind](COUNTS))
    edited(scene / "transforms.json", lambda i, f: f.update(mask_path="./masks\\a.png") if i % 2 else None)
    views = load(scene)
    assert views.mask.dtype == torch.bool
    for name, one in zip(views.names, views.mask, strict=True):
        frames = json.loads((scene / "transforms.json").read_text())["frames"]
        named = "mask_path" in next(f for f in frames if Path(f["file_path"]).stem == name)
        assert torch.equal(one, torch.from_numpy(COUNTS) if named else torch.ones(6, 8, dtype=torch.bool))


def test_a_mask_beside_the_image_ignores_what_is_not_black(scene, blender_scene, tmp_path):
    """instant-ngp's dynamic_mask_NAME.png, for every data set; both kinds together leave what both leave."""
    for folder in (scene / "images", blender_scene / "nerf_synthetic/disc/train"):
        for image in sorted(folder.iterdir()):
            mask(folder / f"dynamic_mask_{image.stem}.png", (~COUNTS).astype(np.uint8) * 200)
    other = COUNTS.copy()
    other[5] = False
    mask(scene / "one.jpg", other.astype(np.uint8) * 255)
    edited(scene / "transforms.json", lambda i, f: f.update(mask_path="one.jpg") if i == 1 else None)
    first = torch.from_numpy(COUNTS)
    views = load(scene)
    assert {int(one.sum()) for one in views.mask} == {int(first.sum()), int(first.sum()) - 8}
    of_blender = blender(str(blender_scene), "train", None, path="nerf_synthetic/disc")
    assert torch.equal(of_blender.mask, first.expand(6, 6, 8))
    captures.write_llff(tmp_path / "forward", SMALL, captures.facing(3))
    mask(tmp_path / "forward" / "images_2" / "dynamic_mask_IMG_001.png", (~COUNTS).astype(np.uint8))
    forward = llff(str(tmp_path), "train", None, path="forward")
    assert forward.names == ("IMG_001", "IMG_002")  # the mask is none of the images
    assert torch.equal(forward.mask[0], first)
    assert forward.mask[1].all()


def test_a_reduced_pixel_counts_where_all_of_it_does(scene):
    mask(scene / "a.png", COUNTS.astype(np.uint8) * 255)
    edited(scene / "transforms.json", lambda i, f: f.update(mask_path="a.png"))
    expected = COUNTS.reshape(3, 2, 4, 2).all((1, 3))
    assert torch.equal(load(scene, image_size=4).mask[0], torch.from_numpy(expected))


def test_scenes_without_masks_have_none(scene):
    assert load(scene).mask is None


BAD = {
    "missing": (lambda s: (s / "a.png").unlink(), r"a.png: mask not found; the masks of 7 images are missing: restore"),
    "size": (
        lambda s: mask(s / "a.png", np.ones((6, 9), np.uint8)),
        "a.png: the mask is 9x6, but its image 8x6, as in",
    ),
    "no image": (lambda s: (s / "a.png").write_text("x"), "a.png: not a readable PNG or JPEG"),
    "black": (lambda s: mask(s / "a.png", np.zeros((6, 8), np.uint8)), "no pixel is left of any of 7 images .black ig"),
    "number": (
        lambda s: edited(s / "transforms.json", lambda i, f: f.update(mask_path=3)),
        r"frames\[\d\].mask_path=3 must be the path",
    ),
    "folder": (
        lambda s: ((s / "a.png").unlink(), (s / "a.png").mkdir()),
        "a.png: mask not found; it is a folder, no file",
    ),
    "cursor": (
        lambda s: edited(s / "transforms.json", lambda i, f: f.update(mask_path="a\x1b[31m\n.png")),
        r"mask_path='a.x1b.31m.n.png' is no path of an image",
    ),
    "outside": (
        lambda s: edited(s / "transforms.json", lambda i, f: f.update(mask_path="../a.png")),
        r"mask_path='../a.png' leaves the scene folder",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_masks_are_named_in_one_line(case, scene):
    damage, words = BAD[case]
    mask(scene / "a.png", np.ones((6, 8), np.uint8))
    edited(scene / "transforms.json", lambda i, f: f.update(mask_path="a.png"))
    damage(scene)
    with pytest.raises(ValueError, match=words) as caught:
        load(scene)
    assert "\n" not in str(caught.value)


def test_a_mask_that_leaves_nothing_of_one_image_is_told(scene, caplog):
    mask(scene / "a.png", np.zeros((6, 8), np.uint8))
    edited(scene / "transforms.json", lambda i, f: f.update(mask_path="a.png") if i == 1 else None)
    load(scene)
    assert "masks leave nothing of 1 of 7 images: frame_00007.jpg" in caplog.text


@pytest.fixture(scope="module")
def masked():
    """The embedded scene with a square of a wrong colour, transparent, in every other view, and its mask."""
    views = procedural("", "train", 32)
    counts = torch.ones(views.images.shape[:3], dtype=torch.bool)
    counts[::2, 10:22, 10:22] = False
    images = torch.where(counts[..., None], views.images, 0.0)
    return views, dataclasses.replace(views, images=images, mask=counts)


def test_masked_pixels_are_never_drawn(masked):
    views = masked[1]
    every = lambda rays: torch.ones(len(rays), dtype=torch.bool)  # noqa: E731
    for few in (None, 4):
        pixels = Pixels(views, every, 64, 0, images=few)
        assert len(pixels.index) == int(views.mask.sum())
        assert int(pixels.counts.sum()) == len(pixels.index)
        drawn = torch.cat([pixels(step).rgba for step in range(4)])
        allowed = {tuple(p) for p in views.images[views.mask].tolist()}
        assert all(tuple(p) in allowed for p in drawn.tolist())
    with pytest.raises(
        ValueError, match="no ray of the training views meets the scene's box, of the pixels that the ma"
    ):
        Pixels(dataclasses.replace(views, mask=torch.zeros_like(views.mask)), every, 64, 0)


def test_masked_pixels_do_not_carve_the_hull(masked):
    """A square that is transparent in half of the views would carve the middle away."""
    views, hidden = masked
    hull, without = visual_hull(hidden), visual_hull(dataclasses.replace(hidden, mask=None))
    middle = torch.zeros(1, 3)
    solid = visual_hull(views)
    points = solid.lower + torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) * (solid.upper - solid.lower)
    inside = points[solid.at(points) > 0]
    assert (without.at(middle) == 0).all()
    assert float((hull.at(inside) > 0).float().mean()) > 0.9
    assert float((without.at(inside) > 0).float().mean()) < 0.6


def test_a_batch_keeps_its_mask_as_truth_values(masked):
    batch = WholeImages(masked[1])[3].to(torch.float64)
    assert batch.rgba.dtype == torch.float64
    assert torch.equal(batch.valid, masked[1].mask[3].flatten())
    assert torch.equal(batch.to(torch.device("cpu")).valid, batch.valid)
    assert Pixels(masked[0], lambda rays: torch.ones(len(rays), dtype=torch.bool), 8, 0)(0).valid is None


def test_a_masked_capture_trains_and_is_measured_where_it_counts(scene, program, tiny, no_lpips):
    """Whatever stands in the masked pixels, weights, losses and values are the same, and the row is whole."""
    counts = np.ones((6, 8), bool)
    counts[:, :4] = False
    mask(scene / "a.png", counts.astype(np.uint8))
    edited(scene / "transforms.json", lambda i, f: f.update(mask_path="a.png"))
    options = [*tiny, "image_size=8", "trainer.max_steps=2", f"scene={scene}", "val_images=2"]
    rows = []
    for run, spoil in (("one", False), ("two", True)):
        for file in sorted((scene / "images").iterdir()):
            image = np.asarray(Image.open(file).convert("RGB")).copy()
            image[~counts] = 255 if spoil else 0
            Image.fromarray(image).save(file.with_suffix(".png"))
        edited(scene / "transforms.json", lambda i, f: f.update(file_path=f["file_path"].replace(".jpg", ".png")))
        status, _, err = program("train", *options, f"hydra.run.dir={run}")
        assert status == 0, err
        status, _, err = program("evaluate", f"runs={run}", "device=cpu", f"hydra.run.dir=of_{run}")
        assert status == 0, err
        found = json.loads(Path(f"of_{run}/result.json").read_text())["per_image"]
        rows.append([(v["image"], v["psnr"]) for v in found])
        rows[-1].append(json.loads(Path(run, "result.json").read_text())["metrics"]["val/psnr"])
    assert rows[0] == rows[1]
    assert all(np.isfinite(psnr) for _, psnr in rows[0][:-1])
    strip = np.asarray(Image.open(next(Path("of_two/images").rglob("frame_00000.png"))).convert("RGB"))
    assert (strip[20:, :60] == 128).all()  # grey where the truth does not count
    reading.warn.cache_clear()
