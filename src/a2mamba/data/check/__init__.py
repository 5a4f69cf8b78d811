"""Looking through a data set before a run: what is there, and what would spoil the run or its result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from a2mamba.data.check.classification import check_classification, check_table
from a2mamba.data.check.detection import check_detection
from a2mamba.data.check.report import DatasetReport, Progress, SplitReport
from a2mamba.data.check.segmentation import check_segmentation
from a2mamba.data.check.validation import check_validation
from a2mamba.data.layouts import recognize
from a2mamba.data.recognized import Recognized, UnfitDataError


def check_dataset(root: Path | str, *, layout: str | None = None, progress: Progress | None = None) -> DatasetReport:
    """Recognize the layout of a data set as `fit` does, and look through every file.

    Args:
        root: the data set's folder.
        layout: read the folder as this layout; None: the one that is recognized.
        progress: called with (files done, files in all, split) now and then.

    Raises:
        UnknownLayoutError: the folder is no data set that is known here.
        ValueError: an unknown layout.
    """
    try:
        found = recognize(root, layout)
    except UnfitDataError as error:
        return DatasetReport(str(root), error.layout, {}, problems=[str(error)])
    report = _check(found, progress)
    shortage = found.shortage()
    # A network of one's own may be trained on so few, and a first look be taken at them; only `fit` refuses.
    notes = [*found.lines(), *report.notes, *([] if shortage is None else [f"for fit, {shortage}"])]
    return replace(report, notes=notes, problems=[*report.problems, *found.doubts()])


def _check(found: Recognized, progress: Progress | None) -> DatasetReport:
    if found.task == "segmentation":
        return check_segmentation(found, progress)
    if found.task == "classification":
        return (check_table if found.layout == "csv" else check_classification)(found, progress)
    return check_detection(found, progress)


__all__ = ["DatasetReport", "Progress", "SplitReport", "check_dataset", "check_validation"]
