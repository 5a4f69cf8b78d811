"""Steps whose loss or gradient is not finite: counting them, finding the module, keeping the evidence.

What the loop does about one is in `Trainer`: the step is not taken; after `FaultPolicy.patience` of them in a row the
last checkpoint is restored and the learning rate lowered; after `FaultPolicy.recoveries` of those the run ends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from a2mamba.engine.sharding import local

DUMP_FORMAT = "a2mamba-fault-1"


@dataclass(frozen=True, kw_only=True)
class FaultPolicy:
    """What a run bears.

    patience    non-finite steps in a row after which the last good state is restored; each is skipped
    recoveries  restorations after which the next one ends the run instead
    factor      of the learning rate, for each restoration, until the end of the run
    folder      where the batches of such steps are saved, None for nowhere
    dumps       how many files at most this process writes there; each has the size of a batch
    """

    patience: int = 3
    recoveries: int = 3
    factor: float = 0.5
    folder: Path | None = None
    dumps: int = 4

    def __post_init__(self) -> None:
        if self.patience < 1 or self.recoveries < 0 or self.dumps < 0:
            raise ValueError(
                f"patience is {self.patience}, recoveries {self.recoveries}, dumps {self.dumps}; "
                "expected at least 1, 0 and 0"
            )
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor is {self.factor:g}; it must be more than 0 and at most 1")


@dataclass
class FaultCounts:
    """What happened so far; part of every checkpoint."""

    skipped: int = 0
    in_a_row: int = 0
    recoveries: int = 0

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return asdict(self)


class StepStart:
    """What a forward pass changes beside gradients, as it was before: generators and buffers.

    Taken before every step, so it is cheap: copies into tensors that are made once. With it a step can be undone (batch
    norm has already followed the activations that are not finite) and looked at again exactly as it ran.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = None if device.type == "cpu" else torch.get_device_module(device)
        # By type: the copies of one type are one launch on a GPU.
        kinds = {buffer.dtype for buffer in model.buffers()}
        self._buffers = [[buffer for buffer in model.buffers() if buffer.dtype == kind] for kind in kinds]
        self._copies = [[buffer.clone() for buffer in buffers] for buffers in self._buffers]
        self._generators: tuple[Any, ...] = ()

    @torch.no_grad()
    def remember(self) -> None:
        """Takes the present as the start."""
        for copies, buffers in zip(self._copies, self._buffers, strict=True):
            torch._foreach_copy_(copies, buffers)
        device = None if self._device is None else self._device.get_rng_state()
        # numpy's legacy generator is the one that augmentation libraries draw from
        self._generators = (torch.get_rng_state(), device, random.getstate(), np.random.get_state())  # noqa: NPY002

    @torch.no_grad()
    def restore(self) -> None:
        """Goes back to the start."""
        for copies, buffers in zip(self._copies, self._buffers, strict=True):
            torch._foreach_copy_(buffers, copies)
        own, device, python, numpy = self._generators
        torch.set_rng_state(own)
        if self._device is not None:
            self._device.set_rng_state(device)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def first_nonfinite_module(model: nn.Module, run: Callable[[], object]) -> str | None:
    """Where values first stop being finite while `run` uses the model, in words; None where they do not.

    A module is blamed whose inputs are finite and whose output is not; code between modules, where a module is given
    something that is not finite and none before it made that.
    """
    found: list[str] = []
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not found and not all_finite(inputs):
                outer, _, last = name.rpartition(".")
                found.append(f"{outer or 'the model'}, before its {last}" if name else "the model's input")

        def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not found and not all_finite(output):
                found.append(f"{name or 'the model'} ({type(module).__name__})")

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    for name, module in model.named_modules():
        watch(name, module)
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def last_nonfinite_gradient(model: nn.Module) -> str | None:
    """The last parameter, in the model's order, whose gradient is not finite: the backward met it first."""
    names = [name for name, p in model.named_parameters() if p.grad is not None and not all_finite(local(p.grad))]
    return names[-1] if names else None


def all_finite(tree: Any) -> bool:
    """Whether every floating-point tensor in a tree of tuples, lists and dicts is finite everywhere."""
    if isinstance(tree, Tensor):
        return not tree.is_floating_point() or bool(torch.isfinite(tree).all())
    if isinstance(tree, dict):
        return all(all_finite(value) for value in tree.values())
    if isinstance(tree, list | tuple):
        return all(all_finite(value) for value in tree)
    return True


def save_dump(path: Path, content: dict[str, Any]) -> None:
    """Writes what `torch.load(weights_only=True)` reads: plain data and tensors on the CPU. OSError where it cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save({"format": DUMP_FORMAT} | plain(content), path)
    except RuntimeError as error:  # torch's writer wraps what the file raises
        raise OSError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def plain(tree: Any) -> Any:
    """A tree of plain containers: named tuples become dicts, tensors go to the CPU, what is neither becomes text."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu().contiguous()
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {name: plain(value) for name, value in zip(tree._fields, tree, strict=True)}
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    return tree if isinstance(tree, str | int | float | bool | None) else str(tree)


def names_of(samples: list[str]) -> Iterator[str]:
    """The first eight names, and how many more there are."""
    yield from samples[:8]
    if len(samples) > 8:
        yield f"and {len(samples) - 8} more"
