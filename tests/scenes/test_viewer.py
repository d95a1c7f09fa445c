"""The viewer: a browser's camera is ours, pictures are those of rendering, and no browser does any harm."""

import contextlib
import copy
import io
import math
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from autoint.reports.pictures import to_bytes
from autoint.scenes.camera_paths import read_path
from autoint.scenes.data.procedural import orbit
from autoint.scenes.rays import Rays
from autoint.scenes.viewing import Look, Painter, camera_of, normals

NEEDED = "viser is not installed: pip install 'autoint[viewer]'"


@pytest.fixture
def painter(trained):
    return Painter(trained.module, trained.config)


def browser_of(pose, fov=0.55, aspect=4 / 3):
    """What viser tells of a browser whose camera has a pose of ours."""
    viewer = pytest.importorskip("autoint.scenes.viewer")
    wxyz, position = viewer.viser_pose(pose)
    return SimpleNamespace(wxyz=wxyz, position=position, fov=fov, aspect=aspect)


def test_a_browser_s_camera_is_ours():
    for pose in orbit(5, 0.3):
        told = browser_of(pose)
        camera = camera_of(told.wxyz, told.position, told.fov, told.aspect, 80)
        assert torch.allclose(camera.pose, pose, atol=1e-6)
        assert (camera.intrinsics.width, camera.intrinsics.height) == (80, 60)
        corner = camera.rays().directions[0] @ camera.pose[:3, :3]
        assert float(corner[1] / -corner[2]) == pytest.approx(math.tan(0.55 / 2) * 59 / 60, rel=1e-5)
    assert camera_of(2 * told.wxyz, told.position, 0.5, 0.5, 10**9).intrinsics.height == 1024


@pytest.mark.parametrize(
    "told",
    [
        ((1, 0, 0, math.nan), (0, 0, 0), 0.5, 1),
        ((0, 0, 0, 0), (0, 0, 0), 0.5, 1),
        ((1, 0, 0), (0, 0, 0), 0.5, 1),
        ((1, 0, 0, 0), (0, 0, math.inf), 0.5, 1),
        ((1, 0, 0, 0), (0, 0, 1e30), 0.5, 1),
        ((1, 0, 0, 0), (0, 0, 0), 0.0, 1),
        ((1, 0, 0, 0), (0, 0, 0), 3.2, 1),
        ((1, 0, 0, 0), (0, 0, 0), 0.5, 1e9),
    ],
)
def test_what_is_no_camera_is_left_out(told):
    assert camera_of(*told, 64) is None


def test_pictures_are_those_of_rendering(painter, trained):
    camera = trained.cameras("test")[0]
    whole = to_bytes(trained.render(camera).rgb).numpy().astype(int)
    assert np.abs(painter.picture(camera, Look()).astype(int) - whole).max() <= 1
    fewer = painter.picture(camera, Look(sections=1)).astype(int)
    assert np.abs(fewer - whole).max() > 1
    assert trained.module.volume.placement.sections == 4  # as before
    placed = painter.picture(camera, Look(placement="occupied", sections=10**9))
    assert placed.shape == whole.shape
    assert type(trained.module.volume.placement).__name__ == "Uniform"
    opacity = painter.picture(camera, Look("opacity"))
    assert np.array_equal(opacity[..., 0], to_bytes(trained.render(camera).opacity).numpy())
    assert painter.picture(camera, Look("depth")).shape == painter.picture(camera, Look("normals")).shape == (12, 12, 3)
    assert painter.picture(camera, Look(), moved=lambda: True) is None


def test_a_ray_is_drawn_where_it_meets_the_scene(painter, trained):
    camera = trained.cameras("test")[0]
    origin = camera.pose[:3, 3].tolist()
    assert painter.ray(origin, [-x for x in origin], Look()).startswith("<svg")
    assert painter.ray(origin, origin, Look()) is None
    assert painter.ray(origin, [0, 0, 0], Look()) is None
    assert painter.ray([math.nan] * 3, [1, 0, 0], Look()) is None


def test_moving_pictures_become_as_small_as_the_machine_needs(painter):
    before = painter.coarse()
    for _ in range(20):
        painter.took(painter.coarse(), 0.4 * (painter.coarse() / 96) ** 2)  # a machine that needs 0.4 s for 96 pixels
    assert painter.coarse() == pytest.approx(96 * math.sqrt(0.08 / 0.4), rel=0.05)
    assert painter.coarse() < before


def test_normals_of_a_sphere_are_those_of_the_sphere():
    x, y = torch.meshgrid(torch.linspace(-0.5, 0.5, 61), torch.linspace(-0.5, 0.5, 61), indexing="xy")
    looks = torch.nn.functional.normalize(torch.stack([x, -y, -torch.full_like(x, 4)], dim=-1).view(-1, 3), dim=-1)
    eye = torch.tensor([0.0, 0.0, 4.0])
    along = looks @ eye
    depth = -along - (along**2 - 15).clamp_min(0).sqrt()  # of the unit sphere around the origin
    rays = Rays(eye.expand(len(looks), 3), looks, torch.zeros(len(looks)), torch.full((len(looks),), 9.0))
    found = 2 * normals(rays, depth.view(61, 61), torch.ones(61, 61)) - 1
    truth = rays.at(depth).view(61, 61, 3)
    assert float((found - truth)[1:-1, 1:-1].abs().max()) < 0.01
    assert bool((normals(rays, depth.view(61, 61), torch.zeros(61, 61)) == 1).all())


class Browser:
    """Stands for viser's handle of a browser, and keeps what is shown."""

    def __init__(self, number, camera, broken=False):
        self.client_id, self.camera, self.broken, self.frames = number, camera, broken, []
        self.scene, self.atomic = self, contextlib.nullcontext
        camera.on_update = lambda call: setattr(self, "moved", call)

    def set_background_image(self, picture, format):
        if self.broken:
            raise ConnectionError("gone")
        self.frames.append((format, picture))


def waits_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture
def viewer(trained):
    pytest.importorskip("viser", reason=NEEDED)
    viewer = trained.view(port=0)
    yield viewer
    viewer.close()


def test_browsers_get_coarse_pictures_while_moving_and_fine_ones_at_rest(viewer, trained, tmp_path):
    assert viewer.address == f"http://127.0.0.1:{viewer.port}"  # and no other machine's
    viewer._size.value = 48
    nonsense = SimpleNamespace(wxyz=[math.nan] * 4, position=[0, 0, 0], fov=0.5, aspect=1.0)
    gone, confused = Browser(1, browser_of(orbit(4, 0)[0]), broken=True), Browser(2, nonsense)
    good = Browser(3, browser_of(orbit(4, 0.0)[1], aspect=1.0))
    for browser in (gone, confused, good):
        viewer._connected(browser)
    confused.camera.wxyz = [math.nan] * 4
    confused.moved(None)
    waits_for(lambda: good.frames and good.frames[-1][0] == "png")
    assert good.frames[0][0] == "jpeg"
    camera = camera_of(good.camera.wxyz, good.camera.position, 0.55, 1.0, 48)
    expected = to_bytes(trained.render(camera).rgb).numpy().astype(int)
    assert np.abs(good.frames[-1][1].astype(int) - expected).max() <= 1
    count = len(good.frames)
    good.camera.position = 1.2 * good.camera.position
    good.moved(None)
    waits_for(lambda: len(good.frames) >= count + 2 and good.frames[-1][0] == "png")
    assert not np.array_equal(good.frames[count - 1][1], good.frames[-1][1])
    assert viewer._thread.is_alive()
    viewer._fly(good, 0)
    assert viewer._truth.image.shape == (12, 24, 3)
    viewer._fly(good, 10**6)
    sent = {}
    good.send_file_download = lambda name, content: sent.update({name: content})
    viewer._remember(good)
    viewer._remember(confused)
    viewer._send_path(good)
    (tmp_path / "p.json").write_bytes(sent["camera_path.json"])
    poses, k, _ = read_path(tmp_path / "p.json")
    now = camera_of(good.camera.wxyz, good.camera.position, good.camera.fov, 1.0, 48)
    assert torch.allclose(poses, now.pose[None], atol=1e-6)
    assert torch.allclose(k.pinhole, now.intrinsics.pinhole, rtol=1e-6)
    viewer._screenshot(good)
    assert sent["run.png"].startswith(b"\x89PNG")
    viewer._clicked(SimpleNamespace(ray_origin=(4.0, 0, 0), ray_direction=(-1.0, 0, 0)))
    assert viewer._ray.content.startswith("<svg")


def test_newer_weights_are_shown(viewer, trained):
    viewer._size.value = 24
    browser = Browser(1, browser_of(orbit(4, 0.0)[1], aspect=1.0))
    viewer._connected(browser)
    waits_for(lambda: browser.frames and browser.frames[-1][0] == "png")
    before, count = browser.frames[-1][1], len(browser.frames)
    newer = copy.deepcopy(trained.module)
    with torch.no_grad():
        for parameter in newer.parameters():
            parameter.add_(0.5)
    viewer.replace("run", newer)
    waits_for(lambda: len(browser.frames) >= count + 2 and browser.frames[-1][0] == "png")
    assert not np.array_equal(browser.frames[-1][1], before)


def test_a_real_browser_loads_it_and_turns_the_scene(viewer, trained):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    viewer._size.value, viewer._frusta.value = 64, False
    viewer._draw_cameras()
    with playwright.sync_playwright() as running:
        flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = running.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 800, "height": 300})
        page.goto(viewer.address)

        def shows(kind):
            clients = [*viewer.clients.values()]
            return clients and clients[0].shown == (clients[0].moves, kind)

        def rest():
            for _ in range(400):
                page.wait_for_timeout(100)
                if shows("fine"):
                    return next(iter(viewer.clients.values())).moves
            raise AssertionError("it never came to rest")

        moves = rest()
        page.wait_for_timeout(300)
        before = page.screenshot()
        page.mouse.move(100, 200)
        page.mouse.down()
        page.mouse.move(200, 230, steps=4)
        page.mouse.up()
        for _ in range(100):
            page.wait_for_timeout(100)
            if next(iter(viewer.clients.values())).moves > moves:
                break
        assert rest() > moves
        page.wait_for_timeout(300)
        assert page.screenshot() != before
        viewer._size.value, moves = 800, rest()
        viewer._again()
        assert rest() > moves
        page.wait_for_timeout(500)
        with Image.open(io.BytesIO(page.screenshot())) as taken:
            shown = np.asarray(taken.convert("RGB")).astype(int)
        told = next(iter(viewer.clients.values())).handle.camera
        camera = camera_of(told.wxyz, told.position, told.fov, told.aspect, 800)
        rendered = to_bytes(trained.render(camera).rgb).numpy().astype(int)
        free = slice(90, 200), slice(330, 440)  # of what else the page shows
        assert rendered[free].min() < 250  # the scene is there
        assert np.abs(shown - rendered)[free].max() <= 1  # what evaluate.py would write
        browser.close()
    waits_for(lambda: not viewer.clients)
