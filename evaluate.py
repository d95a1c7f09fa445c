"""Evaluate: ``python evaluate.py runs=outputs/volrend`` prints a table of PSNR, SSIM and LPIPS."""

from autoint.runs.commands import evaluate

if __name__ == "__main__":
    evaluate()
