"""Several threads for a compiled kernel: PyTorch's own, so that two pools do not compete for the processor.

PyTorch's threads wait for their next work by spinning; a second pool would share the processor with them. A kernel here
is a function of one address. Called by several threads with the same address, it takes numbers of work items from a
shared counter until none is left, so that nobody needs to know how many threads there are, and any pool serves: GNU's
OpenMP, which PyTorch uses on Linux, otherwise one of our own.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from a2mamba.ops import recording

_Kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

KEPT_SCRATCH = 2**20
"""Float32 numbers of scratch memory that a thread keeps, at most."""


class _State:
    """What a fork changes: neither OpenMP's threads nor a pool's live on in the child."""

    forked = False
    pool: ThreadPoolExecutor | None = None


class _Own(threading.local):
    """What every Python thread has for itself."""

    scratch: Tensor | None = None


_own = _Own()


def scratch(size: int) -> Tensor:
    """Return memory for ``size`` float32 numbers or more, of any content, for the next kernel that this thread runs.

    What is small is kept: to ask for it anew takes as long as a small kernel.
    """
    keeper = recording.current() or _own  # what is recorded is repeated in other threads, too, in memory of its own
    if keeper.scratch is not None and size <= keeper.scratch.numel():
        return keeper.scratch
    with torch.inference_mode(False):  # it is for what comes outside of that mode, too
        memory = torch.empty(size, dtype=torch.float32, device="cpu")
    if size <= KEPT_SCRATCH:
        keeper.scratch = memory
    return memory


def _after_fork() -> None:
    _State.forked, _State.pool = True, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def openmp_libraries(package: Path) -> list[Path]:
    """Return what PyTorch's wheels bring of OpenMP, given the folder of the package torch.

    GNU's library lies in torch/lib, or in torch.libs on aarch64; macOS has LLVM's, which has GNU's entry too.
    """
    folders = package / "lib", package.with_name("torch.libs")
    return sorted(
        path for folder in folders for pattern in ("libgomp*.so*", "libomp*.dylib") for path in folder.glob(pattern)
    )


@functools.lru_cache(maxsize=1)
def openmp() -> Any | None:
    """Return GNU OpenMP's entry to a parallel region, of the library that PyTorch has loaded, or None."""
    if os.name != "posix":
        return None
    for path in (None, *openmp_libraries(Path(torch.__file__).parent)):
        try:
            # RTLD_NOLOAD: a library that PyTorch did not load would bring a second pool.
            mode = ctypes.DEFAULT_MODE if path is None else os.RTLD_NOLOAD | os.RTLD_NOW
            enter = ctypes.CDLL(None if path is None else str(path), mode=mode).GOMP_parallel
        except (OSError, AttributeError):
            continue
        enter.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        enter.restype = None
        return enter
    return None


def threads() -> int:
    """Return how many threads a kernel may use: PyTorch's number; one in a forked process, where OpenMP would hang."""
    return 1 if _State.forked else torch.get_num_threads()


def shares(images: int, rows: int) -> tuple[int, int]:
    """Return how many chunks of rows an image is divided into, and how many threads may do them.

    One chunk where there are images enough for all threads.
    """
    count = threads()
    if images % count == 0 or images >= 4 * count:
        return 1, min(count, images)
    chunks = min(rows, 4 * count)
    return chunks, min(count, images * chunks)


def run(kernel: int, workers: int, numbers: Sequence[int]) -> None:
    """Call the compiled function at ``kernel`` in ``workers`` threads; return when all have come to an end.

    It is given the address of integers of 64 bits: two counters, at zero, that threads take numbers from (of items, and
    of themselves); the address of these; and ``numbers``.
    """
    recorder = recording.current()
    if recorder is not None:
        recorder.launch(kernel, workers, numbers)
    run_again(kernel, workers, array("q", (0, 0, 0, *numbers)))


def run_again(kernel: int, workers: int, arguments: array[int]) -> None:
    """Do what :func:`run` does; ``arguments`` are three zeros and its numbers, and are written over."""
    arguments[2] = address = arguments.buffer_info()[0]
    call(kernel, address, workers)


def call(kernel: int, argument: int, workers: int) -> None:
    """Call the compiled function at ``kernel`` with ``argument``, ``workers`` times at once; return when all have.

    The interpreter's lock is released meanwhile.
    """
    if workers <= 1 or _State.forked:
        _callable(kernel)(argument)
        return
    enter = openmp()
    if enter is not None:
        enter(kernel, argument, workers, 0)
        return
    if _State.pool is None:
        _State.pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="a2mamba")
    others = [_State.pool.submit(_callable(kernel), argument) for _ in range(workers - 1)]
    _callable(kernel)(argument)
    for other in others:
        other.result()


@functools.lru_cache(maxsize=64)
def _callable(kernel: int) -> Callable[[int], None]:
    return _Kernel(kernel)


def ordered_sum(parts: Tensor) -> Tensor:
    """Return the sum over the first axis in memory of its own, added in order however many threads made the parts."""
    return functools.reduce(torch.add, parts[1:], parts[0].clone())
