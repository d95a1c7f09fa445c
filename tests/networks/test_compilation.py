"""Compiled networks: block by block the same, and as they are where there is no compiler."""

import logging
import subprocess
import sys

import pytest
import torch

from autoint.networks import compilation
from autoint.networks.compilation import Compiled
from tests.conftest import ROOT


@pytest.mark.parametrize("rows", [1, 6, 7])
def test_block_by_block(rows, monkeypatch):
    """Rows are cut where there are as many as of points; what has none, or is None, goes to every block."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(compilation, "BLOCK", 2 * 5 * 4)  # two rows of 5 points of a layer of 4
    seen = []

    def function(x, direction, axis, nothing):
        seen.append(len(x))
        assert x._base is None  # compiled forward mode cannot have views
        return x * direction[:, None] + axis, nothing

    x, direction, axis = torch.rand(rows, 5, 3), torch.rand(rows, 3), torch.rand(3)
    out, none = Compiled(function, 4)(x, direction, axis, None)
    assert torch.equal(out, x * direction[:, None] + axis)
    assert none is None
    assert max(seen) <= 2
    assert sum(seen) == rows


def test_without_a_compiler_one_warning_and_the_same_values(caplog):
    from torch._inductor import config

    function, x = Compiled(lambda x: x.sin() * 2, 1), torch.rand(5, 3)
    nowhere = config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with nowhere, caplog.at_level(logging.WARNING, "autoint"):
        outputs = [function(x), function(x)]
    assert all(torch.equal(out, x.sin() * 2) for out in outputs)
    ours = [r.getMessage() for r in caplog.records if r.name == "autoint.networks.compilation"]
    assert len(ours) == 1
    assert ours[0].startswith("compile=true: ")
    assert "\n" not in ours[0]


COMPILED_RUN = """
import functools, pathlib, sys, torch
from autoint.runs import build
from autoint.runs.config import RunConfig
from autoint.scenes.rays import Rays

torch.compile = functools.partial(torch.compile, backend="aot_eager")
d = torch.nn.functional.normalize(torch.randn(9, 3), dim=-1)
rays = Rays(-2 * d, d, torch.ones(9), torch.full((9,), 3.0))
integral_net, grad_net = "integral_net", "grad_net"
for model, fit in (("autoint", integral_net), ("autoint", grad_net), ("nerf", integral_net), ("object", integral_net)):
    results = []
    for compile in (False, True):
        config = {"task": "volrend", "model": model, "fit": fit, "compile": compile, "sections": 4, "samples": 8}
        config |= {"network": {"hidden_features": 8, "num_layers": 2}}
        volume = build.task(RunConfig.from_plain(config), with_data=False).module.volume.double()
        draw = lambda name, *shape: torch.full(shape, 0.3, dtype=torch.float64)
        volume.occupancy.lower.fill_(-1)
        args = rays.to(torch.float64), torch.ones(3, dtype=torch.float64)
        renderings, _ = volume.renderings(args[0], volume.edges(args[0]), args[1], draw, 1.0)
        loss = sum(r.rgb.square().mean() for r in renderings)
        grads = torch.autograd.grad(loss, list(volume.parameters()), materialize_grads=True, allow_unused=True)
        with torch.inference_mode():
            results.append([loss, *volume.view(*args, 1000), *grads])
    for eager, compiled in zip(*results):
        assert torch.allclose(eager, compiled, rtol=1e-9, atol=1e-12), (model, fit)
"""


def test_compile_true_is_the_same_training_and_rendering():
    """As ``test_compiled_grad_nets_are_the_same``: without the C++ compiler, and without shape checks."""
    subprocess.run([sys.executable, "-c", COMPILED_RUN], check=True, timeout=300, cwd=ROOT)
