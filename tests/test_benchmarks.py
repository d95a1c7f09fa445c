"""What benchmarks measure is for people to read; here they only have to run."""

import pytest

import autoint
from autoint.data.functions import target
from benchmarks import grad_networks, integrals, rendering, steps, volrend_ablation


@pytest.mark.parametrize("shape", grad_networks.SHAPES)
def test_grad_networks(shape):
    tables = grad_networks.measure(grad_networks.SHAPES[shape], 8, width=8, layers=2, compiled=False, rounds=1)
    assert {table["plain network"] for name, table in tables.items() if "plain" in name} == {1.0}
    assert all(ratio > 0 for table in tables.values() for ratio in table.values())


def test_integrals():
    model = autoint.fit(target("cos").integrand, -1, 1, adam_steps=2, max_time=0, progress=False)
    tables = integrals.measure(model, count=100, loops=3)
    assert tables["largest error"]["scipy.integrate.quad"] <= tables["largest error"]["Φ(b) − Φ(a)"]
    assert tables["ratio to Φ(b) − Φ(a)"]["Φ(b) − Φ(a)"] == 1.0


def test_steps():
    ratios = steps.fits(rays=4, samples=32)
    assert set(ratios) == {"N=8", "N=16", "N=32"}
    assert all(ratio > 0 for ratio in ratios.values())


def test_rendering():
    tables = rendering.measure(*rendering.untrained(8, 8, 2, "procedural"), rounds=1)
    assert set(tables["seconds per frame"]) == set(rendering.METHODS)
    assert tables["times faster than nerf"]["nerf"] == 1.0


def test_the_ablation_s_variants_compose(tmp_path):
    """Hours later is too late to learn of a key that is none."""
    from tests.test_cli import composed

    configs = {name: composed(*volrend_ablation.overrides_of(name)) for name in volrend_ablation.VARIANTS}
    assert configs["base"].encoding["name"] == "normalized_positional"
    assert configs["all"] == composed("experiment=lego_cpu")
