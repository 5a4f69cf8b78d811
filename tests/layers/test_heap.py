"""What the C library keeps of the memory of maps."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

GLIBC = platform.libc_ver()[0] == "glibc"
ALLOCATOR = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")

PROGRAM = """
import resource
import torch
from a2mamba.layers import heap

torch.set_num_threads(1)
{before}
def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.zeros(24, 2**18) for _ in range(6)]  # 24 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh_pages()
print(fresh_pages())
"""


def fresh_pages(before: str, **variables: str) -> int:
    """Return how many pages a process fetches for 144 MiB that it has had before."""
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR} | variables
    words = [sys.executable, "-c", PROGRAM.format(before=before)]
    return int(subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="other C libraries have no such threshold")
def test_memory_is_kept_for_the_next_maps() -> None:
    keep = "heap.keep_memory(torch.zeros(1))"
    assert fresh_pages(keep) < 10_000
    assert fresh_pages("heap.keep_memory(torch.zeros(1, device='meta'))") > 30_000
    assert fresh_pages(keep, MALLOC_TRIM_THRESHOLD_="1000000") > 30_000  # as its user has asked
    assert fresh_pages(keep, GLIBC_TUNABLES="glibc.malloc.trim_threshold=1000000") > 30_000


@pytest.mark.parametrize("system", ["nt", "musl"])
def test_other_systems_are_left_alone(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from a2mamba.layers import heap

    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    opened: list[object] = []
    monkeypatch.setattr(heap.ctypes, "CDLL", opened.append)  # what is opened has no functions at all
    if system == "nt":
        monkeypatch.setattr(heap.os, "name", "nt")
    heap._keep_once.__wrapped__()
    assert opened == ([] if system == "nt" else [None])
