from benchmarks import steps


def test_the_benchmark_of_steps_runs():
    """What it measures is for people to read; here it only has to run."""
    ratios = steps.builders(points=8) | steps.fits(rays=4, samples=32)
    assert set(ratios) == {"plain network", "explicit", "jvp", "double_backward", "N=8", "N=16", "N=32"}
    assert all(ratio > 0 for ratio in ratios.values())
