"""The notebook's cells run, one after the other."""

import json

import matplotlib

from tests.conftest import ROOT


def test_antiderivatives(capsys):
    matplotlib.use("Agg")
    names = {}
    cells = json.loads((ROOT / "examples" / "antiderivatives.ipynb").read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "antiderivatives.ipynb", "exec"), names)
    out = capsys.readouterr().out
    assert "True True" in out
    assert names["errors"][1] < min(1e-5, names["errors"][0])  # over the shortest interval
    matplotlib.pyplot.close("all")
