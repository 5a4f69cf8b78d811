"""What a measurement depends on: the machine, its instruction sets, versions, threads."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import timm
import torch


def environment(device: str) -> dict[str, Any]:
    """Return what a measurement depends on: machine, versions, threads, precision switches."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "instruction_sets": None if on_gpu else " ".join(instruction_sets()),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "tf32": torch.backends.cuda.matmul.allow_tf32 if on_gpu else None,
        "cuda": torch.version.cuda if on_gpu else None,
    }


INSTRUCTION_SETS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
"""Those that decide how fast a network runs, by Linux's names, of x86 and of aarch64."""


def processor() -> str:
    """Return the processor's name, where the system tells it; with family and model, for virtual machines hide more."""
    about = _about_processor()
    name = about.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key.removeprefix('cpu ')} {about[key]}" for key in ("cpu family", "model") if key in about]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def instruction_sets() -> list[str]:
    """Return which of :data:`INSTRUCTION_SETS` the processor has; none where the system does not tell."""
    about = _about_processor()
    known = (about.get("flags") or about.get("Features") or "").split()
    return [name for name in INSTRUCTION_SETS if name in known]


def _about_processor() -> dict[str, str]:
    """Return what Linux says about the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
