"""Measuring speed and memory of models against each other, in one run.

Rounds are interleaved: each times every model once, so that a machine that slows down slows all of them down. On a CPU
each model has a process of its own. Medians are reported with the quartiles. Nothing is printed for a model whose
operators disagree with their reference, or whose output is not finite.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace

import torch

from a2mamba.analysis.runners import Runner, Setting
from a2mamba.analysis.worker import Worker
from a2mamba.catalog import published_top1


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
    runtime: str
    """what ran it: PyTorch, or another runtime that read an exported file"""
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


def compare(
    names: Sequence[str],
    setting: Setting,
    *,
    runtimes: Sequence[str] = (),
    rounds: int = 7,
    warm_up: int = 2,
    memory: bool = False,
    together: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Time models against each other under one setting; rows come in the order of ``runtimes``, then of ``names``.

    Args:
        names: timm models, ours among them.
        setting: what they share.
        runtimes: time each model in all of these (see `runners.RUNTIMES`) instead of the setting's.
        rounds: times that each model is timed.
        warm_up: untimed batches of each before that.
        memory: measure peak memory too; on a CPU in a fresh process for each model.
        together: time all in this process, as always on other devices than CPUs; by default, each has its own.
        progress: called with a line about what is being done.

    Raises:
        ValueError: for an unknown model or runtime, one whose output is not finite, or what a runtime cannot do.
        ImportError: if a runtime is not installed.
    """
    settings = [replace(setting, runtime=runtime) for runtime in runtimes or (setting.runtime,)]
    cases = [(name, each) for each in settings for name in names]
    here = together or torch.device(setting.device).type != "cpu"
    with ExitStack() as stack:
        runners: list[Runner | Worker] = []
        for name, each in cases:
            where = "" if each.runtime == "pytorch" else f" in {each.runtime}"
            progress(f"{name}: preparing {each.mode}{where} at {each.size}, batch {each.batch}, {each.dtype}")
            with _named(name):
                runners.append(stack.enter_context(closing(_start(name, each, warm_up, here))))
        seconds: list[list[float]] = [[] for _ in cases]
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for runner, times in zip(runners, seconds, strict=True):
                times.append(runner.time())
    rows = []
    for (name, each), runner, times in zip(cases, runners, seconds, strict=True):
        if memory:
            progress(f"{name}: measuring memory")
        rows.append(_row(name, each, runner, times, peak_memory(name, each) if memory else None))
    return rows


def _start(name: str, setting: Setting, warm_up: int, here: bool) -> Runner | Worker:
    if not here:
        return Worker(name, setting, warm_up=warm_up)
    runner = Runner(name, setting)
    runner.warm_up(warm_up)
    return runner


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the model's name before what was wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if name in str(error) else f"{name}: {error}") from error


def _row(name: str, setting: Setting, runner: Runner | Worker, seconds: list[float], peak: float | None) -> Row:
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

    Raises:
        ValueError: for an unknown model, or where it cannot be measured.
    """
    if torch.device(setting.device).type == "cuda":
        return _device_peak(name, setting)
    with _named(name), closing(Worker(name, setting, task="memory")) as worker:
        return float(worker.about["memory"])


def _device_peak(name: str, setting: Setting) -> float:
    runner = Runner(name, setting)
    runner.step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    runner.step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


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
