"""Checks of the fields of a configuration, for its ``__post_init__``.

Each raises ValueError for the first of the named fields that does not fit: its name, its value and what is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def at_least(owner: object, least: float, *names: str) -> None:
    """Numbers from ``least`` on."""
    _require(owner, names, lambda value: value >= least, f"{least} or more")


def fraction(owner: object, *names: str) -> None:
    """Numbers from 0 to 1."""
    _require(owner, names, lambda value: 0 <= value <= 1, "0 to 1")


def probability(owner: object, *names: str) -> None:
    """Numbers from 0 to 1 that are probabilities."""
    _require(owner, names, lambda value: 0 <= value <= 1, "a probability, 0 to 1")


def positive_fraction(owner: object, *names: str) -> None:
    """Numbers above 0, at most 1."""
    _require(owner, names, lambda value: 0 < value <= 1, "more than 0 and at most 1")


def share(owner: object, *names: str) -> None:
    """Numbers from 0 on, below 1: what is taken of a whole leaves something."""
    _require(owner, names, lambda value: 0 <= value < 1, "a share, 0 to less than 1")


def positive_values(owner: object, *names: str) -> None:
    """Sequences of numbers above 0."""
    _require(owner, names, lambda values: min(values) > 0, "positive values")


def positive_range(owner: object, *names: str) -> None:
    """Pairs (low, high) of numbers above 0."""
    _require(owner, names, lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1], "(low, high) with 0 < low <= high")


def one_of(owner: object, name: str, known: Sequence[str]) -> None:
    """One of the strings that are ``known``."""
    if getattr(owner, name) not in known:
        raise ValueError(f"{name}={getattr(owner, name)!r}: expected one of {', '.join(known)}")


def _require(owner: object, names: Sequence[str], fits: Callable[[Any], bool], expected: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not fits(value):
            raise ValueError(f"{name}={value}: expected {expected}")
