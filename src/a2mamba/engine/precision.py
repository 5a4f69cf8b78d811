"""The number format of a run: autocast around the forward pass, and the gradient scaler that float16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Precision:
    """A number format resolved for a device; `name` is float32, bfloat16 or float16."""

    name: str
    device_type: str

    def autocast(self) -> AbstractContextManager[None]:
        """Around the forward pass and the losses; without effect for float32."""
        dtype = torch.bfloat16 if self.name == "bfloat16" else torch.float16
        return torch.autocast(self.device_type, dtype=dtype, enabled=self.name != "float32")

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Scales losses for float16; passes everything through for the other formats."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "float16")


def resolve_precision(name: PrecisionName, device: torch.device | str) -> Precision:
    """`auto` is bfloat16 on GPUs that compute in it, float16 on older ones, float32 elsewhere.

    Raises ValueError for an unknown name, for float16 on a CPU (there is no fast path), and for bfloat16 on a GPU
    without it.
    """
    device_type = torch.device(device).type
    # Without emulation: a GPU that only pretends to compute in bfloat16 is slower with it than with float16.
    has_bfloat16 = device_type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        on_gpu = "bfloat16" if has_bfloat16 else "float16"
        return Precision(on_gpu if device_type == "cuda" else "float32", device_type)
    if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"unknown precision {name!r}; choose auto, float32, bfloat16 or float16")
    if name == "float16" and device_type == "cpu":
        raise ValueError("precision float16 does not train on a CPU; choose bfloat16 or float32")
    if name == "bfloat16" and not has_bfloat16:
        raise ValueError("this GPU does not compute in bfloat16; choose float16 or float32")
    return Precision(name, device_type)
