"""The page to mail: it says what was run, shows what came of it, needs nothing else, and runs nothing of strangers."""

import base64
import html
import io
import re
import shlex
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoint.reports import charts, pictures
from autoint.reports.page import Page, RunOfPage, TableOfPage
from autoint.runs import report
from autoint.runs.command_line.from_python import composed
from autoint.runs.evaluation import EvaluateConfig, evaluated_runs

EVIL = "<script>alert(1)</script>\"'&"


class Reader(HTMLParser):
    """The tags of a page, and what it would load."""

    def __init__(self, file):
        super().__init__()
        self.text = file.read_text(encoding="utf-8")
        self.tags, self.loads = [], []
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for key, value in attributes if key in ("src", "href", "srcset", "data", "action")]


@pytest.fixture
def evaluation(trained, no_lpips, tmp_path):
    config = EvaluateConfig(runs=str(trained.folder), lpips="none", max_images=3)
    found = evaluated_runs(config, tmp_path / "evaluation")
    return found, report.of_evaluation(found, config)


def test_an_evaluation_s_page_shows_truth_beside_rendering_and_needs_no_network(evaluation, trained):
    found, file = evaluation
    page = Reader(file)
    assert file.stat().st_size < 3_000_000
    assert all(load.startswith("data:image/") for load in page.loads)
    assert page.text.count('<div class="compare">') == 3
    assert page.tags.count("script") == 1
    images = [load.partition(",")[2] for load in page.loads if "webp" in load or "jpeg" in load]
    truth, rendering = (np.asarray(Image.open(io.BytesIO(base64.b64decode(i))), dtype=float) / 255 for i in images[:2])
    views = trained.cameras("test")
    exact = trained.render(views[0]).rgb.clamp(0, 1).numpy()
    assert np.abs(rendering - exact).mean() < 0.02  # what WebP loses
    assert np.abs(truth - rendering).mean() > 0.05
    ray = next(load for load in page.loads if load.startswith("data:image/svg"))
    drawn = base64.b64decode(ray.partition(",")[2]).decode()
    assert drawn.count("<rect") - 2 == 4  # a bar per section, beside two frames
    assert f"<td>{found.rows[0]['psnr']:.2f}</td>" in page.text
    assert "background white" in page.text


def test_the_command_on_the_page_composes_the_same_run(trained):
    text = Reader(report.of_training(trained.folder)).text
    command = html.unescape(re.search(r"<pre>(.*?)</pre>", text)[1])
    words = shlex.split(command)
    assert words[:3] == ["python", "train.py", "task=volrend"]
    config, _ = composed([*words[2:], "++trainer.enable_progress_bar=false"])
    assert config.to_plain() == {**trained.config.to_plain(), "data_dir": config.data_dir}
    assert "<td>3</td>" in text  # its steps


def test_words_are_typed_as_a_shell_and_hydra_take_them():
    for word in ("a=b", "path='a b'", "f='x\"y'", "s='$HOME'", "w='a\\b'", "lower=[-1,-1]"):
        assert shlex.split(report._typed(word)) == [word]
    assert report._typed("path='a b'") == "\"path='a b'\""


def test_texts_of_strangers_are_texts(tmp_path):
    name = pictures.row_of({EVIL: torch.rand(4, 4, 3), "truth": torch.rand(4, 4, 3), "rendering": torch.rand(4, 4, 3)})
    said = pictures.PngInfo()
    said.add_text("panels", name.info["panels"])
    name.save(tmp_path / "view.png", pnginfo=said)
    (tmp_path / "metrics.csv").write_text(
        f'step,"{EVIL.replace(chr(34), chr(34) * 2)}/psnr",x/loss\n1,2.5,\n2,nan,1e999\n'
    )
    page = Page(EVIL, EVIL, [RunOfPage(EVIL, EVIL, [(EVIL, EVIL, EVIL)], [(EVIL, EVIL)])])
    page.tables.append(TableOfPage(EVIL, [EVIL], [[EVIL]], EVIL))
    page.charts = report._curves(tmp_path / "metrics.csv")
    page.charts.append(charts.pareto({EVIL: (1.0, 2.0), "b": (2.0, 3.0)}, [EVIL, "b"], {EVIL: EVIL}, EVIL))
    page.show(tmp_path / "view.png")
    read = Reader(page.write(tmp_path / "page.html"))
    assert read.tags.count("script") == 1
    assert "alert(1)" in read.text
    assert "<script>alert" not in read.text
    drawn = [chart for chart in page.charts if chart]  # of infinity there is no curve
    assert len(drawn) == 2
    for chart in drawn:
        ET.fromstring(chart)


def test_a_page_stays_small_enough_to_mail(tmp_path):
    rng = np.random.default_rng(0)
    page = Page("noise", "", [RunOfPage("a", "b")])
    for _ in range(12):
        Image.fromarray(rng.integers(0, 256, (1400, 1400, 3), dtype=np.uint8)).save(
            tmp_path / "noise.png", compress_level=1
        )
        page.show(tmp_path / "noise.png")
        if page._left_out:
            break
    file = page.write(tmp_path / "page.html")
    assert 1_000_000 < file.stat().st_size < 3_000_000
    assert f"{page._left_out} more pictures are in the run" in file.read_text()


def test_curves_are_drawn_where_their_values_are():
    drawing = charts.curves(
        {"a": [(0, 1e-1), (10, 1e-3), (5, 1e-2), (7, -1), (8, float("nan"))]}, "step", "loss", log=True
    )
    line = ET.fromstring(drawing).find("{*}polyline").get("points")
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, pair.split(","))) for pair in line.split())
    assert x2 == pytest.approx((x0 + x1) / 2, abs=0.2)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.2)  # the middle of the powers of ten
    assert y0 < y2 < y1  # larger is higher
    assert charts.curves({"a": [(0, float("nan"))]}, "", "") == ""


def test_a_sweep_s_page_has_a_table_and_thumbnails(trained, tmp_path):
    for sections in (2, 4):
        shutil.copytree(trained.folder, tmp_path / "sweep" / f"sections-{sections}")
    file = report.of_sweep(tmp_path / "sweep")
    text = Reader(file).text
    assert text.count("<summary>") == 2
    assert text.count("<image href=") == 2
    assert "seconds of training" in text


def test_a_report_that_cannot_be_written_costs_nothing(trained, tmp_path, caplog):
    shutil.copytree(trained.folder, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "report.html").mkdir()
    assert report.of_training(tmp_path / "run") is None
    assert "no report.html was written" in caplog.text
    assert report.of_training(tmp_path / "nothing") is None


def test_the_programs_write_it(program, no_lpips, undrawn):
    small = ("task=function", "function=exp(x)", "points=16", "adam_steps=1", "trainer.max_steps=2")
    assert program("train", *small, "network.hidden_features=8", "hydra.run.dir=run")[0] == 0
    status, _, err = program("evaluate", "run", "hydra.run.dir=tables")
    assert status == 0, err
    assert "exp(x)" in Reader(Path("run/report.html")).text
    assert "exp(x)" in Reader(Path("tables/report.html")).text
