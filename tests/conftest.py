"""Shared fixtures: tiny scenes on disk, the programs run inside this process, and what is made once for many tests."""

import contextlib
import copy
import dataclasses
import functools
import gc
import importlib.util
import json
import os
import pickle
import sys
import traceback
from pathlib import Path

# On a busy machine, threads that wait for each other take minutes for the work of seconds: here, in every worker of
# pytest-xdist and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import imageio.v3 as iio
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_finish(session):
    """Let the garbage collector pass by what the imports have made: a million objects that stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def once(function):
    """Return ``function`` with a memory: what is asked for again, to the last bit, comes as a copy."""

    @functools.wraps(function)
    def remembered(*args, **kwargs):
        key = contents([*args, kwargs])
        if key not in remembered.known:
            remembered.known[key] = function(*args, **kwargs)
        return copy.deepcopy(remembered.known[key])

    remembered.known = {}
    return remembered


def contents(value):
    """Return what tells a value from others."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if dataclasses.is_dataclass(value):
        return tuple(contents(getattr(value, field.name)) for field in dataclasses.fields(value))
    return tuple(map(contents, value)) if isinstance(value, (list, tuple)) else repr(value)


@pytest.fixture(autouse=True)
def _the_embedded_scene_once():
    """Render the embedded scene and carve its hull once: two hundred tiny runs would do little else."""
    volrend = sys.modules.get("autoint.scenes.task")
    if volrend is not None and not hasattr(volrend.visual_hull, "known"):
        from autoint.registry import DATASETS

        DATASETS["procedural"]  # which imports it
        DATASETS._factories["procedural"] = once(DATASETS._factories["procedural"])
        volrend.visual_hull = once(volrend.visual_hull)


@contextlib.contextmanager
def hydra_reads_once():
    """Parse Hydra's and our files once, and make no map to resolve what no list of defaults has: half of composing."""
    from hydra._internal import defaults_list
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    def once_from(path, source):
        load, known = source.load_config, {}

        def remembered(self, config_path):
            if self.path != path:
                return load(self, config_path)
            if config_path not in known:
                known[config_path] = pickle.dumps(load(self, config_path))
            return pickle.loads(known[config_path])  # an eighth of the time of a deep copy

        patch.setattr(source, "load_config", remembered)

    def where_asked_for(overrides, defaults, self_added):
        return mapped(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else None

    Plugins.instance()  # which registers the sources
    mapped = defaults_list._create_interpolation_map
    with pytest.MonkeyPatch.context() as patch:
        once_from("hydra.conf", SourcesRegistry.instance().resolve("pkg"))
        once_from(str(ROOT / "conf"), SourcesRegistry.instance().resolve("file"))
        patch.setattr(defaults_list, "_create_interpolation_map", where_asked_for)
        yield


@pytest.fixture(scope="session", autouse=True)
def _hydra_reads_once():
    with hydra_reads_once():
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Make figures, but do not draw them: for tests that look at none, as it takes longer than a tiny run."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, stream, **_: stream.write(b"undrawn"))


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
    """Run ``train.py``, ``evaluate.py`` or ``autoint`` with arguments, in this process: (status, stdout, stderr)."""

    def run(name, *arguments, trace=False):
        from hydra.core.global_hydra import GlobalHydra

        arguments = list(map(str, arguments))
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1" if trace else "0")
        GlobalHydra.instance().clear()
        capfd.readouterr()
        status = 0
        try:
            main_of(name)()
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            monkeypatch.delenv("HYDRA_FULL_ERROR")
        out, err = capfd.readouterr()
        return status, out, err

    return run


def forked(action, out, err):
    """Begin ``action`` in a process of its own that has imported everything already; return the process's number.

    Its exit status is that which a program of its own would have; ``out`` and ``err`` are open files, by their numbers.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        torch.set_num_threads(1)  # of which a process that is forked has one
        action()
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()  # as Python does at its end
    except BrokenPipeError:
        status = 120
    sys.stderr.flush()
    os._exit(status)


@pytest.fixture
def elsewhere(tmp_path):
    """Call something in a process of its own that has imported everything already: (exit status, stdout, stderr)."""

    def call(action):
        names = [tmp_path / "stdout", tmp_path / "stderr"]
        out, err = (os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in names)
        status = os.waitstatus_to_exitcode(os.waitpid(forked(action, out, err), 0)[1])
        os.close(out)
        os.close(err)
        said = [name.read_text() for name in names]
        for name in names:
            name.unlink()
        return status, *said

    return call


def main_of(name):
    """Return what a program does when it is called."""
    if name == "autoint":
        from autoint.__main__ import main

        return main
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


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


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tiny run of the embedded scene, three steps long, trained from Python with what :func:`tiny` has."""
    import autoint

    size = dict(word.lstrip("+").split("=") for word in TINY)
    settings = {key: int(value) if value.isdigit() else value for key, value in size.items() if "." not in key}
    settings |= {"network": {"hidden_features": 8, "num_layers": 2}}
    settings["encoding"] = {"name": settings["encoding"], "num_frequencies": 2}
    settings["trainer"] = {"accelerator": "cpu", "enable_progress_bar": False}
    return autoint.train("procedural", steps=3, folder=tmp_path_factory.mktemp("trained") / "run", **settings)


@pytest.fixture
def tiny():
    """Overrides that make a run of the embedded scene small."""
    return TINY


@pytest.fixture
def no_lpips(monkeypatch):
    """No look into the network for weights."""
    from autoint.reports import metrics

    monkeypatch.setattr(metrics, "lpips_metric", lambda net, weights: None)
