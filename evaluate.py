"""Evaluate: ``python evaluate.py runs=outputs/volrend`` prints a table of PSNR, SSIM and LPIPS."""

from pathlib import Path

from autoint.cli import entry


@entry("evaluate", conf=Path(__file__).parent / "conf", groups=False)
def evaluate(composed):
    from hydra.core.hydra_config import HydraConfig

    from autoint.evaluation import EvaluateConfig, evaluate_runs

    evaluate_runs(EvaluateConfig.from_hydra(composed), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    evaluate()
