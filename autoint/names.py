"""Public names, found on their first use, and names of modules that have moved since 0.1.0."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

MOVED = {
    "files": "data.images:files.images data.reading:files.reading memory:files.machine",
    "networks": "activations compilation drawing encodings grad_nets",
    "integrals": "antiderivatives data.functions:integrals.functions fitting quadrature tasks.function:integrals.task",
    "scenes": "camera_paths colors data occupancy ray_panel rays rendering sections tasks:scenes "
    "tasks.volrend:scenes.task video volume",
    "scenes.data": "data.loading:scenes.data.batches",
    "scenes.models": "integral_volume models:scenes.models nerf radiance_field",
    "tomography": "classics sparse_gradient sinogram_models:tomography.models tasks.ct:tomography.task",
    "tomography.data": "data.exchange:tomography.data.exchange data.phantoms:tomography.data.phantoms "
    "data.scans:tomography.data.scans data.sinograms:tomography.data.sinograms",
    "runs": "build callbacks checkpoints composing:runs.command_line.composing config evaluation loggers schedule "
    "seeding stopping:runs.signals training",
    "reports": "closeups metrics pictures tables",
}
"""Where the modules are that stood in ``autoint`` itself; ``old:new`` where the name is another."""
REPLACED = {"autoint.export": "autoint export RUN", "autoint.data.download": "autoint download SCENE"}
"""Programs that were started by ``python -m``, and the commands that replaced them."""


def public(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names are imported when first used.

    Args:
        package: its name.
        homes: the module of each public name.
    """

    def get(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    names = sorted(homes)
    return get, lambda: [*names], names


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under the name that it had, with a warning."""

    def __init__(self) -> None:
        pairs = [(room, *module.partition(":")[::2]) for room, modules in MOVED.items() for module in modules.split()]
        names = {f"autoint.{old}": f"autoint.{new or f'{room}.{old}'}" for room, old, new in pairs}
        self.names = dict(sorted(names.items(), key=lambda pair: -len(pair[0])))  # data.images before data

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return a specification for a moved module or a submodule of one."""
        if fullname in REPLACED or self._now(fullname):
            return importlib.machinery.ModuleSpec(fullname, self)
        return None

    def _now(self, name: str) -> str | None:
        for old, new in self.names.items():
            if name == old or name.startswith(f"{old}."):
                return new + name[len(old) :]
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Let a module be made, which :meth:`exec_module` exchanges."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Put the module that is meant in the place of the new one."""
        old = module.__name__
        new = self._now(old)
        if new is None:
            raise ImportError(f"{old} is a command now: {REPLACED[old]}")
        warnings.warn(f"{old} is {new} now; the old name goes with version 0.3", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)

    def get_code(self, fullname: str) -> None:
        """End ``python -m``, which asks for the program it is to run, with one line that says what replaced it."""
        raise SystemExit(f"python -m {fullname} is now: {REPLACED.get(fullname, f'import {self._now(fullname)}')}")


def find_moved() -> None:
    """Let the modules that have moved be found under their old names too."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Moved())
