"""Train: ``python train.py task=volrend scene=lego sections=16``; ``--help`` tells what can be chosen."""

from pathlib import Path

from autoint.cli import entry


def report(composed, sweep_dir):
    from autoint.experiments import write_report

    write_report(composed, sweep_dir)


@entry("config", conf=Path(__file__).parent / "conf", groups=True, after=report)
def train(composed):
    from hydra.core.hydra_config import HydraConfig

    from autoint.config import RunConfig
    from autoint.training import fit, objective

    return objective(fit(RunConfig.from_hydra(composed), Path(HydraConfig.get().runtime.output_dir)))


if __name__ == "__main__":
    train()
