"""What a recording of a forward pass is told by the kernels, for of itself it sees PyTorch's operations alone.

Kernels are called by address and are given addresses: of tensors, and of tables that are made once and kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, update_wrapper
from typing import Generic, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Recorder(Protocol):
    """What listens: a torch dispatch mode, which sees PyTorch's operations, and is called for what else happens."""

    scratch: Tensor | None
    """Scratch memory of the kernels that are recorded, see ``numba_threads.scratch``."""

    def launch(self, kernel: int, workers: int, numbers: Sequence[int]) -> None:
        """Take note of a call of ``numba_threads.run``."""

    def hold(self, tensor: Tensor) -> None:
        """Keep the memory of a table that kernels may be given the address of."""


class _Own(threading.local):
    """What every Python thread has for itself."""

    recorder: Recorder | None = None


_own = _Own()


def current() -> Recorder | None:
    """Return what records the operations of this thread, or None."""
    return _own.recorder


@contextmanager
def told(recorder: Recorder) -> Iterator[None]:
    """Tell ``recorder`` what kernels do inside of this context, in this thread."""
    before, _own.recorder = _own.recorder, recorder
    try:
        yield
    finally:
        _own.recorder = before


def alone() -> bool:
    """Whether the only mode that looks on is a recorder, which is told of kernels."""
    return _own.recorder is not None and torch._C._len_torch_dispatch_stack() == 1


class Kept(Generic[_P, _R]):
    """A function whose results are kept; a recording holds those that it meets, which others may push out."""

    def __init__(self, make: Callable[_P, _R], maxsize: int) -> None:
        update_wrapper(self, make)
        self._cached = lru_cache(maxsize=maxsize)(make)
        self.cache_clear = self._cached.cache_clear

    def __call__(self, *arguments: _P.args, **named: _P.kwargs) -> _R:
        """Return what the function does, made now or before."""
        table = self._cached(*arguments, **named)  # type: ignore[arg-type]  # lru_cache knows no signatures
        if _own.recorder is not None:
            parts = table if isinstance(table, tuple) else getattr(table, "__dict__", {}).values()
            for part in (table, *parts):
                if isinstance(part, Tensor):
                    _own.recorder.hold(part)
        return table


def kept(maxsize: int) -> Callable[[Callable[_P, _R]], Kept[_P, _R]]:
    """Decorate what makes tables for kernels: a tensor, tensors or an object with such; ``maxsize`` are kept."""
    return lambda make: Kept(make, maxsize)
