"""Recognizing folders of images with objects, for the table of layouts."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from a2mamba.data.detection.config import DetectionData
from a2mamba.data.detection.loaders import with_detection_source
from a2mamba.data.detection.readers import READERS
from a2mamba.data.detection.readers.image_files import read_header
from a2mamba.data.detection.readers.source import role_of
from a2mamba.data.recognized import Recognized
from a2mamba.data.splits import split_role, trained_on
from a2mamba.data.walk import images_below

_PLACES = (
    *("root", "layout", "train_images", "train_annotations", "train_subset"),
    *("val_images", "val_annotations", "val_subset", "masks", "holdout"),
)
_HEADERS = 64  # image files whose sizes are looked at


def recognize_objects(root: Path, *, layout: str) -> Recognized | None:
    """A folder in one annotation format; None where it is not of that format.

    Args:
        root: the folder.
        layout: the format, one of `READERS`.
    """
    source = READERS[layout].find(root)
    if source is None:
        return None
    data = with_detection_source(DetectionData(root=str(root)), source)
    splits = list(dict.fromkeys((source.train_split, source.val_split)))
    notes = [*source.notes] if source.masks else [*source.notes, "boxes only: no masks are trained"]
    if source.mistaken:
        raise ValueError(source.mistaken)
    if source.overlap:
        train, val = splits
        said = trained_on(source.overlap, source.counts[val], val, train)
        if source.overlap == source.counts[val] and role_of(val) != "val":
            files = " and ".join(str(source.splits[split].annotations) for split in splits)
            raise ValueError(f"{files} list the same images, and it is not known which is meant; move one of them away")
        notes.append(said)
    if len(splits) == 1 and split_role(splits[0]) == "val":
        notes.append(f"only {splits[0]} has annotations that are known here; it is trained on, but for a part of it")
    return Recognized(
        task="detection",
        layout=layout,
        title=source.title,
        root=root,
        counts={split: source.counts[split] for split in splits},
        classes=source.classes,
        fields={name: getattr(data, name) for name in _PLACES},
        holdout=data.holdout,
        notes=notes,
        short_side=_short_side(source.splits[source.train_split].images),
    )


def _short_side(folder: Path) -> int | None:
    """The middle of some images' short sides in pixels."""
    names = images_below(folder)
    headers = [read_header(folder / name) for name in names[:: max(1, len(names) // _HEADERS)]]
    sides = [min(header.height, header.width) for header in headers if header is not None]
    return int(median(sides)) if sides else None
