"""Mutations of structure: what a value is, what it is called, how often it stands there, and how large it is.

``python -m tests.files.mutations KIND --count 10000`` goes through as many as wanted; ``test_mutations.py`` through
some. Deterministic: mutation number n of a kind is the same on every machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import logging
import math
import os
import random
import reprlib  # in full, what is shared twelve times over would never end
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.conftest import hydra_reads_once
from tests.files.mutated import KINDS

SECONDS, MEGABYTES = 10.0, 1024.0
NUMBERS = (-1, 0, 1, 2, 3, 7, 10**3, 10**6, 10**9, 10**18, 2**63, 10**40, -(10**18), 0.5, -0.5, 1e-300, 1e300)
ENDLESS = (float("nan"), float("inf"), -float("inf"))
TEXTS = ("", "x", "a:b", "../x", "/etc/passwd", "${seed}", "${oc.env:HOME}", "line\nline", "\x1b[31m", "é", "x" * 20000)
NAMED = ("ply", "mat", "colmap", "colmap_bin", "camera_path", "scan")
"""Kinds of which every refusal has the place of the file."""
SEVERAL = ("scene", "scan", "colmap", "colmap_bin", "camera_path")
"""Kinds of which a refusal has a line for each of what is in them."""
KEYS = ("name", "path", "_target_", "options", "a:b", "x.y", "seed\n", "", "0")
DTYPES = (
    torch.int8,
    torch.int64,
    torch.bool,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything within nested dicts and lists, of what is shared once."""
    found, stack, seen = [], [value], set()
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, below in pairs:
            found.append((item, key))
            stack.append(below)
    return found


def mutated(value: Any, draw: random.Random, foreign: bool = True, times: int | None = None) -> Any:
    """Return a copy of nested data with one to three changes; ``foreign`` allows what no text can say."""
    value = copy.deepcopy(value)
    for _ in range(times or draw.choice((1, 1, 1, 2, 3))):
        spots = places(value)
        if not spots:
            return value
        # Half of them anywhere, and half where it is shallow: tensors would else be nearly all there is.
        owner, key = draw.choice(spots) if draw.random() < 0.7 else draw.choice(spots[: max(1, len(spots) // 6)])
        change(value, owner, key, draw, foreign)
    return value


def change(root: Any, owner: Any, key: Any, draw: random.Random, foreign: bool) -> None:
    """Make one change at ``owner[key]``."""
    here = owner[key]
    kind = draw.choice(
        ("drop", "rename", "number", "number", "text", "type", "nest", "swap", "share", "endless", "many")
    )
    if isinstance(here, (torch.Tensor, np.ndarray)) and draw.random() < 0.8:
        owner[key] = of_array(here, draw)
    elif kind == "drop":
        del owner[key]
    elif kind == "rename" and isinstance(owner, dict):
        owner[draw.choice(KEYS) if draw.random() < 0.5 or not isinstance(key, str) else key + "x"] = owner.pop(key)
    elif kind == "swap":
        other, place = draw.choice(places(root))
        owner[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(here)
    else:
        owner[key] = another(kind, here, root, draw, foreign)


def another(kind: str, here: Any, root: Any, draw: random.Random, foreign: bool) -> Any:
    """Return what is to stand in the place of ``here``."""
    foreign_values = [(1, 2), torch.zeros(2), torch.tensor(3), {1: 2}, {None: 1}] if foreign else []
    values: dict[str, tuple[Any, ...]] = {
        "endless": ENDLESS,
        "text": TEXTS,
        "type": (None, True, False, [], {}, [here], {"name": here}, reprlib.repr(here), *foreign_values),
    }
    if kind == "nest":
        for _ in range(draw.choice((1, 2, 60, 2000 if foreign else 300))):
            here = [here] if draw.random() < 0.5 else {"x": here}
        return here
    if kind == "share" and foreign:
        part: Any = [here] if draw.random() < 0.8 else root
        for _ in range(draw.choice((1, 3, 12))):
            part = [part] * 10
        return part
    if kind == "many":
        return [copy.deepcopy(here) for _ in range(draw.choice((2, 70, 3000)))] if small(here) else []
    return draw.choice(values.get(kind, NUMBERS))


def small(value: Any) -> bool:
    below = [value, *(owner[key] for owner, key in places(value))]
    return len(below) <= 20 and all(math.prod(item.shape) < 1000 for item in below if hasattr(item, "shape"))


def of_array(array: Any, draw: random.Random) -> Any:
    """Return another tensor or array: of another kind of numbers, another shape, or other values."""
    numpy = isinstance(array, np.ndarray)
    tensor = torch.from_numpy(array.copy()) if numpy else array.clone()
    kind = draw.choice(("dtype", "dtype", "flat", "more", "less", "empty", "value", "value", "scale"))
    if kind == "dtype":
        wanted = draw.choice([d for d in DTYPES if not (numpy and d is torch.bfloat16)])
        tensor = tensor.to(wanted)
    elif kind == "flat":
        tensor = tensor.flatten() if draw.random() < 0.5 else tensor[None]
    elif kind == "more":
        tensor = torch.cat([tensor, tensor]) if tensor.dim() else tensor.expand(3).clone()
    elif kind == "less":
        tensor = tensor[1:].clone() if tensor.dim() else tensor
    elif kind == "empty":
        tensor = tensor.new_zeros(0)
    elif kind == "scale":
        tensor = (tensor * draw.choice((-1, 0, 10**6))).clone()
    elif tensor.numel() and tensor.is_floating_point():
        tensor.view(-1)[draw.randrange(tensor.numel())] = draw.choice((*ENDLESS, -1.0, 1e30, 0.0))
    return tensor.numpy() if numpy else tensor


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """End what takes twice of what is allowed, by an error of its own: it may be one that would never end."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {2 * SECONDS:.0f} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + int(2 * MEGABYTES * 2**20), before[1]))
    handler = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def fault(error: ValueError, kind: str, folder: Path) -> str:
    """Return what is wrong with a refusal, or an empty string."""
    lines, most = str(error).splitlines(), 21 if kind in SEVERAL else 1
    ours = kind.startswith("yaml") or "autoint" in traceback.extract_tb(error.__traceback__)[-1].filename
    if not ours or not 1 <= len(lines) <= most:
        return f"{'ours' if ours else 'not our'} ValueError in {len(lines)} lines"
    if kind in NAMED and folder.name not in str(error):
        return "which file is it?"
    longest = max(map(len, lines))
    return f"a line of {longest} characters" if longest > 2000 else ""


def failures(kind: str, folder: Path, numbers: range) -> Iterator[str]:
    """Go through mutations; yield what was wrong with each that ended neither well nor in one line, or took much."""
    logging.disable(logging.CRITICAL)
    try:
        good, read = KINDS[kind](folder)
        gc.collect()
        gc.freeze()  # what the imports and the good run have made is gone through no more
        for done, number in enumerate(numbers):
            if done % 500 == 499:
                print(f"{kind}: {done + 1} done, {time.process_time():.0f} s of CPU", file=sys.stderr, flush=True)
            draw = random.Random(f"{kind} {number}")
            try:
                contents = mutated(good, draw, foreign=kind.startswith("checkpoint"))
            except RecursionError:  # of what is too deep to be copied once more
                continue
            before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            try:
                with limited():
                    read(contents, draw)
            except ValueError as error:
                if wrong := fault(error, kind, folder):
                    yield f"{number}: {wrong}: {str(error)[:300]}"
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
                yield f"{number}: {type(error).__name__}: {str(error)[:200]}\n{frames}"
            seconds = time.process_time() - start
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            if seconds > SECONDS or grown > MEGABYTES:
                yield f"{number}: took {seconds:.1f} s and {grown:.0f} MB more than the others"
    finally:
        logging.disable(logging.NOTSET)


def main() -> None:
    """Go through so many mutations of a kind, and print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder, found, start = Path(tempfile.mkdtemp()), 0, time.process_time()
    os.chdir(folder)
    with hydra_reads_once():
        for wrong in failures(given.kind, folder, range(given.first, given.first + given.count)):
            found += 1
            print(wrong, flush=True)
    shutil.rmtree(folder)
    told = f"{found} of {given.count} were neither taken nor refused in a line"
    print(f"{given.kind}: {told}; {time.process_time() - start:.0f} s of CPU")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
