"""Mutations of structure: what a value is, what it is called, how often it stands there, and how large it is.

``python -m tests.files.mutations KIND --count 10000`` goes through as many as wanted; ``test_mutations.py`` through
some. Deterministic: mutation number n of a kind is the same on every machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

SECONDS, MEGABYTES = 10.0, 1024.0
NUMBERS = (-1, 0, 1, 2, 3, 7, 10**3, 10**6, 10**9, 10**18, 2**63, 10**40, -(10**18), 0.5, -0.5, 1e-300, 1e300)
ENDLESS = (float("nan"), float("inf"), -float("inf"))
TEXTS = ("", "x", "a:b", "../x", "/etc/passwd", "${seed}", "${oc.env:HOME}", "line\nline", "\x1b[31m", "é", "x" * 20000)
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
        "type": (None, True, False, [], {}, [here], {"name": here}, str(here)[:99], *foreign_values),
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
    return not isinstance(value, (dict, list)) or len(places(value)) < 20


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


Kind = Callable[[Path], tuple[Any, Callable[[Any, random.Random], None]]]
"""``kind(folder)`` returns what is valid, and what makes a file of a mutation of it and reads that."""


def checkpoints(folder: Path, task: str = "volrend") -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A checkpoint, restored, exported or resumed."""
    import pytorch_lightning as pl

    from autoint.runs import build, damage, restoring, trainers
    from autoint.runs import checkpoints as files
    from autoint.runs.export import export
    from tests.runs import test_resume

    make = {"volrend": test_resume.volrend_config, "ct": test_resume.ct_config, "function": test_resume.function_config}
    config = make[task](trainer={"max_steps": 3, "log_every_n_steps": 2})
    test_resume.fit(config, folder / "run")
    good = files.load(folder / "run" / "checkpoints" / "last.ckpt")
    module, trainer = build.task(config).module, trainers.trainer(config, folder / "again")
    assert isinstance(module, pl.LightningModule)

    def read(contents: Any, draw: random.Random) -> None:
        file = folder / "sent" / "last.ckpt"
        file.parent.mkdir(exist_ok=True)
        try:
            torch.save(contents, file)
        except (RecursionError, RuntimeError, TypeError):  # which cannot be written either
            return
        loaded = files.load(file)
        use = draw.random()
        if use < 0.4:
            damage.check(file, loaded, module, trainer)
        elif use < 0.9:
            restoring.restored(file)
        else:
            shutil.rmtree(folder / "out", ignore_errors=True)
            export(str(file), str(folder / "out"))

    return good, read


def exports(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """An export: its configuration, and its weights by name."""
    from safetensors.torch import load_file, save_file

    from autoint.runs import restoring
    from autoint.runs.export import export

    checkpoints(folder, "ct")
    made = export(str(folder / "run"), str(folder / "export"))
    weights = load_file(made / "model.safetensors")
    good = {"about": json.loads((made / "config.json").read_text()), "weights": weights}

    def read(contents: Any, draw: random.Random) -> None:
        kept = contents.get("weights") if isinstance(contents, dict) else None
        kept = kept if isinstance(kept, dict) else {}
        named = {str(k): v.contiguous() for k, v in kept.items() if isinstance(v, torch.Tensor) and v.numel()}
        save_file(named or weights, made / "model.safetensors")
        (made / "config.json").write_text(as_json(contents.get("about") if isinstance(contents, dict) else 0))
        restoring.restored(made / "model.safetensors")

    return good, read


def as_json(value: Any) -> str:
    return json.dumps(value, default=lambda other: str(other)[:50])


def scenes(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """The transforms of a scene."""
    from autoint.scenes.data.blender import blender
    from autoint.scenes.data.transforms import transforms
    from tests.files.fuzz import scene

    good = [json.loads(text) for text in scene(folder)]

    def read(contents: Any, draw: random.Random) -> None:
        one = draw.choice(contents) if isinstance(contents, list) and contents else contents
        (folder / "transforms_train.json").unlink(missing_ok=True)
        text = as_json(one)
        if draw.random() < 0.1:
            text = text.replace('"frames"', '"frames": [], "frames"', 1)
        if draw.random() < 0.7:
            (folder / "transforms.json").write_text(text)
            bounds = draw.choice(("auto", "aabb_scale"))
            transforms(str(folder), "train", None, path=".", hold_every=2, bounds=bounds)
        else:
            (folder / "transforms_train.json").write_text(text)
            blender(str(folder), "train", None, path=".")

    return good, read


def scans(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A sinogram with its angles, and the poses of a forward-facing capture."""
    from autoint.scenes.data.llff import llff
    from autoint.tomography.data.scans import sinogram
    from tests.scenes import captures

    captures.write_llff(folder, captures.Camera(5.0, 5.0, 2.0, 1.5, 4, 3), captures.facing(3))
    values = np.sin(np.arange(48.0)).reshape(8, 6) + 2
    good = {"sinogram": values, "theta": np.arange(8) * 20.0, "poses": np.load(folder / "poses_bounds.npy")}

    def read(contents: Any, draw: random.Random) -> None:
        arrays = {str(k) or "x": v for k, v in contents.items() if not isinstance(v, torch.Tensor)}
        arrays = {k.replace("/", "_").replace("\n", ""): as_array(v) for k, v in arrays.items()}
        if draw.random() < 0.3 and "poses" in arrays:
            np.save(folder / "poses_bounds.npy", arrays["poses"])
            llff(str(folder), "train", None, path=".", ndc=draw.random() < 0.5)
        np.savez_compressed(folder / "a.npz", **arrays)
        sinogram(str(folder), None, None, path="a.npz")

    return good, read


def as_array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, OverflowError, TypeError):
        return np.asarray(str(value)[:50])


def configurations(folder: Path) -> tuple[Any, Callable[[Any, random.Random], None]]:
    """A file of configuration, composed by the program as it is, but for the run itself."""
    import yaml

    from autoint.runs import named_code
    from autoint.runs.command_line.cli import entry

    place = folder / "conf" / "experiment" / "sent.yaml"
    place.parent.mkdir(parents=True)
    good = {
        "seed": 1,
        "defaults": [{"override /activation": "sine"}, "_self_"],
        "sections": 4,
        "image_size": 12,
        "scene": {"num_solids": 2},
        "network": {"hidden_features": 8, "num_layers": 2},
        "optimizer": {"lr": 0.001, "betas": [0.9, 0.99]},
        "encoding": {"num_frequencies": 3},
        "trainer": {"max_steps": 2},
        "data_dir": "${background}",
        "hydra": {
            "mode": "RUN",
            "run": {"dir": "runs/${sections}"},
            "sweep": {"dir": "sweeps", "subdir": "${hydra.job.num}"},
            "sweeper": {"params": {"sections": "2,4", "background": "white"}},
            "job": {"name": "x"},
        },
    }

    def job(composed: Any) -> None:
        from autoint.runs.config import RunConfig

        named_code.check(RunConfig.from_hydra(composed).options, named_code.named(), "a file")

    def read(contents: Any, draw: random.Random) -> None:
        text = yaml.safe_dump(json.loads(as_json(contents)), allow_unicode=True)
        place.write_text("# @package _global_\n" + text)
        words = ["train.py", "--config-dir", str(folder / "conf"), "experiment=sent", *draw.choice(([], ["-m"]))]
        run_program(entry("config", groups=True)(job), words, folder)

    return good, read


def run_program(main: Callable[[], None], words: list[str], folder: Path) -> None:
    """Run a program as it is; ``ValueError`` with what it says where it ends with status 2."""
    import io
    import warnings

    from hydra.core.global_hydra import GlobalHydra

    before, told, where = sys.argv, io.StringIO(), Path.cwd()
    GlobalHydra.instance().clear()
    sys.argv = words
    os.environ["HYDRA_FULL_ERROR"] = "0"  # which a program that failed has left behind
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which the tests make errors of: Hydra's of hydra.mode beside -m
            main()
    except SystemExit as stop:
        said = told.getvalue().strip()
        if stop.code == 2:
            raise ValueError(said.removeprefix("error: ")) from None
        if stop.code:
            raise RuntimeError(f"status {stop.code}: {said[-500:]}") from None
    finally:
        sys.argv = before
        os.chdir(where)


KINDS: dict[str, Kind] = {
    "checkpoint": checkpoints,
    "checkpoint_ct": lambda folder: checkpoints(folder, "ct"),
    "checkpoint_function": lambda folder: checkpoints(folder, "function"),
    "export": exports,
    "scene": scenes,
    "scan": scans,
    "yaml": configurations,
}


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


def failures(kind: str, folder: Path, numbers: range) -> Iterator[str]:
    """Go through mutations; yield what was wrong with each that ended neither well nor in one line, or took much."""
    logging.disable(logging.CRITICAL)
    try:
        good, read = KINDS[kind](folder)
        for number in numbers:
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
                lines = str(error).splitlines()
                ours = kind == "yaml" or "autoint" in traceback.extract_tb(error.__traceback__)[-1].filename
                if not ours or not lines or (len(lines) > 1 and kind not in ("scene", "scan")) or len(lines) > 21:
                    yield f"{number}: ValueError in {len(lines)} lines: {str(error)[:300]}"
                elif max(map(len, lines)) > 2000:
                    yield f"{number}: a line of {max(map(len, lines))} characters: {str(error)[:300]}"
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
    folder, found = Path(tempfile.mkdtemp()), 0
    os.chdir(folder)
    for wrong in failures(given.kind, folder, range(given.first, given.first + given.count)):
        found += 1
        print(wrong, flush=True)
    shutil.rmtree(folder)
    print(f"{given.kind}: {found} of {given.count} were neither taken nor refused in a line")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
