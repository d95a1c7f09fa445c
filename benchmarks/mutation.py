"""Is the test-suite one that notices? Small faults are put into the mathematics, one at a time, and the tests run.

``python -m benchmarks.mutation --seconds 600 --seed 0`` draws faults from the files below at random (a comparison, an
arithmetic operator, a sign, a constant, ``and`` for ``or``), until the time is up, and writes which ones survived, as
JSON with ``--out FILE``. A fault that no test can see because it changes nothing that anybody could see counts too.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
CONTRACTS = "tests/contracts/test_components.py::test_"
VOLREND = "tests/scenes/test_task.py::test_"
GRAD_NETS = [
    "tests/networks/test_grad_nets.py",
    f"{CONTRACTS}grad_net_values_and_parameter_gradients",
    f"{CONTRACTS}grad_nets_of_higher_order",
    f"{CONTRACTS}grad_net_along_a_ray_with_a_condition",
]
TARGETS = {
    "autoint/scenes/rendering.py": ["tests/scenes/test_rendering.py", "tests/test_shapes.py"],
    "autoint/scenes/sections.py": ["tests/scenes/test_sections.py", "tests/scenes/test_occupancy.py"],
    "autoint/integrals/definite.py": [
        "tests/integrals/test_definite.py",
        "tests/integrals/test_accuracy.py",
        "tests/test_benchmarks.py::test_rendering",
    ],
    "autoint/networks/grad_nets/base.py": [
        *GRAD_NETS,
        "tests/networks/test_compilation.py",
        f"{VOLREND}mixed_precision_keeps_what_needs_all_digits",
    ],
    "autoint/networks/grad_nets/automatic.py": [*GRAD_NETS, "tests/integrals/test_definite.py"],
    "autoint/networks/grad_nets/explicit.py": [*GRAD_NETS, "tests/integrals/test_definite.py"],
    "autoint/networks/grad_nets/graph.py": ["tests/networks/test_graph.py", "tests/networks/test_grad_nets.py"],
    "autoint/networks/grad_nets/operations.py": ["tests/networks/test_graph.py"],
    "autoint/networks/grad_nets/rules.py": ["tests/networks/test_graph.py"],
}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
    ast.Not: ast.UAdd,
}


class Site(NamedTuple):
    """A node that can be changed, by where it stands: Python's parser uses one and the same ``Add`` everywhere."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST


def sites(tree: ast.AST) -> Iterator[Site]:
    """Yield what can be changed: nothing of annotations, error messages, or what only documents."""
    if isinstance(tree, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return
    if isinstance(tree, ast.keyword) and tree.arg == "strict":
        return  # of zip: it guards against what does not happen
    for field, value in ast.iter_fields(tree):
        if isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)) and field != "body":
            continue  # annotations, decorators, and defaults that only say what a user may give
        if isinstance(tree, ast.AnnAssign) and field != "value":
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST):
                continue
            negative = (
                isinstance(node, ast.USub) and isinstance(tree, ast.UnaryOp) and isinstance(tree.operand, ast.Constant)
            )
            number = isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float))
            if number or (type(node) in SWAPS and not negative):  # a negative number is one number
                yield Site(tree, field, index if isinstance(value, list) else None, node)
            yield from sites(node)


def mutated(source: str, number: int) -> tuple[str, str]:
    """Return the source with its ``number``-th site changed, and what was changed."""
    tree = ast.parse(source)
    parent, field, index, node = list(sites(tree))[number]
    line, before = getattr(parent, "lineno", getattr(node, "lineno", 0)), ast.unparse(parent)
    if isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1
    elif index is None:
        setattr(parent, field, SWAPS[type(node)]())
    else:
        getattr(parent, field)[index] = SWAPS[type(node)]()
    return ast.unparse(tree), f"line {line}: {before[:80]}  ->  {ast.unparse(parent)[:80]}"


class Witness:
    """Note which test failed: it runs first next time, as tests that noticed one fault often notice others."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.note.write_text(report.nodeid)


def copied(place: Path) -> None:
    """Copy the project, so that its files can be changed."""
    for part in ("autoint", "tests", "conf", "benchmarks"):
        shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("train.py", "evaluate.py", "pyproject.toml"):
        shutil.copy(ROOT / part, place / part)


def survives(place: Path, file: str, source: str, limit: float, first: list[str], say: bool = False) -> bool:
    """Run the tests of ``file`` with another source, in a copy of the project and a process of its own.

    ``first`` are tests to begin with, those that noticed faults before; the one that notices this fault joins them.
    """
    before = (place / file).read_text(encoding="utf-8")
    try:
        _write(place / file, source)
        return _passes(place, file, limit, first, say)
    finally:
        _write(place / file, before)


_times = itertools.count(10**9, 2)


def _write(file: Path, source: str) -> None:
    file.write_text(source, encoding="utf-8")
    second = next(_times)  # or what was compiled of another source of the same second and length would be taken
    os.utime(file, (second, second))


def _passes(place: Path, file: str, limit: float, first: list[str], say: bool) -> bool:
    for name in ("log", "failed"):
        (place / name).unlink(missing_ok=True)
    child = os.fork()
    if not child:
        os._exit(_run_tests(place, [*first, *TARGETS[file]]))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if say and status:
                print((place / "log").read_text()[-3000:])
            if status and (place / "failed").exists():
                failed = (place / "failed").read_text()
                first[:] = [failed, *(test for test in first if test != failed)][:20]
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False  # it hangs, which is noticed too


def _run_tests(place: Path, tests: list[str]) -> int:
    os.setsid()
    os.chdir(place)
    nowhere = os.open(place / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.path.insert(0, str(place))
    os.environ["PYTHONPATH"] = str(place)  # for tests with processes of their own
    import pytest

    try:
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], [Witness(place / "failed")]))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    """Draw faults until the time is up, and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a file's name")
    parser.add_argument("--again", type=Path, help="a report: only what survived then, and what reads the same")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    import torch

    for name in ("mpmath", "pytest", "pytorch_lightning", "scipy.integrate", "torch._dynamo"):
        importlib.import_module(name)  # once, before the processes part
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file in TARGETS if given.only in file}
    faults = [(file, n) for file, text in sources.items() for n in range(len(list(sites(ast.parse(text)))))]
    order = copy.copy(faults)
    random.Random(given.seed).shuffle(order)
    if given.again:
        left = {(s["file"], s["what"].partition(": ")[2]) for s in json.loads(given.again.read_text())["survivors"]}
        order = [(f, n) for f, n in order if (f, mutated(sources[f], n)[1].partition(": ")[2]) in left]
    start, limits, tried, survivors = time.monotonic(), {}, 0, []
    first: dict[str, list[str]] = {file: [] for file in sources}
    with tempfile.TemporaryDirectory() as name:
        copied(place := Path(name))
        for file, number in order:
            if time.monotonic() - start > given.seconds:
                break
            if file not in limits:
                begun = time.monotonic()
                if not survives(place, file, sources[file], 3600, [], say=True):
                    sys.exit(f"the tests of {file} fail without any fault")
                limits[file] = 3 * (time.monotonic() - begun) + 10
            source, what = mutated(sources[file], number)
            tried += 1
            if lives := survives(place, file, source, limits[file], first[file]):
                survivors.append({"file": file, "what": what})
            print(f"{'SURVIVES' if lives else 'killed':9}{file}, {what}", flush=True)
    report = {"faults": len(faults), "tried": tried, "killed": tried - len(survivors), "survivors": survivors}
    print(json.dumps(report, indent=2))
    if given.out:
        given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
