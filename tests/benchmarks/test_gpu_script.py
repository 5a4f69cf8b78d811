"""The GPU benchmark script runs, as far as it can without a GPU, and refuses to measure without one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from a2mamba.ops import neighborhood, neighborhood_attention

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_it_refuses_without_a_gpu(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().startswith("benchmarks/gpu.py needs a GPU")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_every_part_runs(tmp_path: Path) -> None:
    done = run("--cpu-check", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    for row in found["attention"]:
        assert {"ours_forward_ms", "stored_map_forward_ms", "flex_attention_forward_ms", "ours_both_ms"} <= row.keys()
    assert found["scan"][0]["fraction"] > 0
    assert [(row["model"], row["mode"]) for row in found["models"]][::3] == [
        ("a2mamba_test", "inference"),
        ("a2mamba_test", "training"),
    ]
    assert [row["model"] for row in found["cuda graph"]] == ["a2mamba_test", "test_convnext", "test_vit"]
    assert all(row["eager_ms"] > 0 and row["graph_ms"] > 0 for row in found["cuda graph"])
    assert found["kernels"][0]["ms"] > 0
    page = (tmp_path / "gpu.md").read_text()
    assert all(title in page for title in ("## Attention", "## Scan", "## Models", "a2mamba_test"))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gets_our_rule(script: ModuleType) -> None:
    """Its mask and bias are checked with borders, dilation and windows that do not fit."""
    for case in neighborhood.CASES:
        q, k, v, bias = case.inputs()
        if not case.batch or bias is None or case.e is not None:
            continue
        found = script.flexible(case, bias, compiled=False)(q, k, v)
        expected = neighborhood_attention(q, k, v, bias, kernel_size=case.kernel_size, dilation=case.dilation)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_wrong_operators_have_no_speed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "operators_disagree", lambda device: "attention disagrees")
    with pytest.raises(SystemExit, match="no speed is reported: attention disagrees"):
        script.gate(script.CHECK)
