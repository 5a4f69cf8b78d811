"""Does a compiled kernel compute the right thing on this device? Asked once, before its first use.

A compiler or driver can be wrong on one machine and right on the next. So the first use of an operator's Triton or
Numba backend on a device compares it with the operator's ``reference.py`` on small inputs: the comparison is the
operator's own, in its ``comparison.py``. Here is what all share: running one, its verdict and what is done about it.
Running takes milliseconds; the first time on a machine the kernels must be compiled for it,
which takes seconds. The verdict is kept in memory; that of a Triton kernel also in a small file under the user's cache
folder, so that later processes do not repeat it. Numba's are asked of every process, for Numba may compile a kernel
anew at any time (its cache is elsewhere, and knows less), and asking takes a fraction of a second.

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
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""Largest accepted error of a tensor, relative to its norm. A right kernel is within 1e-5 and 1e-2; a window that
misses a key, or a tile that is not written, is off by 1e-1 and more."""

Comparison = Callable[[torch.device], str | None]
"""A function of a device that returns None, or the reason for distrust."""

COMPARISONS: dict[str, Comparison] = {}
"""Operator to comparison; entered by :func:`asked_once` when the operators are imported."""

_verdicts: dict[tuple[str, torch.device], str | None] = {}


def asked_once(operator: str) -> Callable[[Comparison], Comparison]:
    """Decorate an operator's comparison: it is known by a name, and called for a device gives the verdict on file.

    Args:
        operator: the name; "/numba" ends those of Numba's kernels, all others are Triton's.
    """

    def enter(compare: Comparison) -> Comparison:
        assert operator not in COMPARISONS, operator
        COMPARISONS[operator] = compare
        return partial(passed, operator)

    return enter


def passed(operator: str, device: torch.device) -> str | None:
    """Return None if the compiled backend of ``operator`` may be trusted on ``device``, else the reason why not.

    Args:
        operator: the name that its comparison was entered under.
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
    if _is_numba(operator):
        reason, again = _judge(compare, device, _compiler_errors(operator))[0], "The next process tests again."
    else:
        reason, again = _triton_verdict(operator, compare, device)
    _verdicts[key] = reason
    if reason is not None:
        compiler = "Numba" if _is_numba(operator) else "Triton"
        warnings.warn(
            f"{operator}: the {compiler} kernels are switched off on {device}, because {reason}; "
            f"another backend is used. {again}",
            RuntimeWarning,
            stacklevel=2,
        )
    return reason


def _triton_verdict(operator: str, compare: Comparison, device: torch.device) -> tuple[str | None, str]:
    """Return the verdict on file, or a new one, and when it is asked for again."""
    name = _cache_key(operator, device)
    known = _read_cache()
    if name not in known:
        reason, lasting = _judge(compare, device, _compiler_errors(operator))
        if lasting:
            _write_cache(name, reason)
            known = _read_cache()
    else:
        reason = known[name]
    return reason, f"To test again, delete {cache_file()}." if name in known else "The next process tests again."


def _is_numba(operator: str) -> bool:
    return operator.endswith("/numba")


def _compiler_errors(operator: str) -> tuple[type[Exception], ...]:
    """Return what an operator's compiler raises."""
    if _is_numba(operator):
        from numba.core.errors import NumbaError

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
    """Return everything that the verdict on Triton's kernels depends on, as one line."""
    hardware = "cpu"
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"
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


def compare_with_gradients(
    run: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    tensors: dict[str, Tensor],
    settings: tuple[object, ...],
    device: torch.device,
) -> str | None:
    """Compare output and gradients of two implementations that take the same tensors and settings, on ``device``.

    Args:
        run: the implementation under test.
        reference: what it is compared with, in float64.
        tensors: what both are given, by name, on the CPU.
        settings: what follows them.
        device: where ``run`` runs.

    Returns:
        Which tensor differs, by how much and for which dtype, or None if all are within :data:`TOLERANCES`.
    """
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


def compare_at_inference(
    run: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: Callable[..., tuple], device: torch.device
) -> str | None:
    """Compare the outputs alone, of ``inputs(dtype, device)``: for kernels that run where no gradient is wanted."""
    with torch.no_grad():
        expected = reference(*inputs(torch.float64, device))
        for dtype, tolerance in TOLERANCES.items():
            reason = compare_outputs(["output"], [run(*inputs(dtype, device))], [expected], tolerance)
            if reason is not None:
                return f"{reason} (inputs {dtype})"
    return None
