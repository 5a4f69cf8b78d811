from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from a2mamba import field_checks

NAN = float("nan")


@dataclass
class Owner:
    first: Any
    second: Any


def _at_least(least: float) -> Callable[..., None]:
    return lambda owner, *names: field_checks.at_least(owner, least, *names)


CHECKS: list[tuple[Callable[..., None], list[Any], list[Any], str]] = [
    (_at_least(1), [1, 1.5], [0, 0.999, NAN], "1 or more"),
    (_at_least(0), [0], [-1e-9], "0 or more"),
    (field_checks.fraction, [0, 0.5, 1], [-1e-9, 1.001, NAN], "0 to 1"),
    (field_checks.probability, [0, 0.5, 1], [-1e-9, 1.001, NAN], "a probability, 0 to 1"),
    (field_checks.positive_fraction, [1e-9, 1], [0, 1.001, NAN], "more than 0 and at most 1"),
    (field_checks.share, [0, 0.999], [-1e-9, 1, NAN], "a share, 0 to less than 1"),
    (field_checks.positive_values, [(1e-9,), (2, 1)], [(0,), (1, 0), (1, -1, 1)], "positive values"),
    (
        field_checks.positive_range,
        [(1, 1), (0.5, 2)],
        [(0, 1), (2, 1), (-2, -1), (1,), (1, 2, 3)],
        "(low, high) with 0 < low <= high",
    ),
]


@pytest.mark.parametrize(("check", "fitting", "others", "expected"), CHECKS, ids=[row[3] for row in CHECKS])
def test_a_field_that_does_not_fit_is_named(
    check: Callable[..., None], fitting: list[Any], others: list[Any], expected: str
) -> None:
    for good in fitting:
        check(Owner(good, good), "first", "second")
        for bad in others:
            check(Owner(good, bad), "first")
            with pytest.raises(ValueError, match=f"^{re.escape(f'second={bad}: expected {expected}')}$"):
                check(Owner(good, bad), "first", "second")


def test_a_name_that_is_not_known() -> None:
    check = partial(field_checks.one_of, Owner("a", "c"), known=("a", "b"))
    check("first")
    with pytest.raises(ValueError, match=r"^second='c': expected one of a, b$"):
        check("second")
