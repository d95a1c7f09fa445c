"""A trained scene in the browser: turned, cut into more or fewer sections, beside the truth, and along a single ray."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from autoint.registry import PLACEMENTS
from autoint.reports import metrics, pictures
from autoint.scenes.camera_paths import centre, look_at, up_axis, write_path
from autoint.scenes.data.views import Views
from autoint.scenes.rays import Intrinsics
from autoint.scenes.scene import cameras_of
from autoint.scenes.task import VolumeRendering, load_views
from autoint.scenes.viewing import FLIP, LARGEST, PLACED, SHOWN, SMALLEST, Look, Painter, camera_of

log = logging.getLogger(__name__)
REST = 0.15
"""Seconds without a movement after which the fine picture is begun."""
CAMERAS, MOST_REMEMBERED = 40, 1000
OF_THE_RUN = "as trained"


@dataclass
class Client:
    """A browser: its handle, the number of its camera's last movement, and what was shown of it."""

    handle: Any
    moves: int = 1
    moved_at: float = 0.0
    shown: tuple[int, str] = (0, "")
    panel: dict[str, Any] = field(default_factory=dict)


class Viewer:
    """Serves runs to browsers.

    One thread paints for all of them, and what a browser sends only says what is to be painted next: the newest camera
    counts, and what is no camera is left out.

    Args:
        painters: runs by the names that they are chosen by.
        port: 0 for any that is free.
        host: the address to listen at; other machines reach it by 0.0.0.0 only.
    """

    def __init__(self, painters: dict[str, Painter], port: int = 8080, host: str = "127.0.0.1") -> None:
        self.painters, self.clients = painters, dict[int, Client]()
        self._news, self._closed = threading.Condition(), False
        self.name = next(iter(painters))
        self.views: Views | None = None
        self.server = start(host, port)
        self.port = int(self.server.get_port())
        self._gui()
        self._choose(self.name)
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(lambda handle: self.clients.pop(handle.client_id, None) and None)
        self._thread = threading.Thread(target=self._paint_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{self.server.get_host()}:{self.port}"

    def close(self) -> None:
        """End the server."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(10)
        with contextlib.redirect_stdout(None):
            self.server.stop()

    def _gui(self) -> None:
        gui, volume = self.server.gui, self.painters[self.name].module.volume
        count = getattr(getattr(volume, "placement", None), "sections", 16)
        self._run = gui.add_dropdown("run", [*self.painters], visible=len(self.painters) > 1)
        self._shown = gui.add_dropdown("show", SHOWN)
        self._size = gui.add_slider("pixels at rest", SMALLEST, LARGEST, 8, 400)
        self._sections = gui.add_slider("sections", 1, max(64, count), 1, count)
        self._placement = gui.add_dropdown("placement", [OF_THE_RUN, *(p for p in PLACED if p in PLACEMENTS.names())])
        with gui.add_folder("cameras"):
            self._frusta = gui.add_checkbox("shown", True)
            self._number = gui.add_slider("number", 0, CAMERAS - 1, 1, 0)
            go = gui.add_button("fly there")
            self._truth = gui.add_image(np.full((2, 2, 3), 255, np.uint8), label="truth, and rendering")
        with gui.add_folder("ray"):
            self._ray = gui.add_html("click into the picture")
        with gui.add_folder("path"):
            remember = gui.add_button("remember this camera")
            download = gui.add_button("download")
            self._path: list[tuple[torch.Tensor, Any]] = []
        shot = gui.add_button("screenshot")
        for handle in (self._shown, self._size, self._sections, self._placement):
            handle.on_update(lambda _: self._again())
        self._run.on_update(lambda _: self._choose(str(self._run.value)))
        self._frusta.on_update(lambda _: self._draw_cameras())
        go.on_click(lambda event: self._fly(event.client, int(self._number.value)))
        remember.on_click(lambda event: self._remember(event.client))
        download.on_click(lambda event: self._send_path(event.client))
        shot.on_click(lambda event: self._screenshot(event.client))
        self.server.scene.on_click()(self._clicked)

    def look(self) -> Look:
        """What the panel says is to be shown."""
        placement = str(self._placement.value)
        trained = self.painters[self.name].has_sections
        return Look(
            str(self._shown.value),
            int(self._sections.value) if trained else None,
            placement if trained and placement != OF_THE_RUN else None,
        )

    def _again(self) -> None:
        """Let all pictures be painted anew."""
        with self._news:
            for client in self.clients.values():
                client.moves += 1
            self._news.notify()

    def _choose(self, name: str) -> None:
        """Show another run."""
        if name not in self.painters:
            return
        self.name, config = name, self.painters[name].config
        self._sections.visible = self._placement.visible = self.painters[name].has_sections
        self.views = None
        with contextlib.suppress(ValueError, OSError):  # of a scene that is not here any more
            self.views = load_views(config, "train", CAMERAS)
        poses = self._poses()
        self.server.scene.set_up_direction(tuple(up_axis(poses).tolist()))
        self._number.max = max(1, len(poses) - 1)
        self._draw_cameras()
        self._again()

    def replace(self, name: str, module: VolumeRendering) -> None:
        """Show newer weights of a run."""
        self.painters[name].replace(module)
        self._again()

    def _poses(self) -> torch.Tensor:
        """The training cameras, or where there are none four around the scene's box."""
        if self.views is not None and self.views.device is None:
            return self.views.poses
        occupancy = self.painters[self.name].module.volume.occupancy
        middle, reach = (occupancy.lower + occupancy.upper).cpu() / 2, (occupancy.upper - occupancy.lower).cpu().norm()
        around = torch.tensor([[1.0, 0, 0.4], [0, 1, 0.4], [-1, 0, 0.4], [0, -1, 0.4]])
        return look_at(middle + 1.5 * reach * around, middle, torch.tensor([0.0, 0.0, 1.0]))

    def _draw_cameras(self) -> None:
        """Show the training cameras with their images, or take them away."""
        self.server.scene.reset()
        if self.views is None or self.views.device is not None or not self._frusta.value:
            return
        for number, handle in enumerate(add_cameras(self.server.scene, self.views)):
            handle.on_click(functools.partial(self._fly_by_click, number))

    def _fly_by_click(self, number: int, event: Any) -> None:
        self._fly(event.client, number)

    def _fly(self, handle: Any, number: int) -> None:
        """Put a browser's camera where a training camera is, and show its image beside the rendering."""
        poses = self._poses()
        if handle is None or not 0 <= number < len(poses):
            return
        wxyz, position = viser_pose(poses[number])
        with handle.atomic():
            handle.camera.wxyz, handle.camera.position = wxyz, position
            if self.views is not None:
                k = self.views.intrinsics[number]
                handle.camera.fov = 2 * float(torch.atan(0.5 * k.height / k.pinhole[0, 1]))
        if self.views is not None:
            canvas = self.painters[self.name].module.canvas().cpu()
            truth = metrics.over(self.views.images[number], canvas)
            rendering = self.painters[self.name].picture(cameras_of(self.views)[number], Look())
            assert rendering is not None
            self._truth.image = np.concatenate([pictures.to_bytes(truth).numpy(), rendering], axis=1)

    def _clicked(self, event: Any) -> None:
        """Show the ray through a pixel from inside."""
        if event.ray_origin is None or event.ray_direction is None:
            return
        drawn = self.painters[self.name].ray(event.ray_origin, event.ray_direction, self.look())
        self._ray.content = drawn or "this ray misses the scene, or the model has no sections"

    def _screenshot(self, handle: Any) -> None:
        """Send the picture at rest as a file."""
        camera = self._camera(handle, int(self._size.value)) if handle is not None else None
        picture = self.painters[self.name].picture(camera, self.look()) if camera else None
        if picture is not None:
            stream = BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            handle.send_file_download(f"{self.name}.png", stream.getvalue())

    def _remember(self, handle: Any) -> None:
        """Put a browser's camera at the end of the path."""
        camera = self._camera(handle, int(self._size.value)) if handle is not None else None
        if camera is not None and len(self._path) < MOST_REMEMBERED:
            self._path.append((camera.pose, camera.intrinsics))

    def _send_path(self, handle: Any) -> None:
        """Send the cameras that were remembered as a file, which ``video=FILE.json`` and nerfstudio read."""
        if handle is not None and self._path:
            last = self._path[-1][1]
            pinhole = torch.cat([k.resized(last.width, last.height).pinhole for _, k in self._path])
            poses = torch.stack([pose for pose, _ in self._path])
            with tempfile.TemporaryDirectory() as folder:
                file = write_path(Path(folder) / "path.json", poses, Intrinsics(pinhole, last.width, last.height), 20)
                handle.send_file_download("camera_path.json", file.read_bytes())

    def _connected(self, handle: Any) -> None:
        """Begin to paint for a browser, from the first training camera."""
        client = Client(handle)
        wxyz, position = viser_pose(self._poses()[0])
        handle.camera.wxyz, handle.camera.position = wxyz, position

        def moved(_: Any) -> None:
            with self._news:
                client.moves, client.moved_at = client.moves + 1, time.monotonic()
                self._news.notify()

        handle.camera.on_update(moved)
        with self._news:
            self.clients[handle.client_id] = client
            self._news.notify()

    def _paint_forever(self) -> None:
        while not self._closed:
            with self._news:
                due = [(client, kind) for client in self.clients.values() if (kind := self._due(client))]
                if not due:
                    waiting = any(client.shown != (client.moves, "fine") for client in self.clients.values())
                    self._news.wait(REST / 3 if waiting else None)
                    continue
            for client, kind in due:
                try:
                    self._paint(client, kind)
                except Exception:  # a browser that went away in the middle, or sends nonsense: the others go on
                    log.debug("a browser was not painted for", exc_info=True)
                    client.shown = (client.moves, "fine")

    def _due(self, client: Client) -> str:
        """Which picture a browser waits for: the coarse one of a movement, the fine one of rest, or none."""
        moves, kind = client.shown
        if moves != client.moves:
            return "coarse"
        return "fine" if kind == "coarse" and time.monotonic() - client.moved_at > REST else ""

    def _paint(self, client: Client, kind: str) -> None:
        painter, moves, look = self.painters[self.name], client.moves, self.look()
        size = painter.coarse() if kind == "coarse" else int(self._size.value)
        camera = self._camera(client.handle, size)
        if camera is not None:
            start = time.perf_counter()
            stop: Callable[[], bool] = (
                (lambda: client.moves != moves or self._closed) if kind == "fine" else lambda: False
            )
            picture = painter.picture(camera, look, stop)
            if picture is None:
                return
            if kind == "coarse":
                painter.took(size, time.perf_counter() - start)
            form = "png" if kind == "fine" else "jpeg"
            client.handle.scene.set_background_image(picture, format=form)
        client.shown = (moves, kind)

    def _camera(self, handle: Any, size: int) -> Any:
        camera = handle.camera
        return camera_of(camera.wxyz, camera.position, camera.fov, camera.aspect, size)


def start(host: str, port: int) -> Any:
    """Return a server of viser, which says nothing of itself; ``ValueError`` where it is not installed."""
    try:
        viser = importlib.import_module("viser")
    except ImportError as error:
        raise ValueError(f"the viewer needs viser ({error}); pip install 'autoint[viewer]'") from error
    with contextlib.redirect_stdout(None):  # where it would draw a box
        return viser.ViserServer(host=host, port=port, label="AutoInt", verbose=False)


def add_cameras(scene: Any, views: Views) -> list[Any]:
    """Show cameras with their images in viser's scene; return their handles."""
    k, handles = views.intrinsics, []
    reach = 0.04 * float((views.poses[:, :3, 3] - centre(views.poses.double()).float()).norm(dim=-1).median())
    for number in range(len(views)):
        image = metrics.over(views.images[number], torch.ones(3))[:: max(1, k.height // 48), :: max(1, k.width // 48)]
        wxyz, position = viser_pose(views.poses[number])
        fov = 2 * float(torch.atan(0.5 * k.height / k[number].pinhole[0, 1]))
        handles.append(scene.add_camera_frustum(
            f"/cameras/{number}", fov, k.width / k.height, scale=reach, wxyz=wxyz, position=position,
            image=pictures.to_bytes(image).numpy(),
        ))  # fmt: skip
    return handles


def viser_pose(pose: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A pose as the browser has it: a quaternion w, x, y, z with +z ahead and +y down, and a position."""
    x, y, z, w = Rotation.from_matrix((pose[:3, :3] * FLIP).double().numpy()).as_quat()
    return np.array([w, x, y, z]), pose[:3, 3].double().numpy()
