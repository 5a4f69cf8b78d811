"""LabelMe's JSON: one file for each image, with the outlines that were drawn.

    root/x.json                                 with x.jpg beside it
    root/<split>/x.json                         with x.jpg beside it
    root/annotations/x.json                     with root/images/x.jpg

Polygons, circles and masks (a PNG inside of the file) are masks; a set of rectangles alone is one of boxes. Shapes of
one label and one `group_id` are parts of one object. Lines and points are no objects. https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from a2mamba.data.detection.annotations import Category, DetectionAnnotations, Problem, refuse_in
from a2mamba.data.detection.readers.image_files import ImagesByStem, folders_of, read_header
from a2mamba.data.detection.readers.records import ImageRecord, NamedObject, build_records
from a2mamba.data.detection.readers.shapes import (
    area_of_polygons,
    box_of_polygons,
    runs_of_part,
    union_of_runs,
)
from a2mamba.data.detection.readers.source import DetectionSource, Reader, SplitPlaces, evenly, in_order
from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.data.text import read_text

_OTHER = ("line", "linestrip", "point", "points")
_MASKS = frozenset({"polygon", "circle", "mask"})
_CIRCLE = np.linspace(0, 2 * np.pi, 32, endpoint=False)


def find(root: Path) -> DetectionSource | None:
    """Images with LabelMe's JSON files; None where there are none."""
    splits = in_order(_splits(root))
    if not splits:
        return None
    files = {name: _json_files(places) for name, places in splits.items()}
    counts = {name: len(found) for name, found in files.items()}
    contents = (_content_or_none(file) for file in evenly(files[next(iter(splits))]))
    shapes = [shape for content in contents if content for shape in content["shapes"] if isinstance(shape, dict)]
    shapes = [shape for shape in shapes if shape.get("shape_type") not in _OTHER]
    kinds = {shape.get("shape_type") or "polygon" for shape in shapes}
    masks = bool(kinds & _MASKS) and "rectangle" not in kinds
    classes = sorted({str(shape.get("label", "")).strip() for shape in shapes})
    return DetectionSource("labelme", root, "LabelMe's JSON", splits, counts, classes, masks, read)


def read(
    places: SplitPlaces, *, masks: bool | None, categories: Sequence[Category] | None, problem: Problem | None
) -> DetectionAnnotations:
    """Read the JSON files of one split; see `ReadSplit`."""
    problem = problem or refuse_in(places.annotations)
    files = _json_files(places)
    if not files:
        raise ValueError(f"{places.annotations} holds no JSON files; check the path")
    images = ImagesByStem(places.images)
    records = [record for file in files if (record := _record(file, images, problem)) is not None]
    names = sorted({item.name for record in records for item in record.objects if not item.skip})
    return build_records(places, records, names, masks=masks, categories=categories, problem=problem)


LABELME = Reader(
    name="labelme",
    expected="<root>/<split>/<image>.json beside <root>/<split>/<image>",
    find=find,
    read=read,
)


def _record(file: Path, images: ImagesByStem, problem: Problem) -> ImageRecord | None:
    """Read one file; None after a problem that leaves nothing of it."""
    try:
        content = _content(file)
    except ValueError as error:
        problem("unreadable file", str(error))
        return None
    try:
        image = images.of(file, str(content.get("imagePath", "")))
    except ValueError as error:
        problem("missing image", str(error))
        return None
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        header = read_header(images.folder / image)
        height, width = header.upright if header is not None else (1, 1)
    objects: list[NamedObject] = []
    grouped: dict[tuple[str, int], int] = {}
    for number, shape in enumerate(content["shapes"], start=1):
        try:
            item = _object(shape, str(file), height, width)
            group = shape.get("group_id")
            if type(group) is int and item.segmentation:
                place = grouped.setdefault((item.name, group), len(objects))
                if place < len(objects):
                    objects[place] = _joined(objects[place], item)
                    continue
        except ValueError as error:
            problem("no valid shape", f"{file}: shape {number} {error}")
            continue
        objects.append(item)
    return ImageRecord(image, height, width, objects)


def _object(shape: Any, file: str, height: int, width: int) -> NamedObject:
    """One shape; ValueError, a phrase, says what is wrong with it."""
    if not isinstance(shape, dict):
        raise ValueError(f"is {type(shape).__name__}, expected an object")
    name, kind, points = shape.get("label"), shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"has the label {name!r}, expected a name")
    item = NamedObject(name.strip(), (0, 0, 0, 0), 0, f"{file}: a {kind} named {name.strip()!r}:")
    if kind in _OTHER:
        return item._replace(skip=f"a {kind}, which is no object")
    flat = _flat(points)
    if kind == "polygon" and len(flat) >= 2:
        # Fewer than three points are told, and left out, where masks are drawn.
        return _outlined(item, [flat])
    if kind == "rectangle" and len(flat) in (4, 8):
        box = box_of_polygons([flat])
        return item._replace(box=box, area=box[2] * box[3])
    if kind == "circle" and len(flat) == 4:
        radius = math.dist(flat[:2], flat[2:])
        ring = np.stack((flat[0] + radius * np.cos(_CIRCLE), flat[1] + radius * np.sin(_CIRCLE)), axis=1)
        return _outlined(item, [ring.ravel().tolist()])
    if kind == "mask" and len(flat) == 4:
        return _masked(item, shape.get("mask"), flat, height, width)
    raise ValueError(f"is a {kind} of {len(flat) // 2} points, which is not known here")


def _masked(item: NamedObject, encoded: Any, corners: list[float], height: int, width: int) -> NamedObject:
    """A mask: a PNG of the pixels between two corners, both of them inside, in base64."""
    left, top, right, bottom = (round(value) for value in corners)
    size = (bottom - top + 1, right - left + 1)
    try:
        content = base64.b64decode(encoded if isinstance(encoded, str) else "", validate=True)
        part = np.asarray(decode_image(io.BytesIO(content), name="mask", mode="L")) > 0
    except binascii.Error:
        raise ValueError("has a mask that is not base64") from None
    except UndecodableImageError as error:
        raise ValueError(f"has a mask that cannot be decoded: {error.reason}") from None
    if part.shape != size:
        raise ValueError(
            f"has a mask of {part.shape[1]} x {part.shape[0]} pixels, and points for {size[1]} x {size[0]}"
        )
    box = (float(left), float(top), float(size[1]), float(size[0]))
    return item._replace(box=box, area=float(part.sum()), segmentation=runs_of_part(part, left, top, height, width))


def _joined(one: NamedObject, two: NamedObject) -> NamedObject:
    """Two parts of one object."""
    if isinstance(one.segmentation, list) and isinstance(two.segmentation, list):
        return _outlined(one, [*one.segmentation, *two.segmentation])
    if isinstance(one.segmentation, list) or isinstance(two.segmentation, list):
        raise ValueError(f"is of a group of {one.name!r} with masks and outlines, which are not joined here")
    x0, y0 = min(one.box[0], two.box[0]), min(one.box[1], two.box[1])
    x1, y1 = (max(box[place] + box[place + 2] for box in (one.box, two.box)) for place in (0, 1))
    runs = union_of_runs(one.segmentation, two.segmentation)
    return one._replace(box=(x0, y0, x1 - x0, y1 - y0), area=float(sum(runs["counts"][1::2])), segmentation=runs)


def _outlined(item: NamedObject, polygons: list[list[float]]) -> NamedObject:
    return item._replace(box=box_of_polygons(polygons), area=area_of_polygons(polygons), segmentation=polygons)


def _flat(points: Any) -> list[float]:
    try:
        table = np.array(points, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.zeros((0, 0))
    if table.ndim != 2 or table.shape[1] != 2 or not np.isfinite(table).all():
        raise ValueError("has points that are not pairs of finite numbers")
    flat: list[float] = table.ravel().tolist()
    return flat


def _content(file: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        ValueError: one line, naming the file.
    """
    try:
        content = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"annotation file {file} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError(f"annotation file {file} has no list 'shapes'; expected LabelMe's JSON")
    return content


def _content_or_none(file: Path) -> dict[str, Any] | None:
    try:
        return _content(file)
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------------------- finding files


def _json_files(places: SplitPlaces) -> list[Path]:
    return sorted(places.annotations.glob("*.json"))


def _splits(root: Path) -> dict[str, SplitPlaces]:
    for folders in ([root], folders_of(root)):
        splits = {}
        for folder in folders:
            for inner in ("annotations", "labels", "json", "jsons", ""):
                if _is_labelme(folder / inner):
                    images = folder / "images" if inner and (folder / "images").is_dir() else folder
                    splits["all" if folder == root else folder.name] = SplitPlaces(images, folder / inner)
                    break
        if splits:
            return splits
    return {}


def _is_labelme(folder: Path) -> bool:
    files = islice(folder.glob("*.json"), 3) if folder.is_dir() else ()
    contents = [_content_or_none(file) for file in files]
    return any(content is not None and ("imagePath" in content or "version" in content) for content in contents)
