"""Measuring speed and memory of models against each other, in one run.

Rounds are interleaved: each times every model once, so that a machine that slows down slows all of them down. Medians
are reported with the quartiles. Nothing is printed for a model whose operators disagree with their reference, or whose
output is not finite.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import nn

from a2mamba.analysis.flops import parameters
from a2mamba.backbone import Pyramid, fuse_for_inference
from a2mamba.catalog import published_top1

Mode = Literal["inference", "training"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """What every model of a comparison shares."""

    size: int
    """side of the square images"""
    batch: int
    """images in a batch"""
    mode: Mode = "inference"
    """a forward pass in inference mode, or forward, backward and no optimizer"""
    dtype: str = "float32"
    """float32, or the dtype of autocast"""
    device: str = "cpu"
    compile: bool = False
    """measure after torch.compile"""
    fused: bool = False
    """measure our models after fuse_for_inference; timm's have nothing alike and run as they are"""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    model: str
    size: int
    batch: int
    mode: str
    dtype: str
    device: str
    compile: bool
    fused: bool
    """whether this model was fused for inference"""
    images_per_second: float
    milliseconds: float
    """median time of a batch"""
    milliseconds_quartiles: tuple[float, float]
    rounds: int
    peak_memory_mb: float | None
    """beyond the weights: of the device's allocator, or of a fresh process on CPUs; None if not measured"""
    parameters: int
    published_top1: float | None = None
    """percent on ImageNet-1K, as published; None if we know of none"""


class Runner:
    """One model, ready to be timed under a setting.

    Args:
        name: a timm model, ours among them.
        setting: see :class:`Setting`.

    Raises:
        ValueError: if timm does not know the name, or a model is to be fused for training.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        if not timm.is_model(name):
            raise ValueError(f"unknown model {name!r}: neither ours nor timm's")
        if setting.fused and setting.mode == "training":
            raise ValueError("a fused model cannot be trained; measure inference, or do not fuse")
        torch.manual_seed(0)
        self.setting = setting
        options: dict[str, Any] = {"img_size": setting.size} if _takes_img_size(name) else {}
        self.model: nn.Module = timm.create_model(name, **options).to(setting.device)
        self.model.train(setting.mode == "training")
        self.parameters = parameters(self.model)
        self.fused = setting.fused and isinstance(self.model, Pyramid)
        if self.fused:
            self.model = fuse_for_inference(self.model)
        self.images = torch.randn(setting.batch, 3, setting.size, setting.size, device=setting.device)
        self.call: Callable[[torch.Tensor], torch.Tensor] = torch.compile(self.model) if setting.compile else self.model

    def step(self) -> torch.Tensor:
        """Run one batch and return the logits."""
        if self.setting.mode == "inference":
            with torch.inference_mode(), self._autocast():
                return self.call(self.images)
        for parameter in self.model.parameters():
            parameter.grad = None
        with self._autocast():
            logits = self.call(self.images)
        logits.float().square().mean().backward()
        return logits

    def time(self) -> float:
        """Return the seconds of one batch."""
        self._wait()
        start = time.perf_counter()
        self.step()
        self._wait()
        return time.perf_counter() - start

    def _autocast(self) -> AbstractContextManager[object]:
        if self.setting.dtype == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.setting.device).type, dtype=DTYPES[self.setting.dtype])

    def _wait(self) -> None:
        if torch.device(self.setting.device).type == "cuda":
            torch.cuda.synchronize()


def _takes_img_size(name: str) -> bool:
    """Whether a timm model is made for one image size (Swin and other transformers)."""
    record = timm.get_pretrained_cfg(name)
    return record is not None and bool(record.fixed_input_size)


def compare(
    names: Sequence[str],
    setting: Setting,
    *,
    rounds: int = 7,
    warm_up: int = 2,
    memory: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Time models against each other under one setting; rows come in the order of ``names``.

    Args:
        names: timm models, ours among them.
        setting: what they share.
        rounds: times that each model is timed.
        warm_up: untimed batches of each before that.
        memory: measure peak memory too; on a CPU in a fresh process for each model.
        progress: called with a line about what is being done.

    Raises:
        ValueError: for an unknown model, or one whose output is not finite.
    """
    runners = {}
    for name in names:
        progress(f"{name}: preparing {setting.mode} at {setting.size}, batch {setting.batch}, {setting.dtype}")
        runner = Runner(name, setting)
        for _ in range(max(1, warm_up)):
            logits = runner.step()
        if not logits.isfinite().all():
            raise ValueError(
                f"{name}: the output is not finite at {setting.size} in {setting.dtype}; no speed is reported"
            )
        runners[name] = runner
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for name, runner in runners.items():
            seconds[name].append(runner.time())
    return [_row(name, runners[name], seconds[name], peak_memory(name, setting) if memory else None) for name in names]


def _row(name: str, runner: Runner, seconds: list[float], peak: float | None) -> Row:
    setting = runner.setting
    median = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [median] * 3
    return Row(
        model=name,
        **asdict(replace(setting, fused=runner.fused)),
        images_per_second=setting.batch / median,
        milliseconds=1e3 * median,
        milliseconds_quartiles=(1e3 * low, 1e3 * high),
        rounds=len(seconds),
        peak_memory_mb=peak,
        parameters=runner.parameters,
        published_top1=published_top1(name),
    )


def peak_memory(name: str, setting: Setting) -> float:
    """Return the peak memory of one batch beyond model and input, in MiB (2 ** 20 bytes).

    On a CPU it is what a fresh process grows by, so that nothing measured before counts; Linux tells it.
    """
    if torch.device(setting.device).type == "cuda":
        return _device_peak(name, setting)
    command = [sys.executable, "-m", "a2mamba.analysis.throughput", name, json.dumps(asdict(setting))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{name}: measuring memory failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def _device_peak(name: str, setting: Setting) -> float:
    runner = Runner(name, setting)
    runner.step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    runner.step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _process_peak(name: str, setting: Setting) -> float:
    """Return how far the resident memory of this process rises during one batch, in MiB; Linux only."""
    runner = Runner(name, setting)
    # A small image first: libraries allocate their code and buffers once, whatever the model.
    Runner(name, replace(setting, size=min(64, setting.size), batch=1)).step()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = _status_kib("VmRSS")
    runner.step()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def operators_disagree(device: str) -> str | None:
    """Return what is wrong where an operator of ours does not agree with its reference on a device, else None."""
    from a2mamba.ops import neighborhood, neighborhood_attention, selective_scan, selective_scan_state

    for attention in neighborhood.CASES:
        if attention.batch:
            q, k, v, bias = attention.inputs(torch.float32, device)
            found, expected = (
                neighborhood_attention(
                    q, k, v, bias, kernel_size=attention.kernel_size, dilation=attention.dilation, backend=backend
                )
                for backend in (None, "reference")
            )
            if (found - expected).abs().max() > 1e-3 * expected.abs().max():
                return f"neighborhood_attention disagrees with its reference for {attention}"
    for scan in selective_scan.CASES:
        if scan.batch:
            u, delta, A, B, delta_bias = scan.inputs(torch.float32, device)
            found, expected = (
                selective_scan_state(u, delta, A, B, delta_bias, delta_softplus=scan.softplus, backend=backend)
                for backend in (None, "reference")
            )
            if (found - expected).abs().max() > 1e-3 * expected.abs().max():
                return f"selective_scan_state disagrees with its reference for {scan}"
    return None


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


if __name__ == "__main__":
    print(_process_peak(sys.argv[1], Setting(**json.loads(sys.argv[2]))))
