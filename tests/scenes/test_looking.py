"""Looking at a scene: camera paths, videos, rows of pictures, and one ray from inside."""

import dataclasses
import math
import sys
import threading
import time
import types
import unittest.mock
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from autoint.files.machine import each_on_a_thread, peak_memory
from autoint.reports import metrics, pictures
from autoint.runs import build, restoring
from autoint.runs.evaluation import EvaluateConfig
from autoint.runs.training import fit
from autoint.scenes import camera_paths, evaluation, ray_panel, video
from autoint.scenes.data.llff import llff
from autoint.scenes.data.procedural import orbit, procedural
from autoint.scenes.data.views import Views
from autoint.scenes.rays import Intrinsics
from autoint.scenes.scene import cameras_of
from autoint.scenes.session import Run
from autoint.scenes.volume import AbstractVolume
from tests.scenes import captures
from tests.scenes.test_task import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a few steps."""
    folder = tmp_path_factory.mktemp("run")
    fit(tiny_config(trainer={"max_steps": 20}, val_every=20), folder)
    return folder


def views(poses, near=2.0, far=6.0):
    camera = Intrinsics.from_fov(0.6, 8, 6)
    return Views(torch.zeros(len(poses), 6, 8, 4), poses, camera, near, far, tuple(map(str, range(len(poses)))))


def moved(poses, generator=0):
    """The poses in another frame: turned, shifted, 3 times as large."""
    g = torch.Generator().manual_seed(generator)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    rotation *= torch.det(rotation)
    shift, out = torch.tensor([5.0, -2.0, 1.0]), poses.clone()
    out[:, :3, :3] = rotation @ poses[:, :3, :3]
    out[:, :3, 3] = 3 * poses[:, :3, 3] @ rotation.T + shift
    return out, rotation, shift


@pytest.mark.parametrize("stray", [0, 2])
def test_an_orbit_is_a_turn_around_what_the_cameras_look_at(stray):
    """In any frame: same distance, same height, upright, looking at the centre; a stray camera does not matter."""
    cameras, rotation, middle = moved(orbit(40, 0.0))
    up = rotation[:, 2]
    distance = 12.0
    heights = (cameras[:, :3, 3] - middle) @ up / distance
    cameras[:stray, :3, 3] += 9 * cameras[:stray, :3, 0]
    path = camera_paths.orbit(views(cameras), 16)
    out = path[:, :3, 3] - middle
    tolerance = 0.05 if stray == 0 else 1.5
    assert out.norm(dim=-1).max() - out.norm(dim=-1).min() < 0.02 * distance
    assert abs(out.norm(dim=-1).mean() - distance) < tolerance
    assert abs(float((out @ up / distance).mean()) - float(heights.asin().mean().sin())) < 0.1 * tolerance + 0.02
    assert torch.allclose(path[:, :3, 2], out / out.norm(dim=-1, keepdim=True), atol=0.02)
    assert ((path[:, :3, 1] @ up) > 0.5).all()
    assert torch.allclose(torch.det(path[:, :3, :3]), torch.ones(16), atol=1e-5)
    turns = (path[:, :3, 3] - path.roll(1, 0)[:, :3, 3]).norm(dim=-1)
    assert torch.allclose(turns, turns.mean().expand(16), rtol=1e-4)


def test_cameras_on_one_side_get_a_spiral():
    """As in a forward-facing capture: the path stays among the cameras and looks where they look."""
    g = torch.Generator().manual_seed(0)
    offsets = torch.randn(20, 3, generator=g) * torch.tensor([0.4, 0.2, 0.05])
    position = torch.tensor([0.0, 0.0, 4.0]) + offsets
    cameras = camera_paths.look_at(position, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    path = camera_paths.orbit(views(cameras), 24)
    assert torch.equal(path, camera_paths.spiral(views(cameras), 24))
    assert (path[:, :3, 3] - position.mean(0)).abs().max() < 1
    assert (path[:, 2, 2] > 0.9).all()
    assert torch.allclose((path[:, :3, 3] - 4 * path[:, :3, 2]).mean(0), torch.zeros(3), atol=0.2)
    parallel = torch.eye(4).repeat(5, 1, 1)
    parallel[:, 0, 3] = torch.arange(5.0)
    assert (camera_paths.orbit(views(parallel), 8)[:, 2, 2] > 0.97).all()
    assert torch.equal(camera_paths.orbit(views(parallel, 0.0, 1.0), 8), camera_paths.orbit(views(parallel), 8))
    assert camera_paths.orbit(views(parallel[:1]), 8).isfinite().all()


@pytest.mark.parametrize("kind", ["sphere", "ring", "dome"])
@pytest.mark.parametrize("path", camera_paths.PATHS)
def test_every_path_around_a_scene_shows_it(path, kind):
    """In any frame: each frame of an orbit or a spiral sees the middle, from about the cameras' distance, upright."""
    cameras = orbit(40, 0.0)
    if kind == "dome":
        cameras = cameras[20:]
    if kind == "ring":
        turn = torch.arange(24) * 2 * math.pi / 24
        places = 4 * torch.stack([turn.cos(), turn.sin(), torch.full_like(turn, 0.4)], dim=-1)
        cameras = camera_paths.look_at(places, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    cameras, rotation, middle = moved(cameras)
    frames = views(camera_paths.PATHS[path](views(cameras), 12))
    distance = 3 * 4 * (1.08 if kind == "ring" else 1)
    for view in range(12):
        x, y, depth = frames.project(view, middle[None])
        assert 2 < float(x) < 6
        assert 1.5 < float(y) < 4.5
        assert 0.8 * distance < float(depth) < 1.25 * distance
    assert (frames.poses[:, :3, 1] @ rotation[:, 2] > 0).all()


def test_no_video_is_made_of_what_its_path_does_not_see(program, run, monkeypatch):
    """Refused by name before any image is rendered; where nothing was learned, the evaluation goes on without."""
    monkeypatch.setattr(metrics, "lpips_metric", lambda net, weights: None)
    monkeypatch.setattr(video, "video_format", lambda: "gif")
    arguments = (f"runs={run}", "max_images=1", "device=cpu", "video_frames=3")
    status, _, err = program("evaluate", *arguments, "video=spiral", "hydra.run.dir=e")
    assert status == 0, err
    with Image.open("e/images/00_procedural_4/spiral.gif") as written:
        assert written.n_frames == 3
        assert np.ptp(np.asarray(written.convert("L"))) > 0
    away = lambda views, frames: views.poses[:1].repeat(frames, 1, 1) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))  # noqa: E731
    monkeypatch.setitem(camera_paths.PATHS, "spiral", away)
    status, _, err = program("evaluate", *arguments, "video=spiral", "hydra.run.dir=f")
    assert status == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: video=spiral: no ray of the path's 3 frames meets the scene; use video=orbit")
    assert not list(Path("f").rglob("*.gif"))
    assert not list(Path("f").rglob("*.png"))


def test_a_volume_that_learned_nothing_gets_no_video(run, caplog, monkeypatch):
    _, module = restoring.restored(run / "checkpoints" / "last.ckpt")
    cameras = procedural("", "train", 12, 3)
    looking = evaluation.Looking(video="orbit", video_frames=2)
    assert len(video.flight(module.volume, cameras, looking)) == 2
    monkeypatch.setattr(module.volume, "hit", lambda rays: torch.zeros(len(rays), dtype=torch.bool))
    assert video.flight(module.volume, cameras, looking) is None
    assert "no video: no ray of the path's 2 frames meets anything that was learned" in caplog.text


def test_an_animated_picture_has_the_frames_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    frames = torch.rand(7, 5, 9, 3, generator=torch.Generator().manual_seed(0))
    for webp, suffix in ((True, ".webp"), (False, ".gif")):
        monkeypatch.setattr(video.features, "check", lambda name, webp=webp: webp)
        file = video.write_video(tmp_path / "v", frames, fps=10)
        assert file.suffix == suffix
        with Image.open(file) as written:
            written.load()
            assert (written.n_frames, written.size, written.info["duration"]) == (7, (9, 5), 100)
    assert not list(tmp_path.glob(".part*"))


def test_an_mp4_is_made_even(tmp_path, monkeypatch):
    """With a stand-in for the encoder, which is an extra: what it is told, and that every frame has this size."""
    told = {}

    def write_frames(file, size, **options):
        told.update(size=size, frames=[], **options)
        while True:
            try:
                told["frames"].append((yield))
            except GeneratorExit:
                Path(file).write_bytes(b"mp4")
                return

    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", types.SimpleNamespace(write_frames=write_frames))
    file = video.write_video(tmp_path / "v", torch.zeros(3, 5, 9, 3), fps=10)
    assert (file.name, file.read_bytes()) == ("v.mp4", b"mp4")
    assert (told["size"], told["fps"], told["macro_block_size"]) == ((10, 6), 10, 2)
    assert [len(frame) for frame in told["frames"]] == [10 * 6 * 3] * 3


def test_a_failed_video_leaves_nothing(tmp_path):
    def frames():
        yield torch.zeros(4, 4, 3)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        video.write_video(tmp_path / "v", frames(), fps=10)
    assert not list(tmp_path.iterdir())


def test_evaluate_writes_a_video_and_a_ray(program, run, monkeypatch):

    monkeypatch.setattr(metrics, "lpips_metric", lambda net, weights: None)
    monkeypatch.setattr(video, "video_format", lambda: "gif")
    arguments = (f"runs={run}", "max_images=1", "device=cpu", "hydra.run.dir=e")
    status, out, err = program(
        "evaluate", *arguments, "video=orbit", "video_frames=5", "video_fps=10", "ray=[6,5]", "depth=tiff"
    )
    assert status == 0, err
    with Image.open("e/images/00_procedural_4/depth/test_000.tiff") as written:
        assert (written.mode, written.size) == ("F", (12, 12))
    assert "/e/images/00_procedural_4/orbit.gif" in out + err
    assert "100%" not in err  # nobody looks at a log as it grows
    with Image.open("e/images/00_procedural_4/orbit.gif") as written:
        assert (written.n_frames, written.size) == (5, (12, 12))
    panel = iio.imread("e/images/00_procedural_4/ray_test_000_6_5.png")
    assert panel.std() > 10
    assert "memory/MB" in out
    for wrong, words in (
        ("video=orbitt", "video='orbitt' is unknown; did you mean 'orbit'? (available: none, orbit, spiral)"),
        ("video_frames=0", "video_frames=0 must be an integer of at least 1"),
        ("depth=exr", "depth='exr' is unknown (available: none, npz, tiff)"),
        ("ray=[1]", "ray=[1] must be none, auto (the largest error of the first view) or [row,column]"),
        ("ray=[99,0]", "ray=[99,0] must be [row,column] inside the image, which has 12 x 12"),
    ):
        status, _, err = program("evaluate", *arguments, wrong)
        assert status == 2
        assert words in err.strip().splitlines()[-1]


def test_depths_of_device_coordinates_are_distances_in_the_world(tmp_path):
    """Of a bowl at the distance 2.5 from a camera, in Python and in what is written by an evaluation."""
    captures.write_llff(tmp_path / "scene", captures.Camera(9.0, 9.0, 4.0, 3.0, 8, 6), captures.facing(9))
    every = llff(str(tmp_path), "test", None, path="scene")
    views = dataclasses.replace(every, images=every.images[1:], poses=every.poses[1:], names=every.names[1:])
    rays, world = (v.rays_of(0) for v in (views, dataclasses.replace(views, device=None)))
    t = ((views.device.of(world.origins + 2.5 * world.directions) - rays.origins) * rays.directions).sum(-1)
    found = torch.zeros(48, 3), t, torch.ones(48)
    volume = unittest.mock.MagicMock(spec=AbstractVolume)
    volume.state_dict.return_value, volume.view.return_value = {}, found
    module = types.SimpleNamespace(device=torch.device("cpu"), canvas=lambda: torch.ones(3), volume=volume)
    seen = Run.render(types.SimpleNamespace(module=module), cameras_of(views)[0])
    assert torch.allclose(seen.depth, torch.full((6, 8), 2.5), atol=1e-4)
    config = EvaluateConfig.from_plain({"runs": "r", "depth": "npz", "lpips": "none"})
    evaluation.evaluate(volume, torch.ones(3), views, config, "scene", tmp_path, tiny_config())
    with np.load(tmp_path / "depth" / "IMG_008.npz") as arrays:
        assert np.abs(arrays["depth"] - 2.5).max() < 1e-4


def test_depth_is_known_where_something_is_seen(tmp_path):
    depth, acc = torch.arange(6.0), torch.tensor([1.0, 0.9, 0.4, 0.0, 0.5, 1.0])
    for kind in ("npz", "tiff"):
        evaluation.write_depth(tmp_path / f"d.{kind}", (2, 3), depth, acc)
    expected = np.array([[0, 1, np.nan], [np.nan, 4, 5]], dtype=np.float32)
    with np.load(tmp_path / "d.npz") as arrays:
        assert np.array_equal(arrays["depth"], expected, equal_nan=True)
        assert np.array_equal(arrays["opacity"], acc.view(2, 3).numpy())
    with Image.open(tmp_path / "d.tiff") as written:
        assert np.array_equal(np.asarray(written), expected, equal_nan=True)


def profiled(volume, atol=1e-6):
    """The profile of a ray through the scene, which is checked to be what is rendered."""
    white = torch.ones(3)
    rays = procedural("", "test", 12, 1).rays_of(0)
    hits = rays[volume.hit(rays)]
    chosen = hits[len(hits) // 2 : len(hits) // 2 + 1]
    profile = ray_panel.ray_profile(volume, chosen, white)
    mixed = (profile.weights[:, None] * profile.mean_rgb).sum(0) + (1 - profile.weights.sum()) * white
    assert torch.allclose(mixed, volume.view(chosen, white, 100)[0][0], atol=atol)
    assert torch.allclose(profile.rgb, mixed, atol=atol)
    return profile


def test_a_ray_profile_is_what_is_rendered(run):
    """Its weights and colours make the pixel that the view shows, and its density averages to its section means."""
    _, module = restoring.restored(run / "checkpoints" / "last.ckpt")
    profile = profiled(module.volume)
    for i, mean in enumerate(profile.mean_density):
        inside = (profile.t >= profile.edges[i]) & (profile.t <= profile.edges[i + 1])
        assert float(profile.density[inside].mean()) == pytest.approx(float(mean), rel=0.02, abs=0.02)


def test_a_ray_through_one_field_that_all_directions_share():
    """As thin sections as these hold what is in their middle."""
    volume = build.task(tiny_config(model="object", sections=200)).module.volume
    profile = profiled(volume, atol=1e-3)  # the gloss is one of all sections together, not the mean of theirs
    middle = (profile.edges[1:] + profile.edges[:-1]) / 2
    nearest = (profile.t[:, None] - middle).abs().argmin(0)
    assert torch.allclose(profile.density[nearest], profile.mean_density, atol=0.02)
    assert float(profile.mean_density.std()) > 0.02


def test_the_ray_of_the_largest_error_hits_the_scene():
    error, hit = torch.tensor([9.0, 1, 2, 3, 4, 0]), torch.tensor([False, True, True, True, True, False])
    assert ray_panel.pixel_of("auto", (2, 3), error, hit) == (1, 1)
    assert ray_panel.pixel_of([0, 2], (2, 3), error, hit) == (0, 2)
    with pytest.raises(ValueError, match=r"ray=\[0,0\] misses the scene:"):
        ray_panel.pixel_of([0, 0], (2, 3), error, hit)


def test_a_view_is_a_row_of_captioned_panels(tmp_path):
    truth = torch.zeros(150 * 2, 3)
    rgb = truth.clone()
    rgb[0] = pictures.LARGEST_ERROR
    depth, acc = torch.linspace(1, 2, 300), torch.ones(300)
    acc[-1] = 0
    pictures.write_view(tmp_path / "row.png", (2, 150), truth, rgb, depth, acc)
    row = iio.imread(tmp_path / "row.png")
    assert row.shape == (pictures.CAPTION + 2, 5 * 154 - 4, 3)
    panels = [row[pictures.CAPTION :, i * 154 : i * 154 + 150] for i in range(5)]
    assert (panels[1][0, 0] == 64).all()
    assert panels[2][0, 0].sum() > 500
    assert panels[2][1:].max() < 20
    assert panels[3][0, 0, 0] > panels[3][1, 100, 0]
    assert panels[4][1, -1].tolist() == [68, 1, 84]  # neither black nor white, whatever the opacity
    assert (panels[4][0] == [253, 231, 37]).all()
    assert (row[: pictures.CAPTION] < 128).any()
    assert (row[:, 150:154] == row[0, 0]).all()
    assert min(np.abs(panel.mean((0, 1)) - row[0, 0]).max() for panel in panels) > 20  # no panel looks like the sheet


def test_parts_are_done_on_threads_that_work_alone(monkeypatch):
    """Each part once, without a gradient where there is none, and with one of torch's threads; errors come through."""
    before, done = torch.get_num_threads(), {}

    def action(part):
        done[part] = threading.get_ident(), torch.get_num_threads(), torch.is_inference_mode_enabled()
        time.sleep(0.01)

    with torch.inference_mode():
        each_on_a_thread(action, range(6), 2)
    assert sorted(done) == [0, 1, 2, 3, 4, 5]
    assert {told[1:] for told in done.values()} == {(1, True)}
    assert len({told[0] for told in done.values()} - {threading.get_ident()}) == 2
    assert torch.get_num_threads() == before
    each_on_a_thread(action, range(2), 1)
    assert done[0] == (threading.get_ident(), before, False)
    with pytest.raises(ZeroDivisionError):
        each_on_a_thread(lambda part: 1 / part, [0, 1], 2)
    assert torch.get_num_threads() == before


def test_peak_memory_is_that_of_the_worst_moment(capfd):
    x = torch.zeros(1000)

    def action():
        (x[:, None] + x).sum()
        (x + x).sum()

    assert 4_000_000 <= peak_memory(action, torch.device("cpu")) < 4_100_000
    assert capfd.readouterr().err == ""
