"""Does a compiled kernel compute the right thing on this device? Asked once, before its first use.

A compiler or driver can be wrong on one machine and right on the next. So the first use of an operator's Triton or
Numba backend on a device compares it with the operator's ``reference.py`` on small inputs, outputs and every gradient,
in float32 and bfloat16. Running takes milliseconds; the first time on a machine the kernels must be compiled for it,
which takes seconds. The verdict is kept in memory, and in a small file under the user's cache folder, so that later
processes do not repeat it.

:func:`passed` synchronizes on its first call for a device; afterwards it is one dictionary lookup. While torch.compile
traces, it answers from memory only and runs nothing: a model that is compiled before it ever ran is tested at its
first eager use, or by calling :func:`passed` before compiling. Warm up before capturing a CUDA graph, as ever.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""Largest accepted error of a tensor, relative to its norm. A right kernel is within 1e-5 and 1e-2; a window that
misses a key, or a tile that is not written, is off by 1e-1 and more."""

Comparison = Callable[[torch.device], str | None]

_verdicts: dict[tuple[str, torch.device], str | None] = {}


def passed(operator: str, device: torch.device) -> str | None:
    """Return None if the compiled backend of ``operator`` may be trusted on ``device``, else the reason why not.

    Args:
        operator: "neighborhood_attention" or "selective_scan_state" for Triton's kernels; with "/numba" for Numba's,
            who also has "gelu_depthwise", "read_out" and "gated_norm".
        device: where its tensors are.

    Raises:
        KeyError: for an operator without a self-test.

    On a mismatch it warns once a process, naming the operator. A kernel that fails to compile or run is a mismatch
    too, but one that the next process tries again.
    """
    key = (operator, device)
    if key in _verdicts:
        return _verdicts[key]
    compare = COMPARISONS[operator]
    if torch.compiler.is_compiling():
        return None
    name = _cache_key(operator, device)
    known = _read_cache()
    if name in known:
        reason = known[name]
    else:
        reason, lasting = _judge(compare, device, _compiler_errors(operator))
        if lasting:
            _write_cache(name, reason)
    _verdicts[key] = reason
    if reason is not None:
        compiler = "Numba" if _is_numba(operator) else "Triton"
        warnings.warn(
            f"{operator}: the {compiler} kernels are switched off on {device}, because {reason}; "
            f"another backend is used. To test again, delete {cache_file()}.",
            RuntimeWarning,
            stacklevel=2,
        )
    return reason


def _is_numba(operator: str) -> bool:
    return operator.endswith("/numba")


def _compiler_errors(operator: str) -> tuple[type[Exception], ...]:
    """Return what an operator's compiler raises."""
    if _is_numba(operator):
        from numba.core.errors import NumbaError

        # OSError: neither the package's folder nor the user's cache can be written.
        return NumbaError, RuntimeError, OSError
    from triton.errors import TritonError

    return TritonError, RuntimeError


def _judge(compare: Comparison, device: torch.device, errors: tuple[type[Exception], ...]) -> tuple[str | None, bool]:
    """Return a comparison's verdict and whether it says something about the machine rather than about this moment."""
    # A thread of its own has none of the caller's modes: no autocast, inference or fake-tensor mode, gradients on.
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            return pool.submit(compare, device).result(), True
        except errors as error:
            first_line = next(iter(str(error).splitlines()), "no message")
            return f"they raised {type(error).__name__}: {first_line}", False


def forget() -> None:
    """Forget the verdicts of this process; those in the cache file stay."""
    _verdicts.clear()


def cache_file() -> Path:
    """Return where verdicts are kept: under XDG_CACHE_HOME, or ~/.cache."""
    # The specification of that variable says that a relative path is to be ignored.
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (folder if folder.is_absolute() else Path.home() / ".cache") / "a2mamba" / "self_test.json"


def _cache_key(operator: str, device: torch.device) -> str:
    """Return everything that the verdict depends on, as one line."""
    hardware = "cpu"
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"
    if _is_numba(operator):
        from llvmlite.binding import get_host_cpu_name

        versions = [f"{package} {_version(package)}" for package in ("numba", "llvmlite")]
        return " | ".join([operator, f"cpu {get_host_cpu_name()}", *versions, _sources()])
    runtime = f"hip {torch.version.hip}" if torch.version.hip else f"cuda {torch.version.cuda} driver {_driver()}"
    versions = [f"{package} {_version(package)}" for package in ("torch", "triton")]
    return " | ".join([operator, hardware, runtime, *versions, _sources()])


def _sources() -> str:
    """Return a short name of what this package's operators are made of; a version would not change with a checkout."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return f"a2mamba {hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()[:12]}"


def _driver() -> str:
    """Return the version of the GPU driver, or "unknown" where the system does not tell it."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        return "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _read_cache() -> dict[str, str | None]:
    """Return the verdicts on file; none if the file is missing, unreadable or not what this module writes."""
    try:
        content = json.loads(cache_file().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if value is None or isinstance(value, str)}


def _write_cache(name: str, reason: str | None) -> None:
    """Add a verdict to the file, whole or not at all; where nothing can be written, only memory keeps it."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".tmp") as file:
            json.dump({**_read_cache(), name: reason}, file, indent=1)
        os.replace(file.name, path)
    except OSError:
        return


def compare_outputs(
    names: Sequence[str], found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float
) -> str | None:
    """Return which tensor differs from what was expected and by how much, or None if all are within ``tolerance``."""
    for name, ours, right in zip(names, found, expected, strict=True):
        ours, right = ours.double().cpu(), right.double().cpu()
        error = float((ours - right).norm() / right.norm().clamp(min=1e-12))
        if not error <= tolerance:  # NaN is an error too
            return f"their {name} differs from the reference by {error:.1e} of its norm"
    return None


def _check(
    run: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    tensors: dict[str, Tensor],
    settings: tuple[object, ...],
    device: torch.device,
) -> str | None:
    """Compare output and gradients of two implementations that take the same tensors and settings."""
    names = ["output", *(f"gradient of {name}" for name in tensors)]
    for dtype, tolerance in TOLERANCES.items():
        rounded = [tensor.to(dtype) for tensor in tensors.values()]
        ours = [tensor.to(device).requires_grad_() for tensor in rounded]
        exact = [tensor.double().requires_grad_() for tensor in rounded]
        out, right = run(*ours, *settings), reference(*exact, *settings)
        weights = torch.linspace(-7, 7, right.numel(), dtype=torch.float64).cos().view(right.shape).to(dtype)
        found = torch.autograd.grad(out, ours, weights.to(device, out.dtype))
        expected = torch.autograd.grad(right, exact, weights.double())
        reason = compare_outputs(names, [out.detach(), *found], [right.detach(), *expected], tolerance)
        if reason is not None:
            return f"{reason} (inputs {dtype})"
    return None


def _attend(run: Callable[..., Tensor], device: torch.device) -> str | None:
    from a2mamba.ops.neighborhood import reference

    generator = torch.Generator().manual_seed(0)
    # Odd sizes, two tiles and more an axis, borders, an axis with dilation, padded heads.
    shape, window, dilation = (1, 2, 11, 19), (5, 3), (1, 2)
    tensors = {name: torch.randn(*shape, 24, generator=generator) for name in ("q", "k", "v")}
    tensors["bias"] = torch.randn(2, 2 * window[0] - 1, 2 * window[1] - 1, generator=generator)
    settings = (window, dilation, 24**-0.5)
    return _check(run, reference.neighborhood_attention, tensors, settings, device)


def _scan(run: Callable[..., Tensor], device: torch.device, channels: int) -> str | None:
    from a2mamba.ops.selective_scan import reference

    generator = torch.Generator().manual_seed(0)
    # Three chunks of channels-last tokens, the last one cut short.
    batch, length = 1, 300
    tensors = {
        name: torch.randn(batch, length, channels, generator=generator).transpose(1, 2) for name in ("u", "delta")
    }
    tensors["A"] = -torch.rand(channels, generator=generator) - 0.1
    tensors["B"] = torch.randn(batch, 2, length, generator=generator)
    tensors["delta_bias"] = torch.randn(channels, generator=generator) - 2
    return _check(run, reference.selective_scan_state, tensors, (True,), device)


def _neighborhood_attention(device: torch.device) -> str | None:
    from a2mamba.ops.neighborhood import triton_impl

    return _attend(triton_impl.run, device)


def _selective_scan_state(device: torch.device) -> str | None:
    from a2mamba.ops.selective_scan import triton_impl

    return _scan(triton_impl.run, device, channels=6)


def _neighborhood_attention_numba(device: torch.device) -> str | None:
    return _attend(torch.ops.a2mamba.neighborhood_attention_numba, device)


def _selective_scan_state_numba(device: torch.device) -> str | None:
    return _scan(torch.ops.a2mamba.selective_scan_state_numba, device, channels=2 * 11)


def _at_inference(
    run: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: Callable[..., tuple], device: torch.device
) -> str | None:
    """Compare the outputs alone: these kernels run where no gradient is wanted, and in float32."""
    with torch.no_grad():
        found, expected = run(*inputs(torch.float32, device)), reference(*inputs(torch.float64, device))
    return compare_outputs(["output"], [found], [expected], TOLERANCES[torch.float32])


def _read_out_numba(device: torch.device) -> str | None:
    from a2mamba.ops.readout import CASES, numba_impl, reference

    return _at_inference(numba_impl.read_out, reference.read_out, CASES[1].read_out_inputs, device)


def _gated_norm_numba(device: torch.device) -> str | None:
    from a2mamba.ops.readout import CASES, numba_impl, reference

    return _at_inference(numba_impl.gated_norm, reference.gated_norm, CASES[1].gated_norm_inputs, device)


def _gelu_depthwise_numba(device: torch.device) -> str | None:
    from a2mamba.ops.feed_forward import CASES, numba_impl, reference

    return _at_inference(numba_impl.forward, reference.gelu_depthwise, CASES[1].inputs, device)


def _read_out(device: torch.device) -> str | None:
    from a2mamba.ops.readout import CASES, reference, triton_impl

    return _at_inference(triton_impl.read_out, reference.read_out, CASES[2].read_out_inputs, device)


def _gated_norm(device: torch.device) -> str | None:
    from a2mamba.ops.readout import CASES, reference, triton_impl

    return _at_inference(triton_impl.gated_norm, reference.gated_norm, CASES[2].gated_norm_inputs, device)


def _channel_norm(device: torch.device) -> str | None:
    from a2mamba.ops.channel_norm import CASES, reference, triton_impl

    x, weight, bias, *settings = CASES[2].inputs()
    tensors = {"x": x, "weight": weight, "bias": bias}
    return _check(triton_impl.run, reference.channel_norm, tensors, tuple(settings), device)


def _depthwise_conv(device: torch.device) -> str | None:
    from a2mamba.ops.depthwise import CASES, reference, triton_impl

    return _at_inference(triton_impl.run, reference.depthwise_conv, CASES[1].inputs, device)


def _rotate(device: torch.device) -> str | None:
    from a2mamba.ops.rotary import CASES, reference, triton_impl

    return _at_inference(triton_impl.run, reference.rotate, CASES[1].inputs, device)


COMPARISONS: dict[str, Comparison] = {
    "rotate": _rotate,
    "depthwise_conv": _depthwise_conv,
    "channel_norm": _channel_norm,
    "read_out": _read_out,
    "gated_norm": _gated_norm,
    "neighborhood_attention": _neighborhood_attention,
    "selective_scan_state": _selective_scan_state,
    "neighborhood_attention/numba": _neighborhood_attention_numba,
    "selective_scan_state/numba": _selective_scan_state_numba,
    "read_out/numba": _read_out_numba,
    "gated_norm/numba": _gated_norm_numba,
    "gelu_depthwise/numba": _gelu_depthwise_numba,
}
"""Operator to comparison: a function of a device that returns None or the reason for distrust."""
