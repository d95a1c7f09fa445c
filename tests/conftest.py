"""Shared fixtures: tiny scenes on disk, and the programs run inside this process."""

import copy
import functools
import importlib.util
import json
import os
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """On a busy machine, threads that wait for each other take minutes for the work of seconds."""
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@functools.cache
def known_hull(image_size):
    from autoint.scenes.occupancy import visual_hull
    from autoint.scenes.task import load_views
    from tests.scenes.test_task import tiny_config

    return visual_hull(load_views(tiny_config(image_size=image_size), "train"))


@pytest.fixture
def hull_once(monkeypatch):
    """Carve the embedded scene's hull once: tests that train a dozen tiny runs would do little else."""
    from autoint.scenes import task as volrend

    monkeypatch.setattr(volrend, "visual_hull", lambda views: copy.deepcopy(known_hull(views.images.shape[2])))


@pytest.fixture
def one_thread():
    """Such small batches are no faster on two, and far slower where the second is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def blender_scene(tmp_path):
    """A Blender scene of 8×6 images of a disc, under DATA/nerf_synthetic/disc; returns DATA."""
    from autoint.scenes.data.procedural import orbit

    folder = tmp_path / "data" / "nerf_synthetic" / "disc"
    y, x = np.mgrid[0:6, 0:8]
    inside = (x - 3.5) ** 2 + (y - 2.5) ** 2 < 5
    rgba = np.where(inside[..., None], [200, 60, 20, 255], [9, 9, 9, 0]).astype(np.uint8)
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        (folder / split).mkdir(parents=True)
        frames = []
        for i, pose in enumerate(orbit(count, 0.0)):
            iio.imwrite(folder / split / f"r_{i}.png", rgba)
            suffix = ".png" if i % 2 else ""
            frames.append({"file_path": f"./{split}/r_{i}{suffix}", "transform_matrix": pose.tolist()})
        contents = {"camera_angle_x": 0.7, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(contents))
    return tmp_path / "data"


@pytest.fixture
def program(monkeypatch, capfd):
    """Run ``train.py`` or ``evaluate.py`` with arguments, in this process: (exit status, stdout, stderr)."""

    def run(name, *arguments, trace=False):
        from hydra.core.global_hydra import GlobalHydra

        spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1" if trace else "0")
        GlobalHydra.instance().clear()
        capfd.readouterr()
        status = 0
        try:
            getattr(module, "train" if name == "train" else "evaluate")()
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            monkeypatch.delenv("HYDRA_FULL_ERROR")
        out, err = capfd.readouterr()
        return status, out, err

    return run


TINY = (
    "image_size=12",
    "batch_size=32",
    "network.hidden_features=8",
    "network.num_layers=2",
    "model=autoint",
    "placement=uniform",
    "encoding=normalized_positional",
    "encoding.num_frequencies=2",
    "sections=4",
    "samples=8",
    "val_images=1",
    "+trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu",
)


@pytest.fixture
def tiny():
    """Overrides that make a run of the embedded scene small."""
    return TINY


@pytest.fixture
def no_lpips(monkeypatch):
    """No look into the network for weights."""
    from autoint.reports import metrics

    monkeypatch.setattr(metrics, "lpips_metric", lambda net, weights: None)
