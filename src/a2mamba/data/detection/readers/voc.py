"""Pascal VOC's XML: one file for each image, boxes only.

    root/Annotations/x.xml, root/JPEGImages/x.jpg, root/ImageSets/Main/<split>.txt
    root/<split>/x.xml                          with x.jpg beside it (Roboflow)
    root/annotations/x.xml                      with root/images/x.jpg

Coordinates are pixels from 0. Files of the published sets ("The VOC2007 Database") count from 1, and are moved.
Objects that are marked difficult are objects like any other. http://host.robots.ox.ac.uk/pascal/VOC
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from xml.etree.ElementTree import Element

from a2mamba.data.detection.annotations import Category, DetectionAnnotations, Problem, refuse_in
from a2mamba.data.detection.readers.box_forms import CORNERS, mixed_up
from a2mamba.data.detection.readers.image_files import ImagesByStem, folders_of, read_header
from a2mamba.data.detection.readers.records import ImageRecord, NamedObject, build_records
from a2mamba.data.detection.readers.shapes import box_of_corners
from a2mamba.data.detection.readers.source import DetectionSource, Reader, SplitPlaces, evenly, in_order
from a2mamba.data.detection.readers.xml_file import number_of, parse_xml
from a2mamba.data.text import read_lines

Corners = tuple[float, float, float, float]
Stated = list[tuple[Corners, tuple[int, int]]]
"""Boxes as the files have them, each with height and width of its image."""

_SETS = ("train", "val", "test")
_PUBLISHED = "The VOC"


def find(root: Path) -> DetectionSource | None:
    """Images with VOC's XML files; None where there are none."""
    splits = in_order(_listed_splits(root) or _splits_by_folders(root))
    if not splits:
        return None
    files = {name: _xml_files(places) for name, places in splits.items()}
    counts = {name: len(found) for name, found in files.items()}
    classes = sorted({name for file in evenly(files[next(iter(splits))]) for name in _names(file)})
    return DetectionSource("voc", root, "Pascal VOC's XML", splits, counts, classes, False, read)


def read(
    places: SplitPlaces, *, masks: bool | None, categories: Sequence[Category] | None, problem: Problem | None
) -> DetectionAnnotations:
    """Read the XML files of one split; see `ReadSplit`."""
    problem = problem or refuse_in(places.annotations)
    if masks:
        raise ValueError(f"{places.annotations}: VOC's XML holds boxes only; set data.masks=false")
    files = _xml_files(places)
    if not files:
        raise ValueError(f"{places.annotations} holds no XML files; check the path")
    images = ImagesByStem(places.images)
    stated: Stated = []
    found = (_record(file, images, problem, stated) for file in files)
    records = [record for record in found if record is not None]
    names = sorted({item.name for record in records for item in record.objects})
    other = mixed_up([box for box, _ in stated], [size for _, size in stated], CORNERS)
    if other is not None:
        problem("boxes of another form", other)
    return build_records(places, records, names, masks=False, categories=categories, problem=problem)


VOC = Reader(
    name="voc",
    expected="<root>/Annotations/<image>.xml, <root>/JPEGImages/<image> and <root>/ImageSets/Main/<split>.txt",
    find=find,
    read=read,
)


def _record(file: Path, images: ImagesByStem, problem: Problem, stated: Stated) -> ImageRecord | None:
    """Read one file, add its boxes to `stated`; None after a problem that leaves nothing of it."""
    try:
        root = parse_xml(file)
    except ValueError as error:
        problem("unreadable file", str(error))
        return None
    try:
        image = images.of(file, (root.findtext("filename") or "").strip())
    except ValueError as error:
        problem("missing image", str(error))
        return None
    try:
        size = root.find("size")
        height, width = int(number_of(size, "height")), int(number_of(size, "width"))
    except ValueError:
        height = width = 0
    if height < 1 or width < 1:  # some tools write 0
        header = read_header(images.folder / image)
        height, width = header.upright if header is not None else (1, 1)
    published = (root.findtext("source/database") or "").startswith(_PUBLISHED)
    objects = []
    for number, item in enumerate(root.iter("object"), start=1):
        try:
            found, corners = _object(item, f"{file}:", from_one=published)
            objects.append(found)
            stated.append((corners, (height, width)))
        except ValueError as error:  # each object has its own message
            problem("no valid object", f"{file}: object {number} {error}")
    return ImageRecord(image, height, width, objects)


def _object(item: Element, where: str, *, from_one: bool) -> tuple[NamedObject, Corners]:
    """One object, and its corners as the file has them; ValueError, a phrase, says what is missing."""
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError("has no name")
    box = item.find("bndbox")
    if box is None:
        raise ValueError("has no bndbox")
    x0, y0, x1, y1 = (number_of(box, field) for field in ("xmin", "ymin", "xmax", "ymax"))
    shift = 1 if from_one else 0
    x, y, w, h = box_of_corners(x0 - shift, y0 - shift, x1, y1)
    return NamedObject(name, (x, y, w, h), w * h, where), (x0, y0, x1, y1)


# ------------------------------------------------------------------------------------------------------- finding files


def _xml_files(places: SplitPlaces) -> list[Path]:
    """The XML files of a split, sorted: those that its list names, or all of its folder."""
    if places.annotations.is_dir():
        return sorted(places.annotations.glob("*.xml"))
    folder = places.annotations.parents[2] / "Annotations"
    return [_listed_file(folder, line) for line in read_lines(places.annotations)]


def _listed_file(folder: Path, line: str) -> Path:
    """The XML file of a line of a list: a name, in lists of one class with 1, 0 or -1 behind it, or a file's name."""
    name = re.sub(r"\s+-?[01]$", "", line)
    candidates = [folder / f"{part}.xml" for part in (line, name, Path(name).stem)]
    return next((file for file in candidates if file.is_file()), candidates[1])


def _names(file: Path) -> set[str]:
    try:
        return {(item.findtext("name") or "").strip() for item in parse_xml(file).iter("object")}
    except ValueError:  # reading says it
        return set()


def _listed_splits(root: Path) -> dict[str, SplitPlaces]:
    lists = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in _SETS}
    if not _is_voc(root / "Annotations"):
        return {}
    splits = {name: SplitPlaces(root / "JPEGImages", file) for name, file in lists.items() if file.is_file()}
    return {name: places for name, places in splits.items() if all(map(Path.is_file, _xml_files(places)))}


def _splits_by_folders(root: Path) -> dict[str, SplitPlaces]:
    images = ("images", "Images", "JPEGImages", "img", "")
    for folders, flat in (([root], True), (folders_of(root), False)):
        splits = {}
        for folder in folders:
            for inner in ("Annotations", "annotations", "xmls", "labels", ""):
                if _is_voc(folder / inner):
                    apart = next((folder / name for name in images if (folder / name).is_dir()), folder)
                    places = SplitPlaces(apart if inner else folder, folder / inner)
                    splits["all" if flat else folder.name] = places
                    break
        if splits:
            return splits
    return {}


def _is_voc(folder: Path) -> bool:
    for file in islice(folder.glob("*.xml"), 3) if folder.is_dir() else ():
        try:
            root = parse_xml(file)
        except ValueError:
            continue
        if root.tag == "annotation" and (root.find("object") is not None or root.find("size") is not None):
            return True
    return False
