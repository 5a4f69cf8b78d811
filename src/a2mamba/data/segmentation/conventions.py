"""What numbers and colors in label files mean, where no published data set says it.

Numbers are class indices and 255 is ignored, or as ADE20K has it: class k is number k + 1 and 0 is ignored. People
have other conventions, which read like that would train something else without a word:

    0 and 255            two classes; so are 0 and 1 in folders like ADE20K's, and any two numbers
    0, 128, 255          levels that are far apart: one class each
    1, 2, 3              counted from 1, unless there is another number of names
    0, 1, 2, ..., 255    nearly all pixels at both ends: two classes with smoothed edges (JPEG, antialiasing)

Each of these is said, and `data.label_values` overrides it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from a2mamba.data.names import some
from a2mamba.data.segmentation.labels import IGNORE_LABEL, ColorMap, LabelMap
from a2mamba.data.segmentation.palettes import CLASS_NAMES_FILE, ListedClasses
from a2mamba.data.segmentation.survey import Survey

_FAR = 64  # numbers beyond this, with more gaps than labels below them, are levels
_MOST_LEVELS = 32
_MOST_UNNAMED = 150  # as many as ADE20K has; who has more has a list of them
_SMOOTH_EDGES = 0.1  # largest share of pixels between the two ends
_MOST_COLORS = 40


def choose_numbers(
    survey: Survey, listed: ListedClasses | None, *, counted_from_one: bool, num_classes: int | None, where: str
) -> tuple[list[str], LabelMap, str]:
    """Names, table and a note for label files that hold numbers.

    Args:
        survey: what is in them.
        listed: the names of the classes, where a file has them.
        counted_from_one: as in ADE20K: 0 is ignored.
        num_classes: how many there are, where it is known; without effect beside names.
        where: the folder, for errors.

    Raises:
        ValueError: no label is of a class, or the numbers mean something else in each file.
    """
    if survey.palettes:
        raise ValueError(
            f"the masks in {where} have palettes that differ: {survey.palettes}; save them with one palette for all, "
            f"as gray PNG files, or in colors; where the numbers are right and the colors are not, state them with "
            f"data.label_values=0,1,..."
        )
    values = survey.values
    counted = [value for value in values if value != IGNORE_LABEL]
    count = len(listed.names) if listed else num_classes
    table, note = _special(survey, values, counted, count, counted_from_one=counted_from_one)
    if table is None or not table.blurred:
        _refuse_smoothed(survey, counted, count, where)
    if table is None:
        if counted == [0, 1] and survey.two_ends and not survey.ignoring:
            raise ValueError(
                f"{survey.two_ends} masks in {where} hold 0 and 255, others 0 and 1: 255 would be ignored; save all of "
                f"them with the same numbers"
            )
        largest = max(counted, default=-1)
        count = count or (largest if counted_from_one else largest + 1)
        if count < 1:
            held = some(map(str, values))
            raise ValueError(
                f"no label in {where} is of a class: they hold {held}; write {CLASS_NAMES_FILE} or set num_classes"
            )
        first = 1 if counted_from_one else 0
        table = LabelMap(
            "ADE20K" if counted_from_one else "class index",
            tuple(range(first, first + count)),
            (0, IGNORE_LABEL)[: 1 + (count < IGNORE_LABEL)] if counted_from_one else (IGNORE_LABEL,),
        )
    if listed is None and table.name == "two-class":
        return ["background", "foreground"], table, note
    if listed is None:
        return [f"class_{value}" for value in table.class_values], table, note
    names = list(listed.names)
    if len(names) == 1 and table.num_classes == 2:
        names = ["background", *names]
    return names, table, note


def _special(
    survey: Survey, values: list[int], counted: list[int], count: int | None, *, counted_from_one: bool
) -> tuple[LabelMap | None, str]:
    """The conventions of the module's docstring; (None, "") where the labels are plain indices."""
    two = count is None or count <= 2
    if two and values == [0, IGNORE_LABEL]:
        return LabelMap("two-class", (0, 255), ()), "masks hold 0 and 255: read as two classes, 255 is not ignored"
    if two and counted == [0, 1] and (counted_from_one or count == 1):
        return LabelMap("two-class", (0, 1)), "masks hold 0 and 1: read as two classes, 0 is not ignored"
    if two and _is_smoothed(survey.numbers):
        return (
            LabelMap("two-class", (0, 255), (), blurred=True),
            "masks have smoothed edges (JPEG or antialiasing): read as two classes, below and above 128",
        )
    few = len(counted) == 2  # without names, 0 and 3 are two classes and not four
    far = len(counted) > 1 and max(counted) >= (3 if few else _FAR) and 2 * len(counted) <= max(counted) + 1
    # Where the others are far apart, 255 is one of them; with names, their number decides.
    for levels in (counted, values) if count is not None else (values,):
        fits = len(levels) == count if count is not None else len(levels) <= _MOST_LEVELS
        number = len(counted) if count is None else count
        from_one = number > 1 and counted == list(range(1, number + 1)) and not counted_from_one
        if from_one and count is None:
            levels = counted
        if fits and (far or from_one):
            ignored = () if IGNORE_LABEL in levels else (IGNORE_LABEL,)
            said = some(map(str, levels), 8)
            return LabelMap("level", tuple(levels), ignored), f"masks hold {said}: read as {len(levels)} classes"
    return None, ""


def _refuse_smoothed(survey: Survey, counted: list[int], count: int | None, where: str) -> None:
    """ValueError where numbers were changed by JPEG or by resizing, and cannot be told from classes any more."""
    if survey.lossy:
        raise ValueError(
            f"the masks in {where} are JPEG files, which change numbers a little (they hold {len(counted)}): what was "
            f"which class is lost; export them as PNG"
        )
    gaps = len(counted) > _MOST_LEVELS and 2 * len(counted) <= max(counted) + 1
    if count is None and (gaps or len(counted) > _MOST_UNNAMED):
        raise ValueError(
            f"the masks in {where} hold {len(counted)} numbers from {min(counted)} to {max(counted)}: they were "
            f"smoothed, resized or saved as JPEG, or are photos; export them with one number for each class, or write "
            f"the names of so many classes to {CLASS_NAMES_FILE}"
        )


def refuse_other_ends(survey: Survey, training: Survey, where: str) -> None:
    """ValueError where the masks to evaluate on hold 0 and 255, and those of training class indices without 255.

    255 would be ignored, and the metric be that of the background alone.
    """
    if survey.values == [0, IGNORE_LABEL] and IGNORE_LABEL not in training.values and not training.colors:
        raise ValueError(
            f"the masks in {where} hold 0 and 255, those of training {some(map(str, training.values))}: 255 would be "
            f"ignored; save all of them with the same numbers"
        )


def _is_smoothed(numbers: np.ndarray) -> bool:
    """Two ends that hold nearly everything, with numbers between them and right below 255 that no class has."""
    ends = numbers[:32].sum(), numbers[224:].sum()
    return bool(
        min(ends) > 0
        and numbers[240:255].sum() > 0
        and np.count_nonzero(numbers[1:255]) >= 4
        and numbers[32:224].sum() <= _SMOOTH_EDGES * numbers.sum()
    )


def choose_colors(
    survey: Survey, listed: ListedClasses | None, *, root: Path, where: str
) -> tuple[list[str], ColorMap, str]:
    """Names, table and a note for label files that hold colors.

    Raises:
        ValueError: nothing says which color is which class; the message lists the colors.
    """
    known = set() if listed is None or listed.colors is None else set(listed.colors)
    if listed is not None and listed.colors is not None and len(set(survey.colors) - known) <= _MOST_COLORS:
        return list(listed.names), ColorMap(listed.colors), f"colors of {len(listed.names)} classes from {listed.file}"
    found = some((" ".join(map(str, color)) for color in survey.colors), 8)
    if len(survey.colors) > _MOST_COLORS:
        raise ValueError(
            f"the masks in {where} hold {len(survey.colors)} colors ({found}), too many for classes: they are photos, "
            f"or were smoothed or saved as JPEG; export them as PNG, one color or number for each class"
        )
    raise ValueError(
        f"the masks in {where} hold colors ({found}) and nothing says which class each of them is; "
        f"write {root / 'labelmap.txt'} with a line name:red,green,blue for each"
    )
