"""From Python to a trained scene and back: train, load, render, evaluate."""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoint.registry import COMMANDS, positive
from autoint.reports import pictures
from autoint.runs import checkpoints, evaluation, export, report, restoring, resuming, training
from autoint.runs.command_line.folders import first_free, remove_empty
from autoint.runs.command_line.from_python import composed, words_of
from autoint.runs.config import RunConfig
from autoint.runs.evaluation import EvaluateConfig, Evaluation
from autoint.runs.labels import portable
from autoint.runs.signals import Stopped
from autoint.scenes import baking, live
from autoint.scenes.rays import distances
from autoint.scenes.scene import Camera, Scene, cameras_of
from autoint.scenes.task import VolumeRendering, load_views

if TYPE_CHECKING:
    from autoint.scenes.viewer import Viewer


@dataclass(frozen=True)
class RenderedImage:
    """What a camera sees.

    Attributes:
        rgb: (H, W, 3), in [0, 1] but for what the network overshoots.
        depth: (H, W), the distance from the camera at the mean ray parameter, in the units of its pose; of pixels
            without anything at the far end of the ray.
        opacity: (H, W), in [0, 1].
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor

    def save(self, file: str | Path) -> Path:
        """Write the colours as a PNG; return its path."""
        pictures.write(Path(file), self.rgb.cpu())
        return Path(file)


@dataclass(frozen=True)
class Run:
    """A trained scene.

    Attributes:
        folder: of the run, or the checkpoint or export that it was loaded from.
        config: all that defines it.
        module: the trained model, in evaluation mode; ``module.volume`` is the scene.
        result: steps, seconds and metrics of its training; empty where nothing tells of them.
    """

    folder: Path
    config: RunConfig
    module: VolumeRendering
    result: dict[str, Any] = field(default_factory=dict)

    @torch.inference_mode()
    def render(self, camera: Camera, *, chunk_size: int = 16384) -> RenderedImage:
        """Return the image (H, W) that a camera sees, before the background that was trained with.

        Args:
            camera: pose and intrinsics; ``run.cameras("test")`` has those of the scene's images.
            chunk_size: rays at a time, which bounds the memory.
        """
        rays = camera.rays().to(self.module.device)
        rgb, depth, acc = self.module.volume.view(rays, self.module.canvas(), chunk_size)
        shape = camera.intrinsics.height, camera.intrinsics.width
        away = distances(rays, depth, camera.pose[:3, 3], camera.device)
        return RenderedImage(rgb.view(*shape, 3), away.view(shape), acc.view(shape))

    def cameras(self, split: str = "test", at_most: int | None = None) -> list[Camera]:
        """Return the cameras of the scene's images, as large as they were trained with; its data has to be there.

        Args:
            split: train, val or test.
            at_most: so many evenly spaced ones; None for all.
        """
        return cameras_of(load_views(self.config, split, at_most))

    def evaluate(self, **settings: Any) -> Evaluation:
        """Render and measure the test views; write tables and pictures into ``evaluation`` in the run's folder.

        Args:
            **settings: keys of ``evaluate.py``, as ``split``, ``max_images``, ``lpips`` or ``ray``.
        """
        place = self.folder if self.folder.is_dir() else self.folder.parent
        config = EvaluateConfig.from_plain({"runs": str(self.folder), "data_dir": self.config.data_dir, **settings})
        found = evaluation.evaluated_runs(config, place / "evaluation")
        report.of_evaluation(found, config)
        return found

    def mesh(self, file: str | Path, *, resolution: int = 256) -> str:
        """Write the scene's surface as a mesh, as ``autoint export RUN FILE`` does; return what is to be said of it.

        Args:
            file: the new file, ``.ply``, ``.glb`` or ``.obj``.
            resolution: cells along the box's longest side.
        """
        return export.export_mesh(str(self.folder), str(file), resolution)

    def bake(self, to: str | Path | None = None, **options: Any) -> Run:
        """Return the scene as a tree of voxels that is rendered without any network, as ``autoint bake RUN`` makes it.

        Args:
            to: its new folder; ``baked`` in the run's by default.
            **options: those of the command, as ``resolution``, ``megabytes`` or ``steps``.
        """
        where = None if to is None else str(to)
        data_dir = self.config.data_dir
        return load(baking.bake(str(self.folder), where, data_dir=data_dir, **options), data_dir=data_dir)

    def view(self, *, port: int = 8080, host: str = "127.0.0.1") -> Viewer:
        """Show the scene in a browser at http://127.0.0.1:8080 until ``close()``; needs the extra ``viewer``.

        Args:
            port: 0 for any that is free; ``address`` of what is returned says which.
            host: the address to listen at; ``0.0.0.0`` lets other machines in.
        """
        from autoint.scenes.viewer import Viewer
        from autoint.scenes.viewing import Painter

        return Viewer({self.folder.name: Painter(self.module, self.config)}, port, host)


def train(
    scene: Scene | str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    folder: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Train a scene as ``train.py`` does, with its defaults, progress and checkpoints; return the finished run.

    Args:
        scene: what to train on, or the path or name of it.
        minutes: how long; None as long as suits the machine, 10 on a CPU and 20 on a GPU.
        steps: how many steps, whatever the time, unless ``minutes`` are given too.
        folder: of the run; by default a new one, named by the time, below ``outputs/volrend``.
        **settings: keys of the command line, as ``sections=16``, ``model="nerf"``, ``optimizer={"lr": 1e-3}`` or
            ``encoding={"name": "grid", "features": 4}``.

    Raises:
        ValueError: naming the key, what was found and what is allowed.
        KeyboardInterrupt: saying from where to go on, when Ctrl-C has stopped it after saving.

    Examples:
        >>> import tempfile
        >>> size = dict(scale="tiny", image_size=12, sections=4, trainer={"accelerator": "cpu"})
        >>> run = train(Scene.procedural(), steps=2, folder=tempfile.mkdtemp(), **size)
        >>> run.render(run.cameras("test")[0]).rgb.shape
        torch.Size([12, 12, 3])
    """
    if minutes is not None:
        positive(minutes=minutes)
    scene = scene if isinstance(scene, Scene) else Scene(scene)
    limits = {"max_time": None if minutes is None else f"{60 * minutes:g}s", "max_steps": steps}
    trainer = {**settings.pop("trainer", {}), **{key: value for key, value in limits.items() if value is not None}}
    config, told = composed([*scene.overrides(), *words_of({**settings, "trainer": trainer})])
    if folder is None:
        name = portable(scene.name) or "scene"
        place = first_free(Path("outputs/volrend") / name / time.strftime("%Y-%m-%d_%H-%M-%S"))
    else:
        place = Path(folder)
    try:
        result = training.fit(config, place, told=told)
    except Stopped as stop:
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt(stop.message) from None
        raise
    except BaseException:
        if place.is_dir():
            remove_empty(place)
        raise
    report.of_training(place)
    return load(place, result=result)


def load(
    path: str | Path, *, data_dir: str | None = None, device: str = "auto", result: dict[str, Any] | None = None
) -> Run:
    """Return a scene that was trained, from its run's folder, a checkpoint, or what ``autoint export`` has made.

    Args:
        path: as ``outputs/volrend/lego/2026-01-31_12-00-00``.
        data_dir: where the scene's data are now; by default where they were when it was trained.
        device: ``cpu``, ``cuda``, or ``auto`` for the best there is.
        result: of the training; None reads the folder's ``result.json``.

    Raises:
        ValueError: for a path without a run or with several, a damaged file, and one that holds no scene.
    """
    files = evaluation.find_checkpoints(str(path))
    if len(files) > 1:
        raise ValueError(f"{path}: {len(files)} runs below it, the first {files[0]}; give one of them")
    config, module = restoring.restored(files[0], **({} if data_dir is None else {"data_dir": data_dir}))
    if not isinstance(module, VolumeRendering):
        raise ValueError(f"{path}: a run of task={config.task}; autoint.load gives scenes, those of task=volrend")
    if result is None:
        result = resuming.result_of(files[0], checkpoints.load(files[0])) or {}
    settings = EvaluateConfig(runs=str(path), device=device).checked()
    return Run(Path(path), config, evaluation.on_device(module, settings).eval(), result)


@COMMANDS.register("view")
def main(arguments: list[str]) -> None:
    """Trained scenes in the browser, or one that is still training: autoint view RUN."""
    from autoint.scenes.viewer import Viewer
    from autoint.scenes.viewing import Painter

    parser = argparse.ArgumentParser(prog="autoint view", description=(main.__doc__ or "").partition(":")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs' folders, folders of runs, or exports")
    parser.add_argument("--port", type=int, default=8080, help="0 for any that is free (8080)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (127.0.0.1)")
    parser.add_argument(live.OF_A_TRAINING, action="store_true", dest="of_a_training", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.of_a_training:
        live.leave_to_the_training()
    files = evaluation.find_checkpoints(given.runs)
    runs = [load(file.parent.parent if file.name == "last.ckpt" else file) for file in files]
    short = [run.folder.name for run in runs]
    names = [name if short.count(name) == 1 else str(run.folder) for name, run in zip(short, runs, strict=True)]
    painters = {name: Painter(run.module, run.config) for name, run in zip(names, runs, strict=True)}
    viewer = Viewer(painters, given.port, given.host)
    if given.of_a_training:
        live.step_back()
    print(f"{viewer.address}\nCtrl-C ends it", flush=True)
    seen = {name: _stamp(file) for name, file in zip(names, files, strict=True)}
    with contextlib.suppress(KeyboardInterrupt):
        while _waited(viewer, files[0].parent if given.of_a_training else None):
            for name, file in zip(names, files, strict=True):
                if (stamp := _stamp(file)) != seen[name]:
                    seen[name] = stamp
                    with contextlib.suppress(ValueError):  # of a file that is just being replaced
                        viewer.replace(name, load(file).module)
    viewer.close()


def _stamp(file: Path) -> tuple[int, int]:
    """What tells a file that was written anew."""
    try:
        told = file.stat()
    except OSError:
        return 0, 0
    return told.st_mtime_ns, told.st_size


def _waited(viewer: Viewer, training: Path | None) -> bool:
    """Wait a second; return whether to go on, of the viewer of a training whether that goes on."""
    if training is not None:
        return live.serve_a_training(training, bool(viewer.clients), 1.0)
    time.sleep(1.0)
    return True
