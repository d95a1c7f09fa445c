import math
import os
import subprocess
import sys

import pytest
import torch

from autoint.files import machine
from autoint.networks import AbstractEncoding
from autoint.registry import ENCODINGS
from autoint.runs.seeding import generator


def test_positional_is_equation_14():
    encoding = ENCODINGS.build({"name": "positional", "num_frequencies": 3, "include_input": False}, 1).double()
    p = torch.tensor([[0.3]], dtype=torch.float64)
    expected = [f(2**i * math.pi * 0.3) for f in (math.sin, math.cos) for i in range(3)]
    assert torch.allclose(encoding(p)[0], torch.tensor(expected, dtype=torch.float64))


def test_normalized_positional_is_equation_15():
    options = {"num_frequencies": 3, "include_input": False}
    plain, normalized = (
        ENCODINGS.build({"name": n, **options}, 2).double() for n in ("positional", "normalized_positional")
    )
    omega = torch.tensor([2.0**i * math.pi for i in range(3)], dtype=torch.float64).repeat(4)
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.allclose(normalized(x) * omega, plain(x))


def test_defaults_are_the_papers():
    fields = ENCODINGS.fields("normalized_positional")
    assert {k: d for k, (_, d) in fields.items()} == {"num_frequencies": 10, "pi": True, "include_input": True}


@pytest.mark.parametrize("count", [-1, 33])
def test_frequencies_out_of_range(count):
    with pytest.raises(ValueError, match=f"num_frequencies={count}"):
        ENCODINGS.build({"name": "positional", "num_frequencies": count}, 1)


def test_float32_loses_no_digits_at_ten_octaves():
    """sin(2⁹πx) for a float32 x, to float32's own precision: the phase is reduced before π comes in."""
    encoding = ENCODINGS.build("positional", 1)
    x = torch.linspace(-1.4, 1.4, 1001)[:, None]
    ours, truth = encoding(x), encoding.double()(x.double())
    assert float((ours - truth).abs().max()) < 5e-7


def test_a_grids_mean_is_exact_in_a_cell_and_errs_in_proportion_to_the_length_across_a_wall():
    grid = ENCODINGS.build({"name": "grid", "resolutions": [4], "num_frequencies": 0}, 3).double()
    g = torch.Generator().manual_seed(0)
    a, b = (0.5 * torch.rand(200, 3, dtype=torch.float64, generator=g) for _ in range(2))  # within the cell [0, 0.5]³
    with torch.no_grad():
        assert torch.allclose(grid.mean(a, b), grid.mean(a, b, cut=True), rtol=0, atol=1e-15)
        direction = torch.nn.functional.normalize(b - 0.25, dim=-1)
        errors = []
        for length in (0.2, 0.1, 0.05, 0.025):
            start = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64) - 0.5 * length * direction
            end = start + length * direction
            errors.append((grid.mean(start, end) - grid.mean(start, end, cut=True)).square().mean().sqrt())
        order = torch.stack(errors).log2().diff()
    assert torch.allclose(order, torch.full_like(order, -1.0), atol=0.05)


def test_an_encoding_without_a_rule_of_its_own_gets_quadrature_and_says_so():
    class Cubes(AbstractEncoding):
        in_features, out_features = 1, 1

        def forward(self, x):
            return x**31

        jet = difference = None

    cubes = Cubes()
    assert cubes.mean_rule == "quadrature"
    a, b = torch.tensor([[-0.4], [0.1]], dtype=torch.float64), torch.tensor([[1.0], [0.9]], dtype=torch.float64)
    assert torch.allclose(cubes.mean(a, b), (b**32 - a**32) / 32 / (b - a), rtol=1e-13)


def test_means_need_one_evaluation_of_waves_and_two_nodes_of_a_grid():
    """Looked at where the cost is: how many points a mean asks the encoding for."""
    asked = []
    grid = ENCODINGS.build({"name": "grid", "resolutions": [4, 8], "num_frequencies": 2}, 3)
    waves, average = grid.positional._waves, grid._average
    grid.positional._waves = lambda x: asked.append("waves") or waves(x)
    grid._average = lambda level, x: asked.append((level, x.shape[-2])) or average(level, x)
    a, b = torch.rand(2, 5, 3)
    grid.mean(a, b)
    assert asked == ["waves", (0, 2), (1, 2)]


def test_a_grid_of_few_rows_is_a_dense_one_where_each_corner_has_its_own():
    """A table that holds the corners that are asked for changes nothing but where they are kept."""
    dense = ENCODINGS.build({"name": "grid", "resolutions": [16], "num_frequencies": 0}, 3).double()
    small = ENCODINGS.build({"name": "grid", "resolutions": [16], "num_frequencies": 0, "entries": 1000}, 3).double()
    assert len(small.tables[0]) == 1000 < len(dense.tables[0])
    small.restrict(lambda p: (p.abs() <= 0.3).all(-1))
    with torch.no_grad():
        asked = small.rows_0 > 0
        assert int(asked.sum()) == len(small.rows_0[asked].unique()) == 7**3  # |x| ≤ 2/8 in 1/8 steps, and neighbours
        dense.tables[0][asked] = small.tables[0][small.rows_0[asked].long()]
        g = torch.Generator().manual_seed(0)
        a, b = (0.74 * torch.rand(200, 3, dtype=torch.float64, generator=g) - 0.37 for _ in range(2))
        for x, y in ((small(a), dense(a)), (small.mean(a, b, cut=True), dense.mean(a, b, cut=True))):
            assert torch.equal(x, y)
        assert torch.equal(small.difference(a, b - a), dense.difference(a, b - a))


@pytest.mark.parametrize("told", [False, True])
def test_corners_that_are_too_many_share_rows_evenly(told):
    grid = ENCODINGS.build({"name": "grid", "resolutions": [32], "entries": 500, "num_frequencies": 0}, 3)
    if told:
        grid.restrict(lambda p: p[:, 0] > 0)
    counts = grid.rows_0.bincount(minlength=500)[told:]
    assert len(counts) == 500 - told
    assert counts.min() > 0.5 * counts.float().mean() > 0
    assert counts.max() < 2 * counts.float().mean()


def test_total_variation_is_that_along_the_edges_of_cells():
    """Of features that rise by 3 along x, fall by 2 along y and stay along z, it is 5 a level, wherever one looks."""
    encoding = ENCODINGS.build({"name": "grid", "resolutions": [2, 5], "features": 2}, 3)
    with torch.no_grad():
        for resolution, table in zip(encoding.resolutions, encoding.tables, strict=True):
            x, y, _z = torch.cartesian_prod(*[torch.arange(resolution + 1.0)] * 3).unbind(-1)
            table.copy_((3 * x - 2 * y)[:, None])
    x = 2 * torch.rand(50, 3, generator=generator(0)) - 1
    assert float(encoding.total_variation(x).detach()) == pytest.approx(10, abs=1e-5)


def test_what_is_not_learned_does_not_vary():
    encoding = ENCODINGS.build({"name": "grid", "resolutions": [4, 16], "entries": 40}, 2)
    x = 2 * torch.rand(400, 2, generator=generator(0)) - 1
    before = encoding.total_variation(x)
    before.backward()
    with torch.no_grad():
        for table in encoding.tables:
            table -= 1e-3 * table.grad.sign()
    assert bool(encoding.total_variation(x) < before)
    assert ENCODINGS.build("normalized_positional", 2).total_variation(x) == 0


@pytest.mark.parametrize("entries", [1, 2**27])
def test_entries_out_of_range(entries):
    with pytest.raises(ValueError, match=f"encoding.entries={entries} must be an integer from 2 to"):
        ENCODINGS.build({"name": "grid", "entries": entries}, 3)


@pytest.mark.parametrize("entries", [None, 40])
def test_the_loops_of_numba_are_what_torch_does(entries, monkeypatch):
    """Values and gradients of points in and outside of the cube, of none, and of means; on two threads."""
    pytest.importorskip("numba")
    from autoint.networks import grid_kernel

    monkeypatch.setattr(grid_kernel, "SHARED", 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    torch.manual_seed(0)
    grid = ENCODINGS.build({"name": "grid", "resolutions": [1, 5], "features": 3, "entries": entries}, 3)
    a, b = 3 * torch.rand(2, 4, 9, 3) - 1.5
    a[0, 0, 1] = float("nan")
    found = []
    for has in (True, False):
        monkeypatch.setattr(machine, "has_numba", lambda has=has: has)
        values = [grid(a.transpose(0, 1)), grid.mean(a, b)]
        loss = sum(value.nan_to_num().square().sum() for value in values)
        found.append([*values, *torch.autograd.grad(loss, list(grid.tables))])
    for ours, torchs in zip(*found, strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-5, atol=1e-7, equal_nan=True)
    assert found[0][0].isnan().any(-1).sum() == 1


INTERPRETED = """
import torch
from autoint.networks import grid_triton
from autoint.networks.grids import Grid

torch.manual_seed(0)
for entries in (None, 40):
    grid = Grid(3, resolutions=[1, 5], features=3, entries=entries)
    a, b = 3 * torch.rand(2, 20, 9, 3) - 1.5
    a[0, 1, 1] = float("nan")
    found = []
    for kernel in (grid_triton, None):
        grid._kernel = lambda x, table: kernel
        values = [grid(a), grid.mean(a, b)]
        loss = sum(value.nan_to_num().square().sum() for value in values)
        found.append([*values, *torch.autograd.grad(loss, list(grid.tables))])
    for ours, torchs in zip(*found, strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-5, atol=1e-7, equal_nan=True)
    assert found[0][0].isnan().any(-1).sum() == 1
"""


def test_the_kernels_of_triton_are_what_torch_does():
    """As Triton's interpreter runs them on a CPU."""
    pytest.importorskip("triton")
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env=os.environ | {"TRITON_INTERPRET": "1"})


@pytest.mark.parametrize("name", ["_interpolate", "_scatter"])
def test_the_kernels_of_triton_compile_for_a_device_that_is_not_here(name):
    compiler = pytest.importorskip("triton.compiler")
    from triton.backends.compiler import GPUTarget

    from autoint.networks import grid_triton

    kernel = getattr(grid_triton, name)
    given = {"NODES": 2, "FEATURES": 4, "PADDED": 4, "SHARED": True, "BLOCK": grid_triton.BLOCK}
    types = ["*fp32", "*i32", "*fp32", "*fp32", "i32", "i32"] + ["constexpr"] * len(given)
    source = compiler.ASTSource(
        kernel,
        dict(zip(kernel.arg_names, types, strict=True)),
        {(kernel.arg_names.index(key),): value for key, value in given.items()},
    )
    assembly = compiler.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert ("red.global" in assembly or "atom.global" in assembly) == (name == "_scatter")
    assert "ld.local" not in assembly  # all of it stays in registers
