"""CVAT for images 1.1: one XML file with all images, exported by CVAT.

    root/annotations.xml                        with root/images/<image>
    root/<split>/annotations.xml                with root/<split>/images/<image>
    root/annotations.xml, of a project          with root/images/<subset>/<image>: subsets called like splits are splits

Polygons and masks are masks; a set of boxes alone is one of boxes. Lines and points are no objects.
https://docs.cvat.ai/docs/dataset_management/formats/format-cvat
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from a2mamba.data.detection.annotations import Category, DetectionAnnotations, Problem, refuse_in
from a2mamba.data.detection.readers.image_files import folders_of, locate
from a2mamba.data.detection.readers.records import ImageRecord, NamedObject, build_records
from a2mamba.data.detection.readers.shapes import (
    Box,
    area_of_polygons,
    box_of_corners,
    box_of_polygons,
    runs_of_part,
)
from a2mamba.data.detection.readers.source import DetectionSource, Reader, SplitPlaces, in_order
from a2mamba.data.detection.readers.xml_file import number_of, parse_xml
from a2mamba.data.splits import split_role

_OTHER = ("polyline", "points", "cuboid", "skeleton")
_HEAD = 1 << 16
_TITLE = "CVAT for images 1.1"


def find(root: Path) -> DetectionSource | None:
    """Images with CVAT's XML; None where there is none."""
    splits: dict[str, SplitPlaces] = {}
    for folder in (root, *folders_of(root)):
        file = folder / "annotations.xml"
        if _is_cvat(file):
            images = folder / "images"
            splits["all" if folder == root else folder.name] = SplitPlaces(images if images.is_dir() else folder, file)
    splits = in_order(splits)
    if not splits:
        return None
    counts = {name: places.annotations.read_bytes().count(b"<image ") for name, places in splits.items()}
    train, first = next(iter(splits.items()))
    try:
        content = parse_xml(first.annotations)
    except ValueError:  # reading says it
        return DetectionSource("cvat", root, _TITLE, splits, counts, [], False, read)
    subsets = _subsets(first, content) if train == "all" else {}
    if subsets:
        splits, first = subsets, next(iter(subsets.values()))
        counts = {name: len(_images(content, name)) for name in subsets}
    kinds = {shape.tag for image in _images(content, first.subset) for shape in image}
    masks = bool(kinds & {"polygon", "mask"}) and "box" not in kinds
    return DetectionSource("cvat", root, _TITLE, splits, counts, _names(content), masks, read)


def read(
    places: SplitPlaces, *, masks: bool | None, categories: Sequence[Category] | None, problem: Problem | None
) -> DetectionAnnotations:
    """Read one XML file; see `ReadSplit`."""
    file = places.annotations
    problem = problem or refuse_in(file)
    root = parse_xml(file)
    if root.find("track") is not None:
        raise ValueError(f"{file} holds tracks of a video; export it as CVAT for images 1.1")
    images = _images(root, places.subset)
    if not images:
        which = f" of the subset {places.subset}" if places.subset else ""
        raise ValueError(f"{file} lists no images{which}; expected CVAT for images 1.1")
    located = locate([image.get("name", "") for image in images], places.images, below=places.images)
    records = []
    for image, name in zip(images, located, strict=True):
        where = f"{file}: image {image.get('name')!r}"
        try:
            height, width = int(number_of(image, "height")), int(number_of(image, "width"))
        except ValueError as error:
            problem("no valid size", f"{where} {error}")
            continue
        objects = []
        for shape in image:
            try:
                objects += _objects(shape, f"{where}: a {shape.tag}", height, width)
            except ValueError as error:  # each shape has its own message
                problem("no valid shape", f"{where}: a {shape.tag} {error}")
        records.append(ImageRecord(name, height, width, objects))
    return build_records(places, records, _names(root), masks=masks, categories=categories, problem=problem)


CVAT = Reader(
    name="cvat",
    expected="<root>/<split>/annotations.xml and <root>/<split>/images/<image>",
    find=find,
    read=read,
)


def _images(root: Element, subset: str = "") -> list[Element]:
    """The images of a file, or of one of its subsets."""
    return [image for image in root.iter("image") if not subset or image.get("subset", "") == subset]


def _subsets(places: SplitPlaces, root: Element) -> dict[str, SplitPlaces]:
    """The subsets of a file as splits, where one of them is called like a training split."""
    names = dict.fromkeys(image.get("subset", "") for image in root.iter("image"))
    if "" in names or not any(split_role(name) == "train" for name in names):
        return {}
    folders = {name: places.images / name for name in names}
    return in_order(
        {
            name: SplitPlaces(folder if folder.is_dir() else places.images, places.annotations, name)
            for name, folder in folders.items()
        }
    )


def _names(root: Element) -> list[str]:
    """The labels: those that the file declares, in its order, and those that only shapes have."""
    declared = [name.strip() for item in root.iter("label") if (name := item.findtext("name"))]
    drawn = [shape.get("label", "").strip() for image in root.iter("image") for shape in image if shape.get("label")]
    return list(dict.fromkeys((*declared, *drawn)))


def _objects(shape: Element, where: str, height: int, width: int) -> list[NamedObject]:
    """The object of one shape, none for a tag; ValueError, a phrase, says what is wrong with it."""
    item = NamedObject(shape.get("label", "").strip(), (0, 0, 0, 0), 0, f"{where}:")
    if shape.tag == "tag":
        return []
    if shape.tag in _OTHER:
        return [item._replace(skip=f"a {shape.tag}, which is no object")]
    if shape.tag == "box":
        x0, y0, x1, y1 = (number_of(shape, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        box = box_of_corners(x0, y0, x1, y1)
        if shape.get("rotation"):
            box = box_of_polygons([_rotated(box, number_of(shape, "rotation"))])
        return [item._replace(box=box, area=box[2] * box[3])]
    if shape.tag == "mask":
        box, area, runs = _mask(shape, height, width)
        return [item._replace(box=box, area=area, segmentation=runs)]
    if shape.tag == "polygon":
        ring = _points(shape.get("points", ""))
    elif shape.tag == "ellipse":
        x, y, a, b = (number_of(shape, name) for name in ("cx", "cy", "rx", "ry"))
        angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        ring = np.stack((x + a * np.cos(angles), y + b * np.sin(angles)), axis=1).ravel().tolist()
    else:
        raise ValueError("is not known here")
    return [item._replace(box=box_of_polygons([ring]), area=area_of_polygons([ring]), segmentation=[ring])]


def _rotated(box: Box, degrees: float) -> list[float]:
    """The corners of a box that is turned around its center, clockwise as y points down."""
    x, y, w, h = box
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ turn
    turned: list[float] = (corners + np.array([x + w / 2, y + h / 2])).ravel().tolist()
    return turned


def _points(text: str) -> list[float]:
    try:
        flat = [float(value) for point in text.split(";") if point for value in point.split(",")]
    except ValueError:
        flat = []
    if len(flat) < 2 or len(flat) % 2 or not all(map(math.isfinite, flat)):
        raise ValueError(f"has the points {text[:40]!r}, expected x,y;x,y;...")
    return flat


def _mask(shape: Element, height: int, width: int) -> tuple[Box, float, Any]:
    """Run lengths of a part of the image, row by row and beginning with 0 -> COCO's of the whole, down the columns."""
    left, top, w, h = (int(number_of(shape, name)) for name in ("left", "top", "width", "height"))
    try:
        runs = [int(value) for value in shape.get("rle", "").split(",")]
    except ValueError:
        runs = [-1]
    if min(runs) < 0 or sum(runs) != w * h:
        raise ValueError(f"has run lengths that do not fill its {w} x {h} pixels")
    part = np.repeat(np.arange(len(runs)) & 1, runs).reshape(h, w)
    return (left, top, w, h), float(part.sum()), runs_of_part(part, left, top, height, width)


def _is_cvat(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    return b"<annotations" in head and (b"<image" in head or b"<meta" in head or b"<version" in head)
