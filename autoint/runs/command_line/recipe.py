"""The recipe of a scene's training: the model, encodings and sizes that do best on the machine at hand.

It lies beneath all that is named: recipe < faithful < scale < experiment < method < the command line. Its sizes are
those of ``conf/scale/laptop.yaml`` and ``conf/scale/gpu.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from hydra._internal import hydra as programs
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from autoint.registry import MODELS
from autoint.runs.resuming import LIFTED
from autoint.runs.schedule import seconds_of

MODEL = "section_means"
OF_INTEGRAL_NETWORKS = ("fit", "grad_net", "color", "networks")
"""Keys that say nothing to the other models: who names one of them means ``model=autoint``."""
NOTHING_VARIES = ("nerf_tree", "neural_volumes", "unisurf")
"""Models that take no encoding of positions with a grid."""
BANDS = "normalized_positional"
SUITED: dict[str, dict[str, tuple[str, int | None, int]]] = {
    "laptop": {MODEL: ("fine_grid", None, 2), "autoint": ("grid", None, 0), "nerf": (BANDS, 6, 2)},
    "cpu": {MODEL: ("fine_grid", None, 2), "autoint": ("grid", None, 0), "nerf": (BANDS, 4, 0)},
    "gpu": {MODEL: ("finest_grid", None, 4), "autoint": ("grid", None, 0), "nerf": (BANDS, 10, 4)},
    "full": {m: (BANDS, 10, 4) for m in ("autoint", "nerf", "light_field")} | {MODEL: ("finest_grid", None, 4)},
    "tiny": {MODEL: (BANDS, 3, 1), "autoint": (BANDS, 3, 1), "nerf": (BANDS, 3, 1)},
}
"""By scale and model: the encoding, its bands if not its own, and the bands of the direction."""
LIKE = {"efficient_nerf": "nerf", "light_field": MODEL, "potential": MODEL}
"""Models that are suited by what suits another, where nothing else is said of them."""


class Recipe(NamedTuple):
    """What lies beneath a scene's training.

    Attributes:
        model: the model that is chosen.
        encoding: the encoding that is chosen.
        bands: those of the encoding, or None for its own.
        directions: the bands of the direction's encoding, or None for its own.
        machine: whose sizes are taken.
        timed: whether the machine's limit of time holds.
    """

    model: str
    encoding: str
    bands: int | None
    directions: int | None
    machine: str
    timed: bool


OF_THE_RECIPE = "of the recipe"
"""Stands for the machine's number of steps while a configuration is composed, so that one that is named is known."""


class Loader(ConfigLoaderImpl):
    """Composes a training above the recipe that suits what it names.

    That is guessed from the command line, and composed once more where it turns out to be another. What the command
    line names lifts the limit that would cut it, see ``LIFTED``, unless that is named too.
    """

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        """Compose as Hydra does, with the recipe that suits what the configuration names."""
        named = _named(overrides)
        recipe = _guess(named)
        self._store(recipe)
        config = super().load_configuration(config_name, overrides, *args, **kwargs)
        if config.hydra.runtime.choices.get("task") == "volrend":
            suited = _suited(config, recipe, named)
            if suited != recipe:
                self._store(suited)
                config = super().load_configuration(config_name, overrides, *args, **kwargs)
            if OmegaConf.select(config, "trainer.max_steps") == OF_THE_RECIPE:
                sizes = self.repository.load_config(f"scale/{suited.machine}")
                steps = OmegaConf.select(sizes.config, "trainer.max_steps") if sizes else None
                OmegaConf.update(config, "trainer.max_steps", steps)
        for key, lifted in LIFTED.items():
            if key in named and lifted not in named and OmegaConf.select(config, lifted) is not None:
                OmegaConf.update(config, lifted, None)
        return config

    def _store(self, recipe: Recipe) -> None:
        """Make the recipe available to ``conf/task/volrend.yaml``: a file of sizes, single values, and choices."""
        choices = {"model": recipe.model, "encoding": recipe.encoding, "placement": "proposal"}
        defaults = [f"/scale/{recipe.machine}", "_self_", *({f"override /{k}": v} for k, v in choices.items())]
        values: dict[str, Any] = {
            "trainer": {"max_steps": OF_THE_RECIPE} | ({} if recipe.timed else {"max_time": None})
        }
        for key, bands in (("encoding", recipe.bands), ("direction_encoding", recipe.directions)):
            values |= {} if bands is None else {key: {"num_frequencies": bands}}
        # A worker's loader has a copy of the store.
        for store in (ConfigStore.instance(), getattr(self.repository.get_schema_source(), "store")):  # noqa: B009
            store.store(name="recipe", node={"defaults": defaults, **values}, package="_global_")


def _of(column: Mapping[str, tuple[str, int | None, int]], model: str) -> tuple[str, int | None, int] | None:
    return column.get(model) or column.get(LIKE.get(model, model))


def _guess(named: Mapping[str, str]) -> Recipe:
    """Return the recipe that suits what the command line names by itself."""
    machine = machine_of({"accelerator": named.get("trainer.accelerator")})
    model = "autoint" if of_integral_networks(named) else MODEL
    column = SUITED.get(named.get("scale", ""), SUITED[machine])
    given = named.get("model", model)
    encoding, bands, directions = _of(column, given) or column[model]
    if bands is not None:  # which hold unless the encoding is named, and that is not known yet
        encoding, bands = SUITED["laptop"][model][0], None
    return Recipe(model, encoding, bands, directions, machine, "trainer.max_steps" not in named)


def _suited(config: DictConfig, guess: Recipe, named: Mapping[str, str]) -> Recipe:
    """Return the recipe that suits a configuration, which was composed above ``guess``."""
    choices = config.hydra.runtime.choices
    trainer = config.get("trainer")  # which a file may have made a number, and is refused for later
    machine = machine_of(trainer if isinstance(trainer, DictConfig) else {})
    column = SUITED.get(str(choices.scale), SUITED[machine])
    model = str(OmegaConf.select(config, "model.name"))
    encoding, bands, directions = _of(column, model) or (BANDS, None, 4)
    chosen = "encoding" in named or choices.encoding != guess.encoding
    return Recipe(
        guess.model,
        encoding,
        None if chosen else bands,
        directions if choices["encoding@direction_encoding"] == BANDS else None,
        machine,
        OmegaConf.select(config, "trainer.max_steps") in (OF_THE_RECIPE, None),
    )


def install() -> None:
    """Let Hydra compose by :class:`Loader`, which launchers send to their workers together with the jobs."""
    programs.ConfigLoaderImpl = Loader  # type: ignore[attr-defined]


def _named(overrides: Iterable[str]) -> dict[str, str]:
    """Return the keys that a command line names, with what it gives them."""
    words = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in words}


def of_integral_networks(named: Iterable[str]) -> list[str]:
    """Return which of the keys say something to integral networks only."""
    return sorted({key.partition(".")[0] for key in named}.intersection(OF_INTEGRAL_NETWORKS))


def machine_of(trainer: Mapping[str, Any]) -> str:
    """Return which sizes suit the device that ``trainer.accelerator`` will choose: gpu, or laptop."""
    accelerator = trainer.get("accelerator") or "auto"
    return (
        "gpu" if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()) else "laptop"
    )


def told(composed: DictConfig, hydra: Any) -> list[str]:
    """Return what a scene's training should tell of its sizes, a line, and of keys that choose its model.

    Raises:
        ValueError: for keys of integral networks beside a model that has none, and for ``smooth`` where nothing varies.
    """
    if composed.task != "volrend":
        return []
    size, net, trainer = composed.image_size or composed.max_image_size, composed.network, composed.trainer
    pixels = f"{size}×{size} pixels" if size else "images as large as they are"
    device = "GPU" if machine_of(trainer) == "gpu" else "CPU"
    line = f"{device}: {pixels}, {net.num_layers}×{net.hidden_features} network, {_budget(trainer)}"
    lines = [line + ("; scale=full for the paper's" if hydra.runtime.choices.scale == "auto" else "")]
    named = _named(hydra.overrides.task)
    own, model = of_integral_networks(named), composed.model.name
    if own and model != "autoint":
        raise ValueError(f"{' and '.join(own)}: says nothing to model={model}; leave it out, or take model=autoint")
    if own and "model" not in named:
        lines.append(f"model=autoint, because of {' and '.join(own)}; without it, model={MODEL} does better")
    gridless = f"model={model}" if model in NOTHING_VARIES else f"encoding={composed.encoding.name}"
    if "smooth" in named and composed.smooth and gridless != "encoding=grid":
        mend = "give model.smooth, or leave it out" if "smooth" in MODELS.fields(model) else "leave it out"
        raise ValueError(f"smooth: says nothing to {gridless}, which learns no grid of positions; {mend}")
    return lines


def _budget(trainer: Mapping[str, Any]) -> str:
    """Return what ends a training, in words: its time, or else its steps."""
    limit, steps = trainer.get("max_time"), trainer.get("max_steps")
    if limit is None:
        return f"{steps} step{'' if steps == 1 else 's'}"
    minutes = seconds_of("trainer.max_time", limit) / 60
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"
