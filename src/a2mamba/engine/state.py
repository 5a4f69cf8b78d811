"""Whether a state that was read from a file is one that this run could have written: checked before any of it is used.

A run's own state is the pattern: the same names, types, shapes and dtypes. A moment of another shape would otherwise
reach an optimizer's kernel, which trusts it.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from a2mamba.engine.rng import rng_problem

_SHOWN = 4
_LARGEST = 2**53
_PROGRESS = ("epoch", "step_in_epoch", "step", "samples_in_epoch", "steps_per_epoch", "world_size", "counted")


def check_state(state: dict[str, Any], own: dict[str, Any], *, source: str) -> None:
    """Compare a state with the run's own, of which `optimizer.state` is that after a step.

    Args:
        state: of a checkpoint; not changed.
        own: of the trainer that is to load it.
        source: how messages begin: the path of the file.

    Raises:
        ValueError: one line that names the first fields that differ.
    """
    problems: list[str] = []
    for part in ("model", "ema"):
        problems += differences(state[part], own[part], part)
    problems += _optimizer(state["optimizer"], own["optimizer"])
    if state["scaler"] != {} and own["scaler"]:  # the precision may be changed on resuming
        problems += differences(state["scaler"], own["scaler"], "scaler")
    problems += differences(state["rng"], own["rng"], "rng", free=("python", "numpy", "device")) or rng_problem(
        state["rng"], own["rng"]["device"]
    )
    problems += differences(state["faults"], own["faults"], "faults") or _counts(state["faults"], "faults")
    problems += _progress(state["progress"], own["progress"])
    best = state["best"]
    if best is not None:
        problems += differences(best, {"metric": "", "value": 0.0, "epoch": 0}, "best") or _finite(
            {"value": best["value"]}, "best"
        )
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(f"{source} does not fit this run: {', '.join(problems[:_SHOWN])}{more}")


def check_position(progress: dict[str, Any], *, steps_per_epoch: int, processes: int, source: str) -> None:
    """Whether this run can go on from a place inside an epoch. ValueError says why not, and what to change."""
    if progress["step_in_epoch"] and progress["steps_per_epoch"] != steps_per_epoch:
        raise ValueError(
            f"{source} was taken inside an epoch of {progress['steps_per_epoch']} steps, and an epoch has "
            f"{steps_per_epoch} now; resume with the same total batch size, or from the end of an epoch"
        )
    if progress["samples_in_epoch"] % processes:
        raise ValueError(
            f"{source}: the {progress['samples_in_epoch']} samples used of this epoch cannot be shared by "
            f"{processes} processes; resume with another number of them, or from the end of an epoch"
        )


def differences(found: Any, own: Any, where: str, *, free: tuple[str, ...] = ()) -> list[str]:
    """What is not of the names, type, shape or dtype of `own`, a phrase each. The values of `free` keys may be any."""
    if isinstance(own, Tensor):
        return _tensor(found, own, where)
    if isinstance(own, dict) and isinstance(found, dict):
        problems = [f"{where}.{key} is missing" for key in own if key not in found]
        problems += [f"{where}.{_word(key)} is not in this run" for key in found if key not in own]
        for key, value in own.items():
            if key in found and key not in free:
                problems += differences(found[key], value, f"{where}.{key}")
        return problems
    if isinstance(own, list | tuple) and isinstance(found, list | tuple):
        if len(found) != len(own):
            return [f"{where} has {len(found)} entries, expected {len(own)}"]
        pairs = zip(found, own, strict=True)
        return [problem for i, (x, y) in enumerate(pairs) for problem in differences(x, y, f"{where}.{i}")]
    fits = type(found) in ((int, float) if isinstance(own, float) else (type(own),))
    return [] if fits else [f"{where} is {_kind(found)}, expected {_kind(own)}"]


def optimizer_template(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state dict with the tensors that it has after a step, on the meta device.

    Where it has made none yet, one is made with gradients of zero at a rate of zero, which leaves the parameters, and
    what the step made is dropped again.
    """
    fresh = not optimizer.state
    if fresh:
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    template: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), optimizer.state_dict())
    if fresh:
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
    return template


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a checked state. Moments get memory of their own in their parameter's layout: fused kernels rely on it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def laid_out(value: Any, parameter: Tensor) -> Any:
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        return value.clone() if isinstance(value, Tensor) else value

    state = {
        number: {key: laid_out(value, parameters[number]) for key, value in moments.items()}
        for number, moments in saved["state"].items()
    }
    groups = [
        {**{key: own[key] for key in own if _is_switch(own[key])}, **{k: v for k, v in group.items() if k in own}}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _optimizer(found: Any, own: dict[str, Any]) -> list[str]:
    if not isinstance(found, dict) or not isinstance(found.get("state"), dict):
        return [f"optimizer is {_kind(found)}, expected a dict with state and param_groups"]
    groups = found.get("param_groups")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return [f"optimizer.param_groups is {_kind(groups)}, expected a list of dicts"]
    # Switches, such as foreach, differ between versions and devices; a parameter without a gradient has no moments yet.
    kept = [{key: value for key, value in group.items() if not _is_switch(value)} for group in groups]
    expected = [{k: v for k, v in group.items() if not _is_switch(v)} for group in own["param_groups"]]
    problems = differences(kept, expected, "optimizer.param_groups")
    if not problems and [group["params"] for group in kept] != [group["params"] for group in expected]:
        problems = ["optimizer.param_groups number other parameters"]
    moments = {number: value for number, value in own["state"].items() if number in found["state"]}
    return problems + differences(found["state"], moments, "optimizer.state")


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _tensor(found: Any, own: Tensor, where: str) -> list[str]:
    if type(found) not in (Tensor, nn.Parameter):
        return [f"{where} is {_kind(found)}, expected a tensor"]
    if found.layout is not torch.strided or found.is_quantized or found.is_meta:
        return [f"{where} is a {found.layout} tensor on {found.device}, expected a plain one"]
    if found.shape != own.shape:
        return [f"{where} is {tuple(found.shape)}, expected {tuple(own.shape)}"]
    return [] if found.dtype == own.dtype else [f"{where} is {found.dtype}, expected {own.dtype}"]


def _progress(found: Any, own: dict[str, Any]) -> list[str]:
    problems = differences(found, own, "progress", free=("sums",))
    if problems:
        return problems
    problems = _counts({key: found[key] for key in _PROGRESS}, "progress")
    if not found["steps_per_epoch"] or not found["world_size"]:
        problems.append("progress.steps_per_epoch and world_size are at least 1")
    sums = found["sums"]
    if not isinstance(sums, dict) or not all(isinstance(name, str) for name in sums):
        problems.append(f"progress.sums is {_kind(sums)}, expected a dict of numbers")
    else:
        problems += _finite(sums, "progress.sums")
    try:
        history = json.loads(found["history"])
    except (ValueError, RecursionError) as error:
        return [*problems, f"progress.history is no JSON ({error})"]
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        problems.append("progress.history is not a list of rows")
    elif len(history) != found["epoch"]:
        problems.append(f"progress.history has {len(history)} rows, and {found['epoch']} epochs are completed")
    elif not all(type(value) in (int, float) for row in history for value in row.values()):
        problems.append("progress.history has a value that is no number")
    return problems


def _counts(found: dict[str, Any], where: str) -> list[str]:
    wrong = (key for key, value in found.items() if not 0 <= value < _LARGEST)
    return [f"{where}.{key} is {found[key]}, expected a count" for key in wrong]


def _finite(found: dict[str, Any], where: str) -> list[str]:
    wrong = (key for key, value in found.items() if type(value) not in (int, float) or not math.isfinite(value))
    return [f"{where}.{_word(key)} is not a finite number" for key in wrong]


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _word(key: Any) -> str:
    """A key of a file, for a line of text."""
    return key[:80] if isinstance(key, str) and key.isprintable() else repr(key)[:80]
