"""Every command in README and docs: it composes or parses, and runs here or says what it needs."""

import contextlib
import functools
import importlib
import io
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from autoint.registry import COMMANDS
from autoint.runs.command_line import cli, presets, words
from autoint.runs.config import RunConfig
from autoint.runs.evaluation import EvaluateConfig
from tests.conftest import ROOT, TINY
from tests.test_docs import BLOCK, PAGES, own_components

PROGRAMS = ("python train.py", "python evaluate.py", "python -m", "python docs/", "autoint", "make", "pip install")
NEEDS = {
    "a network": r"pip install|autoint download",
    "data": r"autoint (photos|look)|data_dir=|scene=(?!procedural)|path=|image=photo|"
    r"experiment=(lego|table1|figure5|deepvoxels|systems)",
    "a trained run": r"runs=|ckpt_path=|autoint (export|bake|evaluate|view)|evaluate.py($| [^-])",
    "minutes": r"make|benchmarks|tests.files.(fuzz|mutations)|docs/figures.py|experiment=(figure3|sparse_ct)|rho=256|"
    r"max_steps=6000|python train.py -m task=function",
    "an extra": r"hydra/sweeper=optuna",
    "a component of the reader's": r"activation=gaussian|function=my_module",
    "nothing, and tests of the limbs run it": r"--help|scale=tiny|function=cos ",
    "a name in the place of COMMAND or …": r"COMMAND|…|^autoint train$",
}
"""What commands need that cannot be run here as they stand. They are composed or parsed all the same."""
ALONE = {
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu",
    "pip install notebook",
}
"""Commands of which there is nothing of ours to check."""
SHRUNK = {
    "volrend": [*TINY, "trainer.max_steps=2"],
    "ct": ["rho=16", "theta=32", "passes=2", "batch_size=16", "trainer.max_steps=2", "network.hidden_features=8"],
    "surface": ["resolution=12", "num_points=100", "batch_size=16", "trainer.max_steps=2", "network.hidden_features=8"],
    "image": ["image_size=16", "batch_size=16", "trainer.max_steps=2", "network.hidden_features=8"],
    "function": ["points=16", "adam_steps=1", "trainer.max_steps=2"],
}
"""What makes a training of each task take a second."""


class Command(NamedTuple):
    """A command, and where it stands."""

    page: Path
    words: tuple[str, ...]

    @property
    def text(self):
        return shlex.join(self.words)


def split(line):
    """Return the words of a command without its comment, or nothing for what is no command of ours."""
    line = line.strip()
    if not any(re.match(rf"{re.escape(program)}(\s|$|(?<=/))", line) for program in PROGRAMS):
        return ()
    return tuple(shlex.split(line, comments=True))


def commands():
    """Every command of every page: lines of blocks without a language, and code spans in the text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [body for language, body in BLOCK.findall(text) if not language]
        lines = [line for body in blocks for line in body.replace("\\\n", " ").splitlines()]
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]
        for line in [*lines, *spans]:
            if words := split(line):
                yield Command(page, words)


COMMANDS_IN_DOCS = [*{(command.page, command.text): command for command in commands()}.values()]


def test_commands_are_found_in_blocks_in_text_and_over_several_lines():
    texts = {command.text for command in COMMANDS_IN_DOCS}
    assert {"make demo", "autoint download lego", "pip install -e '.[video]'"} <= texts
    assert "python train.py task=ct phantom=shepp_logan views=16" in texts
    assert any(text.endswith("hydra.run.dir=outputs/lego/autoint_32") for text in texts)
    assert len(texts) > 60


@pytest.fixture(scope="module", autouse=True)
def _hydra_groups():
    cli.store_groups()
    cli.store_evaluation()


def jobs(overrides):
    """The overrides of the first and of the last job of a sweep; what a sweeper draws is taken from its range."""
    overrides = [re.sub(r"=interval\(([^,]+),.*", r"=\1", o) for o in overrides if not o.startswith("-")]
    overrides = [o.replace("scene=FOLDER", "scene=transforms") for o in words.as_typed(overrides)]
    # Launchers and sweepers are Hydra's affair, and may not be installed.
    overrides = [o for o in overrides if not o.startswith(("hydra/", "hydra.launcher", "hydra.sweeper"))]
    [every] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    return [every[0], *every[1:][-1:]]


def composed(config_name, overrides):
    with initialize_config_dir(str(ROOT / "conf"), **cli.VERSION):
        presets.check(GlobalHydra.instance().config_loader(), overrides)
        return compose(config_name, overrides)


PLACES = ("data_dir=", "hydra.run.dir=", "hydra.sweep.dir=")


@functools.cache
def run_config(*overrides):
    return RunConfig.from_hydra(composed("config", list(overrides)))


def train(arguments):
    """The configurations of a command's first and last job; where it reads and writes says nothing new."""
    return [run_config(*(o for o in job if not o.startswith((*PLACES, "--help")))) for job in jobs(arguments)]


def evaluate(arguments):
    EvaluateConfig.from_hydra(composed("evaluate", words.as_runs([a for a in arguments if a != "--help"])))


def door(arguments, monkeypatch):
    """``autoint``: the command is there, and takes these arguments."""
    if not arguments or arguments[0] in ("COMMAND", "--help", "--version"):
        return
    name, *rest = arguments
    assert name in COMMANDS.names()
    if name in ("train", "evaluate"):
        return {"train": train, "evaluate": evaluate}[name]([a for a in rest if a != "…"])
    if not rest:  # the command's name alone, in a sentence
        return None
    for work in (
        "autoint.runs.export.export",
        "autoint.runs.export.export_mesh",
        "autoint.scenes.data.download.download",
    ):
        monkeypatch.setattr(work, lambda *arguments, **options: "done")
    monkeypatch.setattr("autoint.scenes.data.photos.poses_of_photos", lambda *arguments: "done")
    monkeypatch.setattr("autoint.tomography.volumes.volume", lambda *arguments: "done")
    monkeypatch.setattr("autoint.tomography.volumes._count", lambda *arguments: 64)
    monkeypatch.setattr("autoint.scenes.look.look", lambda *arguments: "done")
    monkeypatch.setattr("autoint.scenes.look.load_views", lambda *arguments: None)
    if name == "view":
        assert set(rest) == {"RUN"}
        return
    if name == "look":
        rest = [word.replace("scene=FOLDER", "scene=transforms") for word in rest]
    if name == "photos":
        rest = [word.replace("FOLDER", str(ROOT)) for word in rest]
    monkeypatch.setattr("autoint.scenes.baking.bake", lambda *arguments, **options: ROOT / "docs")
    with contextlib.redirect_stdout(io.StringIO()):
        COMMANDS[name](rest)


def module(arguments, monkeypatch):
    """``python -m``: the module is there; of ``benchmarks`` also the name that is asked for."""
    name, *rest = arguments
    if name == "autoint":
        return door(rest, monkeypatch)
    if name == "venv":
        return
    assert importlib.util.find_spec(name), name
    if name == "benchmarks" and rest[:1] == ["gpu"]:
        from benchmarks.gpu import arguments_of

        arguments_of(rest[1:])
    elif name == "benchmarks":
        from benchmarks.__main__ import SUITE

        flags = {"--quick", "--docs"}
        assert {word for word in rest if word not in flags} <= {*SUITE, "NAME"}, rest


def installed(arguments):
    """``pip install``: what is installed is this project, with an extra that there is."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    [what] = [a for a in arguments if not a.startswith("-")]
    place, extra = re.fullmatch(r"(\.)(?:\[(\w+)\])?", what).groups()
    assert place == "."
    assert extra is None or extra in known, extra


def check(command, monkeypatch):
    """Fail where a command cannot be what a reader is to type."""
    words = list(command.words)
    if command.text in ALONE:
        return
    if words[:2] == ["python", "train.py"]:
        train(words[2:])
    elif words[:2] == ["python", "evaluate.py"]:
        evaluate(words[2:])
    elif words[:2] == ["python", "-m"]:
        module(words[2:], monkeypatch)
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif words[0] == "autoint":
        door(words[1:], monkeypatch)
    elif words[0] == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    else:
        installed(words[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_is_understood(page, monkeypatch):
    own = own_components(monkeypatch, page) if page.name == "extending.md" else contextlib.nullcontext()
    with own:
        for command in COMMANDS_IN_DOCS:
            if command.page == page:
                try:
                    check(command, monkeypatch)
                except Exception as error:
                    raise AssertionError(f"{page.name}: {command.text}: {error}") from error


WHOLE = [
    c
    for c in {c.text: c for c in COMMANDS_IN_DOCS}.values()
    if not any(re.search(pattern, c.text) for pattern in NEEDS.values())
]


def test_every_command_is_run_here_or_says_what_it_needs():
    assert {command.text for command in WHOLE} == {
        "autoint",
        "python train.py",
        "python train.py task=ct phantom=ellipses phantom.source=400 theta=180 subsample=4",
        "python train.py task=ct phantom=shepp_logan views=16",
        "python train.py task=surface shape=csg normals=false",
        "python train.py task=surface shape=torus",
        "python train.py task=function 'function=sin(x)*exp(-y**2)' 'lower=[0,0]' 'upper=[3,1]'",
        "python train.py task=function function=xcosx lower=-1 upper=1",
        "python train.py task=image",
    }


@pytest.mark.parametrize("command", [c for c in WHOLE if c.words[0] == "python"], ids=lambda c: c.text)
def test_a_command_runs(command, program, undrawn):
    words = command.words[2:]
    status, _, err = program("train", *words, *SHRUNK[train(words)[0].task], "hydra.run.dir=run")
    assert status == 0, err
    assert Path("run/result.json").is_file()
