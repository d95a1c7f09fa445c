"""All benchmarks: ``python -m benchmarks``, or some of them by name; ``--quick`` ends within 3 minutes on 2 cores.

Each prints its numbers, most of them ratios within one run, and writes them with the environment to
``outputs/benchmarks/NAME.json`` and as a plot to ``NAME.png``. ``--docs`` also writes what the docs quote of them.
``python -m benchmarks gpu --help`` tells of what is asked of an accelerator.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

SUITE = {
    "steps": "a training step: both ways to fit, compiled or not, and what the host adds",
    "rendering": "a frame against NeRF's, and the number of rays at a time",
    "viewer": "frames per second of the viewer, from sections and from a tree",
    "integrals": "definite integrals against scipy and torchquad",
    "trust": "coverage of error bars, variance against Monte Carlo",
    "ct": "tomography against the classics",
    "fans": "tomography by fan beams against parallel rays, at several sizes",
    "loading": "drawing batches of rays",
    "scaling": "with N, pixels, images, width and processes",
    "gradients": "value and gradient of a network in one pass against autograd",
    "grad_networks": "every builder against the plain network",
}
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def quote(page: str, name: str, text: str) -> str:
    """Return ``page`` with ``text`` between the marks of benchmark ``name``; ``ValueError`` where there are none."""
    begin, end = f"<!-- benchmark {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{PAGE.name} has no place for benchmark {name}: put {begin.strip()} and {end} into it")
    return f"{before}{begin}{text}{end}{after}"


def missing() -> list[str]:
    """Return which of the packages that ``pyproject.toml`` asks for are not installed."""
    file = Path(__file__).parent.parent / "pyproject.toml"
    wanted = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
    names = [re.match(r"[\w.-]+", requirement)[0] for requirement in wanted]  # type: ignore[index]
    there = {dist.metadata["Name"].lower().replace("_", "-") for dist in metadata.distributions()}
    return [name for name in names if name.lower() not in there]


def main() -> None:
    """Run what was asked for."""
    if lacking := missing():
        sys.exit(
            f"not installed: {' '.join(lacking)}; pip install them, from a folder by --no-index --find-links=FOLDER"
        )
    if sys.argv[1:2] == ["gpu"]:
        importlib.import_module("benchmarks.gpu").main(sys.argv[2:])
        return
    from autoint.files.machine import keep_freed
    from benchmarks.measure import report

    listed = "\n".join(f"  {name:14} {what}" for name, what in SUITE.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer, to see that everything works")
    parser.add_argument("--docs", action="store_true", help="write the numbers that docs/benchmarks.md quotes")
    given = parser.parse_args()
    if unknown := set(given.names) - set(SUITE):
        parser.error(f"unknown: {', '.join(sorted(unknown))} (available: {', '.join(SUITE)})")
    if given.quick and given.docs:
        parser.error("--docs needs the numbers of a whole run; leave out --quick")
    keep_freed()
    for name in given.names or SUITE:
        start = time.perf_counter()
        print(f"== {name}: {SUITE[name]}", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        tables = module.run(given.quick)
        report(name, tables, given.quick)
        if given.docs and hasattr(module, "quoted"):
            PAGE.write_text(quote(PAGE.read_text(encoding="utf-8"), name, module.quoted(tables)), encoding="utf-8")
        print(f"{time.perf_counter() - start:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
