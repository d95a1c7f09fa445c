"""A trained model as ``model.safetensors`` and ``config.json``, to be passed on.

Neither can hold code, and neither says anything of the machine or the person: no paths, no names of user or host.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from safetensors.torch import save
from torch import Tensor

import autoint
from autoint.files import meshes
from autoint.files.whole_files import new_part
from autoint.runs import checkpoints, restoring
from autoint.runs.config import RunConfig

LARGEST = 1024
MOST_POINTS = 10**7
OF_THE_RUN_ALONE = ("data_dir", "ckpt_path", "resume", "logger", "report", "trainer")


def export(run: str, to: str | None = None, code: Collection[str] = ()) -> Path:
    """Write the two files of a run's last checkpoint, or of a given one, into a folder that is whole or absent.

    Args:
        run: a run's folder, or a checkpoint.
        to: the new folder; by default ``export`` in the run's folder.
        code: the run's own function, ``package.module:callable``, where it has one: nothing else is imported.

    Raises:
        ValueError: where there is no checkpoint, where it is no good, and for a folder that exists.
    """
    file = checkpoints.last(run)
    contents = checkpoints.load(file)
    config, _ = restoring.restored(file, code, f"autoint export {shlex.quote(run)}")
    folder = Path(to) if to else beside(run, "export")
    steps = contents.get("global_step", 0)
    return write(folder, contents["state_dict"], config, steps)


def export_mesh(run: str, to: str, resolution: int = 256, code: Collection[str] = (), points: int | None = None) -> str:
    """Write the surface of a run's last checkpoint, or of a given one, as a mesh; return what is to be said of it.

    Args:
        run: a run's folder, or a checkpoint, of a surface, or of a scene with a density at points.
        to: the new file, .ply, .glb or .obj.
        resolution: cells along the longest side of the box that is looked at.
        code: the run's own function, where it has one.
        points: so many points of the surface, uniform by area, with its normals and colours, instead of triangles.

    Raises:
        ValueError: for a run that has no surface, a file that exists, and one of another kind.
    """
    out = Path(to)
    meshes.check_kind(out, meshes.KINDS if points is None else (".ply",))
    if points is not None and not 1 <= points <= MOST_POINTS:
        raise ValueError(f"--points={points} must be between 1 and {MOST_POINTS}")
    meshes.load_trimesh()
    if out.exists():
        raise ValueError(f"{out} exists; remove it, or name another file")
    if not 8 <= resolution <= LARGEST:
        raise ValueError(f"--resolution={resolution} must be between 8 and {LARGEST}")
    file = checkpoints.last(run)
    config, module = restoring.restored(file, code, f"autoint export {shlex.quote(run)} {shlex.quote(to)}")
    find: Any = getattr(module, "surface", None)
    if find is None:
        raise ValueError(f"{run}: task={config.task} has no surface; give a run of task=surface or task=volrend")
    try:
        mesh, told = find(resolution)
    except ValueError as error:
        raise ValueError(f"{run}: {error}") from error
    if points is not None:
        x, normals, colors = mesh.scattered(points)
        meshes.write(out, x, None, normals, colors)
        return f"{out}: {points} points of the surface at {told}"
    meshes.write(out, mesh.vertices, mesh.faces, mesh.normals, mesh.colors)
    closed = "watertight" if mesh.watertight else "not watertight: it is cut by the box, or has holes"
    return f"{out}: {len(mesh.vertices)} vertices, {len(mesh.faces)} triangles, at {told}; {closed}"


def beside(run: str, name: str) -> Path:
    """Return the folder of that name in a run's folder, or beside a checkpoint."""
    return (Path(run) if Path(run).is_dir() else Path(run).parent) / name


def unused(folder: Path) -> Path:
    """Return the folder; ``ValueError`` if it exists."""
    if folder.exists():
        raise ValueError(f"{folder} exists; remove it, or give another folder by --to")
    return folder


def write(folder: Path, state: Mapping[str, Tensor], config: RunConfig, steps: int) -> Path:
    """Write weights, and whose they are, into a new folder, whole or not at all; ``ValueError`` if it exists.

    ``checkpoints.load`` reads the folder's weights like a checkpoint.
    """
    unused(folder).parent.mkdir(parents=True, exist_ok=True)
    part = new_part(folder.parent, ".export-", directory=True)
    try:
        weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
        (part / checkpoints.WEIGHTS).write_bytes(save(weights))  # save_file makes it the owner's alone
        about = {"format": checkpoints.FORMAT, "version": autoint.__version__, "global_step": steps}
        text = json.dumps({**about, "config": public(config)}, indent=2) + "\n"
        (part / checkpoints.CONFIG).write_text(text, encoding="utf-8")
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


def public(config: RunConfig) -> dict[str, Any]:
    """Return what defines the model and its training; of a path that leads out of ``data_dir``, the last part only."""
    plain = {key: value for key, value in config.to_plain().items() if key not in OF_THE_RUN_ALONE}
    return {str(key): _without_paths(value) for key, value in plain.items()}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if isinstance(value, str):
        path = PureWindowsPath(value)  # which knows both kinds of separators
        return path.name if path.drive or path.root or value.startswith("~") or ".." in path.parts else value
    return value
