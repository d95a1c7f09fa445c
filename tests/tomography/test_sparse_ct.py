"""The table of every method after a sweep."""

import csv
import json

import pytest

from autoint.registry import LAYOUTS
from autoint.runs.config import RunConfig
from autoint.runs.evaluation import EvaluateConfig
from autoint.runs.sweeps import Sweep
from autoint.runs.training import fit
from tests.tomography.test_task import config


def test_a_sweep_becomes_a_table(tmp_path, undrawn, monkeypatch):
    run: RunConfig = config(fields=["object"], strength=1e-4, exponent=1.0, gaussian=0.01)
    fit(run, tmp_path / "one")
    (tmp_path / "one" / "result.json").write_text(json.dumps({"seconds": 3.5}))
    files = [tmp_path / "one" / "checkpoints" / "last.ckpt", tmp_path / "none" / "checkpoints" / "last.ckpt"]
    layout = LAYOUTS.build("sparse_ct")
    asked = EvaluateConfig(runs=str(tmp_path), data_dir="data")
    sweep = Sweep(asked, tmp_path, files)
    table = layout.write(sweep)
    assert (tmp_path / "table.md").read_text() == table
    assert (tmp_path / "sparse_ct.png").is_file()
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["AutoInt object", "linear", "cubic", "FBP", "SART", "TV"]
    assert {(row["scan"], row["views"], row["noise"]) for row in rows} == {("shepp_logan", "8", "0.01 of largest")}
    assert rows[0]["seconds"] == "3.5"
    assert rows[-1]["chosen"] == "strength by held-out measured views"
    assert float(rows[-1]["psnr"]) > float(rows[1]["psnr"]) > 10
    assert rows[3]["psnr"] == "nan"  # FBP fills in no views
    with pytest.raises(ValueError, match="1 of 2 runs could not be evaluated"):
        sweep.check()

    def never(*arguments):
        raise AssertionError("evaluated twice")

    monkeypatch.setattr("autoint.runs.restoring.restored", never)
    assert layout.write(Sweep(asked, tmp_path, files[:1])) == table
