"""The language of weight tables: how a tensor of ours is called in a released file, and which shape it has there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Reshape:
    """Our shape of a tensor to the released one, and back; ``rank`` is the number of axes of the released one."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    rank: int | None = None


# Functions with names, because every model holds its table and models can be pickled.
def _same(t: Tensor) -> Tensor:
    return t


def _to_kernel(t: Tensor) -> Tensor:
    return t[:, :, None, None]


def _to_matrix(t: Tensor) -> Tensor:
    return t.flatten(1)


def _to_column(t: Tensor) -> Tensor:
    return t[:, None]


def _to_scale(t: Tensor) -> Tensor:
    return t[:, None, None, None]


def _to_vector(t: Tensor) -> Tensor:
    return t.flatten()


def _to_batch(t: Tensor) -> Tensor:
    return t[None]


def _from_batch(t: Tensor) -> Tensor:
    return t.squeeze(0)


# The four scan directions are an axis of ours, and folded into the first axis of the released tensors.
def _to_directions(t: Tensor) -> Tensor:
    return t.unflatten(0, (4, -1))


def _to_folded_column(t: Tensor) -> Tensor:
    return t.flatten()[:, None]


def _from_folded_column(t: Tensor) -> Tensor:
    return t.flatten().unflatten(0, (4, -1))


def _to_folded_rows(t: Tensor) -> Tensor:
    return t.flatten(0, 1)[..., None]


def _from_folded_rows(t: Tensor) -> Tensor:
    return t.squeeze(-1).unflatten(0, (4, -1))


SAME = Reshape(_same, _same)
KERNEL = Reshape(_to_kernel, _to_matrix, rank=4)
MATRIX = Reshape(_to_matrix, _to_kernel, rank=2)
COLUMN = Reshape(_to_column, _to_vector, rank=2)
CHANNEL = Reshape(_to_scale, _to_vector, rank=4)
BATCH_OF_ONE = Reshape(_to_batch, _from_batch, rank=4)
FOLDED = Reshape(_to_vector, _to_directions, rank=1)
FOLDED_COLUMN = Reshape(_to_folded_column, _from_folded_column, rank=2)
FOLDED_ROWS = Reshape(_to_folded_rows, _from_folded_rows, rank=3)

Rule = tuple[str, str | tuple[str, ...], Reshape]
"""A pattern for the beginning of our name, what stands there in a released file (once or more), and the shape there."""

ReleasedNames = dict[str, tuple[tuple[str, ...], Reshape]]
"""Our name of a tensor -> its released name(s) and the change of shape that leads there."""


def names_by_rules(names: Iterable[str], rules: tuple[Rule, ...]) -> ReleasedNames:
    """Return the released name(s) and the change of shape of every name, by the first rule that matches it.

    Raises:
        AssertionError: for a name that no rule matches: the table is not complete.
    """
    return {name: by_rules(name, rules) for name in names}


def by_rules(name: str, rules: tuple[Rule, ...]) -> tuple[tuple[str, ...], Reshape]:
    """Return the released name(s) and the change of shape of one name."""
    for pattern, replacement, reshape in rules:
        if re.match(pattern, name):
            targets = (replacement,) if isinstance(replacement, str) else replacement
            return tuple(re.sub(f"^(?:{pattern})", target, name, count=1) for target in targets), reshape
    raise AssertionError(f"no rule for {name}")
