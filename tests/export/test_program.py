"""Programs of torch.export."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import torch
from torch import nn

from a2mamba.export import FORMATS
from a2mamba.export.program import trace
from a2mamba.layers import ChannelNorm


def test_a_file_has_no_path_of_the_machine(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), ChannelNorm(8)).eval()
    FORMATS["pt2"].write(trace(network, torch.ones(2, 3, 16, 16)), tmp_path / "x.pt2", ["y"])
    with zipfile.ZipFile(tmp_path / "x.pt2") as file:
        content = b"".join(file.read(name) for name in file.namelist())
    assert b"conv2d" in content
    for folder in (Path(__file__).parents[2], Path(sys.prefix), tmp_path):
        assert str(folder).encode() not in content
