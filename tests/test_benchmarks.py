"""What benchmarks measure is for people to read; here they only have to run."""

import importlib
import json
import sys

import imageio.v3 as iio
import pytest
import torch

import autoint
from autoint.integrals.definite import BLOCK
from autoint.integrals.functions import target
from autoint.runs.training import fit
from benchmarks import __main__ as suite
from benchmarks import (
    break_even,
    fans,
    gpu,
    grad_networks,
    gradients,
    integrals,
    loading,
    measure,
    rendering,
    scaling,
    steps,
    viewer,
    volrend_ablation,
)
from benchmarks.genz import genz
from tests.scenes.test_task import tiny_config


@pytest.mark.parametrize("shape", grad_networks.SHAPES)
def test_grad_networks(shape):
    tables = grad_networks.measure(grad_networks.SHAPES[shape], 8, width=8, layers=2, compiled=False, rounds=1)
    assert {table["plain network"] for name, table in tables.items() if "plain" in name} == {1.0}
    assert all(ratio > 0 for table in tables.values() for ratio in table.values())


def test_gradients():
    tables = gradients.measure(8, width=8, layers=3, rounds=1)
    assert all(table["autograd"] == 1.0 and table[gradients.OURS] > 0 for table in tables.values())
    assert "softplus" in gradients.quoted(tables)


def test_integrals(monkeypatch):
    """Also where torchquad is not installed."""
    model = autoint.fit(target("cos").integrand, -1, 1, adam_steps=2, max_time=0, progress=False)
    tables = integrals.measure(model, count=100, loops=3)
    assert tables["largest error"]["scipy.integrate.quad"] <= tables["largest error"]["Φ(b) − Φ(a)"]
    assert tables["ratio to Φ(b) − Φ(a)"]["Φ(b) − Φ(a)"] == 1.0
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    alone = integrals.measure(model, count=100, loops=3)
    assert integrals.TORCHQUAD not in alone["ratio to Φ(b) − Φ(a)"]
    assert "torchquad" not in integrals.quoted(alone)


def test_break_even(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error, cost, training, curves = break_even.compared(genz("gaussian", 2), 0.5, 100)
    assert error > 0
    assert training > 0
    assert {"ours", "Gauss-Legendre", "scipy cubature"} <= set(cost)
    assert curves["Gauss-Legendre"][-1][1] <= error
    break_even.draw_curves(tmp_path / "curves.png", 1000, {"gaussian": curves}, {"gaussian": training})
    assert (tmp_path / "curves.png").stat().st_size > 5000
    monkeypatch.setattr(break_even, "EVENTS", 20)
    monkeypatch.setattr(break_even, "PAIRS", 50)
    found = break_even.family(0.5, 100, tolerance=1e-2)
    assert found["our largest error"] < 1.0


def test_fans(monkeypatch):
    """Every geometry has an object of the same size in pixels, and as many rays of it."""
    monkeypatch.setattr(fans, "PIXELS", 25)
    monkeypatch.setattr(fans, "VIEWS", 24)
    monkeypatch.setattr(fans, "RADII", (12.5,))
    scans = [fans.scan_of(fan, 12.5) for fan in fans.KINDS.values()]
    assert {scan.values.shape for scan in scans} == {(24, 25)}
    assert [scan.radius for scan in scans] == pytest.approx([12.5] * 3)
    tables = fans.run(quick=True)
    assert {what for what in tables if "mean" in what} == {f"PSNR in dB, {w}, mean" for w in ("unseen views", "image")}
    assert all(set(table) == set(fans.KINDS) and min(table.values()) > 5 for table in tables.values())


TINY = {"network": {"hidden_features": 8, "num_layers": 2}, "image_size": 16}


def test_steps():
    ratios = steps.fits(4, 1, sections=(4,), **TINY)
    assert ratios["N = 4"] > 0
    assert 0 < steps.host(8, 4, **TINY)["8 rays"] < 1


def test_rendering():
    volumes, rays = rendering.untrained(8, 8, 2, "procedural")
    tables = rendering.measure(volumes, rays, rounds=1)
    assert set(tables["seconds per frame"]) == set(rendering.METHODS)
    assert tables["times faster than nerf"]["nerf"] == 1.0
    assert rendering.chunks(volumes["N=16"], rays, 1)["default"] == 1.0
    assert BLOCK == {True: 2**18, False: 2**26}


def test_viewer(trained, monkeypatch):
    monkeypatch.setattr(viewer, "SIZE", 24)
    tables = viewer.measure(trained, trained, rounds=1)
    assert [*tables["times faster than sections"]] == ["N=8", "tree"]
    assert tables["times faster than sections"]["N=8"] == 1.0
    assert all(size >= 24 for size in tables["pixels of a side that take 0.08 s"].values())


def test_rendering_of_what_was_trained(tmp_path):
    fit(tiny_config(trainer={"max_steps": 1}), tmp_path / "run")
    volumes, rays = rendering.trained([str(tmp_path / "run")], "", 6)
    assert set(volumes) == {f"{tmp_path.name}/run"}
    assert len(rays) == 36


def test_loading():
    tables = loading.measure(16, 8, 2, 2)
    assert tables["time of a batch / ours"][loading.OURS] == 1.0
    assert tables["memory in MB"]["rays kept in memory"] == 12 * 2 * 8 * 8 * 4 / 1e6


def test_scaling():
    pixels, sections = scaling.frames([4, 9], [1, 2], 1)
    assert [*pixels, *sections] == ["4", "9", "2", "3"]
    assert set(scaling.images([2, 3], 1)) == {"2", "3"}
    assert set(scaling.widths([4, 8], 4, 1)) == {"4", "8"}


def test_a_straight_line_is_one():
    assert measure.linearity({"1": 3.0, "2": 5.0, "4": 9.0}) == pytest.approx(1, abs=1e-12)
    assert measure.linearity({"1": 1.0, "2": 4.0, "3": 9.0}) == pytest.approx(48 / 49, abs=1e-12)


def test_results_are_printed_written_and_drawn(capsys):
    measure.report("mine", {"curve": {"1": 2.0, "2": 4.0}, "bars": {"ours": 1.0, "theirs": 3.5}})
    contents = json.loads((measure.FOLDER / "mine.json").read_text())
    assert contents["bars"] == {"ours": 1.0, "theirs": 3.5}
    assert contents["environment"]["torch"] == torch.__version__
    assert iio.imread(measure.FOLDER / "mine.png").std() > 0
    assert "theirs" in capsys.readouterr().out


def test_the_gpu_s_rows_in_tiny_sizes(monkeypatch, tmp_path):
    """The same way as on an accelerator, without the minutes of the compiler; a row that fails costs no other."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu", "--pretend", "--minutes", "5", "--out", str(tmp_path)])
    monkeypatch.setitem(gpu.ROWS, "bad", gpu.Row(9, lambda sizes, note: note("half", 0.5) or 1 / 0))
    monkeypatch.setitem(gpu.ROWS, "long", gpu.Row(-1, lambda sizes, note: note("first", 1) or note("second", 2)))
    with torch.compiler.set_stance("force_eager"):
        suite.main()
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    ends = {name: row["ended"] for name, row in rows.items()}
    assert ends.pop("bad").startswith("failed: ZeroDivisionError")
    assert ends.pop("long").startswith("cut")
    if "nothing to bake" in ends["tree"]:  # of what a second has taught it
        ends.pop("tree")
    assert set(ends.values()) == {"whole"}, ends
    assert (rows["bad"]["numbers"], rows["long"]["numbers"]) == ({"half": 0.5}, {"first": 1})
    agreed = rows["agreement with the CPU"]["numbers"]
    assert agreed["autoint: loss of 3 steps, largest relative difference"] == 0 < len(agreed)
    assert rows["Lego, N = 8"]["numbers"]["steps"] > 0
    assert "| bad | failed: " in (tmp_path / "gpu.md").read_text()


def test_the_gpu_s_rows_say_what_is_missing(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--pretend" in capsys.readouterr().err
    monkeypatch.setattr(gpu, "DEVICE", torch.device("cuda"))
    with pytest.raises(SystemExit):
        gpu.main(["--data", str(tmp_path)])
    assert f"{tmp_path / 'nerf_synthetic' / 'lego'} is missing" in capsys.readouterr().err
    monkeypatch.setattr(suite.metadata, "distributions", lambda: [])
    with pytest.raises(SystemExit, match="not installed: torch torchvision"):
        suite.main()


def test_what_the_docs_quote(monkeypatch, tmp_path):
    """The entry point runs a benchmark and replaces what stands between its marks, and nothing else."""
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- benchmark steps -->\nold\n<!-- end of steps -->after\n")
    tables = {"a": dict.fromkeys("123", 2.0), "b": dict.fromkeys("12", 1.5), "c": {"1": 0.01}}
    monkeypatch.setattr(suite, "PAGE", page)
    monkeypatch.setattr(steps, "run", lambda quick: tables)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "steps", "--docs"])
    suite.main()
    text = page.read_text()
    assert text.startswith("before\n<!-- benchmark steps -->\nA step of")
    assert "2.0 times longer at N = 8" in text
    assert "old" not in text
    assert text.endswith("<!-- end of steps -->after\n")
    with pytest.raises(ValueError, match="no place for benchmark loading"):
        suite.quote(text, "loading", "")


def test_the_docs_have_a_place_for_every_benchmark_that_is_quoted():
    page = suite.PAGE.read_text(encoding="utf-8")
    for name in suite.SUITE:
        if hasattr(importlib.import_module(f"benchmarks.{name}"), "quoted"):
            suite.quote(page, name, "")


def test_the_ablation_s_variants_compose(tmp_path):
    """Hours later is too late to learn of a key that is none."""
    from tests.runs.test_cli import composed

    seen, configs = {}, {}
    for name in volrend_ablation.VARIANTS:  # all keys, each once
        overrides = volrend_ablation.overrides_of(name)
        if name == "fine_grid" or set(overrides) - seen.keys():
            configs[name] = composed(*overrides)
            seen |= dict.fromkeys(overrides)
    assert configs["base"].encoding["name"] == "normalized_positional"
    assert configs["fine_grid"] == composed("experiment=lego_cpu")
