"""What tests share: a process in which Triton interprets kernels on the CPU, and memory that must be written first."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import pytest
from torch import Tensor

from a2mamba.ops import numba_threads


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Return a function that calls ``function(*arguments)`` in a process with TRITON_INTERPRET=1.

    Triton reads that variable when it is imported and when a kernel is defined. Setting it in this process would come
    too late if anything has imported Triton before, and would change the backends of every test that comes after.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}):
            pool.submit(os.getpid).result()  # the process starts here, with this environment
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what fills all memory that operators ask for from then on, and what they are lent, with NaN."""
    empty, lend = Tensor.new_empty, numba_threads.scratch

    def poisoned(self: Tensor, *size: int, **options: Any) -> Tensor:
        return empty(self, *size, **options).fill_(math.nan)

    def start() -> None:
        monkeypatch.setattr(Tensor, "new_empty", poisoned)
        monkeypatch.setattr(numba_threads, "scratch", lambda size: lend(size).fill_(math.nan))

    return start
