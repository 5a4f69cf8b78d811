"""The C library keeps what maps on CPUs give back, for those that come next.

GNU's returns blocks to the system as soon as some hundred kilobytes are free, and fetches every page of the next ones
anew, which takes a quarter of the time of a small network. PyTorch on GPUs keeps its memory for the same reason.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

import torch
from torch import Tensor

KEPT = 2**28
"""Free bytes that stay with the process, at most."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**25
"""Blocks beyond come from the system in any case: the library takes no larger number."""


def keep_memory(x: Tensor) -> None:
    """Have blocks of maps kept, up to :data:`KEPT` bytes; once in a process, where ``x`` is on a CPU.

    Where the user has set a threshold of the library's by its environment variables, that stands. Other libraries and
    devices do not notice.
    """
    if x.device.type == "cpu" and type(x) is Tensor and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        _keep_once()


@lru_cache(maxsize=1)
def _keep_once() -> None:
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if os.name != "posix" or chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT)
