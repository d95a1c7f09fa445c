"""The recipe of a scene's training: the model, encodings and sizes that do best on the machine at hand.

It lies beneath all that is named: recipe < faithful < scale < experiment < method < the command line. Its sizes are
those of ``conf/scale/laptop.yaml`` and ``conf/scale/gpu.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from hydra._internal import hydra as programs
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from autoint.runs.resuming import LIFTED
from autoint.runs.schedule import seconds_of

MODEL = "section_means"
OF_INTEGRAL_NETWORKS = ("fit", "grad_net", "color", "networks")
"""Keys that say nothing to the other models: who names one of them means ``model=autoint``."""
BANDS = "normalized_positional"
SUITED: dict[str, dict[str, tuple[str, int | None, int]]] = {
    "laptop": {MODEL: ("fine_grid", None, 2), "autoint": ("grid", None, 0), "nerf": (BANDS, 6, 2)},
    "cpu": {MODEL: ("fine_grid", None, 2), "autoint": ("grid", None, 0), "nerf": (BANDS, 4, 0)},
    "gpu": {MODEL: ("finest_grid", None, 4), "autoint": ("grid", None, 0), "nerf": (BANDS, 10, 4)},
    "full": {MODEL: ("finest_grid", None, 4), "autoint": (BANDS, 10, 4), "nerf": (BANDS, 10, 4)},
    "tiny": {MODEL: (BANDS, 3, 1), "autoint": (BANDS, 3, 1), "nerf": (BANDS, 3, 1)},
}
"""By scale and model: the encoding, its bands if not its own, and the bands of the direction."""


class Loader(ConfigLoaderImpl):
    """Composes a training with its recipe: once to learn what is named, and once more above what suits it.

    What the command line names lifts the limit that would cut it, see ``LIFTED``, unless that is named too.
    """

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        """Compose as Hydra does, with the recipe that suits what the configuration names."""
        named = keys_of(overrides)
        model = "autoint" if of_integral_networks(named) else MODEL
        guess = SUITED["laptop"][model][0]
        self._store(model, guess, {"trainer": {"max_steps": None}})
        config = super().load_configuration(config_name, overrides, *args, **kwargs)
        choices = config.hydra.runtime.choices
        if choices.get("task") == "volrend":
            machine = machine_of(config.get("trainer") or {})
            column = SUITED.get(str(choices.scale), SUITED[machine])
            encoding, bands, directions = column.get(str(OmegaConf.select(config, "model.name")), (BANDS, None, 4))
            values: dict[str, Any] = {}
            if bands is not None and choices.encoding == guess and "encoding" not in named:
                values["encoding"] = {"num_frequencies": bands}
            if choices["encoding@direction_encoding"] == BANDS:
                values["direction_encoding"] = {"num_frequencies": directions}
            if OmegaConf.select(config, "trainer.max_steps") is not None:  # named above: no time limit from below
                values["trainer"] = {"max_time": None}
            self._store(model, encoding, values, f"/scale/{machine}")
            config = super().load_configuration(config_name, overrides, *args, **kwargs)
        for key, lifted in LIFTED.items():
            if key in named and lifted not in named and OmegaConf.select(config, lifted) is not None:
                OmegaConf.update(config, lifted, None)
        return config

    def _store(self, model: str, encoding: str, values: Mapping[str, Any], *sizes: str) -> None:
        """Make the recipe available to ``conf/task/volrend.yaml``: files of sizes, single values, and choices."""
        choices = {"model": model, "encoding": encoding, "placement": "proposal"}
        defaults = [*sizes, "_self_", *({f"override /{group}": choice} for group, choice in choices.items())]
        # A worker's loader has a copy of the store.
        for store in (ConfigStore.instance(), getattr(self.repository.get_schema_source(), "store")):  # noqa: B009
            store.store(name="recipe", node={"defaults": defaults, **values}, package="_global_")


def install() -> None:
    """Let Hydra compose by :class:`Loader`, which launchers send to their workers together with the jobs."""
    programs.ConfigLoaderImpl = Loader  # type: ignore[attr-defined]


def keys_of(overrides: Iterable[str]) -> set[str]:
    """Return the keys that a command line names."""
    return {override.lstrip("+~").partition("=")[0] for override in overrides}


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
    """Return what a scene's training should tell of its sizes, a line, and of keys that choose or miss its model."""
    if composed.task != "volrend":
        return []
    size, net, trainer = composed.image_size or composed.max_image_size, composed.network, composed.trainer
    pixels = f"{size}×{size} pixels" if size else "images as large as they are"
    device = "GPU" if machine_of(trainer) == "gpu" else "CPU"
    line = f"{device}: {pixels}, {net.num_layers}×{net.hidden_features} network, {_budget(trainer)}"
    lines = [line + ("; scale=full for the paper's" if hydra.runtime.choices.scale == "auto" else "")]
    own, model = of_integral_networks(keys_of(hydra.overrides.task)), composed.model.name
    if own and model != "autoint":
        lines.append(f"{' and '.join(own)}: says nothing to model={model}; model=autoint has integral networks")
    elif own and "model" not in keys_of(hydra.overrides.task):
        lines.append(f"model=autoint, because of {' and '.join(own)}; without it, model={MODEL} does better")
    return lines


def _budget(trainer: Mapping[str, Any]) -> str:
    """Return what ends a training, in words: its time, or else its steps."""
    limit, steps = trainer.get("max_time"), trainer.get("max_steps")
    if limit is None:
        return f"{steps} step{'' if steps == 1 else 's'}"
    minutes = seconds_of("trainer.max_time", limit) / 60
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"
