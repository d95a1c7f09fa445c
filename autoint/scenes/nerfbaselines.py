"""AutoInt as a method of nerfbaselines: trained, rendered and measured through its interface."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback

from autoint.runs import build, export, trainers
from autoint.runs.command_line.from_python import composed, words_of
from autoint.runs.config import flat
from autoint.scenes.rays import Intrinsics
from autoint.scenes.scene import Camera
from autoint.scenes.session import Run, load

CAMERAS = ("pinhole", "opencv")
"""Camera models, by their numbers in nerfbaselines."""
STEPS = 30_000
KEPT = "autoint"
"""The folder in a checkpoint of nerfbaselines that holds ours."""
FLIP = np.array([1, -1, -1, 1])
"""Between OpenCV's axes and ours."""


class Method:
    """What nerfbaselines asks of a method: ``Method`` of its documentation.

    Args:
        checkpoint: a folder that ``save`` has written; None to train.
        train_dataset: images and cameras to train on; None to render.
        config_overrides: keys of ``train.py`` with their values, as ``{"sections": 16, "trainer.max_steps": 20000}``.

    Raises:
        ValueError: for cameras and images that are not supported, and for keys that are not known.
    """

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        train_dataset: Mapping[str, Any] | None = None,
        config_overrides: Mapping[str, Any] | None = None,
    ) -> None:
        if (checkpoint is None) == (train_dataset is None):
            raise ValueError("give a checkpoint, to render it, or a dataset, to train on it; going on is not supported")
        self.checkpoint, self._steps, self._loaded = checkpoint, STEPS, None
        self._training: _Training | None = None
        if checkpoint is not None:
            self._run = load(Path(checkpoint) / KEPT)
            self._loaded = int(json.loads((Path(checkpoint) / KEPT / "config.json").read_text())["global_step"])
            return
        assert train_dataset is not None
        folder = Path(tempfile.mkdtemp(prefix="autoint-nerfbaselines-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        words = write_scene(train_dataset, folder / "scene")
        self._steps = int((config_overrides or {}).get("trainer.max_steps", STEPS))
        words += [f"trainer.max_steps={self._steps}", "trainer.max_time=null", "++trainer.enable_progress_bar=false"]
        words += [f"val_every={self._steps}", f"save_every={self._steps}", "val_images=1"]
        config, _ = composed([*words, *words_of(dict(config_overrides or {}))])
        self._training = _Training(config, folder / "run")
        self._run = Run(folder / "run", config, self._training.module)

    @classmethod
    def get_method_info(cls) -> dict[str, Any]:
        """Return what the method can do."""
        return {
            "method_id": "autoint",
            "required_features": frozenset(("color",)),
            "supported_camera_models": frozenset(CAMERAS),
            "supported_outputs": ("color", "depth", "accumulation"),
            "can_resume_training": False,
            "viewer_default_resolution": 128,
        }

    def get_info(self) -> dict[str, Any]:
        """Return what this model is: its steps and its configuration."""
        plain = dict(flat(self._run.config.to_plain()))
        told = {key: value for key, value in plain.items() if not key.endswith(("path", "data_dir"))}
        steps = {"num_iterations": self._steps, "loaded_step": self._loaded, "loaded_checkpoint": self.checkpoint}
        return {**self.get_method_info(), **steps, "batch_size": self._run.config.batch_size, "hparams": told}

    def train_iteration(self, step: int) -> dict[str, float]:
        """Train a step; return its loss and PSNR."""
        if self._training is None:
            raise ValueError("this model was loaded from a checkpoint, and is not trained any further")
        return self._training.step()

    def render(self, camera: Any, *, options: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Render a camera: color (H, W, 3), depth and accumulation (H, W), of float32."""
        view = self._run.render(self._camera(camera.item()))
        found = {"color": view.rgb.clamp(0, 1), "depth": view.depth, "accumulation": view.opacity}
        wanted = (options or {}).get("outputs") or found.keys()
        out = {name: found[name].cpu().numpy() for name in wanted if name in found}
        if (options or {}).get("output_type_dtypes", {}).get("color") == "uint8" and "color" in out:
            out["color"] = np.round(out["color"] * 255).astype(np.uint8)
        return out

    def save(self, path: str) -> None:
        """Write the model into a folder of the checkpoint's; it says nothing of paths and people."""
        folder = Path(path) / KEPT
        shutil.rmtree(folder, ignore_errors=True)
        done = self._training.done if self._training else self._loaded or 0
        export.write(folder, self._run.module.state_dict(), self._run.config, done)

    def get_train_embedding(self, index: int) -> None:
        """Return None: images have nothing of their own."""
        return

    def optimize_embedding(self, dataset: Any, *, embedding: Any = None) -> dict[str, Any]:
        """Refuse: images have nothing of their own."""
        raise NotImplementedError("images have no embeddings")

    def _camera(self, camera: Any) -> Camera:
        pose = np.eye(4)
        pose[:3] = np.asarray(camera.poses, dtype=np.float64)[:3, :4] * FLIP
        width, height = (int(side) for side in camera.image_sizes)
        pinhole = torch.tensor(np.asarray(camera.intrinsics, dtype=np.float32))[None]
        lens = _lens(camera)
        distortion = torch.tensor([[lens[key] for key in ("k1", "k2", "k3", "p1", "p2")]]) if lens else None
        scene = self._run.config.options["scene"]
        near, far = scene["near"] or 0.0, scene["far"] or math.inf
        return Camera(torch.tensor(pose).float(), Intrinsics(pinhole, width, height, distortion), near, far)


class _Training:
    """A training that is done step by step: Lightning's loop in a thread that waits before each of them."""

    def __init__(self, config: Any, folder: Path) -> None:
        task = build.task(config)
        self.module: Any = task.module
        self.done, self._go, self._came = 0, threading.Semaphore(0), SimpleQueue[Any]()
        self._trainer = trainers.trainer(config, folder)
        self._trainer.callbacks.append(_Steps(self._go, self._came))  # type: ignore[attr-defined]
        self._data, self._thread = task.data, threading.Thread(target=self._fit, daemon=True)

    def step(self) -> dict[str, float]:
        if not self._thread.is_alive() and not self.done:
            self._thread.start()
        self._go.release()
        found = self._came.get()
        if isinstance(found, BaseException):
            raise found
        self.done += 1
        return dict(found)

    def _fit(self) -> None:
        try:
            self._trainer.fit(self.module, self._data)
        except BaseException as error:  # goes to whoever waits for the step
            self._came.put(error)


class _Steps(Callback):
    def __init__(self, go: threading.Semaphore, came: SimpleQueue[Any]) -> None:
        self.go, self.came = go, came

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.go.acquire()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"])
        self.came.put({"loss": loss, "psnr": -10 * math.log10(max(loss, 1e-10))})
        if trainer.global_step == trainer.max_steps or batch_idx + 1 == trainer.num_training_batches:
            self.go.acquire()  # whoever trained may render now: what else Lightning would do is not needed


def _lens(camera: Any) -> dict[str, float]:
    """The lens of one camera, empty for a pinhole."""
    number = int(camera.camera_models)
    if number >= len(CAMERAS):
        raise ValueError(f"camera model {number} of nerfbaselines is not supported; use {' or '.join(CAMERAS)}")
    values = [*map(float, np.asarray(camera.distortion_parameters).reshape(-1)), *[0.0] * 6]
    lens = dict(zip(("k1", "k2", "p1", "p2", "k3", "k4"), values, strict=False))
    if lens.pop("k4"):
        raise ValueError("a lens with k4 other than 0 is not supported; undistort the images")
    return lens if number and any(lens.values()) else {}


def write_scene(dataset: Mapping[str, Any], folder: Path) -> list[str]:
    """Write a dataset of nerfbaselines as a capture with ``transforms_train.json``; return the words that mean it."""
    cameras, images, about = dataset["cameras"], dataset["images"], dataset.get("metadata", {})
    if about.get("color_space", "srgb") != "srgb":
        raise ValueError(f"images in the colour space {about['color_space']!r}; only srgb is supported")
    sizes = {tuple(map(int, size)) for size in np.asarray(cameras.image_sizes)}
    if len(sizes) > 1:
        raise ValueError(f"images of {len(sizes)} sizes, as {sorted(sizes)[:2]}; a scene has images of one size")
    (folder / "images").mkdir(parents=True)
    [(width, height)] = sizes
    frames = []
    for number, image in enumerate(images):
        pixels = np.asarray(image)[:height, :width]
        pixels = pixels if pixels.dtype == np.uint8 else np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        name = f"images/{number:05d}.png"
        Image.fromarray(pixels).save(folder / name, compress_level=1)
        camera = cameras[number]
        pose = np.eye(4)
        pose[:3] = np.asarray(camera.poses, dtype=np.float64)[:3, :4] * FLIP
        keys = dict(zip(("fl_x", "fl_y", "cx", "cy"), map(float, camera.intrinsics), strict=True))
        own = {"w": width, "h": height, **keys, **_lens(camera)}
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **own})
    for split, kept in (("train", frames), ("val", frames[:1])):
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_model": "OPENCV", "frames": kept}))
    path = str(folder).replace("'", "\\'")
    words = ["task=volrend", "scene=transforms", f"scene.path='{path}'", f"image_size={max(width, height)}"]
    if cameras.nears_fars is not None:
        near, far = np.asarray(cameras.nears_fars, dtype=np.float64).T
        words += [f"scene.near={near.min():.6g}", f"scene.far={far.max():.6g}"]
    behind = about.get("background_color")
    if behind is not None and (color := {0: "black", 255: "white"}.get(round(float(np.mean(behind))))):
        words.append(f"background={color}")
    return words
