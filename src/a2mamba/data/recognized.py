"""What `layouts.recognize` returns: the task of a folder, and where everything is in it; or why it is no data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from a2mamba.data.names import plain_name, several, some

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Data = TypeVar("Data", bound="DataclassInstance")
FEWEST_IMAGES = 4
"""To train on, for `fit`, whose steps are of as many."""

TaskName = Literal["classification", "segmentation", "detection"]


@dataclass(frozen=True)
class Recognized:
    """A folder that can be trained on.

    Args:
        task: what can be learned from it.
        layout: the name of the layout, as `--layout` takes it.
        title: what the layout is called in sentences.
        root: the folder.
        counts: number of images of each split, the training split first, then the one to evaluate on.
        classes: names, in the order of their indices.
        fields: the fields of the task's data class that say where everything is, and their values.
        holdout: share of the training images that is held out, where there is no other split.
        notes: one phrase each about what was found out and may be wrong, or is unusual.
        short_side: middle of the images' short sides in pixels, where the annotations say it.
    """

    task: TaskName
    layout: str
    title: str
    root: Path
    counts: dict[str, int]
    classes: list[str]
    fields: Mapping[str, Any]
    holdout: float = 0.0
    notes: list[str] = field(default_factory=list)
    short_side: int | None = None

    @property
    def training_images(self) -> int:
        """Number of images to train on, without those that are held out."""
        total = next(iter(self.counts.values()))
        return total - round(total * self.holdout)

    def place(self, data: Data) -> Data:
        """A task's data, say a recipe's, at this folder."""
        return replace(data, **self.fields)

    def doubts(self) -> list[str]:
        """Phrases about classes that may be meant as one: their names are the same but for case and blanks."""
        alike: dict[str, list[str]] = {}
        for name in self.classes:
            alike.setdefault(plain_name(name), []).append(name)
        groups = [" = ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
        if not groups:
            return []
        return [f"classes with the same name, but for upper and lower case, are learned apart: {some(groups)}"]

    def shortage(self) -> str | None:
        """What to say where there are too few images for `fit`; None where there are enough."""
        count = self.training_images
        if count >= FEWEST_IMAGES:
            return None
        return f"{count} training images are too few; add images, {FEWEST_IMAGES} are the least"

    def sentence(self) -> str:
        """One line: what was recognized, and how much of it there is."""
        counts = list(self.counts.items())
        if self.holdout:
            images = f"{several(counts[0][1], 'image')}, {self.holdout:.0%} of them held out for evaluation"
        else:
            images = ", ".join(f"{count:,} {name}" for name, count in counts) + " images"
        return f"recognized {self.title}: {images}, {several(len(self.classes), 'class')} ({some(self.classes)})"

    def lines(self) -> list[str]:
        """The sentence, and one line for each note."""
        return [self.sentence(), *self.notes]


class UnknownLayoutError(ValueError):
    """A folder that cannot be trained on: what was found, what is nearest, and one command that helps.

    Args:
        lines: two to five.
    """

    def __init__(self, lines: list[str]) -> None:
        assert 1 <= len(lines) <= 5
        super().__init__("\n".join(lines))
        self.lines = lines


class UnfitDataError(ValueError):
    """A folder that was recognized, and from which nothing can be learned as it is; one line.

    Args:
        layout: what it was recognized as.
        reason: what is wrong, and what to do.
    """

    def __init__(self, layout: str, reason: str) -> None:
        super().__init__(reason)
        self.layout = layout
