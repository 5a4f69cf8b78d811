"""What formats that name classes in words have in common: objects by image, and labels by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from a2mamba.data.detection.annotations import (
    AnnotationBuilder,
    Category,
    DetectionAnnotations,
    Problem,
    match_categories,
)
from a2mamba.data.detection.readers.shapes import Box
from a2mamba.data.detection.readers.source import SplitPlaces


class NamedObject(NamedTuple):
    """An object: the name of its class, its box and area in pixels, its mask, and its place in its file for messages.

    skip: why it is no object, and only counted.
    """

    name: str
    box: Box
    area: float
    where: str
    segmentation: Any = None
    skip: str = ""


class ImageRecord(NamedTuple):
    """An image, its file name relative to the image folder, and its objects."""

    image: str
    height: int
    width: int
    objects: list[NamedObject]


def build_records(
    places: SplitPlaces,
    records: Sequence[ImageRecord],
    names: Sequence[str],
    *,
    masks: bool | None,
    categories: Sequence[Category] | None,
    problem: Problem,
) -> DetectionAnnotations:
    """Make annotations of records.

    Args:
        places: where they come from.
        records: one for each image.
        names: of the classes, in the order of their labels.
        masks: see `ReadSplit`.
        categories: see `ReadSplit`.
        problem: see `Problem`.
    """
    found = [Category(number, name) for number, name in enumerate(names, start=1)]
    known, labels = match_categories(found, found if categories is None else categories, problem=problem)
    ids = {category.name: category.id for category in found}
    if masks is None:
        masks = any(item.segmentation for record in records for item in record.objects)
    builder = AnnotationBuilder(places.annotations, known, masks=masks, problem=problem)
    identity = 0
    for place, record in enumerate(records, start=1):
        image = builder.add_image(place, record.image, record.height, record.width)
        for item in record.objects:
            identity += 1
            label = labels.get(ids.get(item.name))
            if item.skip:
                builder.skip(item.skip, identity)
            elif label is not None:  # a name that does not fit was a problem above
                builder.add_object(
                    image,
                    label,
                    item.box,
                    identity=identity,
                    area=item.area,
                    segmentation=item.segmentation,
                    where=item.where,
                )
    return builder.build(folder=places.images)
