"""What is said and kept about a step that is not finite: the module, the samples, the batch in a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from a2mamba.engine.distributed import gather_objects, rank, unwrap
from a2mamba.engine.faults import FaultPolicy
from a2mamba.engine.precision import Precision
from a2mamba.engine.task import Progress, TrainingTask
from a2mamba.engine.tree import all_finite, move_to

DUMP_FORMAT = "a2mamba-fault-1"


class FailedStep(NamedTuple):
    """A step that is not finite: its micro-batches as the loader gave them, their loss terms, its gradient norm."""

    batches: list[Any]
    progress: Progress
    losses: list[dict[str, float]]
    grad_norm: float


class FaultReporter:
    """Explains failed steps in a line, and saves their batches as long as the policy allows more of them."""

    def __init__(
        self,
        task: TrainingTask,
        policy: FaultPolicy,
        *,
        device: torch.device,
        precision: Precision,
        memory_format: torch.memory_format,
        seed: int,
    ) -> None:
        self._task = task
        self._policy = policy
        self._device = device
        self._precision = precision
        self._memory_format = memory_format
        self._seed = seed
        self._dumps = 0

    def report(self, step: FailedStep, rewind: Callable[[], None]) -> tuple[str, list[str]]:
        """One line about what was not finite, where and for which samples, over all processes; and those samples.

        `rewind` puts generators and buffers back to where the step began. Every process has to call it: the forward
        pass, which is repeated, may exchange batch statistics.
        """
        finite = [all(map(math.isfinite, terms.values())) for terms in step.losses]
        bad = [batch for batch, fine in zip(step.batches, finite, strict=True) if not fine]
        model = unwrap(self._task.model)
        gradient = last_nonfinite_gradient(model)
        rewind()
        place = first_nonfinite_module(model, lambda: self._forward(step))
        losses = "; ".join(", ".join(f"{name} {value:g}" for name, value in terms.items()) for terms in step.losses)
        everyone = gather_objects((place, gradient, self._names(bad), losses))
        places = [found[0] for found in everyone if found[0]]
        gradients = [found[1] for found in everyone if found[1]]
        samples = [name for found in everyone for name in found[2]]
        of_loss = bool(samples)
        if not of_loss:
            samples = [name for names in gather_objects(self._names(step.batches)) for name in names]
        if places:
            where = f"first in the output of {places[0]}" if places[0].endswith(")") else f"first in {places[0]}"
        elif of_loss:
            where = "first in the loss itself"
        else:
            where = f"first in the gradient of {gradients[0]}" if gradients else "in no single gradient"
        saved = self._dump(bad if of_loss else step.batches, step, place or gradient or "")
        what = "loss" if of_loss else f"gradient (norm {step.grad_norm:g})"
        shown = [found[3] for found in everyone if found[2]] or [everyone[0][3]]
        return (
            f"the {what} is not finite at step {step.progress.step} (epoch {step.progress.epoch + 1}), {where}; the "
            f"optimizer step was not taken: {'; '.join(shown)}; samples: {', '.join(names_of(samples))}{saved}"
        ), samples

    def _forward(self, step: FailedStep) -> None:
        for batch in step.batches:
            with torch.no_grad(), self._precision.autocast():
                self._task.losses(move_to(batch, self._device, self._memory_format), step.progress)

    def _names(self, batches: list[Any]) -> list[str]:
        return [name for batch in batches for name in self._task.describe(batch)]

    def _dump(self, batches: list[Any], step: FailedStep, place: str) -> str:
        """Saves batches of this process, as long as there may be more; what to add to the report about it."""
        folder = self._policy.folder
        if folder is None or not batches or self._dumps >= self._policy.dumps:
            return ""
        path = folder / f"step-{step.progress.step:08d}-process-{rank()}.pt"
        content = {
            "step": step.progress.step,
            "epoch": step.progress.epoch,
            "seed": self._seed,
            "place": place,
            "losses": step.losses,
            "grad_norm": step.grad_norm,
            "samples": self._names(batches),
            "batches": batches,
        }
        try:
            save_dump(path, content)
        except OSError as error:  # the evidence is not worth the run
            return f"; not saved: {error}"
        self._dumps += 1
        return f"; saved to {path}"


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
    names = [name for name, p in model.named_parameters() if p.grad is not None and not all_finite(p.grad)]
    return names[-1] if names else None


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
