"""Launching a Triton kernel again without asking again what it needs.

``kernel[grid](...)`` binds and inspects every argument at every call, which for the sixty of neighborhood attention
takes longer than the kernel. All of them but the tensors' addresses follow from the *kind* of the tensors: so the first
launch of a kind goes that way, and gives the compiled kernel that later ones call directly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
import triton
from torch import Tensor

Launch = tuple[Any, tuple[int, ...], dict[str, Any]]
"""(kernel, grid, arguments and compiler options by name)."""

MOST = 4096
"""Kinds that are remembered. A kind takes a few kilobytes, and a map size makes about ten."""

DIRECT = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)
"""Whether a compiled kernel takes every argument, constants too, in the order of the kernel's signature."""


def kind(x: Tensor | None) -> Hashable:
    """Return all that a launch may depend on of a tensor but its address: equal kinds may share a launch."""
    # Triton compiles for pointers at multiples of 16 bytes; ``ALIGN`` arguments follow from the same remainder.
    return None if x is None else (x.shape, x.stride(), x.dtype, x.device, x.data_ptr() % 16)


def dense_kind(x: Tensor) -> Hashable:
    """Return what of :func:`kind` the other tensors of a launch do not say: for one that is contiguous, of their sizes.

    A hook on saved tensors may hand back a copy that begins elsewhere in its memory than what was saved.
    """
    return x.dtype, x.data_ptr() % 16


def remembered(check: Callable[..., str | None]) -> Callable[..., str | None]:
    """Return ``check`` with a memory: its answer must follow from its arguments, of tensors from all but the values.

    Not for what a compiler traces: sizes may be symbols there.
    """
    answers: dict[Hashable, str | None] = {}

    @wraps(check)
    def answer(*arguments: Any) -> str | None:
        key = tuple(
            (type(each), each.shape, each.stride(), each.dtype, each.device) if isinstance(each, Tensor) else each
            for each in arguments
        )
        if key not in answers:
            if len(answers) >= MOST:
                answers.clear()
            answers[key] = check(*arguments)
        return answers[key]

    return answer


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which the device of ``x`` is the current one."""
    if x.device.type == "cpu" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)


def registers(x: Tensor, count: int) -> dict[str, int]:
    """Return the option that lets a thread have ``count`` registers, where NVIDIA's assembler would rather spill."""
    return {} if x.device.type == "cpu" or torch.version.hip else {"maxnreg": count}


def run(launches: list[Launch]) -> None:
    """Launch kernels, one after another."""
    for kernel, grid, arguments in launches:
        kernel[grid](**arguments)


class RepeatedLaunch:
    """A launch that is made again with tensors of the same kinds.

    Args:
        launch: the first one; it is made at the first call. Its tensors are not kept.
    """

    def __init__(self, launch: Launch) -> None:
        self.kernel, grid, arguments = launch
        self.grid = (*grid, 1, 1)[:3]
        self.constants = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
        self.shapes = {name: value.shape for name, value in arguments.items() if isinstance(value, Tensor)}
        names = list(self.kernel.arg_names)
        self.places = {name: names.index(name) for name in self.shapes}
        self.values: list[Any] = [self.constants.get(name) for name in names]
        self.compiled: Callable[..., object] | None = None

    def __call__(self, **tensors: Tensor) -> None:
        """Launch with these tensors, all of them by their names."""
        if self.compiled is None:
            # None under Triton's interpreter, which has nothing compiled.
            compiled = self.kernel[self.grid](**tensors, **self.constants)
            if DIRECT and compiled is not None:
                self.compiled = compiled[self.grid]
            return
        values = self.values.copy()
        for name, place in self.places.items():
            values[place] = tensors[name].data_ptr()
        self.compiled(*values)


_known: dict[Hashable, list[RepeatedLaunch]] = {}


def repeated(key: Hashable, launches: Callable[[], list[Launch]]) -> list[RepeatedLaunch]:
    """Return the launches known under ``key``, or those that ``launches`` makes.

    Args:
        key: the operation, the kinds of its tensors and its settings: all that the launches follow from.
        launches: called where the key is new.
    """
    found = _known.get(key)
    if found is None:
        if len(_known) >= MOST:
            _known.clear()
        found = _known[key] = [RepeatedLaunch(launch) for launch in launches()]
    return found
