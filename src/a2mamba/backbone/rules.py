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


SAME = Reshape(lambda t: t, lambda t: t)
KERNEL = Reshape(lambda t: t[:, :, None, None], lambda t: t.flatten(1), rank=4)
MATRIX = Reshape(lambda t: t.flatten(1), lambda t: t[:, :, None, None], rank=2)
COLUMN = Reshape(lambda t: t[:, None], lambda t: t.flatten(), rank=2)
CHANNEL = Reshape(lambda t: t[:, None, None, None], lambda t: t.flatten(), rank=4)
BATCH_OF_ONE = Reshape(lambda t: t[None], lambda t: t.squeeze(0), rank=4)
# The four scan directions are an axis of ours, and folded into the first axis of the released tensors.
FOLDED = Reshape(lambda t: t.flatten(), lambda t: t.unflatten(0, (4, -1)), rank=1)
FOLDED_COLUMN = Reshape(lambda t: t.flatten()[:, None], lambda t: t.flatten().unflatten(0, (4, -1)), rank=2)
FOLDED_ROWS = Reshape(lambda t: t.flatten(0, 1)[..., None], lambda t: t.squeeze(-1).unflatten(0, (4, -1)), rank=3)

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
