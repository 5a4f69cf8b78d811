"""Choosing a backend: an ordered list, in which every entry can say why it cannot run.

An operator owns an ordered tuple of :class:`Backend`. The first that has nothing to object runs. An explicit choice
that cannot run raises its reason; an exception inside a check is a bug and is never read as "unsupported".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_state

from a2mamba.ops import recording

HAS_TRITON = find_spec("triton") is not None
"""Whether Triton is installed; looked up here, so that no operator call has to, nor a compiler to trace it."""

HAS_NUMBA = find_spec("numba") is not None
"""Whether Numba is installed; as above."""


@dataclass(frozen=True)
class Backend:
    """One implementation of an operator.

    ``why_not`` and ``run`` take the operator's own arguments, already checked and normalized. ``why_not`` returns
    ``None`` when the backend can run, otherwise a phrase that completes "cannot run because ...".
    """

    name: str
    why_not: Callable[..., str | None]
    run: Callable[..., Any]


@dataclass(frozen=True)
class Choice:
    """The verdict on one backend for given arguments: ``reason`` is ``None`` when it can run."""

    backend: str
    reason: str | None


def always(*_arguments: Any) -> str | None:
    """Object to nothing: the check of a backend that runs everywhere."""
    return None


def on_gpu(x: Tensor) -> bool:
    """Whether ``x`` is where Triton's kernels run."""
    return x.is_cuda


def triton_missing(x: Tensor) -> str | None:
    """Return why no Triton kernel can run on the device of ``x``, or None; importing Triton is left to the caller."""
    if not on_gpu(x):
        return f"its kernels need a GPU, and the tensors are on {x.device.type}"
    return None if HAS_TRITON else "triton is not installed"


def numba_missing(x: Tensor) -> str | None:
    """Return why no Numba kernel can run on the device of ``x``, or None; importing Numba is left to the caller."""
    if not x.is_cpu:
        return f"its kernels run on CPUs, and the tensors are on {x.device.type}"
    return None if HAS_NUMBA else 'numba is not installed: pip install "a2mamba[numba]"'


LANES = 8
"""Numbers of a vector of Numba's kernels."""

KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""What hand-written kernels read."""

MAP_DTYPES = (torch.float32, torch.bfloat16)
"""What Numba's kernels of maps read."""

_PLAIN = (Tensor, nn.Parameter)


def not_plain(*tensors: Tensor | None) -> str | None:
    """Return why memory of these tensors is not what their shapes say, or None.

    A subclass may keep its numbers elsewhere, or others than it shows: quantized weights do. Kernels that are given an
    address, and operators that a subclass has never heard of, take none; PyTorch's own operations do. What compilers
    and exports trace with is no such subclass: it stands for a plain tensor.
    """
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in _PLAIN and not _stands_for_plain(tensor):
            return f"it takes plain tensors, and one is a {type(tensor).__name__}"
        if tensor.layout != torch.strided:
            return f"it takes dense tensors, and the layout of one is {tensor.layout}"
    return None


def _stands_for_plain(tensor: Tensor) -> bool:
    from torch._subclasses import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(tensor, (FakeTensor, FunctionalTensor))


def unfit(**tensors: Tensor | None) -> str | None:
    """Return which of the named tensors a kernel cannot read, for its kind, its dtype or its device, or None.

    All must be where the first is; those that are None are not there.
    """
    objection = not_plain(*tensors.values())
    if objection is not None:
        return objection
    first, device = next((name, tensor.device) for name, tensor in tensors.items() if tensor is not None)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in KERNEL_DTYPES:
            return f"{name} must be float16, bfloat16 or float32, got {tensor.dtype}"
        if tensor.device != device:
            return f"{name} is on {tensor.device} and {first} on {device}"
    return None


def unwatched(x: Tensor) -> bool:
    """Whether nothing but the result is wanted of an operation on ``x``, so that any way to it is as good.

    Not where a gradient is recorded, nor where :func:`untraced` says no. An implementation may then be called
    without torch.library, which takes longer than the smallest of them; layers may compute otherwise than they are
    written.
    """
    return not torch.is_grad_enabled() and untraced(x)


def untraced(x: Tensor) -> bool:
    """Whether an operation on ``x`` need not be one of torch.library's: only its result and its gradient are wanted.

    Not where a graph or a trace is recorded, where a mode or a transform looks on (operation counters, fake tensors,
    vmap), or where a profiler wants names.
    """
    return (
        type(x) is Tensor
        and not torch.compiler.is_dynamo_compiling()  # others trace with another type of tensor, or with a mode
        and not torch._C._is_tracing()
        and (not torch._C._len_torch_dispatch_stack() or recording.alone())
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.autograd._profiler_enabled()
    )


def unfit_for_maps(width: int, *tensors: Tensor) -> str | None:
    """Return why a Numba kernel cannot run ``tensors``, float32 or bfloat16 each, or None.

    ``width``: of what lies side by side in memory; it must be a multiple of ``LANES``.
    """
    objection = numba_missing(tensors[0]) or not_plain(*tensors)
    if objection is not None:
        return objection
    for tensor in tensors:
        if tensor.dtype not in MAP_DTYPES or not tensor.is_cpu:
            return f"all tensors must be float32 or bfloat16 on the cpu, got {tensor.dtype} on {tensor.device}"
    if width < LANES or width % LANES:
        return f"the width must be a multiple of {LANES}, got {width}"
    return None


def unfit_at_inference(width: int, *tensors: Tensor) -> str | None:
    """Return what :func:`unfit_for_maps` does, or why a kernel without a gradient cannot run, or None."""
    objection = unfit_for_maps(width, *tensors)
    if objection is None and not unwatched(tensors[0]):
        objection = "a gradient, a graph or something that watches needs the operations one by one"
    return objection


def unhooked(module: nn.Module) -> bool:
    """Whether no forward hook waits for a call of any part of a module."""
    if global_state._global_forward_hooks or global_state._global_forward_pre_hooks:
        return False
    if not module._modules:
        return not (module._forward_hooks or module._forward_pre_hooks)
    return not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def portable(x: Tensor, numba: ModuleType, fallback: ModuleType) -> ModuleType:
    """Return the implementation that runs on the device of ``x``.

    A program that was exported where Numba is may run on a machine without it, or on another device.
    """
    return fallback if numba_missing(x) else numba


def select(operator: str, backends: Sequence[Backend], requested: str | None, arguments: tuple[Any, ...]) -> Backend:
    """Return the backend that runs ``arguments``: ``requested`` by name, or the first that can.

    Raises:
        ValueError: if ``requested`` names no backend, or one that cannot run these arguments.
    """
    if requested is None:
        for backend in backends:
            if backend.why_not(*arguments) is None:
                return backend
        raise AssertionError(f"{operator}: no backend runs everywhere")
    for backend in backends:
        if backend.name == requested:
            reason = backend.why_not(*arguments)
            if reason is not None:
                raise ValueError(f"{operator}: backend {requested!r} cannot run because {reason}")
            return backend
    names = ", ".join(repr(backend.name) for backend in backends)
    raise ValueError(
        f"{operator}: unknown backend {requested!r}; choose one of {names}, or None for the first that can"
    )


def explain(backends: Sequence[Backend], arguments: tuple[Any, ...]) -> list[Choice]:
    """Return what every backend says to ``arguments``, in order of preference."""
    return [Choice(backend.name, backend.why_not(*arguments)) for backend in backends]
