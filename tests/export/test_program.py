"""Programs of torch.export."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from a2mamba.export import FORMATS
from a2mamba.export.program import trace
from a2mamba.layers import ChannelNorm


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = ChannelNorm(8)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.norm(self.conv(images)),)


def test_a_file_has_no_path_of_the_machine(tmp_path: Path) -> None:
    FORMATS["pt2"].write(trace(_Network().eval(), torch.ones(2, 3, 16, 16)), tmp_path / "x.pt2", ["y"])
    with zipfile.ZipFile(tmp_path / "x.pt2") as file:
        content = b"".join(file.read(name) for name in file.namelist())
    assert b"conv2d" in content
    for folder in (Path(__file__).parents[2], Path(sys.prefix), tmp_path):
        assert str(folder).encode() not in content


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_compiled_package_has_neither_sources_nor_their_folders(tmp_path: Path) -> None:
    """But for a few in messages of PyTorch's macros, which are part of the code."""
    network, path, images = _Network().eval(), tmp_path / "x.pt2", torch.randn(2, 3, 16, 16)
    FORMATS["aot"].write(trace(network, images), path, ["y"])
    assert list(tmp_path.iterdir()) == [path]
    with zipfile.ZipFile(path) as package:
        content = {Path(name).suffix: package.read(name) for name in package.namelist()}
    assert content[".cpp"] == b""
    assert b".debug_line" not in content[".so"]
    with torch.inference_mode():
        expected = network(images)[0].numpy()
    assert np.abs(FORMATS["aot"].load(path, 1)(images.numpy())[0] - expected).max() < 1e-5
