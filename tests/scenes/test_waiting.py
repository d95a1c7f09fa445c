"""A training step never waits for its device, and makes everything on it."""

import traceback
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from autoint.files import machine
from autoint.registry import MODELS, PLACEMENTS
from autoint.runs import build, callbacks, trainers
from autoint.scenes.rays import Rays
from tests.conftest import ROOT
from tests.scenes.test_task import tiny_config

ATEN = torch.ops.aten
READS = {ATEN._local_scalar_dense, ATEN.nonzero, ATEN.masked_select, ATEN.equal, ATEN.unique_consecutive, ATEN._unique2}
INDEXES = {ATEN.index, ATEN.index_put, ATEN.index_put_}
STEP = 3
SPARSE = {
    "efficient_nerf": "models/efficient_nerf.py",
    "nerf_tree": "marching.py",
    "unisurf": "models/unisurf.py",
}
"""Models that evaluate where something is, and have to wait to know where that is: in one file each."""


class Waits(TorchDispatchMode):
    """Names every operation whose result the host has to read before it can go on, and the line that asks for it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operation = func.overloadpacket
        masks = operation in INDEXES and any(i is not None and i.dtype == torch.bool for i in args[1])
        fetches = operation in (ATEN._to_copy, ATEN.copy_) and "cpu" in str(kwargs.get("device"))
        if operation in READS or masks or (fetches and args[0].device.type != "cpu"):
            frames = [f for f in traceback.extract_stack() if f.filename.startswith(f"{ROOT}/autoint/")]  # not .venv/
            where = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "elsewhere"
            self.found.append(f"{operation} at {where}")
        return func(*args, **kwargs)


class OneStep(pl.Callback):
    """Looks at one step of a training: its batch, forward and backward pass, Adam and the schedule."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == STEP:
            self.waits = Waits()
            self.waits.__enter__()
            trainer.train_dataloader.sample(STEP)  # Lightning drew this step's while the last one ran

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == STEP:
            self.waits.__exit__(None, None, None)


def waits_of_a_step(monkeypatch, tmp_path, **choice):
    """On a CPU, as on a GPU: trees are marched by torch, and numbers are looked at where they are logged only."""
    monkeypatch.setattr(machine, "has_numba", lambda: False)
    logged = lambda trainer, _: (trainer.global_step + 1) % trainer.log_every_n_steps == 0  # noqa: E731
    monkeypatch.setattr(callbacks, "_looks", logged)
    config = tiny_config(**choice, trainer={"max_steps": 5})
    task, trainer = build.task(config), trainers.trainer(config, tmp_path)
    trainer.callbacks.insert(0, step := OneStep())
    trainer.fit(task.module, task.data)
    return step.waits.found


@pytest.mark.parametrize("model", MODELS.names())
def test_a_training_step_waits_for_nothing(model, monkeypatch, tmp_path):
    waits = waits_of_a_step(monkeypatch, tmp_path, model=model, placement="proposal", background="random")
    assert bool(waits) == (model in SPARSE)
    assert all(f"autoint/scenes/{SPARSE[model]}:" in wait for wait in waits), waits


@pytest.mark.parametrize("placement", PLACEMENTS.names())
def test_no_placement_waits(placement, monkeypatch, tmp_path):
    assert not waits_of_a_step(monkeypatch, tmp_path, placement=placement)


def test_what_waits_is_named():
    with Waits() as waits:
        x = torch.arange(3.0)
        float(x.sum()), x[x > 1], x.nonzero()
    names = [found.partition(" ")[0] for found in waits.found]
    assert {"aten._local_scalar_dense", "aten.index", "aten.nonzero"} <= set(names)


@pytest.mark.parametrize("model", sorted(set(MODELS.names()) - set(SPARSE)))
def test_a_step_makes_everything_on_its_device(model):
    """With tensors of a GPU that is not there: they know their device and their shape, and nothing else."""
    with torch.device("meta"):
        volume = build.task(tiny_config(model=model, placement="proposal"), with_data=False).module.volume
    with FakeTensorMode(allow_non_fake_inputs=True):  # those of the meta device
        volume.to_empty(device="cuda")
        one = torch.ones(6, device="cuda")
        rays = Rays(*(torch.ones(6, 3, device="cuda") for _ in range(2)), one, 2 * one)
        draw = lambda _, *shape: torch.rand(shape, device="cuda")  # noqa: E731
        shown, _ = volume.renderings(rays, volume.edges(rays), torch.ones(3, device="cuda"), draw, 0.5)
        assert all(part.rgb.device.type == "cuda" for part in shown)
        assert shown[-1].rgb.shape == (6, 3)
