"""What only a GPU can show, in one command: checks first, then operators, then models. Writes JSON and Markdown.

    python benchmarks/gpu.py                # gpu.json and gpu.md in the folder results
    python benchmarks/gpu.py --budget 300   # begins nothing after so many seconds
    python benchmarks/gpu.py --cpu-check    # tiny shapes on the CPU: does the script run? Its numbers mean nothing.

No speed is reported unless the operators agree with their references on the device; what a comparison cannot run is
reported with its reason. Kernels are compiled side by side first. What is worth most is measured first, and the files
are written after every row, so that a row that fails takes none with it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from a2mamba.analysis.environment import environment
from a2mamba.analysis.runners import Mode, Setting
from a2mamba.analysis.throughput import compare, operators_disagree
from a2mamba.backbone import cuda_graph
from a2mamba.ops import neighborhood_attention, self_test
from a2mamba.ops.neighborhood import reference
from a2mamba.ops.neighborhood.cases import Case
from a2mamba.ops.selective_scan.cases import Case as Scan
from a2mamba.ops.selective_scan.operator import selective_scan_state

ROOT = Path(__file__).parents[1]
GPU_TESTS = ROOT / "tests" / "test_gpu.py"

Row = dict[str, Any]
Call = Callable[[], Tensor]

MOST_KERNELS = 60
"""Kernels that are listed, those that take longest."""

LARGEST_MASK = 2**30
"""Pairs of tokens that flex_attention's mask may have before it is cut into blocks."""


@dataclass(frozen=True)
class Programme:
    """What is measured."""

    device: str
    dtype: str
    rounds: int
    attention: tuple[Case, ...]
    scan: Scan
    copied_bytes: int
    pairs: tuple[tuple[str, str, str], ...]
    """ours and the models of its size"""
    sizes: tuple[tuple[int, int], ...]
    """image side and batch"""
    compiled: tuple[bool, ...]


FULL = Programme(
    device="cuda",
    dtype="bfloat16",
    rounds=20,
    attention=(
        Case(128, 1, 56, 56, 24, (11, 11)),  # a2mamba_tiny at 224, its two branches
        Case(128, 1, 56, 56, 24, (11, 11), (5, 5)),
        Case(128, 2, 28, 28, 24, (9, 9)),
        Case(128, 4, 14, 14, 32, (7, 7)),
        Case(8, 1, 256, 256, 24, (11, 11)),  # at 1024
        Case(8, 1, 256, 256, 24, (11, 11), (11, 11)),
    ),
    scan=Scan(8, 48, 65536),
    copied_bytes=1 << 30,
    pairs=(
        ("a2mamba_tiny", "convnext_tiny", "swin_tiny_patch4_window7_224"),
        ("a2mamba_small", "convnext_small", "swin_small_patch4_window7_224"),
    ),
    sizes=((224, 128), (512, 32), (1024, 8)),
    compiled=(False, True),
)

CHECK = Programme(
    device="cpu",
    dtype="bfloat16",
    rounds=1,
    attention=(Case(1, 1, 9, 11, 16, (3, 3)), Case(1, 2, 10, 9, 16, (3, 3), (2, 2))),
    scan=Scan(1, 4, 64),
    copied_bytes=1 << 16,
    pairs=(("a2mamba_test", "test_convnext", "test_vit"),),
    sizes=((64, 1),),
    compiled=(False,),
)


def gate(programme: Programme) -> None:
    """Exit where an operator or a test says that results are wrong."""
    on_gpu = programme.device == "cuda"
    if on_gpu:
        for operator in self_test.COMPARISONS:
            if operator.endswith("/numba"):
                continue
            reason = self_test.passed(operator, torch.empty(0, device="cuda").device)
            if reason is not None:
                sys.exit(f"no speed is reported: {operator}: {reason}")
    wrong = operators_disagree(programme.device)
    if wrong is not None:
        sys.exit(f"no speed is reported: {wrong}")
    # A warning of a driver or a library is no wrong result.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", str(GPU_TESTS)]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode:
        sys.exit(f"no speed is reported: {GPU_TESTS.name} fails")


def milliseconds(call: Callable[[], object], programme: Programme) -> float:
    """Return the median time of a call."""
    on_gpu = programme.device == "cuda"
    for _ in range(3):
        call()
    times = []
    for _ in range(programme.rounds):
        if on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def flexible(case: Case, bias: Tensor, *, compiled: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the same attention by PyTorch's flex_attention: its mask is our rule, its score function our bias."""
    axes = tuple(
        (length, *reference.effective_window(length, kernel, dilation), kernel)
        for length, kernel, dilation in zip((case.height, case.width), case.kernel_size, case.dilation, strict=True)
    )

    def split(index: Tensor) -> tuple[Tensor, Tensor]:
        return index // case.width, index % case.width

    def inside(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= 0
        for p, k, (length, window, step, kernel) in zip(split(query), split(key), axes, strict=True):
            n = (length - p % step + step - 1) // step
            start = torch.minimum((p // step - (kernel - 1) // 2).clamp(min=0), n - window)
            offset = k // step - start
            seen = seen & (p % step == k % step) & (offset >= 0) & (offset < window)
        return seen

    def with_bias(score: Tensor, _: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        dy, dx = (
            (k // step - p // step + kernel - 1).clamp(0, 2 * kernel - 2)
            for p, k, (_, _, step, kernel) in zip(split(query), split(key), axes, strict=True)
        )
        return score + bias[head, dy, dx]

    tokens = case.height * case.width
    mask = create_block_mask(inside, None, None, tokens, tokens, device=str(bias.device))
    attend = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = attend(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), score_mod=with_bias, block_mask=mask)
        assert isinstance(out, Tensor)
        return out.view_as(v)

    return call


def attention_rows(case: Case, programme: Programme) -> list[Row]:
    """Time one neighborhood attention, forward and forward with backward, three ways."""
    dtype = getattr(torch, programme.dtype)
    q, k, v, bias = (
        None if x is None else x.requires_grad_() for x in case.inputs(dtype=dtype, device=programme.device)
    )
    assert q is not None
    assert k is not None
    assert v is not None
    assert bias is not None
    settings = (case.kernel_size, case.dilation)
    scale = q.shape[-1] ** -0.5

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return neighborhood_attention(q, k, v, bias, kernel_size=settings[0], dilation=settings[1])

    def stored_map(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference.apply_map(reference.attention_map(q, k, bias, *settings, scale), v, *settings)

    def gradients(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(q, k, v).sum(), (q, k, v, bias))

    torch.compiler.reset()  # every case has its own mask and bias; past a limit, the compiler would give up silently
    row: Row = {"case": str(case)}
    with torch.no_grad():
        expected = ours(q, k, v)
    for name, make in (
        ("ours", lambda: ours),
        ("stored_map", lambda: stored_map),
        ("flex_attention", lambda: flexible(case, bias, compiled=programme.device == "cuda")),
    ):
        if name == "flex_attention" and (case.height * case.width) ** 2 > LARGEST_MASK:
            row[name] = f"left out: its mask would have {case.height * case.width}^2 pairs"
            continue
        # What PyTorch refuses, for its memory or its version, is a result and not the end of the run.
        try:
            attend = make()
            with torch.no_grad():
                found = attend(q, k, v)
                error = float((found - expected).float().norm() / expected.float().norm())
                if not error <= 3e-2:
                    row[name] = f"differs from ours by {error:.1e} of the norm"
                    continue
                row[f"{name}_forward_ms"] = milliseconds(partial(attend, q, k, v), programme)
            row[f"{name}_both_ms"] = milliseconds(partial(gradients, attend), programme)
        except (RuntimeError, NotImplementedError, ValueError) as refusal:
            row[name] = _reason(refusal)
    return [row]


def _reason(refusal: Exception) -> str:
    return f"{type(refusal).__name__}: {next(iter(str(refusal).splitlines()), '')}"


def scan_rows(programme: Programme) -> list[Row]:
    """Compare the bytes that the scan has to move in its time with what a copy moves."""
    u, delta, A, B, delta_bias = programme.scan.inputs(getattr(torch, programme.dtype), programme.device)
    with torch.no_grad():
        states = selective_scan_state(u, delta, A, B, delta_bias)
        moved = sum(x.numel() * x.element_size() for x in (u, delta, B, states))
        took = milliseconds(lambda: selective_scan_state(u, delta, A, B, delta_bias), programme)
        source = torch.empty(programme.copied_bytes, dtype=torch.uint8, device=programme.device)
        target = torch.empty_like(source)
        copying = milliseconds(lambda: target.copy_(source), programme)
    bandwidth, copy_bandwidth = moved / took / 1e6, 2 * programme.copied_bytes / copying / 1e6
    row = {
        "case": str(programme.scan),
        "ms": took,
        "gigabytes_per_second": bandwidth,
        "copy_gigabytes_per_second": copy_bandwidth,
        "fraction": bandwidth / copy_bandwidth,
    }
    return [row]


def model_rows(programme: Programme) -> Iterator[Callable[[], list[Row]]]:
    """Yield what times ours beside the models of its size: eager before compiled, small images before large ones."""
    modes: tuple[Mode, ...] = ("inference", "training")
    for names in programme.pairs:
        for compiled in programme.compiled:
            for size, batch in programme.sizes:
                for mode in modes:
                    setting = Setting(size, batch, mode, programme.dtype, programme.device, compile=compiled)
                    yield partial(model_row, names, setting, programme)


def model_row(names: tuple[str, ...], setting: Setting, programme: Programme) -> list[Row]:
    """Time some models."""
    torch.compiler.reset()
    try:
        found = compare(names, setting, rounds=programme.rounds, memory=True, progress=say)
        return [asdict(row) for row in found]
    except (RuntimeError, ValueError) as refusal:
        return [{"models": names, **asdict(setting), "refused": _reason(refusal)}]


def graphed(
    name: str, size: int, batch: int, programme: Programme
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return calls of a model at inference: eager, and as one CUDA graph (eager too, where there is no GPU)."""
    model = timm.create_model(name).to(programme.device).eval()
    images = torch.randn(batch, 3, size, size, device=programme.device)
    images = images.contiguous(memory_format=torch.channels_last)
    replay = cuda_graph(model) if programme.device == "cuda" else model

    def call(network: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode(), torch.autocast(programme.device, getattr(torch, programme.dtype)):
            return network(images)

    return partial(call, model), partial(call, replay)


def graph_rows(names: tuple[str, ...], size: int, batch: int, programme: Programme) -> list[Row]:
    """Record inference in a CUDA graph; compare its logits and time with those of eager calls."""
    rows: list[Row] = []
    for name in names:
        eager, replay = graphed(name, size, batch, programme)
        expected = eager().float()
        difference = float((replay().float() - expected).norm() / expected.norm())
        times = {"eager_ms": milliseconds(eager, programme), "graph_ms": milliseconds(replay, programme)}
        rows.append({"model": name, "size": size, "batch": batch, **times, "difference": difference})
    return rows


def kernel_rows(name: str, size: int, batch: int, programme: Programme) -> list[Row]:
    """Return where the time of a forward goes, by kernel: of a graph's replay, as a profiler changes eager calls."""
    _, replay = graphed(name, size, batch, programme)
    replay()
    on_gpu = programme.device == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(programme.rounds):
            replay()
        if on_gpu:
            torch.cuda.synchronize()
    rows = []
    for event in profile.key_averages():
        took = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        calls = event.count / programme.rounds
        rows.append({"kernel": event.key[:100], "calls": calls, "ms": took / programme.rounds / 1e3})
    return sorted(rows, key=lambda row: -row["ms"])[:MOST_KERNELS]


def markdown(result: dict[str, Any]) -> str:
    """Return the results as a page."""
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items() if value is not None)
    lines = ["# GPU", "", f"{about}.", "", "    make bench-gpu"]
    for title in ("cuda graph", "kernels", "models", "attention", "scan"):
        rows: list[Row] = result.get(title, [])
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if rows:
            lines += ["", f"## {title.capitalize()}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    if isinstance(value, (list, tuple)):
        return " - ".join(_cell(part) for part in value)
    return "" if value is None else str(value).replace("|", "/")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def items(programme: Programme) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Yield (part, what measures some of its rows), what is worth most first."""
    (ours, *_), size = programme.pairs[0], programme.sizes[0]
    # What the newest kernels changed: the graph has no host in it. Then where its time goes.
    yield "cuda graph", partial(graph_rows, programme.pairs[0], *size, programme)
    yield "kernels", partial(kernel_rows, ours, *size, programme)
    for larger in programme.sizes[1:]:
        yield "cuda graph", partial(graph_rows, programme.pairs[0], *larger, programme)
    models = list(model_rows(programme))
    first = len(models) // len(programme.pairs)
    yield from (("models", measure) for measure in models[:first])
    for names in programme.pairs[1:]:
        yield "cuda graph", partial(graph_rows, names, *size, programme)
    yield "scan", partial(scan_rows, programme)
    for case in programme.attention:
        yield "attention", partial(attention_rows, case, programme)
    yield from (("models", measure) for measure in models[first:])


def compile_one(number: int, programme: Programme) -> None:
    """Compile the kernels of one size of ours: a small batch has the kernels of a large one."""
    sizes = [(names[0], size) for names in programme.pairs for size, _ in programme.sizes]
    name, size = sizes[number]
    model = timm.create_model(name).to(programme.device)
    images = torch.randn(2, 3, size, size, device=programme.device)
    for training in (False, True):
        model.train(training)
        with torch.set_grad_enabled(training), torch.autocast(programme.device, getattr(torch, programme.dtype)):
            logits = model(images)
    logits.float().square().mean().backward()


def compile_all(programme: Programme) -> None:
    """Compile the kernels of all sizes in processes side by side; what fails here will fail again and be told there."""
    count = len(programme.pairs) * len(programme.sizes)
    command = [sys.executable, __file__, *["--cpu-check"] * (programme is CHECK), "--compile-one"]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(count)]
    for process in processes:
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-check", action="store_true", help="tiny shapes on the CPU, to see that the script runs")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of gpu.json and gpu.md")
    parser.add_argument("--budget", type=float, default=float("inf"), help="begin nothing after so many seconds")
    parser.add_argument("--compile-one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.cpu_check and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a GPU, and PyTorch sees none; --cpu-check runs tiny shapes on the CPU")
    programme = CHECK if arguments.cpu_check else FULL
    if arguments.compile_one is not None:
        compile_one(arguments.compile_one, programme)
        return
    began = time.monotonic()
    say("compiling kernels")
    compile_all(programme)
    say("checking operators")
    gate(programme)
    result: dict[str, Any] = {"environment": environment(programme.device), "programme": asdict(programme)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part, measure in items(programme):
        if time.monotonic() - began > arguments.budget:
            say(f"out of budget: {part} and what would follow are left out")
            break
        say(f"measuring: {part}")
        result.setdefault(part, []).extend(measure())
        (arguments.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
        (arguments.out / "gpu.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
