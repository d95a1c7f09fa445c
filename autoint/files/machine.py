"""What the machine has, and what something takes of it: memory, arithmetic and threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def installed_memory(device: str = "cpu") -> int:
    """Return the bytes of memory of this machine, or of its first GPU for ``cuda``."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@functools.cache
def has_numba() -> bool:
    """Whether loops can be compiled for the CPU: ``pip install autoint[fast]``."""
    return importlib.util.find_spec("numba") is not None


def numba_takes(*numbers: Tensor) -> bool:
    """Whether compiled loops can go through these: in float32, on a CPU, and without a gradient by them."""
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 and not t.requires_grad for t in numbers)
    return plain and has_numba()


PARTS = 4
"""Of a loop, for each thread: not all take as long."""


def on_threads(loop: Callable[..., None], rows: Sequence[Tensor], least: int) -> None:
    """Call ``loop`` on the numbers of ``rows``, tensors (R, …) on the CPU: of ``least`` or more, on every thread.

    There are some parts for each of them, since not all parts take as long.

    The loop has to let go of the interpreter. Loops in parallel of numba's own may neither be forked nor be shared by a
    training and a viewer, and take a minute to compile.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(rows[0]) < least:
        loop(*(row.contiguous().numpy() for row in rows))
        return
    tasks = [[part.numpy() for part in row.contiguous().chunk(PARTS * threads)] for row in rows]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(loop, *tasks))


def each_on_a_thread(action: Callable[[Any], None], parts: Sequence[Any], threads: int) -> None:
    """Call ``action`` on each of ``parts``, on ``threads`` of which each does torch's operations alone.

    Many small operations take less time so than each shared among all threads, as torch does by itself.
    """
    if threads == 1 or len(parts) < 2:
        for part in parts:
            action(part)
        return
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    mixed = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def alone(part: Any) -> None:  # with what a thread does not inherit
        with torch.inference_mode(inference), torch.set_grad_enabled(grad), torch.autocast("cpu", *mixed):
            action(part)

    with one_thread():  # here too, since MKL has one number for all threads
        pool = _threads_of_their_own(threads, os.getpid())
        done = [pool.submit(alone, part) for part in parts]
        try:
            wait(done, return_when=FIRST_EXCEPTION)
        finally:  # what has failed may be tried again, with the memory of all
            for future in done:
                future.cancel()
            wait(done)
    for future in done:
        if not future.cancelled():
            future.result()


@functools.cache
def _threads_of_their_own(count: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay, with their memory, since new ones take as long as what they are for; a fork has none."""
    begun = threading.Barrier(count)
    pool = ThreadPoolExecutor(count, f"alone-{process}", initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: begun.wait(), range(count)))  # so that none sets torch's number of threads later
    return pool


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch share nothing among threads: neither this one nor those that begin to use it meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def has_triton() -> bool:
    """Whether kernels can be compiled for the GPU; torch brings Triton along where it was built for one."""
    return importlib.util.find_spec("triton") is not None


def process_memory() -> int:
    """Return the most bytes that this process has had so far: of a GPU, where there is one, or else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory(action: Callable[[], Any], device: torch.device) -> int:
    """Return by how many bytes of tensors ``action`` exceeds, at its worst moment, what was allocated before it.

    On the CPU it is the profiler that sees every allocation, on one thread; what Python and the libraries take is not
    counted.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return torch.cuda.max_memory_allocated(device) - before
    only_cpu = [torch.profiler.ProfilerActivity.CPU]
    with one_thread(), _quiet(), torch.profiler.profile(activities=only_cpu, profile_memory=True) as profile:
        action()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = [e for e in json.loads(file.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak


def keep_freed() -> None:
    """Let the C library keep the memory of freed tensors for the next ones, instead of giving it back each time.

    Otherwise large tensors are paged in anew at every step: half of the time of a step of 4,096 rays on a CPU. The most
    memory that is taken stays the same. Only glibc has this setting.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no mappings of their own for large tensors
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: what is free at the end of the heap stays there


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep away what the profiler's library writes to the process's stderr, whatever its log level."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@torch.inference_mode(False)
@torch.no_grad()
def flops(action: Callable[[], Any]) -> int:
    """Return how many floating-point operations the matrix products of ``action`` take, two per multiplication."""
    with one_thread(), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


@functools.cache
def peak_flops(device: torch.device, size: int = 1024, rounds: int = 8) -> float:
    """Return how many floating-point operations per second the device does in a product of large float32 matrices."""
    a, b = torch.rand(2, size, size, device=device)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
