"""Evaluate: ``python evaluate.py runs=outputs/volrend`` prints a table of PSNR, SSIM and LPIPS."""

from autoint.runs.signals import importing

with importing():
    from autoint.runs.command_line.commands import evaluate

if __name__ == "__main__":
    evaluate()
