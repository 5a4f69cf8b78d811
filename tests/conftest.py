"""Fixtures of tests in every folder; a file asks for them with ``pytestmark``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from a2mamba.export.comparison import torch_threads


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The small networks of tests are slower on several, and their sums may differ."""
    with torch_threads(1):
        yield


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)
