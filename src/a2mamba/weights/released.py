"""What the authors of A2Mamba and SegMAN released, as a table. The figures are theirs.

Imports nothing heavy: `a2mamba weights` starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from a2mamba.catalog import FACTS
from a2mamba.near_names import did_you_mean

UNSTATED = "no license stated"
WordT = TypeVar("WordT", str, Path)


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the Hugging Face hub."""

    repository: str
    path: str

    @property
    def address(self) -> str:
        """Where a browser gets it."""
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.path}"


@dataclass(frozen=True)
class DriveFile:
    """A file on Google Drive."""

    id: str

    @property
    def address(self) -> str:
        """Where a browser gets it."""
        return f"https://drive.google.com/uc?id={self.id}"


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights:
    """The weights of one network, trained on one data set."""

    name: str
    """of the network"""
    task: str
    """classification or segmentation"""
    dataset: str
    """name of the data set, as in `a2mamba.data`"""
    classes: int
    """of the data set"""
    metric: str
    """what was measured"""
    value: float
    """in percent, by the authors"""
    license: str
    """of the weights"""
    source: HubFile | DriveFile
    test_mode: str | None = None
    """how it was measured, where that is not the data set's protocol"""

    def to_dict(self) -> dict[str, object]:
        """Return the row as plain types, for JSON."""
        return {
            "name": self.name,
            "task": self.task,
            "dataset": self.dataset,
            "classes": self.classes,
            "metric": self.metric,
            "value": self.value,
            "license": self.license,
            "source": self.source.address,
        }


def _a2mamba(size: str) -> ReleasedWeights:
    name = f"a2mamba_{size}"
    top1 = FACTS[name].top1
    assert top1 is not None
    return ReleasedWeights(
        name=name,
        task="classification",
        dataset="imagenet",
        classes=1000,
        metric="top1",
        value=top1,
        license=UNSTATED,
        source=HubFile("LMMM2025/A2Mamba", f"a2mamba_pretrained_weights/{name}.pth"),
    )


def _segman(size: str, dataset: str, classes: int, miou: float, file: str) -> ReleasedWeights:
    return ReleasedWeights(
        name=f"segman_{size}",
        task="segmentation",
        dataset=dataset,
        classes=classes,
        metric="miou",
        value=miou,
        license="Apache-2.0",
        source=DriveFile(file),
        test_mode="cityscapes_whole" if (size, dataset) == ("large", "cityscapes") else None,
    )


WEIGHTS: tuple[ReleasedWeights, ...] = (
    *map(_a2mamba, ("nano", "tiny", "small", "base", "large")),
    _segman("tiny", "ade20k", 150, 43.0, "1d0wp7C83YjImeQmL5_CIo1qMRjPd_-8a"),
    _segman("small", "ade20k", 150, 51.3, "1VguPfxr_XSLWFuhopb0Ff-oA9QJGZMD7"),
    _segman("base", "ade20k", 150, 52.6, "19C1lpTTqHZZvLdf4SbKcp8SMiIDPQcoO"),
    _segman("large", "ade20k", 150, 53.2, "18OFmbr8rklYXqO93tU9UDYKsmobGFSR6"),
    _segman("tiny", "cityscapes", 19, 80.3, "1GivXciIZ7hdDsY0IDvV-v1dejGCK2VLX"),
    _segman("small", "cityscapes", 19, 83.2, "1VOpcMY9rTiHcx13nkFYLlX6llxAAZTEK"),
    _segman("base", "cityscapes", 19, 83.8, "1k34JM9WVBYBIcCv8FOKvDUAHPDhjj00t"),
    _segman("large", "cityscapes", 19, 84.2, "1SPaXL-faXlZyEPXl5bILLMlHG0OaFo1j"),
    _segman("tiny", "coco_stuff", 171, 41.3, "18P-e5hxWkISfiDZRnNTMow2-Fphk4H4t"),
    _segman("small", "coco_stuff", 171, 47.5, "1LEa7PSs9H1yovjFp0Ylu-izqbje0LDDf"),
    _segman("base", "coco_stuff", 171, 48.4, "1NHnNSBMQOw3y4FzjS66XcBrf-v5BpM0b"),
    _segman("large", "coco_stuff", 171, 48.8, "18kVKvgZwESK-oixRpOjByg-97TWt8AA7"),
)
"""All of them."""

REMARKS = {
    "segman_encoder": "the ImageNet weights of SegMAN's encoders (Apache-2.0) are in a folder, not files that can be "
    "named: https://drive.google.com/drive/folders/1QYU7nhpe0ddH7bPxI7VH4drc__07uEHs"
}
"""Beginning of a network's name -> what is known of weights that cannot be downloaded here."""


def has_released_weights(name: str) -> bool:
    """Whether weights of a network are in the table."""
    return any(entry.name == name for entry in WEIGHTS)


def find_weights(name: str, dataset: str | None = None) -> ReleasedWeights:
    """Return the released weights of a network.

    Args:
        name: of the network.
        dataset: that they were trained on; None where there is only one.

    Raises:
        ValueError: there are none, not for this data set, or for several.
    """
    found = {entry.dataset: entry for entry in WEIGHTS if entry.name == name}
    if not found:
        remark = next((f"; {text}" for start, text in REMARKS.items() if name.startswith(start)), "")
        raise ValueError(f"no weights of {name} are known to be released; give a file of weights{remark}")
    if dataset is None and len(found) == 1:
        return next(iter(found.values()))
    if dataset is None:
        raise ValueError(
            f"weights of {name} are released for {', '.join(found)}; say which, as pretrained={next(iter(found))!r}"
        )
    if dataset not in found:
        raise ValueError(f"no weights of {name} are released for {dataset!r}; {did_you_mean(dataset, found)}")
    return found[dataset]


def dataset_in_words(name: str, words: Sequence[WordT]) -> tuple[str | None, list[WordT]]:
    """Return the data set that the first of the words behind a network's name means, and the words that are left.

    Args:
        name: of the network.
        words: that a user wrote behind it; a first one that is no data set of the network's weights is left, too.
    """
    if words and str(words[0]) in {entry.dataset for entry in WEIGHTS if entry.name == name}:
        return str(words[0]), list(words[1:])
    return None, list(words)
