"""The part of the data set checker that knows images with one class each."""

from __future__ import annotations

from pathlib import Path

from a2mamba.data.check.images import Seen, inspect_all, inspect_image
from a2mamba.data.check.report import DatasetReport, Progress, SplitReport, with_reasons
from a2mamba.data.classification.class_folders import ClassTree, scan_classes
from a2mamba.data.classification.recognition import class_difference, refusals
from a2mamba.data.classification.tables import read_table
from a2mamba.data.names import some
from a2mamba.data.recognized import Recognized


def check_classification(found: Recognized, progress: Progress | None = None) -> DatasetReport:
    """Look through all images of class folders."""
    train, *others = found.counts
    trees = {train or ".": scan_classes(found.root / train)}
    trees |= {name: scan_classes(found.root / name) for name in others}
    problems: list[str] = []
    splits: dict[str, SplitReport] = {}
    seen = Seen()
    for name, tree in trees.items():
        splits[name], faults = _look(tree, name, seen, progress)
        problems += [f"{name}: {text}" for text in (*refusals(found.root, tree), *faults)]
    first = trees[train or "."]
    for name in others:
        difference = class_difference(first, trees[name])
        shown = {label for label, count in trees[name].counts.items() if count}
        lacking = [label for label in first.classes if label not in shown]
        if difference:
            problems.append(f"{name}: other classes than {train}: {difference}")
        elif lacking:
            problems.append(f"{name}: no images of {len(lacking)} of {len(first.classes)} classes: {some(lacking)}")
    problems += seen.problems()
    return DatasetReport(str(found.root), found.layout, splits, seen.duplicates(), problems, seen.notes())


def check_table(found: Recognized, progress: Progress | None = None) -> DatasetReport:
    """Look through all images of tables."""
    problems: list[str] = []
    splits: dict[str, SplitReport] = {}
    seen = Seen()
    for name in found.counts:
        table = read_table(found.root, name)
        indices = {label: index for index, label in enumerate(table.classes)}
        samples = [(file, indices[label]) for file, label in table.rows]
        tree = ClassTree(Path(table.file), table.classes, samples, [])
        splits[name], faults = _look(tree, name, seen, progress)
        if table.missing:
            problems.append(f"{name}: {len(table.missing)} images are not there: {some(table.missing)}")
        problems += [f"{name}: {text}" for text in faults]
        unknown = sorted(set(table.classes) - set(found.classes))
        lacking = [label for label in found.classes if label not in set(table.classes)]
        if unknown:
            problems.append(f"{name}: classes that training does not have: {some(unknown)}")
        if lacking:
            problems.append(f"{name}: no images of {len(lacking)} of {len(found.classes)} classes: {some(lacking)}")
    problems += seen.problems()
    return DatasetReport(str(found.root), found.layout, splits, seen.duplicates(), problems, seen.notes())


def _look(tree: ClassTree, split: str, seen: Seen, progress: Progress | None) -> tuple[SplitReport, list[str]]:
    """Decode all images of a split; what is wrong with them, one line each."""
    files = [file for file, _ in tree.samples]
    undecodable = {}
    places: dict[bytes, dict[int, str]] = {}  # digest -> a file in each class
    for (file, target), facts in zip(tree.samples, inspect_all(inspect_image, files, split, progress), strict=True):
        if facts.reason is not None:
            undecodable[file] = facts.reason
            continue
        seen.add(split, file, facts)
        places.setdefault(facts.digest, {}).setdefault(target, file)
    contradictions = [" = ".join(classes.values()) for classes in places.values() if len(classes) > 1]
    faults = []
    if undecodable:
        faults.append(f"{len(undecodable)} undecodable images: {some(with_reasons(undecodable))}")
    if contradictions:
        faults.append(f"{len(contradictions)} images lie in more than one class: {some(contradictions)}")
    return SplitReport(tree.counts, undecodable), faults
