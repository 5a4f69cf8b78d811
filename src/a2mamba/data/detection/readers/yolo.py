"""YOLO's text files: one for each image, one line for each object, numbers relative to the image.

    root/data.yaml                              names, and where train and val lie (Ultralytics, Roboflow): a folder, a
                                                text file that lists images, or several of them
    root/images/<split>/x.jpg                   with root/labels/<split>/x.txt
    root/<split>/images/x.jpg                   with root/<split>/labels/x.txt
    root/x.jpg                                  with root/x.txt beside it, and classes.txt or obj.names

A line is `class x y w h` for a box around its center, or `class x0 y0 x1 y1 x2 y2 ...` for a polygon. An image without
a text file has no objects. Sizes come from the image files, upright. https://docs.ultralytics.com/datasets/detect
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from a2mamba.data.detection.annotations import (
    AnnotationBuilder,
    Category,
    DetectionAnnotations,
    Problem,
    match_categories,
    refuse_in,
)
from a2mamba.data.detection.readers.box_forms import CENTER, mixed_up
from a2mamba.data.detection.readers.image_files import missing_files, read_headers
from a2mamba.data.detection.readers.shapes import area_of_polygons, box_of_polygons
from a2mamba.data.detection.readers.source import DetectionSource, Reader, SplitPlaces, in_order, with_overlap
from a2mamba.data.detection.readers.yolo_files import (
    class_names,
    expected_label,
    find_splits,
    image_names,
    keypoint_numbers,
    label_files,
    labels_alone,
    some_lines,
)
from a2mamba.data.names import some
from a2mamba.data.text import read_text

_MARGIN = 0.5  # objects may reach beyond their image a little; numbers in pixels are far larger
UNREADABLE = "on an image that cannot be read"


def find(root: Path) -> DetectionSource | None:
    """Images with YOLO's text files; None where there are none."""
    splits = in_order(find_splits(root))
    if not splits:
        return None
    images = {name: image_names(places) for name, places in splits.items()}
    counts = {name: len(found) for name, found in images.items()}
    train, first = next(iter(splits.items()))
    lines = some_lines(first, images[train])
    try:
        classes = class_names(first) or sorted({line[0] for line in lines})
    except ValueError:  # reading says it
        classes = []
    points = keypoint_numbers(first)
    polygons = bool(lines) and all(len(line) > 6 and len(line) != 5 + points for line in lines)
    notes = ["the keypoints beside the boxes are not learned"] if points else []
    files = label_files(first, images[train])
    missing = files.count(None)
    if 0 < missing < counts[train]:
        notes.append(f"{missing} of {counts[train]} images in {train} have no text file: images without objects")
    alone = labels_alone(first, files)
    if alone:
        notes.append(f"{some(alone, 3)}: {len(alone)} text files of {train} have no image, and are left out")
    source = DetectionSource("yolo", root, "YOLO's text files", splits, counts, classes, polygons, read, tuple(notes))
    return with_overlap(source, images)


def read(
    places: SplitPlaces, *, masks: bool | None, categories: Sequence[Category] | None, problem: Problem | None
) -> DetectionAnnotations:
    """Read the text files of one split; see `ReadSplit`."""
    problem = problem or refuse_in(places.annotations)
    if not places.images.is_dir():
        raise ValueError(f"image folder {places.images} does not exist; check the path")
    images = image_names(places)
    absent = set(missing_files(places.images, images))
    images = [name for name in images if name not in absent]
    files = label_files(places, images)
    if not any(file is not None for file in files):
        raise ValueError(
            f"none of the {len(files)} images in {places.images} has a text file; expected "
            f"{expected_label(places.images)}"
        )
    points = keypoint_numbers(places)
    texts = [list(_rows(file, problem, points)) if file is not None else [] for file in files]
    names = class_names(places)
    if names is None:
        names = [str(number) for number in range(1 + max((row.label for rows in texts for row in rows), default=0))]
    found = [Category(number, name) for number, name in enumerate(names)]
    known, labels = match_categories(found, found if categories is None else categories, problem=problem)
    if masks is None:
        masks = any(len(row.numbers) > 4 for rows in texts for row in rows)
    builder = AnnotationBuilder(places.annotations, known, masks=masks, problem=problem)
    headers = read_headers([places.images / name for name in images])
    boxes: list[list[float]] = []
    sizes: list[tuple[int, int]] = []
    identity = 0
    for place, (name, rows, header) in enumerate(zip(images, texts, headers, strict=True), start=1):
        height, width = header.upright if header is not None else (1, 1)
        image = builder.add_image(place, name, height, width)
        for row in rows:
            identity += 1
            if header is None:
                builder.skip(UNREADABLE, identity)
            elif row.label not in labels:
                numbers = f"the names are those of classes 0 to {len(names) - 1}"
                problem("unknown category", f"{row.where} is of class {row.label}, and {numbers}")
            else:
                if len(row.numbers) == 4:
                    boxes.append([value * (width, height)[i % 2] for i, value in enumerate(row.numbers)])
                    sizes.append((height, width))
                _add(builder, image, labels[row.label], row, (height, width), identity)
    other = mixed_up(boxes, sizes, CENTER)
    if other is not None:
        problem("boxes of another form", f"{places.images}: {other}, divided by the image's size")
    return builder.build(folder=places.images)


YOLO = Reader(
    name="yolo",
    expected="<root>/data.yaml, <root>/images/<split>/<image> and <root>/labels/<split>/<image>.txt",
    find=find,
    read=read,
)


class _Row(NamedTuple):
    """One object: its class number, four numbers of a box or those of a polygon, and where it is written."""

    label: int
    numbers: list[float]
    where: str


def _rows(file: Path, problem: Problem, points: int) -> Iterator[_Row]:
    """The objects of a text file; points: numbers of keypoints behind each box, which are left out."""
    try:
        lines = read_text(file).splitlines()
    except ValueError as error:
        problem("unreadable file", str(error))
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number},"
        try:
            label, *numbers = map(float, line.split())
        except ValueError:
            problem("no numbers", f"{where} holds {line.strip()[:40]!r}, expected a class number and coordinates")
            continue
        if points and len(numbers) == 4 + points:
            numbers = numbers[:4]
        if not label.is_integer() or label < 0:
            problem("no class number", f"{where} begins with {label:g}, expected a class number, 0 or more")
        elif len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            expected = "4 for a box, or 6 and more, two a point, for a polygon"
            problem("no box and no polygon", f"{where} has {len(numbers)} numbers after the class, expected {expected}")
        elif not all(-_MARGIN <= value <= 1 + _MARGIN for value in numbers):
            problem(
                "numbers in pixels",
                f"{where} has numbers outside of 0 to 1; coordinates are divided by the image's width and height",
            )
        else:
            yield _Row(int(label), numbers, where)


def _add(builder: AnnotationBuilder, image: int, label: int, row: _Row, size: tuple[int, int], identity: int) -> None:
    height, width = size
    if len(row.numbers) == 4:
        x, y, w, h = row.numbers
        box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        builder.add_object(image, label, box, identity=identity, area=box[2] * box[3], where=row.where)
        return
    ring = [value * (width, height)[place % 2] for place, value in enumerate(row.numbers)]
    builder.add_object(
        image,
        label,
        box_of_polygons([ring]),
        identity=identity,
        area=area_of_polygons([ring]),
        segmentation=[ring],
        where=row.where,
    )
