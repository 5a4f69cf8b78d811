"""Every kind of kernel compiles for NVIDIA and AMD without a GPU, and none spills registers to memory.

``benchmarks/triton_aot.py`` without ``--quick`` is the same for all shipped configurations and targets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "triton_aot.py"

KERNELS = {
    *("attention_matrix", "attention_matrix of_keys", "attention", "attention again"),
    *("attention_backward_q", "attention_backward_kv", "attention_backward_matrix", "attention_backward_bias"),
    *("scan aggregate", "scan", "scan_carry", "scan_carry reverse", "scan_backward", "scan_backward aggregate"),
    *("channel_norm", "channel_norm keep", "channel_norm_backward", "rotate"),
    *("depthwise", "depthwise residual", "depthwise silu", "read_out", "gated_norm", "gated_norm gate_norm"),
}


@pytest.fixture(scope="module")
def usages(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what the script reports. An own process: under the interpreter there is nothing to compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # An empty cache, so that the compiler that is installed now is the one that is tested.
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, str(SCRIPT), "--quick", "--target", "sm_90", "--target", "gfx942", "--json", "-"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    kernels: list[dict[str, Any]] = json.loads(done.stdout)["kernels"]
    return kernels


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_every_kernel_compiles_without_spills(target: str, usages: list[dict[str, Any]]) -> None:
    found = [usage for usage in usages if usage["target"] == target]
    assert {usage["kernel"] for usage in found} == KERNELS
    assert [usage for usage in found if usage["spills"]] == []
    assert all(usage["registers"] > 0 for usage in found)
