"""COCO's JSON: one file a split, with lists of images, annotations and categories.

    root/annotations/instances_<split>.json     with images in root/<split> or root/images/<split>
    root/<split>/_annotations.coco.json         with the images beside it (Roboflow)
    root/*.json, root/annotations/*.json        any names, with the images anywhere below root

Boxes are x y w h in pixels; masks are polygons or run lengths. https://cocodataset.org/#format-data
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2mamba.data.detection.annotations import (
    AnnotationBuilder,
    Category,
    DetectionAnnotations,
    Problem,
    match_categories,
    refuse_in,
)
from a2mamba.data.detection.readers.box_forms import TOP_LEFT, mixed_up
from a2mamba.data.detection.readers.coco_categories import quick_categories, read_categories, training_categories
from a2mamba.data.detection.readers.coco_files import (
    annotation_files,
    has_masks,
    image_folder,
    listed_images,
    split_name,
)
from a2mamba.data.detection.readers.coco_json import (
    checked_content,
    finite_numbers,
    is_set,
    load_content,
    new_identity,
    whole_number,
)
from a2mamba.data.detection.readers.image_files import locate
from a2mamba.data.detection.readers.source import (
    DetectionSource,
    Reader,
    SplitPlaces,
    in_order,
    with_overlap,
)


def find(root: Path) -> DetectionSource | None:
    """Annotation files in a folder, each of which is a split; None where there are none."""
    splits: dict[str, SplitPlaces] = {}
    names: dict[str, list[str]] = {}
    for file in annotation_files(root):
        listed = listed_images(file)
        split = split_name(file, root)
        split = split if split not in splits else f"{split} {file.stem}"
        splits[split] = SplitPlaces(image_folder(root, file, split, listed), file)
        names[split] = listed
    if not splits:
        return None
    splits = in_order(splits)
    first = next(iter(splits.values())).annotations
    classes = [category.name for category in quick_categories(first) or ()]
    counts = {name: len(names[name]) for name in splits}
    source = DetectionSource("coco", root, "COCO annotations", splits, counts, classes, has_masks(first), read)
    return with_overlap(source, names)


def read(
    places: SplitPlaces, *, masks: bool | None, categories: Sequence[Category] | None, problem: Problem | None
) -> DetectionAnnotations:
    """Read one annotation file and find its images; see `ReadSplit`."""
    file = places.annotations
    content = load_content(file)
    if categories is None:
        categories = training_categories(file, content["categories"])
    if masks is None:
        masks = any(isinstance(entry, dict) and entry.get("segmentation") for entry in content["annotations"])
    return _parse(
        content, file, masks=masks, categories=categories, problem=problem or refuse_in(file), folder=places.images
    )


COCO = Reader(
    name="coco",
    expected="<root>/annotations/instances_<split>.json and <root>/<split>/<image>",
    find=find,
    read=read,
)


def read_annotations(
    file: Path | str | Mapping[str, Any], *, masks: bool = True, categories: Sequence[Category] | None = None
) -> DetectionAnnotations:
    """Read and check an annotation file.

    Args:
        file: an instances_*.json, or its content.
        masks: read the objects' masks, too; every object then needs one.
        categories: those that the labels refer to, of the training file; names decide, see `match_categories`. None
            takes those of the training file that lies beside an evaluation file, where their names are the same, and
            else the file's own.

    Raises:
        ValueError: one line that names the file and what is wrong in it: not JSON, a missing key, an id that occurs
            twice, an unknown image or category, a box with values that are missing or not finite, a missing mask.
    """
    if isinstance(file, Mapping):
        path = Path("the annotations")
        content = checked_content(file, str(path))
    else:
        path = Path(file)
        content = load_content(path)
        if categories is None:
            categories = training_categories(path, content["categories"])
    return _parse(content, path, masks=masks, categories=categories, problem=refuse_in(path), folder=None)


def _parse(
    content: Mapping[str, Any],
    file: Path,
    *,
    masks: bool,
    categories: Sequence[Category] | None,
    problem: Problem,
    folder: Path | None,
) -> DetectionAnnotations:
    found = read_categories(content["categories"], problem)
    known, labels = match_categories(found, found if categories is None else categories, problem=problem)
    builder = AnnotationBuilder(file, known, masks=masks, problem=problem)
    images = list(_images(content["images"], problem))
    names = [name for _, name, _, _ in images]
    if folder is not None:
        below = Path(os.path.commonpath((folder.absolute(), file.absolute())))
        names = locate(names, folder.absolute(), below=below if below.is_dir() else below.parent)
    numbers = {
        image_id: builder.add_image(image_id, name, height, width)
        for (image_id, _, height, width), name in zip(images, names, strict=True)
    }
    sizes = {image_id: (height, width) for image_id, _, height, width in images}
    _add_objects(builder, content["annotations"], numbers, sizes, labels)
    return builder.build(folder=folder)


def _add_objects(
    builder: AnnotationBuilder,
    entries: Sequence[Any],
    numbers: Mapping[int, int],
    sizes: Mapping[int, tuple[int, int]],
    labels: Mapping[int | None, int],
) -> None:
    problem = builder.problem
    seen: set[int] = set()
    # Some tools leave ids out altogether; nothing refers to them.
    without_ids = not any(isinstance(entry, dict) and "id" in entry for entry in entries)
    boxes: list[list[float]] = []
    owners: list[tuple[int, int]] = []
    for place, entry in enumerate(entries):
        if without_ids and isinstance(entry, dict):
            identity: int | None = place + 1
        else:
            identity = new_identity(entry, seen, "annotation", place, problem)
        if identity is None:
            continue
        image_id, label = whole_number(entry.get("image_id")), labels.get(whole_number(entry.get("category_id")))
        if image_id is None or image_id not in numbers:
            wrong = entry.get("image_id")
            problem("unknown image", f"annotation {identity} is of image {wrong!r}, which is not listed")
            continue
        if label is None:
            wrong = entry.get("category_id")
            problem("unknown category", f"annotation {identity} is of category {wrong!r}, which is not listed")
            continue
        box = finite_numbers(entry.get("bbox"), 4)
        if box is None:
            wrong = entry.get("bbox")
            problem(
                "no valid box",
                f"annotation {identity} has the box {wrong!r}, expected four finite numbers [x, y, w, h]",
            )
            continue
        area = finite_numbers([entry.get("area", box[2] * box[3])], 1)
        if area is None:
            wrong = entry["area"]
            problem("no valid area", f"annotation {identity} has the area {wrong!r}, expected a finite number")
            continue
        boxes.append(box)
        owners.append(sizes[image_id])
        builder.add_object(
            numbers[image_id],
            label,
            box,
            identity=identity,
            area=area[0],
            segmentation=entry.get("segmentation"),
            crowd=is_set(entry.get("iscrowd")),
            ignore=is_set(entry.get("ignore")),
        )
    other = mixed_up(boxes, owners, TOP_LEFT)
    if other is not None:
        problem("boxes of another form", other)


def _images(entries: Sequence[Any], problem: Problem) -> Iterator[tuple[int, str, int, int]]:
    seen: set[int] = set()
    for place, entry in enumerate(entries):
        identity = new_identity(entry, seen, "image", place, problem)
        if identity is None:
            continue
        name = entry.get("file_name")
        height, width = whole_number(entry.get("height")), whole_number(entry.get("width"))
        if not isinstance(name, str) or not name:
            problem("no file name", f"image {identity} has the file_name {name!r}, expected a name")
        elif height is None or width is None or height < 1 or width < 1:
            stated = f"height {entry.get('height')!r} and width {entry.get('width')!r}"
            problem("no valid size", f"image {identity} has {stated}, expected whole pixels")
        else:
            yield identity, name, height, width
