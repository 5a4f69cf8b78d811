"""Small networks of all tasks with random weights, and pages that offer them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import a2mamba

pytest.importorskip("gradio", reason='gradio is not installed (pip install "a2mamba[serve]")')

from a2mamba.serve.networks import Offered, load_networks
from cli.helpers import start

from .helpers import Page

MAX_PIXELS = 2_000_000


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What `a2mamba serve` is given: two classifiers, a segmenter and a detector."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    made = {
        "c.pth": ("a2mamba_test", a2mamba.create_model("a2mamba_test", num_classes=3)),
        "other.pth": ("a2mamba_test", a2mamba.create_model("a2mamba_test", num_classes=2)),
        "s.pth": ("segman_v2_test", a2mamba.create_segmenter("segman_v2_test", num_classes=4)),
        "d.pth": ("mask_rcnn_a2mamba_test", a2mamba.create_detector("mask_rcnn_a2mamba_test", num_classes=2)),
    }
    for file, (_, model) in made.items():
        torch.save(model.state_dict(), folder / file)
    return [f"{name}={folder / file}" for file, (name, _) in made.items()]


@pytest.fixture(scope="session")
def checkpoint(words: list[str]) -> Path:
    """A file of weights: a user's own file, outside of what the page may read."""
    return Path(words[0].partition("=")[2])


@pytest.fixture(scope="session")
def networks(words: list[str]) -> list[Offered]:
    return load_networks(words, device="cpu", say=lambda line: None)


@pytest.fixture(scope="session")
def page(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """`a2mamba serve`, as a user starts it; its limits are 1 MB and two million pixels."""
    with serving(tmp_path_factory.mktemp("serve"), *words) as found:
        yield found


@contextmanager
def serving(place: Path, *words: str) -> Iterator[Page]:
    """The command in a process of its own, which has `place` for its temporary files."""
    limits = ("--max-megabytes", "1", "--max-pixels", str(MAX_PIXELS), "--device", "cpu")
    with start("serve", *words, *limits, TMPDIR=str(place)) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, process.communicate()[1]
            (folder,) = place.glob("a2mamba-serve-*")
            yield Page(url, folder, process.pid)
        finally:
            process.terminate()
            process.communicate(timeout=60)
