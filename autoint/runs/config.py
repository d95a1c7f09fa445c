"""The configuration of a run: what Hydra composed, checked, as plain data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from autoint.registry import (
    ACTIVATIONS,
    COLORS,
    DATASETS,
    ENCODINGS,
    GRAD_NETS,
    LAYOUTS,
    LOGGERS,
    MODELS,
    PHANTOMS,
    PLACEMENTS,
    TASKS,
    Registry,
    at_least_one,
    checked,
    fields_of,
    nearest,
    one_of,
)
from autoint.runs.composing import check_plain

GROUPS: dict[str, Registry[Any]] = {
    "activation": ACTIVATIONS,
    "encoding": ENCODINGS,
    "direction_encoding": ENCODINGS,
    "grad_net": GRAD_NETS,
    "model": MODELS,
    "color": COLORS,
    "placement": PLACEMENTS,
    "scene": DATASETS,
    "phantom": PHANTOMS,
    "logger": LOGGERS,
}
LPIPS_NETS = ("alex", "vgg")
FITS = ("integral_net", "grad_net")


@dataclass
class Network:
    """Size of an integral network: width and number of hidden layers."""

    hidden_features: int = 64
    num_layers: int = 4


@dataclass
class Optimizer:
    """Adam, with a linear warm-up and a cosine decay from ``lr`` to ``lr·final`` over the run's budget.

    With ``decay_steps`` the decay is the paper's instead: ``lr`` is multiplied by ``final`` every so many steps.
    """

    lr: float = 5e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    warmup_steps: int = 100
    final: float = 0.02
    decay_steps: int | None = None


@dataclass
class Report:
    """What is written after a sweep, and how its runs are evaluated for it, by ``evaluate.py``'s keys."""

    layout: str = "none"
    max_images: int | None = None
    chunk_size: int = 16384
    lpips: str = "vgg"
    lpips_weights: str | None = None


NESTED: dict[str, type[Any]] = {"network": Network, "optimizer": Optimizer, "report": Report}


@dataclass
class RunConfig:
    """Everything that defines a run. ``options`` holds the keys that belong to the task."""

    task: str
    options: dict[str, Any]
    seed: int = 0
    data_dir: str = "data"
    fit: str = "integral_net"
    batch_size: int = 512
    val_every: int = 1000
    save_every: int = 500
    ckpt_path: str | None = None
    resume: bool = False
    compile: bool = False
    network: Network = field(default_factory=Network)
    optimizer: Optimizer = field(default_factory=Optimizer)
    activation: Any = "swish"
    encoding: Any = "normalized_positional"
    grad_net: Any = "explicit"
    logger: Any = "csv"
    report: Report = field(default_factory=Report)
    trainer: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_hydra(composed: DictConfig) -> RunConfig:
        """Check what Hydra composed and return it; ``ValueError`` names the key, the value and what is allowed."""
        try:
            plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            missing = re.search(r"Interpolation key '([^']+)' not found", str(error))
            near = nearest(missing[1], map(str, composed)) if missing else ""
            raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}{near}") from error
        return RunConfig.from_plain(plain)

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> RunConfig:
        """Return the configuration held by a nested mapping, such as a checkpoint's."""
        check_plain(plain)
        plain = {**plain, **plain.get("options", {})}
        plain.pop("options", None)
        task = plain.get("task", "")
        shared = shared_fields()
        own = TASKS.fields(task)
        for key in plain:
            if key not in shared and key not in own:
                known = sorted([*shared, *own])
                raise ValueError(f"unknown key '{key}'{nearest(key, known)} (keys of task={task}: {', '.join(known)})")
        for key, registry in GROUPS.items():
            if key in shared or key in own:
                plain[key] = complete(key, registry, plain.get(key, (shared | own)[key][1]))
        values = checked(shared, {k: v for k, v in plain.items() if k in shared}, "")
        options = checked(own, {k: v for k, v in plain.items() if k in own}, "")
        for key, cls in NESTED.items():
            values[key] = cls(**checked(fields_of(cls), values[key], key))
        config = RunConfig(options=options, **values)
        config._check()
        return config

    def to_plain(self) -> dict[str, Any]:
        """Return the configuration as nested dicts of plain values."""
        return dataclasses.asdict(self)

    def _check(self) -> None:
        one_of("fit", self.fit, FITS)
        one_of("report.layout", self.report.layout, ("none", *LAYOUTS.names()))
        one_of("report.lpips", self.report.lpips, LPIPS_NETS)
        owner = self.task if self.report.layout == "none" else LAYOUTS.build(self.report.layout).task
        if owner != self.task:
            raise ValueError(
                f"report.layout={self.report.layout} is of task={owner}, not of task={self.task}; use none"
            )
        at_least_one(
            batch_size=self.batch_size,
            val_every=self.val_every,
            save_every=self.save_every,
            **{f"report.{key}": getattr(self.report, key) for key in ("max_images", "chunk_size")},
            **{f"network.{key}": value for key, value in dataclasses.asdict(self.network).items()},
        )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be between 0 and 2⁶³ − 1")
        at_least_one(**{"optimizer.decay_steps": self.optimizer.decay_steps})
        if not 0 < self.optimizer.lr <= 10:
            raise ValueError(f"optimizer.lr={self.optimizer.lr} must be positive and at most 10")
        if len(self.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in self.optimizer.betas):
            raise ValueError(f"optimizer.betas={self.optimizer.betas} must be two numbers in [0, 1)")
        if not 0 <= self.optimizer.final <= 1:
            raise ValueError(f"optimizer.final={self.optimizer.final} must be between 0 and 1")


def complete(key: str, registry: Registry[Any], choice: Any) -> dict[str, Any]:
    """Return a component's full configuration: its name and every option of that entry."""
    if isinstance(choice, str):
        choice = {"name": choice}
    if not isinstance(choice, Mapping) or "name" not in choice:
        raise ValueError(f"{key}={choice!r} must be one of: {', '.join(registry.names())}")
    name, given = registry.canonical(choice["name"]), {k: v for k, v in choice.items() if k != "name"}
    return {"name": name, **checked(registry.fields(name), given, key)}


def shared_fields() -> dict[str, tuple[Any, Any]]:
    """Return the keys that every task shares, ``{key: (type, default)}``."""
    out = fields_of(RunConfig)
    del out["options"]
    out["task"] = (str, "")
    for name, cls in NESTED.items():
        out[name] = (dict[str, Any], dataclasses.asdict(cls()))
    return out
