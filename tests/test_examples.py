"""The notebooks' cells run, one after the other."""

import json

import matplotlib
import pytest
import torch

import autoint
from tests.conftest import ROOT
from tests.test_docs import briefly


@pytest.fixture
def run_all(monkeypatch):
    """Run the cells of a notebook, and return what they have named."""
    matplotlib.use("Agg")

    def run(notebook):
        names = {}
        for cell in json.loads((ROOT / "examples" / notebook).read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), notebook, "exec"), names)
        return names

    yield run
    matplotlib.pyplot.close("all")


def test_antiderivatives(run_all, capsys):
    names = run_all("antiderivatives.ipynb")
    assert "True True" in capsys.readouterr().out
    assert names["errors"][1] < min(1e-5, names["errors"][0])  # over the shortest interval


def test_scenes(run_all, monkeypatch, no_lpips, capsys):
    monkeypatch.setattr(autoint, "train", briefly(autoint.train))
    names = run_all("scenes.ipynb")
    assert "| procedural | section_means | 16 " in capsys.readouterr().out
    assert (names["evaluation"].folder / "table.md").is_file()
    assert names["view"].rgb.shape == (150, 200, 3)
    assert torch.equal(names["again"].render(names["camera"]).rgb, names["rendered"])
