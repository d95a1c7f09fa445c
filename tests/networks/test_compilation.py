"""Compiled networks: block by block the same, and as they are where there is no compiler."""

import logging
import subprocess
import sys

import pytest
import torch

from autoint.networks import compilation
from autoint.networks.compilation import Compiled
from autoint.registry import GRAD_NETS
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


BUILDERS = """
import copy, functools, sys, torch
from autoint.networks import compilation
from autoint.networks.grad_nets import grad_net
from autoint.networks.integral_net import IntegralNet

of_torch = torch.compile
torch.compile = functools.partial(of_torch, backend="aot_eager", fullgraph=True)
torch.manual_seed(0)
net = IntegralNet(2, 3, 16, 2, encoding="normalized_positional").double()
compilation.BLOCK = 5 * 16  # two blocks
for name in sys.argv[1:]:
    torch.compiler.reset()
    results, x = [], torch.rand(9 if name == "explicit" else 10, 2).double()  # another size is compiled anew
    for psi in (grad_net(net, builder=name), grad_net(net, builder=name, compile=True)):
        out = psi(x)
        if name == "explicit":
            assert torch.allclose(copy.deepcopy(psi)(x), out, rtol=1e-12)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))])
    assert psi._compiled.compiled is not psi._compiled.function, name  # which it would be after a warning
    if name == "jvp":
        with torch.inference_mode():
            assert torch.allclose(psi(x), results[0][0], rtol=1e-12)
    for eager, compiled in zip(*results):
        assert torch.allclose(eager, compiled, rtol=1e-11, atol=1e-12), name
"""

INTEGRALS = """
from autoint import integrate
from autoint.integrals import Antiderivative

F = Antiderivative(IntegralNet(2, 1, 8, 1), [0.0, 0.0], [1.0, 1.0])
a, b = torch.tensor([0.1, 0.3]).double(), torch.rand(5, 2).double()
along = torch.stack([b[:, 0], a[1].expand(5)], -1)

def everything(a, b, along):
    return [
        integrate(F.net, a, b),
        integrate(F.net, a, along, axes=(0,)),
        integrate(F.net, a, b, method="differences"),
        F.integral(a, b),
        F.integral(a, along, axes=(0,)),
        torch.func.vmap(F.integral)(a.expand(5, 2), b),
        F.antiderivative(a) + F.integrand(b),
    ]

torch.compiler.reset()
torch.compile = functools.partial(of_torch, backend="eager", fullgraph=True)  # Dynamo is what stumbles over checks
for ours, eager in zip(torch.compile(everything)(a, b, along), everything(a, b, along), strict=True):
    assert torch.allclose(ours, eager, rtol=1e-11, atol=1e-12)
assert torch.compile(F.integrand)(2 * b + 1).isnan().all()  # nothing can be raised there
"""

RUNS = """
from autoint.runs import build
from autoint.runs.config import RunConfig
from autoint.scenes.rays import Rays

torch.compile = functools.partial(of_torch, backend="aot_eager")
d = torch.nn.functional.normalize(torch.randn(9, 3), dim=-1)
rays = Rays(-2 * d, d, torch.ones(9), torch.full((9,), 3.0))
integral_net, grad_net = "integral_net", "grad_net"
for model, fit in (("autoint", integral_net), ("autoint", grad_net), ("nerf", integral_net), ("object", integral_net)):
    results = []
    for compile in (False, True):
        config = {"task": "volrend", "model": model, "fit": fit, "compile": compile, "sections": 4, "samples": 8}
        config |= {"network": {"hidden_features": 8, "num_layers": 1}}
        volume = build.task(RunConfig.from_plain(config), with_data=False).module.volume.double()
        draw = lambda name, *shape: torch.full(shape, 0.3, dtype=torch.float64)
        volume.occupancy.lower.fill_(-1)
        args = rays.to(torch.float64), torch.ones(3, dtype=torch.float64)
        renderings, _ = volume.renderings(args[0], volume.edges(args[0]), args[1], draw, 1.0)
        loss = sum(r.rgb.square().mean() for r in renderings)
        grads = torch.autograd.grad(loss, list(volume.parameters()), materialize_grads=True, allow_unused=True)
        with torch.inference_mode():
            results.append([loss, *volume.view(*args, 1000), *grads])
        wrapped = [f for m in volume.modules() for f in vars(m).values() if isinstance(f, compilation.Compiled)]
        assert bool(wrapped) == compile, model
        assert all(f.compiled is not f.function for f in wrapped), model
    for eager, compiled in zip(*results):
        assert torch.allclose(eager, compiled, rtol=1e-9, atol=1e-12), (model, fit)
"""

ELSEWHERE = """
import warnings
from torch._subclasses.fake_tensor import FakeTensorMode

warnings.simplefilter("ignore")
torch.compiler.reset()
torch.compile = functools.partial(of_torch, backend="eager", fullgraph=True)
for model in ("autoint", "nerf", "object"):
    config = {"task": "volrend", "model": model, "sections": 4, "network": {"hidden_features": 8, "num_layers": 1}}
    with torch.device("meta"):
        volume = build.task(RunConfig.from_plain(config), with_data=False).module.volume
    volume.compile_networks()
    with FakeTensorMode(allow_non_fake_inputs=True):
        volume.to_empty(device="cuda")
        one = torch.ones(6, device="cuda")
        rays = Rays(*(torch.ones(6, 3, device="cuda") for _ in range(2)), one, 2 * one)
        draw = lambda name, *shape: torch.rand(shape, device="cuda")
        shown, _ = volume.renderings(rays, volume.edges(rays), torch.ones(3, device="cuda"), draw, 0.5)
        assert shown[-1].rgb.device.type == "cuda", model
    wrapped = [f for m in volume.modules() for f in vars(m).values() if isinstance(f, compilation.Compiled)]
    assert wrapped and all(f.compiled is not f.function for f in wrapped), model
"""


def test_compiled_grad_nets_integrals_and_runs_are_the_same():
    """Through Dynamo and AOTAutograd, in one process without shape checks, which Dynamo cannot follow.

    Only the C++ compiler, which takes a minute, is left out. At the end, networks of a GPU that is not there.
    """
    names = [name for name in GRAD_NETS.names() if GRAD_NETS[name].compilable]
    assert names == ["explicit", "graph", "jvp"]
    script = BUILDERS + INTEGRALS + RUNS + ELSEWHERE
    subprocess.run([sys.executable, "-c", script, *names], check=True, timeout=1800, cwd=ROOT)
