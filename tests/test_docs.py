"""README and docs: links lead somewhere, Python runs, numbers and drawings are those of the program."""

import contextlib
import copy
import functools
import importlib
import re

import matplotlib
import numpy as np
import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

import autoint
from autoint import registry
from autoint.registry import COMMANDS, DATASETS, ENCODINGS, FUNCTIONS, PHANTOMS
from autoint.reports import paper_numbers
from autoint.runs.command_line import cli
from tests.conftest import ROOT
from tests.contracts import test_components as contracts
from tests.test_house import FLOORS, PUBLIC

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of_python(page):
    return [body for language, body in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "python"]


def briefly(train):
    """``autoint.train`` for two steps of a tiny network, whatever time it is given."""

    def brief(scene, *, minutes, **settings):
        size = {"scale": "tiny", "image_size": 12, "trainer": {"accelerator": "cpu"}}
        return train(scene, steps=2, **size, **settings)

    return brief


@contextlib.contextmanager
def own_components(monkeypatch, page):
    """Registries that forget afterwards what the page's blocks of Python have registered."""
    Plugins.instance()  # what Hydra itself stores, once, is not to be forgotten
    with monkeypatch.context() as patch:
        for kind in registry._registries.values():
            kind.names()
            patch.setattr(kind, "_factories", dict(kind._factories))
        patch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
        patch.setattr(
            autoint, "fit", functools.partial(autoint.fit, points=32, adam_steps=2, max_time=0.0, progress=False)
        )
        patch.setattr(autoint, "train", briefly(autoint.train))
        names = {}
        for number, block in enumerate(blocks_of_python(page)):
            names = {"__name__": f"docs.{page.stem}"}
            exec(compile(block, f"{page.name}, block {number}", "exec", dont_inherit=True), names)
        cli.store_groups()
        yield names


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of_python(page)], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, monkeypatch):
    torch.manual_seed(0)
    with own_components(monkeypatch, page) as names:
        if page.name == "functions.md":
            assert float(names["area"].detach()) == pytest.approx(2 * np.sin(1), abs=0.05)


def test_the_components_to_copy_keep_their_contracts(monkeypatch, tmp_path, capsys):
    """Every class and function of the page on extending is what it says, by the tests that every component passes."""
    with own_components(monkeypatch, ROOT / "docs" / "extending.md"):
        contracts.test_activation_derivatives_are_those_of_autograd("gaussian")
        contracts.test_encoding_jets_are_those_of_autograd("quadratic")
        contracts.test_placement_spans_the_ray_in_order("growing")
        x, delta = torch.rand(2, 5, 3, dtype=torch.float64)
        encoding = ENCODINGS.build("quadratic", 3)
        assert torch.allclose(encoding.difference(x, delta), encoding(x + delta) - encoding(x), atol=1e-14)

        rng = np.random.default_rng(0)
        np.savez(tmp_path / "mine.npz", images=rng.random((9, 6, 8, 3)), poses=np.tile(np.eye(4), (9, 1, 1)))
        for split, size, shape in (("train", None, (7, 6, 8, 4)), ("test", 4, (2, 3, 4, 4))):
            views = DATASETS.build({"name": "npz", "path": "mine.npz"}, str(tmp_path), split, size)
            assert views.images.shape == shape
            assert (len(views), len(views.names), len(views.rays_of(0))) == (shape[0], shape[0], shape[1] * shape[2])

        scan = PHANTOMS.build({"name": "disc", "radius": 0.6}, "", 64, 8)
        assert scan.values.shape == (8, 64)
        assert scan.values[3].sum() / scan.radius == pytest.approx(np.pi * 0.6**2, rel=0.01)  # ∫ over ρ: the area
        target = FUNCTIONS.build("exp")
        assert torch.equal(target.antiderivative(x), target.integrand(x))
        COMMANDS["hello"](["Ada"])
        assert capsys.readouterr().out == "hello, Ada\n"
        with pytest.raises(ValueError, match="nobody to greet"):
            COMMANDS["hello"]([])


def test_the_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_bytes()) <= 9000


def test_numbers_of_the_readme_are_those_of_the_pages():
    """The short table repeats what the pages have with its commands, and what the paper has printed."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What it reaches")[2].partition("\n## ")[0]
    known = "".join(page.read_text(encoding="utf-8") for page in PAGES[1:])
    paper, nerf = paper_numbers.PER_SCENE["psnr"], paper_numbers.TABLE_1["nerf"]["seconds_per_frame"]
    printed = {f"{value:.2f}" for values in paper.values() for value in values}
    printed |= {f"{nerf / row['seconds_per_frame']:.1f}" for row in paper_numbers.TABLE_1.values()}
    numbers = set(re.findall(r"(?<![\w.])\d+\.\d+(?!\w)", section))
    assert len(numbers) > 15
    assert not {number for number in numbers if number not in printed and number not in known}


def slug(title):
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_titles(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_file(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", target.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in map(slug, titles), link


def test_files_that_pages_name_are_there():
    """Code spans such as ``autoint/scenes/colors.py``; x stands for a reader's own name."""
    for page in PAGES:
        for span in re.findall(
            r"`([^`\s]+/[^`\s]+\.(?:py|md|yaml|ipynb))`", BLOCK.sub("", page.read_text(encoding="utf-8"))
        ):
            if not re.search(r"(^|/)(x|mine)\.|[<>*…]|^outputs/|^data/", span):
                assert any((base / span).is_file() for base in (ROOT, ROOT / "autoint")), f"{page.name}: {span}"


def test_every_page_is_in_the_site_and_every_public_name_in_the_reference():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert str(page.relative_to(ROOT / "docs")) in site
    for room, names in PUBLIC.items():
        if room == "autoint":
            index = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
            found = re.findall(r"^\| \[`autoint\.(\w+)`\]\[", index, re.MULTILINE)
        else:
            text = (ROOT / "docs" / "reference" / f"{room.partition('.')[2]}.md").read_text(encoding="utf-8")
            found = re.findall(rf"^::: {re.escape(room)}\.(\w+)$", text, re.MULTILINE)
        assert sorted(found) == sorted(names.split()), room
    extending = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(autoint[\w.]*)` \| (.*) \|$", extending, re.MULTILINE))
    assert {room: sorted(re.findall(r"`(\w+)`", names)) for room, names in rows.items()} == {
        room: sorted(names.split()) for room, names in PUBLIC.items()
    }


def test_docstrings_of_public_names_are_markdown():
    """No roles of reStructuredText and no ``Example:``, which a reader of the site would see as they are."""
    for room, names in PUBLIC.items():
        for name in names.split():
            thing = getattr(importlib.import_module(room), name)
            own = vars(thing).items() if isinstance(thing, type) else ()
            for part in (thing, *(value for key, value in own if not key.startswith("_"))):
                text = getattr(part, "__doc__", None) or ""
                assert not re.search(r":\w+:`|^ *Example:$", text, re.MULTILINE), f"{room}.{name}: {part}"


def test_the_design_draws_the_floors_as_they_are():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    drawing = page.partition("## Who may import whom")[2].partition("```text\n")[2].partition("```")[0]
    drawn = [tuple(re.findall(r"\w+", line.partition("(")[0])) for line in drawing.splitlines()]
    assert [floor for floor in drawn if floor] == [*reversed(FLOORS)]


def test_the_design_names_every_room_and_every_module_of_the_runs():
    rooms = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## The rooms")[2].partition("\n## ")[0]
    package, runs = ROOT / "autoint", ROOT / "autoint" / "runs"
    folders = {folder.parent.name for folder in package.rglob("__init__.py")} - {"autoint", "data"}
    assert not {f"{folder}/" for folder in folders if f"{folder}/" not in rooms}
    assert not {file.stem for file in runs.rglob("*.py") if file.stem != "__init__" and file.stem not in rooms}


def test_the_picture_of_the_idea_is_drawn_from_a_network(monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.syspath_prepend(ROOT / "docs")
    figures = importlib.import_module("figures")
    model = autoint.fit(
        figures.density, figures.NEAR, figures.FAR, points=64, adam_steps=5, max_time=0.0, progress=False
    )
    above, below = figures.idea(model).axes
    a, b = (
        figures.NEAR + (figures.FAR - figures.NEAR) * k / figures.SECTIONS for k in (figures.SHOWN, figures.SHOWN + 1)
    )
    assert f"{model.integral(a, b).item():.4f}" in "".join(text.get_text() for text in below.texts)
    assert "1.0081" in "".join(text.get_text() for text in above.texts)  # the true area, whatever was learned


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 300_000
    assert (ROOT / "docs" / "images" / "idea.png").stat().st_size < 100_000
