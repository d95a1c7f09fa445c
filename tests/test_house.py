"""The plan of the house: who may import whom, what is public, and the names of before the move."""

import ast
import importlib
import lzma
import runpy
import shutil
import sys
import warnings
from pathlib import Path

import pytest

import autoint
from autoint.names import MOVED
from autoint.registry import COMMANDS, LAYOUTS
from tests.conftest import ROOT

PACKAGE = Path(autoint.__file__).parent
FLOORS = (
    ("names",),
    ("autoint",),
    ("registry",),
    ("files",),
    ("networks", "reports"),
    ("runs",),
    ("integrals",),
    ("scenes", "surfaces", "tomography"),
    ("__main__",),
)
"""From the ground up: a room imports from the floors below it only. ``docs/design.md`` draws the same."""
PUBLIC = {
    "autoint": "Camera Estimate IntegralNet Scene draw fit fit_density grad_net gradient integrate load reconstruct "
    "train",
    "autoint.networks": "AbstractEncoding AbstractGradNet Activation DistanceNet IntegralNet curvature draw grad_net "
    "gradient he_init",
    "autoint.integrals": "AbstractAntiderivative Antiderivative Density DensityFitted ErrorReport Estimate Fitted "
    "Piecewise Target fit fit_density gauss_legendre integrate midpoint stratified",
    "autoint.scenes": "AbstractColor AbstractPlacement AbstractSections AbstractVolume Camera Intrinsics Occupancy "
    "Rays RenderedImage Rendering Run Scene Views composite load train",
    "autoint.surfaces": "AbstractShape",
    "autoint.tomography": "Lattice Reconstruction Scan projection_matrix reconstruct",
    "autoint.runs": "EvaluateConfig Evaluation RunConfig StepLoader Sweep Task generator learning_rate report_layout",
}


def modules():
    return {
        ".".join(["autoint", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file
        for file in PACKAGE.rglob("*.py")
    }


def imports_of(name, file, known):
    """The modules of this package that a file imports, late imports and those for type checkers included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "autoint")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide where they lead"
            if (node.module or "").partition(".")[0] == "autoint":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in known else node.module


def graph():
    known = modules()
    return {name: set(imports_of(name, file, known)) - {name} for name, file in known.items()}


def room(module):
    return [*module.split("."), "autoint"][1]


def test_no_arrow_between_rooms_runs_up():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    up = []
    for module, targets in graph().items():
        if module == "autoint":
            continue  # its public names are found when they are used
        for target in targets:
            a, b = room(module), room(target)
            if a != b and floor[a] <= floor[b]:
                up.append(f"{module} -> {target}")
    assert not up


def test_modules_import_each_other_in_no_circle():
    edges = {name: set(targets) for name, targets in graph().items()}
    for package in edges:  # what a package offers is not what its modules stand on
        if (PACKAGE.parent / package.replace(".", "/")).is_dir():
            edges[package] = set()
    while free := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in free:
            del edges[name]
    assert not edges


def test_few_files_stand_in_the_entrance():
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "registry.py", "names.py"}


@pytest.mark.parametrize("package", PUBLIC)
def test_what_is_public_is_written_down_and_there(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{package}.{name} says nothing of itself"


def test_imports_of_before_the_move_go_on_with_a_warning():
    for room_, names in MOVED.items():
        for name in names.split():
            old, _, new = name.partition(":")
            sys.modules.pop(f"autoint.{old}", None)
            now = f"autoint.{new or f'{room_}.{old}'}"
            with warnings.catch_warnings(record=True) as told:  # of its package, too
                warnings.simplefilter("always")
                assert importlib.import_module(f"autoint.{old}").__name__ == now
            assert [str(w.message) for w in told][-1].startswith(f"autoint.{old} is {now} now")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from autoint.grad_nets.explicit import Explicit
    from autoint.networks.grad_nets.explicit import Explicit as Now

    assert Explicit is Now  # one module under two names would register everything twice


@pytest.mark.parametrize(
    ("old", "new"), [("autoint.export", "autoint export RUN"), ("autoint.data.download", "autoint download SCENE")]
)
def test_a_program_that_became_a_command_says_so_in_one_line(old, new, monkeypatch):
    monkeypatch.setattr(sys, "argv", [old, "x"])
    monkeypatch.delitem(sys.modules, old, raising=False)
    with warnings.catch_warnings(action="ignore"), pytest.raises(SystemExit) as stopped:
        runpy.run_module(old, run_name="__main__", alter_sys=True)
    assert stopped.value.code == f"python -m {old} is now: {new}"  # which goes to stderr, with status 1


def test_one_door_leads_to_every_command(program):
    status, out, _ = program("autoint")
    assert status == 0
    assert all(f"  {name} " in out for name in ("train", "evaluate", "export", "bake", "download"))
    status, out, err = program("autoint", "trian")
    assert (status, out) == (2, "")
    assert err.startswith("error: command='trian' is unknown; did you mean 'train'? (available: bake, download, ")
    assert {"train", "evaluate", "export", "download"} <= set(COMMANDS.names())
    status, _, err = program("autoint", "export", "nowhere")
    assert status == 2
    assert err.startswith("error: nowhere: no such checkpoint")


def test_the_layouts_of_reports_belong_to_their_limbs():
    assert {name: LAYOUTS.build(name).task for name in LAYOUTS.names()} == {
        "table1": "volrend",
        "figure5": "volrend",
        "deepvoxels": "volrend",
        "figure3": "ct",
        "sparse_ct": "ct",
        "systems": "volrend",
    }


@pytest.mark.parametrize("file", sorted((ROOT / "tests" / "golden" / "checkpoints").glob("*.xz")), ids=lambda f: f.stem)
def test_a_checkpoint_of_before_the_move_is_evaluated(file, program, no_lpips, undrawn, tmp_path):
    """Written by 0.1.0 before its modules moved; evaluated from nothing but itself, and exported."""
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    with lzma.open(file) as packed, checkpoint.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    status, out, err = program("evaluate", f"runs={tmp_path / 'run'}", "max_images=1", "hydra.run.dir=evaluation")
    assert status == 0, err
    expected = {"ct": "AutoInt object", "function": "cos", "object": "section_means"}
    assert expected.get(file.name.split(".")[0], file.name.split(".")[0]) in out
