"""What checking a data set returns: a report, for a person and for a program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Progress = Callable[[int, int, str], None]
"""Called with (files done, files in all, split) now and then."""


@dataclass(frozen=True)
class SplitReport:
    """One split: number of image files per class, and the undecodable ones with the reason for each."""

    classes: dict[str, int]
    undecodable: dict[str, str]

    @property
    def images(self) -> int:
        """Number of image files."""
        return sum(self.classes.values())


def with_reasons(undecodable: dict[str, str]) -> list[str]:
    """Each file with why it cannot be decoded, for a person."""
    return [f"{file} ({reason})" for file, reason in undecodable.items()]


@dataclass(frozen=True)
class DatasetReport:
    """What `check_dataset` found.

    Args:
        root: the folder that was checked.
        layout: the layout that was recognized.
        splits: by folder name; "." when root itself holds the images.
        duplicates: groups of files with identical bytes that lie in more than one split.
        problems: one line each; empty when the data set is fit for use.
        notes: what was recognized, and what is unusual without being wrong.
    """

    root: str
    layout: str
    splits: dict[str, SplitReport]
    duplicates: list[list[str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.root}: {self.layout} layout"]
        lines += [f"  {note}" for note in self.notes]
        for name, split in self.splits.items():
            if split.classes:
                counts = split.classes.values()
                lines.append(
                    f"  {name}: {split.images} images, {len(counts)} classes of {min(counts)} to {max(counts)}"
                )
            else:
                lines.append(f"  {name}: no class folders")
        lines += [f"  problem: {problem}" for problem in self.problems] or ["  no problems found"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain types, for JSON."""
        return {
            "root": self.root,
            "layout": self.layout,
            "splits": {
                name: {"images": split.images, "classes": split.classes, "undecodable": split.undecodable}
                for name, split in self.splits.items()
            },
            "duplicates": self.duplicates,
            "problems": self.problems,
            "notes": self.notes,
        }


class Layout(NamedTuple):
    """A kind of data set that can be checked."""

    name: str
    expected: str
    """The shape of its folders, for messages."""
    recognize: Callable[[Path], bool]
    check: Callable[[Path, Progress | None], DatasetReport]
