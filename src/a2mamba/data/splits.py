"""What people call the folders and lists of their splits, and how a part is held out where there is no second one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

TRAIN_NAMES = ("train", "training", "train2017", "training_set", "train_set", "trainset", "seg_train", "trn")
TEST_NAMES = ("test", "testing", "test_set", "testset", "seg_test")
VAL_NAMES = (
    *("val", "valid", "validation", "val2017", "validation_set", "val_set", "valset", "seg_val", "dev"),
    *TEST_NAMES,
)
"""In the order of preference: a test split is evaluated on where there is no other."""

HOLDOUT = 0.2
"""Share of the images that is held out for evaluation where a data set has no split for it."""

_HOLDOUT_STREAM = 3  # see samplers._STREAM


def split_role(name: str) -> str | None:
    """ "train" or "val" for a name that is used for such a split, whatever its case; None for others."""
    lower = name.lower()
    return "train" if lower in TRAIN_NAMES else "val" if lower in VAL_NAMES else None


def find_splits(names: Iterable[str]) -> tuple[str | None, str | None]:
    """The training and the evaluation split among names, each None where there is none."""
    found = {name.lower(): name for name in sorted(names, reverse=True)}  # of two cases of a name, the first sorted
    train, val = (next((found[name] for name in usual if name in found), None) for usual in (TRAIN_NAMES, VAL_NAMES))
    return train, val


def trained_on(count: int, total: int, val: str, train: str) -> str:
    """What to say where images that are evaluated on are trained on, too."""
    return f"{count} of {total} images of {val} are those of {train}: metrics on what was trained on say little"


def heldout(count: int, share: float, *, stream: int = 0) -> np.ndarray:
    """Which of `count` samples are held out: bool (count,), at least one True and one False.

    A function of its arguments alone, so that every run holds out the same.

    Raises:
        ValueError: fewer than two samples.
    """
    if count < 2:
        raise ValueError(f"{count} images: none can be held out")
    chosen = np.zeros(count, dtype=bool)
    order = np.random.default_rng((_HOLDOUT_STREAM, stream)).permutation(count)
    chosen[order[: min(max(1, round(share * count)), count - 1)]] = True
    return chosen
