"""Frames per second of the viewer at 200×200, of eight sections and of the tree that is baked of them.

``python -m benchmarks viewer`` trains the embedded scene for some seconds, ``python -m benchmarks.viewer runs=RUN``
takes a run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import autoint
from autoint.scenes.baking import bake
from autoint.scenes.session import Run
from autoint.scenes.viewing import MOVING, Look, Painter
from benchmarks.measure import Tables, fastest, report

SIZE, SECTIONS = 200, 8


def measure(run: Run, tree: Run, rounds: int) -> dict[str, dict[str, float]]:
    """Return frames per second, how much faster the tree is, and how large pictures are while the camera moves."""
    camera = run.cameras("test", 1)[0].resized(SIZE, SIZE)
    painters = {f"N={SECTIONS}": Painter(run.module, run.config), "tree": Painter(tree.module, tree.config)}
    look = Look(sections=SECTIONS)
    pictures: dict[str, Any] = {name: lambda p=painter: p.picture(camera, look) for name, painter in painters.items()}
    seconds = fastest(pictures, rounds)
    for name, painter in painters.items():
        for _ in range(10):  # as the browser asks for them
            size = painter.coarse()
            moving = fastest({name: lambda p=painter, s=size: p.picture(camera.resized(s, s), look)}, 1)
            painter.took(size, moving[name])
    return {
        f"frames per second at {SIZE}x{SIZE}": {name: 1 / value for name, value in seconds.items()},
        "times faster than sections": {name: seconds[f"N={SECTIONS}"] / value for name, value in seconds.items()},
        f"pixels of a side that take {MOVING} s": {name: float(p.coarse()) for name, p in painters.items()},
    }


def run(quick: bool) -> Tables:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        trained = autoint.train("procedural", steps=60 if quick else 600, sections=SECTIONS, folder=place)
        tree = bake(str(place), resolution=64 if quick else None)
        return measure(trained, autoint.load(tree), 2 if quick else 7)


def main() -> None:
    """Measure, print and write."""
    known = OmegaConf.create({"runs": "", "tree": ""})
    OmegaConf.set_struct(known, True)
    options = OmegaConf.merge(known, OmegaConf.from_cli())
    tree = options.tree or bake(options.runs)
    report("viewer", measure(autoint.load(options.runs), autoint.load(tree), 7))


if __name__ == "__main__":
    main()
