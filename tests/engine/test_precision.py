from __future__ import annotations

from typing import Any

import pytest
import torch

from a2mamba.engine import resolve_precision


@pytest.mark.parametrize(
    ("name", "dtype"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_on_a_cpu(name: Any, dtype: torch.dtype) -> None:
    precision = resolve_precision(name, "cpu")
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert not precision.grad_scaler().is_enabled()


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="float16 does not train on a CPU; choose bfloat16 or float32"):
        resolve_precision("float16", "cpu")


def test_an_unknown_name_is_refused() -> None:
    name: Any = "fp8"
    with pytest.raises(ValueError, match="unknown precision 'fp8'; choose auto, float32, bfloat16 or float16"):
        resolve_precision(name, "cpu")


@pytest.mark.parametrize(("supported", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_auto_on_a_gpu_takes_what_it_computes_in(
    monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert resolve_precision("auto", "cuda").name == expected
    if not supported:
        with pytest.raises(ValueError, match="does not compute in bfloat16"):
            resolve_precision("bfloat16", "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_float16_on_a_gpu_scales() -> None:
    precision = resolve_precision("float16", "cuda")
    assert precision.grad_scaler().is_enabled()
    with precision.autocast():
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype == torch.float16
