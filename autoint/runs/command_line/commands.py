"""The commands of every limb: train, evaluate, export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from autoint.registry import COMMANDS
from autoint.runs.command_line import recipe
from autoint.runs.command_line.cli import entry, keys_of, typed


def _report(composed: DictConfig, sweep_dir: Path) -> None:
    from autoint.runs import report
    from autoint.runs.sweeps import write_report

    try:
        write_report(composed, sweep_dir)
    finally:
        report.of_sweep(sweep_dir)


@entry("config", groups=True, after=_report)
def train(composed: DictConfig) -> Any:
    """Train a run, or with -m a sweep of runs."""
    from hydra.core.hydra_config import HydraConfig

    from autoint.runs import named_code, report
    from autoint.runs.config import RunConfig
    from autoint.runs.training import fit, objective

    config = RunConfig.from_hydra(composed)
    named_code.check(config.options, named_code.named(), "a file of the configuration")
    run_dir, overrides = Path(HydraConfig.get().runtime.output_dir), typed()
    result = fit(config, run_dir, keys_of(overrides), recipe.told(composed, HydraConfig.get()))
    if result:  # in the first of several processes
        report.of_training(run_dir)
    return objective(result)


@entry("evaluate", groups=False)
def evaluate(composed: DictConfig) -> Any:
    """Render, measure and tabulate trained runs."""
    from hydra.core.hydra_config import HydraConfig

    from autoint.runs import named_code, report
    from autoint.runs.evaluation import EvaluateConfig, evaluated_runs

    config = EvaluateConfig.from_hydra(composed)
    for name in config.code:
        named_code.check({"function": name}, named_code.named(), "a file of the configuration")
    found = evaluated_runs(config, Path(HydraConfig.get().runtime.output_dir))
    report.of_evaluation(found, config)
    found.tell()


@COMMANDS.register("train")
def _train(arguments: list[str]) -> None:
    """Train a run, or with -m a sweep: autoint train task=volrend scene=lego sections=16."""
    sys.argv[1:] = arguments
    train()


@COMMANDS.register("evaluate")
def _evaluate(arguments: list[str]) -> None:
    """Tables and pictures of trained runs: autoint evaluate runs=outputs/volrend."""
    sys.argv[1:] = arguments
    evaluate()


@COMMANDS.register("export")
def _export(arguments: list[str]) -> None:
    """A trained model, to be passed on, or its mesh: autoint export RUN, or autoint export RUN mesh.ply."""
    from autoint.files.meshes import KINDS
    from autoint.runs.export import export, export_mesh

    parser = argparse.ArgumentParser(prog="autoint export", description=(_export.__doc__ or "").partition(":")[0])
    parser.add_argument("run", help="a run's folder, or a checkpoint")
    parser.add_argument("--to", help="the new folder; RUN/export by default")
    parser.add_argument("--function", action="append", default=[], help="the run's, where it is code of your own")
    parser.add_argument("--resolution", type=int, default=256, help="of a mesh: cells along the box's longest side")
    parser.add_argument("--points", type=int, help="of a .ply: so many points of the surface instead of triangles")
    parser.add_argument(
        "named", nargs="*", metavar="MESH | function=module:callable", help="a mesh; the run's own code"
    )
    given = parser.parse_args(arguments)
    files = [text for text in given.named if Path(text).suffix.lower() in KINDS and "=" not in text]
    for text in given.named:
        if text in files:
            continue
        key, _, value = text.partition("=")
        if key != "function":
            raise ValueError(
                f"'{text}': not an argument of export; give RUN, a mesh ({', '.join(KINDS)}), --to FOLDER, "
                "function=module:callable"
            )
        given.function += value.strip("[]").split(",")
    if len(files) + (given.to is not None and bool(files)) > 1:
        raise ValueError(f"{' '.join(files)}: one export makes one mesh, and --to is for folders; give them one by one")
    if files:
        print(export_mesh(given.run, files[0], given.resolution, given.function, given.points))
        return
    print(export(given.run, given.to, given.function))
