"""The learning rate that belongs to a total batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from a2mamba.recipes.overrides import apply_overrides
from a2mamba.tasks import TrainingRun

Run = TypeVar("Run", bound=TrainingRun)


def linear_lr(batch_size: int, *, per_1024: float = 1e-3) -> float:
    """The linear rule: a learning rate that is proportional to the total batch.

    The authors' scripts take 1e-3 for 1024 images (their auto-lr), which is 2e-3 for the 2048 of the paper's runs. The
    rates at which warm-up begins and the cosine ends are not scaled.
    """
    return per_1024 * batch_size / 1024


def override(run: Run, changes: Sequence[str]) -> tuple[Run, list[str]]:
    """Apply ``key=value`` changes to a run; where they change the total batch and not the rate, the rate follows.

    A recipe's rate belongs to its batch, so ``data.batch_size=512`` on a recipe of 2048 divides ``optimizer.lr`` by
    four, too. Setting ``optimizer.lr`` switches this off.

    Returns:
        The new run, and a line for each thing that was changed without being asked for.

    Raises:
        ValueError: as ``apply_overrides``.
    """
    changed = apply_overrides(run, changes)
    before, after = run.data.batch_size, changed.data.batch_size
    keys = {change.partition("=")[0].strip() for change in changes}
    if before == after or "optimizer.lr" in keys:
        return changed, []
    rate = run.optimizer.lr * after / before
    scaled = dataclasses.replace(changed, optimizer=dataclasses.replace(changed.optimizer, lr=rate))
    note = (
        f"optimizer.lr {run.optimizer.lr:g} -> {rate:g}: it follows the total batch, {before} -> {after}; "
        f"set optimizer.lr to choose it"
    )
    return scaled, [note]
