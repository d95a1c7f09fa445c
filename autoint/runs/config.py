"""The configuration of a run: what Hydra composed, checked, as plain data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    SHAPES,
    TASKS,
    Registry,
    at_least_one,
    checked,
    fields_of,
    nearest,
    one_of,
)
from autoint.runs import sizes
from autoint.runs.plain import check_plain

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
    "shape": SHAPES,
    "logger": LOGGERS,
}
LPIPS_NETS = ("none", "alex", "vgg")
FITS = ("integral_net", "grad_net")


@dataclass
class Network:
    """Size of an integral network.

    Attributes:
        hidden_features: width of its hidden layers.
        num_layers: how many hidden layers.
    """

    hidden_features: int = 64
    num_layers: int = 4


@dataclass
class Optimizer:
    """Adam, with a linear warm-up and a cosine decay from ``lr`` to ``lr·final`` over the run's budget.

    With ``decay_steps`` the decay is the paper's instead: ``lr`` is multiplied by ``final`` every so many steps.

    Attributes:
        lr: learning rate.
        betas: Adam's two averaging factors.
        warmup_steps: steps over which the learning rate rises from 0.
        final: share of lr at the end of the budget; with decay_steps, by which lr is multiplied each time.
        decay_steps: steps between two decays; None decays by a cosine over the whole budget.
        encoding_lr: learning rate of what encodings learn, such as grids of features, which a step meets a small part
            of; None for ``lr``.
    """

    lr: float = 5e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    warmup_steps: int = 100
    final: float = 0.02
    decay_steps: int | None = None
    encoding_lr: float | None = None


@dataclass
class Report:
    """What is written after a sweep, and how its runs are evaluated for it, by ``evaluate.py``'s keys.

    Attributes:
        layout: what a sweep writes: table1, figure5, deepvoxels, systems, figure3, sparse_ct, or none.
        max_images: evenly spaced test views of each run; None takes all.
        chunk_size: rays at a time, which bounds the memory.
        lpips: backbone, vgg or alex; or none, for no LPIPS.
        lpips_weights: file with torchvision's weights of the backbone, or download; None takes torch's cache.
    """

    layout: str = "none"
    max_images: int | None = None
    chunk_size: int = 16384
    lpips: str = "vgg"
    lpips_weights: str | None = None


NESTED: dict[str, type[Any]] = {"network": Network, "optimizer": Optimizer, "report": Report}


@dataclass
class RunConfig:
    """Everything that defines a run.

    Attributes:
        task: what is trained.
        options: the keys that belong to the task.
        seed: of all that is random.
        data_dir: where the data sets are.
        fit: integral_net trains on differences of the integral network, grad_net on samples of its derivative.
        batch_size: rays or lines per step, of all processes together.
        val_every: steps between two validations.
        save_every: steps between two checkpoints.
        ckpt_path: go on from a checkpoint: last (of the run's folder), auto (the newest whole one there), or a file.
        resume: leave a finished run in the folder as it is, and finish an unfinished one; for sweeps.
        compile: compile the networks by torch.compile, a minute at the start.
        network: size of the networks.
        optimizer: Adam and its schedule.
        activation: nonlinearity of the integral network's layers.
        encoding: what the coordinates pass through before the first layer.
        grad_net: how the derivative of the integral network is computed.
        logger: beside metrics.csv, which is always written.
        report: what is written after a sweep.
        trainer: Lightning's own arguments, by their own names.
    """

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
        options = plain.get("options", {})
        if not isinstance(options, Mapping):
            raise ValueError(f"options={options!r:.80} must hold the keys of the task; restore the configuration")
        plain = {**plain, **options}
        plain.pop("options", None)
        task = plain.get("task", "")
        if not isinstance(task, str):
            raise ValueError(f"task={task!r:.80} must be one of: {', '.join(TASKS.names())}")
        shared = shared_fields()
        own = TASKS.fields(task)
        for key in plain:
            if key not in shared and key not in own:
                known = sorted([*shared, *own])
                raise ValueError(
                    f"unknown key '{key}'{nearest_key(key, known)} (keys of task={task}: {', '.join(known)})"
                )
        for key, registry in GROUPS.items():
            if key in shared or key in own:
                plain[key] = complete(key, registry, plain.get(key, (shared | own)[key][1]))
        for key in (*NESTED, "trainer"):
            if not isinstance(plain.get(key, {}), Mapping):
                keys = [*fields_of(NESTED[key])] if key in NESTED else ["max_steps", "max_time", "accelerator"]
                raise ValueError(f"{key}={plain[key]!r:.80} does not fit: {keyed(key, keys)}")
        values = checked(shared, {k: v for k, v in plain.items() if k in shared}, "")
        options = checked(own, {k: v for k, v in plain.items() if k in own}, "")
        for key, cls in NESTED.items():
            values[key] = cls(**checked(fields_of(cls), values[key], key))
        config = RunConfig(options=options, **values)
        sizes.check(dict(flat(config.to_plain())))
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
        for key in ("lr", "encoding_lr"):
            rate = getattr(self.optimizer, key)
            if rate is not None and not 0 < rate <= 10:
                raise ValueError(f"optimizer.{key}={rate} must be positive and at most 10")
        if len(self.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in self.optimizer.betas):
            raise ValueError(f"optimizer.betas={self.optimizer.betas} must be two numbers in [0, 1)")
        if not 0 <= self.optimizer.final <= 1:
            raise ValueError(f"optimizer.final={self.optimizer.final} must be between 0 and 1")


ELSEWHERE = {
    "trainer.max_steps": ("steps", "num_steps", "iterations", "iters", "epochs", "max_epochs"),
    "trainer.max_time": ("time", "minutes", "seconds"),
    "optimizer.lr": ("learning_rate", "learningrate", "lrate", "step_size"),
    "network.hidden_features": ("width", "hidden", "hidden_size", "hidden_dim", "netwidth"),
    "network.num_layers": ("depth", "layers", "hidden_layers", "netdepth"),
    "trainer.accelerator": ("device", "gpu", "gpus", "cuda", "cpu"),
    "hydra.run.dir": ("out", "output", "output_dir", "out_dir", "outdir", "save_dir", "exp_name"),
    "data_dir": ("data", "dataset", "datadir"),
}
"""Keys by the names that other programs give them."""


def renamed(key: str) -> str:
    """Return ``; did you mean 'optimizer.lr'?`` for ``optimizer.learning_rate``: its own head, another's name."""
    head, _, leaf = key.rpartition(".")
    meant = [ours for ours, theirs in ELSEWHERE.items() if leaf in theirs and head in ("", ours.partition(".")[0])]
    return f"; did you mean {meant[0]!r}?" if meant else ""


def keyed(key: str, keys: Sequence[str]) -> str:
    """Return what to say of a key that holds others, and was given something else."""
    return f"{key} holds keys ({', '.join(keys)}); give one by itself, as in {key}.{keys[0] if keys else 'KEY'}=VALUE"


def nearest_key(key: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'optimizer.lr'?`` for a key that is below another one, or the nearest of ``known``."""
    leaf = key.rpartition(".")[2]
    if meant_by_others := renamed(key):
        return meant_by_others
    nested = [f"{name}.{field}" for name, cls in NESTED.items() for field in fields_of(cls)]
    nested += [
        f"trainer.{name}" for name in ("max_steps", "max_time", "accelerator", "devices", "strategy", "precision")
    ]
    components = [
        f"{g}.{k}" for g, registry in GROUPS.items() for name in registry.names() for k in registry.fields(name)
    ]
    meant = [name for name in dict.fromkeys(nested + components) if name.endswith(f".{leaf}") and name != key]
    meant = [name for name in meant if name in nested] or meant
    return f"; did you mean {' or '.join(map(repr, meant[:3]))}?" if meant else nearest(key, known)


def owners(key: str) -> str:
    """Return ``, which is of scene=blender`` for an option that other choices of its group have, or an empty string."""
    group, _, leaf = key.partition(".")
    names = [name for name in GROUPS[group].names() if leaf in GROUPS[group].fields(name)] if group in GROUPS else []
    return f", which is of {group}={', '.join(names[:3])}{', …' if len(names) > 3 else ''}" if names else ""


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts under the keys that a user would give; ``options`` is none of them."""
    for key, value in values.items():
        name = prefix if key == "options" else f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flat(value, name if key == "options" else f"{name}.")
        else:
            yield name, value


def complete(key: str, registry: Registry[Any], choice: Any) -> dict[str, Any]:
    """Return a component's full configuration: its name and every option of that entry."""
    if isinstance(choice, str):
        choice = {"name": choice}
    if not isinstance(choice, Mapping) or not isinstance(choice.get("name"), str):
        raise ValueError(f"{key}={choice!r:.200} must be one of: {', '.join(registry.names())}")
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
