"""Kinds of files of which ``mutations.py`` makes mutations: what is valid, and what writes and reads another."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Kind = Callable[[Path], tuple[Any, Callable[[Any, random.Random], None]]]
"""``kind(folder)`` returns what is valid, and what makes a file of a mutation of it and reads that."""


def checkpoints(folder: Path, task: str = "volrend") -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A checkpoint, restored, exported or resumed."""
    import pytorch_lightning as pl

    from autoint.runs import build, damage, restoring, trainers
    from autoint.runs import checkpoints as files
    from autoint.runs.export import export
    from tests.runs import test_resume

    make = {"volrend": test_resume.volrend_config, "ct": test_resume.ct_config, "function": test_resume.function_config}
    config = make[task](trainer={"max_steps": 3, "log_every_n_steps": 2})
    test_resume.fit(config, folder / "run")
    good = files.load(folder / "run" / "checkpoints" / "last.ckpt")
    module, trainer = build.task(config).module, trainers.trainer(config, folder / "again")
    assert isinstance(module, pl.LightningModule)

    def read(contents: Any, draw: random.Random) -> None:
        file = folder / "sent" / "last.ckpt"
        file.parent.mkdir(exist_ok=True)
        try:
            torch.save(contents, file)
        except (RecursionError, RuntimeError, TypeError):  # which cannot be written either
            return
        use = draw.random()
        if use < 0.4:
            damage.check(file, files.load(file), module, trainer)
        elif use < 0.9:
            restoring.restored(file)
        else:
            shutil.rmtree(folder / "out", ignore_errors=True)
            export(str(file), str(folder / "out"))

    return good, read


def exports(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """An export: its configuration, and its weights by name."""
    from safetensors.torch import load_file, save_file

    from autoint.runs import restoring
    from autoint.runs.export import export

    checkpoints(folder, "ct")
    made = export(str(folder / "run"), str(folder / "export"))
    weights = load_file(made / "model.safetensors")
    good = {"about": json.loads((made / "config.json").read_text()), "weights": weights}

    def read(contents: Any, draw: random.Random) -> None:
        kept = contents.get("weights") if isinstance(contents, dict) else None
        kept = kept if isinstance(kept, dict) else {}
        named = {str(k): v.contiguous() for k, v in kept.items() if isinstance(v, torch.Tensor) and v.numel()}
        save_file(named or weights, made / "model.safetensors")
        (made / "config.json").write_text(as_json(contents.get("about") if isinstance(contents, dict) else 0))
        restoring.restored(made / "model.safetensors")

    return good, read


def as_json(value: Any) -> str:
    return json.dumps(value, default=lambda other: str(other)[:50])


def scenes(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """The transforms of a scene."""
    from autoint.scenes.data.blender import blender
    from autoint.scenes.data.transforms import transforms
    from tests.files.fuzz import scene

    good = [json.loads(text) for text in scene(folder)]

    def read(contents: Any, draw: random.Random) -> None:
        one = draw.choice(contents) if isinstance(contents, list) and contents else contents
        (folder / "transforms_train.json").unlink(missing_ok=True)
        text = as_json(one)
        if draw.random() < 0.1:
            text = text.replace('"frames"', '"frames": [], "frames"', 1)
        if draw.random() < 0.7:
            (folder / "transforms.json").write_text(text)
            bounds = draw.choice(("auto", "aabb_scale"))
            transforms(str(folder), "train", None, path=".", hold_every=2, bounds=bounds)
        else:
            (folder / "transforms_train.json").write_text(text)
            blender(str(folder), "train", None, path=".")

    return good, read


def scans(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A sinogram with its angles, and the poses of a forward-facing capture."""
    from autoint.scenes.data.llff import llff
    from autoint.tomography.data.scans import sinogram
    from tests.scenes import captures

    captures.write_llff(folder, captures.Camera(5.0, 5.0, 2.0, 1.5, 4, 3), captures.facing(3))
    values = np.sin(np.arange(48.0)).reshape(8, 6) + 2
    good = {"sinogram": values, "theta": np.arange(8) * 20.0, "poses": np.load(folder / "poses_bounds.npy")}

    def read(contents: Any, draw: random.Random) -> None:
        arrays = {str(k) or "x": v for k, v in contents.items() if not isinstance(v, torch.Tensor)}
        arrays = {k.replace("/", "_").replace("\n", ""): as_array(v) for k, v in arrays.items()}
        if draw.random() < 0.3 and "poses" in arrays:
            np.save(folder / "poses_bounds.npy", arrays["poses"])
            llff(str(folder), "train", None, path=".", ndc=draw.random() < 0.5)
        np.savez_compressed(folder / "a.npz", **arrays)
        sinogram(str(folder), None, None, path="a.npz")

    return good, read


def as_array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, OverflowError, TypeError):
        return np.asarray(str(value)[:50])


def configurations(folder: Path, task: str = "volrend") -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A file of configuration, composed by the program as it is, but for the run itself."""
    import yaml

    from autoint.runs import named_code
    from autoint.runs.command_line.cli import entry

    place = folder / "conf" / "experiment" / "sent.yaml"
    place.parent.mkdir(parents=True)
    own: dict[str, Any] = {"sections": 4, "image_size": 12, "scene": {"num_solids": 2}}
    if task == "function":
        own = {"function": "cos", "lower": [-1.0], "upper": 1, "points": 64}
    own["hydra"] = {
        "mode": "RUN",
        "run": {"dir": "runs/${batch_size}"},
        "sweep": {"dir": "sweeps", "subdir": "${hydra.job.num}"},
        "sweeper": {"params": {"batch_size": "2,4", "seed": "1"}},
        "job": {"name": "x"},
    }
    good = {
        "seed": 1,
        "defaults": [{"override /activation": "sine"}, "_self_"],
        "batch_size": 32,
        "network": {"hidden_features": 8, "num_layers": 2},
        "optimizer": {"lr": 0.001, "betas": [0.9, 0.99]},
        "encoding": {"num_frequencies": 3},
        "trainer": {"max_steps": 2},
        "data_dir": "${logger.name}",
        **own,
    }

    def job(composed: Any) -> None:
        from autoint.runs.config import RunConfig

        named_code.check(RunConfig.from_hydra(composed).options, named_code.named(), "a file")

    program = entry("config", groups=True)(job)

    def read(contents: Any, draw: random.Random) -> None:
        text = as_json(contents)  # which is YAML too
        with contextlib.suppress(RecursionError):
            text = yaml.safe_dump(json.loads(text), allow_unicode=True)
        place.write_text("# @package _global_\n" + text)
        words = ["--config-dir", str(folder / "conf"), f"task={task}", "experiment=sent"]
        run_program(program, ["train.py", *["-m"] * (draw.random() < 0.1), *words], folder)

    return good, read


def run_program(main: Callable[[], None], words: list[str], folder: Path) -> None:
    """Run a program as it is; ``ValueError`` with what it says where it ends with status 2."""
    import io
    import warnings

    from hydra.core.global_hydra import GlobalHydra

    before, told, where = sys.argv, io.StringIO(), Path.cwd()
    GlobalHydra.instance().clear()
    sys.argv = words
    os.environ["HYDRA_FULL_ERROR"] = "0"  # which a program that failed has left behind
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which the tests make errors of: Hydra's of hydra.mode beside -m
            main()
    except SystemExit as stop:
        said = told.getvalue().strip()
        if stop.code == 2:
            raise ValueError(said.removeprefix("error: ")) from None
        if stop.code:
            raise RuntimeError(f"status {stop.code}: {said[-500:]}") from None
    finally:
        sys.argv = before
        os.chdir(where)


def surfaces(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A checkpoint of a surface, restored and made a mesh."""
    from autoint.runs import checkpoints as files
    from autoint.runs import restoring
    from autoint.runs.export import export_mesh
    from autoint.runs.training import fit
    from tests.surfaces.test_task import config

    trainer = {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False}
    fit(config(shape="torus", trainer=trainer, resolution=8), folder / "run")
    good = files.load(folder / "run" / "checkpoints" / "last.ckpt")

    def read(contents: Any, draw: random.Random) -> None:
        file = folder / "sent.ckpt"
        try:
            torch.save(contents, file)
        except (RecursionError, RuntimeError, TypeError):
            return
        if draw.random() < 0.8:
            restoring.restored(file)
        else:
            (folder / "mesh.ply").unlink(missing_ok=True)
            export_mesh(str(file), str(folder / "mesh.ply"), 8)

    return good, read


def trees(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A baked tree: its configuration and its tensors, and a picture of it where they are taken."""
    from safetensors.torch import load_file, save_file

    from autoint.runs import training
    from autoint.scenes.baking import bake
    from autoint.scenes.session import load
    from tests.runs.test_resume import volrend_config

    model = {"name": "section_means"}
    training.fit(volrend_config(model=model, background="white", trainer={"max_steps": 3}), folder / "run")
    made = bake(str(folder / "run"), str(folder / "tree"), resolution=16, directions=4, degree=1)
    file = made / "model.safetensors"
    weights, camera = load_file(file), load(made, device="cpu").cameras("test", 1)[0]
    good = {"about": json.loads((made / "config.json").read_text()), "weights": weights}

    def read(contents: Any, draw: random.Random) -> None:
        kept = contents.get("weights") if isinstance(contents, dict) else None
        kept = kept if isinstance(kept, dict) else {}
        named = {str(k): v.contiguous() for k, v in kept.items() if isinstance(v, torch.Tensor) and v.numel()}
        save_file(named or weights, file)
        (made / "config.json").write_text(as_json(contents.get("about") if isinstance(contents, dict) else 0))
        run = load(made, device="cpu")
        run.render(camera)

    return good, read


def clouds(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A PLY file: what its header says, and what follows it."""
    from autoint.registry import SHAPES

    numbers = np.random.default_rng(0).normal(size=(20, 6)).round(3)
    vertex = {"name": "vertex", "count": 20, "properties": [f"float {k}" for k in ("x", "y", "z", "nx", "ny", "nz")]}
    face = {"name": "face", "count": 2, "properties": ["list uchar int vertex_indices"]}
    triangles = [[3, 0, 1, 2], [3, 1, 2, 3]]
    good = {"form": "ascii 1.0", "elements": [vertex, face], "rows": numbers.tolist(), "faces": triangles}
    file = folder / "sent.ply"

    def read(contents: Any, draw: random.Random) -> None:
        contents = contents if isinstance(contents, dict) else {}
        binary = draw.random() < 0.4
        form = "binary_little_endian 1.0" if binary and contents.get("form") == "ascii 1.0" else contents.get("form")
        lines = ["ply", f"format {form}"]
        elements = contents.get("elements")
        for part in elements if isinstance(elements, list) else [elements]:
            part = part if isinstance(part, dict) else {}
            lines.append(f"element {part.get('name')} {part.get('count')}")
            told = part.get("properties")
            lines += [f"property {one}" for one in (told if isinstance(told, list) else [told])]
        head = "\n".join([*lines, "end_header\n"]).encode(errors="replace")
        if binary:
            body = b"".join(as_bytes("<f4", row) for row in listed(contents.get("rows")))
            body += b"".join(
                as_bytes("u1", row[:1]) + as_bytes("<i4", row[1:]) for row in listed(contents.get("faces"))
            )
        else:
            every = [*listed(contents.get("rows")), *listed(contents.get("faces"))]
            body = "\n".join(" ".join(map(str, row)) for row in every).encode(errors="replace")
        file.write_bytes(head + body)
        SHAPES.build({"name": draw.choice(("points", "mesh")), "path": str(file)}, str(folder)).sample(5, 0)

    return good, read


def listed(value: Any) -> list[list[Any]]:
    """A table of whatever there is."""
    return [row if isinstance(row, list) else [row] for row in value] if isinstance(value, list) else []


def as_bytes(form: str, row: list[Any]) -> bytes:
    try:
        return np.array(row, dtype=np.float64).astype(form).tobytes()
    except (ValueError, TypeError, OverflowError):
        return str(row)[:50].encode()


def colmap_models(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """COLMAP's three tables, as texts and as bytes, beside the images."""
    from autoint.registry import DATASETS
    from tests.scenes import captures

    points = np.random.default_rng(0).normal(size=(12, 3)) * 0.3
    cameras = [captures.Camera(5.0, 5.0, 2.0, 1.5, 4, 3)] * 6
    captures.write_colmap(folder, cameras, captures.around(6), "txt", points)
    place = folder / "sparse" / "0"
    names = ("cameras", "images", "points3D")
    good = {name: [line.split() for line in (place / f"{name}.txt").read_text().split("\n")] for name in names}
    good = {name: [list(map(number_or_text, row)) for row in rows] for name, rows in good.items()}

    def read(contents: Any, draw: random.Random) -> None:
        tables = {name: listed(contents.get(name) if isinstance(contents, dict) else 0) for name in names}
        for name, rows in tables.items():
            text = "\n".join(" ".join(map(str, row)) for row in rows)
            (place / f"{name}.txt").write_text(text, errors="replace")
        DATASETS.build({"name": "colmap", "path": str(folder)}, str(folder), "train", None)

    return good, read


def colmap_bytes(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """COLMAP's binary tables, as their numbers one by one."""
    from autoint.registry import DATASETS
    from tests.scenes import captures

    points = np.random.default_rng(0).normal(size=(12, 3)) * 0.3
    cameras = [captures.Camera(5.0, 5.0, 2.0, 1.5, 4, 3)] * 6
    captures.write_colmap(folder, cameras, captures.around(6), "bin", points)
    place = folder / "sparse" / "0"
    files = {name: (place / f"{name}.bin").read_bytes() for name in ("cameras", "images", "points3D")}
    good = {name: {"count": raw[:8].hex(), "rest": list(raw[8:])} for name, raw in files.items()}

    def read(contents: Any, draw: random.Random) -> None:
        for name, raw in files.items():
            part = contents.get(name) if isinstance(contents, dict) else None
            part = part if isinstance(part, dict) else {}
            rest = part.get("rest") if isinstance(part.get("rest"), list) else []
            made = b"".join(bytes([x]) if type(x) is int and 0 <= x < 256 else packed(x) for x in rest)
            (place / f"{name}.bin").write_bytes(raw[:8] * ("count" in part) + made)
        DATASETS.build({"name": "colmap", "path": str(folder)}, str(folder), "train", None)

    return good, read


def packed(value: Any) -> bytes:
    """A number as eight bytes, and anything else as some text."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    return struct.pack("<q", value % 2**62) if type(value) is int else str(value)[:30].encode()


def number_or_text(word: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word)
    return word


def matlab(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A sinogram with its angles in MATLAB's file."""
    import warnings

    from scipy.io import savemat

    from autoint.tomography.data.scans import sinogram

    values = np.sin(np.arange(48.0)).reshape(8, 6) + 2
    good = {"sinogram": values, "theta": np.arange(8) * 20.0, "note": "by hand", "more": {"pixel": [0.1, 0.2]}}

    def read(contents: Any, draw: random.Random) -> None:
        contents = contents if isinstance(contents, dict) else {"x": 0}
        named = {str(k)[:31]: v for k, v in contents.items() if not isinstance(v, torch.Tensor)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that MATLAB does not have
            try:
                savemat(folder / "a.mat", named, do_compression=draw.random() < 0.5)
            except Exception:  # which cannot be written either
                return
        sinogram(str(folder), None, None, path="a.mat")

    return good, read


def camera_paths(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A camera path in nerfstudio's JSON."""
    from autoint.scenes.camera_paths import read_path, write_path
    from autoint.scenes.rays import Intrinsics
    from tests.scenes import captures

    file = folder / "path.json"
    pinhole = torch.tensor([[5.0, 5.0, 2.0, 1.5]]).expand(3, 4)
    write_path(file, captures.around(3), Intrinsics(pinhole, 4, 3), 24.0)
    good = json.loads(file.read_text())

    def read(contents: Any, draw: random.Random) -> None:
        file.write_text(as_json(contents))
        read_path(file)

    return good, read


KINDS: dict[str, Kind] = {
    "checkpoint": checkpoints,
    "checkpoint_ct": lambda folder: checkpoints(folder, "ct"),
    "checkpoint_function": lambda folder: checkpoints(folder, "function"),
    "checkpoint_surface": surfaces,
    "export": exports,
    "tree": trees,
    "scene": scenes,
    "colmap": colmap_models,
    "colmap_bin": colmap_bytes,
    "camera_path": camera_paths,
    "scan": scans,
    "mat": matlab,
    "ply": clouds,
    "yaml": configurations,
    "yaml_function": lambda folder: configurations(folder, "function"),
}
