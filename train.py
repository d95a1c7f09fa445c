"""Train: ``python train.py task=volrend scene=lego sections=16``; ``--help`` tells what can be chosen."""

from autoint.runs.signals import importing

with importing():
    from autoint.runs.command_line.commands import train

if __name__ == "__main__":
    train()
