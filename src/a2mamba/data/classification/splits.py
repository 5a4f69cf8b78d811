"""The images and classes of a split, whatever the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from a2mamba.data.classification.class_folders import ImageFolder, SampleReader, class_names, image_folder
from a2mamba.data.classification.config import ClassificationData
from a2mamba.data.classification.hub import HubReader
from a2mamba.data.classification.shards import ShardReader, class_list, find_shards
from a2mamba.data.classification.tables import read_table, refuse_measurements
from a2mamba.data.names import some


def split_classes(data: ClassificationData, split: str | None) -> list[str]:
    """The class names of a split, in the order of their indices.

    Raises:
        ValueError: the split does not exist, or has no classes.
    """
    if data.source == "folder":
        return class_names(data.root, split)
    return open_split(data, split).classes


def open_split(
    data: ClassificationData,
    split: str | None,
    *,
    transform: Callable[[Image.Image], Tensor] | None = None,
    classes: Sequence[str] | None = None,
    allow_empty: bool = False,
) -> ImageFolder:
    """The images of a split, whatever the source.

    Args:
        data: the source, where it is, and the channels.
        split: name of the split; None: root itself.
        transform: an image -> tensor (C, H, W); None gives uint8 pixels.
        classes: class names in index order, for the source that has numbers in their place (wds); None: those of
            root/classes.txt, or the numbers that the split has.
        allow_empty: leave class folders without images out.

    Raises:
        ValueError: as `image_folder` and `ShardReader`; a split that the hub does not have.
    """
    if data.source == "folder":
        return image_folder(data.root, split, transform=transform, in_chans=data.in_chans, allow_empty=allow_empty)
    if data.source == "csv":
        return _table_folder(data, split or "", transform=transform)
    if data.source == "hfds":
        hub = HubReader(data.root, split or "")
        return ImageFolder(hub, classes=hub.classes, transform=transform, in_chans=data.in_chans)
    shards = find_shards(data.root, split)
    if data.source == "wds":
        reader = ShardReader(shards, labels="cls", classes=classes or class_list(data.root))
    else:
        reader = ShardReader(shards, labels="folder")
    return ImageFolder(reader, classes=reader.classes, transform=transform, in_chans=data.in_chans)


def _table_folder(
    data: ClassificationData, split: str, *, transform: Callable[[Image.Image], Tensor] | None
) -> ImageFolder:
    table = read_table(Path(data.root), split)
    if split == data.train_split:
        refuse_measurements(table)
    if table.missing:
        raise ValueError(
            f"{len(table.missing)} images of {table.file} are not there: {some(table.missing)}; add them, or remove "
            f"their rows"
        )
    names = table.classes
    indices = {name: index for index, name in enumerate(names)}
    samples = sorted(((file, indices[label]) for file, label in table.rows), key=lambda sample: (sample[1], sample[0]))
    return ImageFolder(SampleReader(samples), classes=names, transform=transform, in_chans=data.in_chans)
