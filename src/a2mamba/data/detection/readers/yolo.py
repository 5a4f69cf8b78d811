"""YOLO's text files: one for each image, one line for each object, numbers relative to the image.

    root/data.yaml                              names, and where train and val lie (Ultralytics, Roboflow)
    root/images/<split>/x.jpg                   with root/labels/<split>/x.txt
    root/<split>/images/x.jpg                   with root/<split>/labels/x.txt
    root/x.jpg                                  with root/x.txt beside it, and classes.txt or obj.names

A line is `class x y w h` for a box around its center, or `class x0 y0 x1 y1 x2 y2 ...` for a polygon. An image without
a text file has no objects. Sizes come from the image files, upright. https://docs.ultralytics.com/datasets/detect
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from a2mamba.data.detection.annotations import (
    AnnotationBuilder,
    Category,
    DetectionAnnotations,
    Problem,
    match_categories,
    refuse_in,
)
from a2mamba.data.detection.readers.image_files import (
    folders_of,
    images_below,
    images_in,
    missing_files,
    read_headers,
)
from a2mamba.data.detection.readers.shapes import area_of_polygons, box_of_polygons
from a2mamba.data.detection.readers.source import (
    DetectionSource,
    Reader,
    SplitPlaces,
    in_order,
)
from a2mamba.data.text import read_lines, read_text

_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels.txt", "predefined_classes.txt")
_YAML_BYTES = 1 << 20
_SAMPLE = 50
_MARGIN = 0.5  # objects may reach beyond their image a little; numbers in pixels are far larger
UNREADABLE = "on an image that cannot be read"


class _Config(NamedTuple):
    """What data.yaml says: names in the order of class numbers, and the places of each split."""

    file: Path
    names: list[str]
    splits: dict[str, str]
    base: str


def find(root: Path) -> DetectionSource | None:
    """Images with YOLO's text files; None where there are none."""
    splits = in_order(_declared_splits(root)) or in_order(_splits_by_folders(root))
    if not splits:
        return None
    counts = {name: len(_image_names(places)) for name, places in splits.items()}
    first = next(iter(splits.values()))
    lines = _some_lines(first)
    try:
        classes = _names(first) or sorted({line[0] for line in lines})
    except ValueError:  # reading says it
        classes = []
    polygons = bool(lines) and all(len(line) > 6 for line in lines)
    return DetectionSource("yolo", root, "YOLO's text files", splits, counts, classes, polygons, read)


def read(
    places: SplitPlaces, *, masks: bool | None, categories: Sequence[Category] | None, problem: Problem | None
) -> DetectionAnnotations:
    """Read the text files of one split; see `ReadSplit`."""
    problem = problem or refuse_in(places.annotations)
    if not places.images.is_dir():
        raise ValueError(f"image folder {places.images} does not exist; check the path")
    image_names = _image_names(places)
    absent = set(missing_files(places.images, image_names))
    image_names = [name for name in image_names if name not in absent]
    files = _label_files(places, image_names)
    if not any(file is not None for file in files):
        raise ValueError(
            f"none of the {len(files)} images in {places.images} has a text file; expected "
            f"{_expected_label(places.images)}"
        )
    texts = [list(_rows(file, problem)) if file is not None else [] for file in files]
    names = _names(places)
    if names is None:
        names = [str(number) for number in range(1 + max((row.label for rows in texts for row in rows), default=0))]
    found = [Category(number, name) for number, name in enumerate(names)]
    known, labels = match_categories(found, found if categories is None else categories, problem=problem)
    if masks is None:
        masks = any(len(row.numbers) > 4 for rows in texts for row in rows)
    builder = AnnotationBuilder(places.annotations, known, masks=masks, problem=problem)
    headers = read_headers([places.images / name for name in image_names])
    identity = 0
    for place, (name, rows, header) in enumerate(zip(image_names, texts, headers, strict=True), start=1):
        height, width = header.upright if header is not None else (1, 1)
        image = builder.add_image(place, name, height, width)
        for row in rows:
            identity += 1
            if header is None:
                builder.skip(UNREADABLE, identity)
            elif row.label not in labels:
                problem("unknown category", f"{row.where} is of class {row.label}, and {len(names)} have names")
            else:
                _add(builder, image, labels[row.label], row, (height, width), identity)
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


def _rows(file: Path, problem: Problem) -> Iterator[_Row]:
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


# ------------------------------------------------------------------------------------------------------- finding files


def _config_file(root: Path) -> Path | None:
    """The file that names classes and places, sound or not."""
    for file in sorted((*root.glob("*.yaml"), *root.glob("*.yml")))[:_SAMPLE]:
        try:
            lines = read_lines(file) if file.stat().st_size <= _YAML_BYTES else []
        except (OSError, ValueError):
            continue
        if any(line.replace(" ", "").startswith("names:") for line in lines):
            return file
    return None


def _config(file: Path) -> _Config:
    """What a data.yaml says.

    Raises:
        ValueError: one line that names the file and the field.
    """
    import yaml

    try:
        content: Any = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} is not YAML: {str(error).splitlines()[0] if str(error) else 'too deep'}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, expected names, train and val")
    names = content.get("names")
    if isinstance(names, dict) and all(type(key) is int and key >= 0 for key in names) and len(names) <= 100_000:
        last = max(names, default=-1)
        if last > 100_000:
            raise ValueError(f"{file}: names has the class number {last}, expected numbers from 0 on without gaps")
        names = [names.get(number, str(number)) for number in range(last + 1)]
    if not isinstance(names, list) or not names or not all(isinstance(name, (str, int, float)) for name in names):
        raise ValueError(f"{file}: names is {type(names).__name__}, expected a list or class numbers with names")
    splits: dict[str, str] = {}
    for key in ("train", "val", "valid", "test"):
        value = content.get(key)
        parts = [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str) and part]
        if len(parts) > 1:
            raise ValueError(f"{file}: {key} names {len(parts)} folders, expected one; list the images in a text file")
        if parts:
            splits[key] = parts[0]
    base = content.get("path")
    return _Config(file, [str(name) for name in names], splits, base if isinstance(base, str) else "")


def _declared_splits(root: Path) -> dict[str, SplitPlaces]:
    file = _config_file(root)
    if file is None:
        return {}
    try:
        config = _config(file)
    except ValueError:  # reading says it
        return {}
    splits = {}
    for name, value in config.splits.items():
        place = _resolve(config, value)
        if place is None:
            continue
        if place.is_file():
            splits[name] = SplitPlaces(config.file.parent, place)
        elif _has_labels(SplitPlaces(place, config.file)):
            splits[name] = SplitPlaces(place, config.file)
    return splits


def _resolve(config: _Config, value: str) -> Path | None:
    """A place that data.yaml names; absolute paths and Roboflow's `../` are those of another machine."""
    root = config.file.parent
    parts = [part for part in Path(value).parts if part not in ("..", ".", "/")]
    candidates = [root / config.base / value, root / value, *(root.joinpath(*parts[i:]) for i in range(len(parts)))]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".txt":
            return candidate
        for folder in (candidate, candidate / "images"):
            if folder.is_dir() and _some_images(folder):
                return folder
    return None


def _splits_by_folders(root: Path) -> dict[str, SplitPlaces]:
    splits: dict[str, SplitPlaces] = {}
    candidates = [
        *((folder.name, folder) for folder in folders_of(root / "images")),
        *((folder.name, folder / "images") for folder in folders_of(root)),
        *((folder.name, folder) for folder in folders_of(root) if folder.name not in ("images", "labels")),
        ("all", root / "images"),
        ("all", root),
    ]
    for name, folder in candidates:
        if name not in splits and folder.is_dir() and not (name == "all" and splits):
            places = SplitPlaces(folder, _names_file(folder, root) or _labels_folder(folder))
            if _has_labels(places):
                splits[name] = places
    return splits


def _some_images(folder: Path) -> list[str]:
    return images_in(folder)[:_SAMPLE] or list(itertools.islice(images_below(folder), _SAMPLE))


def _image_names(places: SplitPlaces) -> list[str]:
    if places.annotations.is_file() and _is_list(places.annotations):
        lines = read_lines(places.annotations)
        names = [str(Path(line)) for line in lines]
        return [_relative(name, places.images) for name in names]
    return list(images_below(places.images))


def _relative(name: str, folder: Path) -> str:
    """A listed path relative to the folder; absolute ones are those of another machine."""
    path = Path(name)
    if path.is_absolute() and path.is_relative_to(folder.absolute()):
        return path.relative_to(folder.absolute()).as_posix()
    parts = [part for part in path.parts if part not in (".", "/")]
    ends = [parts[place:] for place in range(len(parts))]
    return next(("/".join(end) for end in ends if folder.joinpath(*end).is_file()), "/".join(parts))


def _is_list(file: Path) -> bool:
    return file.suffix == ".txt" and file.name not in _NAME_FILES


def _labels_folder(images: Path) -> Path:
    """Where the text files of a folder of images lie: `images` in its path becomes `labels`, else beside them."""
    parts = list(images.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "images":
            folder = Path(*parts[:place], "labels", *parts[place + 1 :])
            return folder if folder.is_dir() else images
    return images


def _label_files(places: SplitPlaces, names: Sequence[str]) -> list[Path | None]:
    """The text file of each image; each folder is listed once."""
    listed: dict[str, list[tuple[Path, set[str]]]] = {}
    files = []
    for name in names:
        parent, _, base = name.rpartition("/")
        if parent not in listed:
            images = places.images / parent
            folders = [_labels_folder(images), images]
            if places.annotations.is_dir():
                folders.insert(0, places.annotations / parent)
            listed[parent] = [(folder, set(os.listdir(folder))) for folder in folders if folder.is_dir()]
        text = f"{os.path.splitext(base)[0]}.txt"
        files.append(next((folder / text for folder, found in listed[parent] if text in found), None))
    return files


def _expected_label(images: Path) -> str:
    return str(Path(*("labels" if part == "images" else part for part in images.parts)) / "<image>.txt")


def _has_labels(places: SplitPlaces) -> bool:
    """Whether one of some images has a text file of YOLO's lines."""
    for file in _label_files(places, _some_images(places.images)):
        if file is None or file.name in _NAME_FILES:
            continue
        try:
            lines = [line.split() for line in read_lines(file)]
            if lines and all(len(line) >= 5 and math.isfinite(sum(map(float, line))) for line in lines):
                return True
        except ValueError:
            continue
    return False


def _some_lines(places: SplitPlaces) -> list[list[str]]:
    files = _label_files(places, _image_names(places)[:_SAMPLE])
    return [line.split() for file in files if file is not None for line in read_lines(file)]


def _names_file(images: Path, root: Path) -> Path | None:
    folders = (root, images, images.parent, _labels_folder(images), _labels_folder(images).parent)
    named = [folder / name for folder in folders for name in _NAME_FILES]
    return next((file for file in (_config_file(root), *named) if file is not None and file.is_file()), None)


def _names(places: SplitPlaces) -> list[str] | None:
    """The names of the classes; None where no file has them."""
    file: Path | None = places.annotations
    if places.annotations.is_dir() or _is_list(places.annotations):
        file = _names_file(places.images, places.annotations.parent)
    if file is None:
        return None
    if file.suffix in (".yaml", ".yml"):
        return _config(file).names
    return read_lines(file)
