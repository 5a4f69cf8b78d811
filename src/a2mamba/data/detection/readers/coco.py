"""COCO's JSON: one file a split, with lists of images, annotations and categories.

    root/annotations/instances_<split>.json     with images in root/<split> or root/images/<split>
    root/<split>/_annotations.coco.json         with the images beside it (Roboflow)
    root/*.json, root/annotations/*.json        any names, with the images anywhere below root

Boxes are x y w h in pixels; masks are polygons or run lengths. https://cocodataset.org/#format-data
"""

from __future__ import annotations

import gc
import json
import math
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from a2mamba.data.detection.annotations import (
    AnnotationBuilder,
    Category,
    DetectionAnnotations,
    Problem,
    match_categories,
    refuse_in,
)
from a2mamba.data.detection.readers.box_forms import TOP_LEFT, mixed_up
from a2mamba.data.detection.readers.image_files import folders_of, locate
from a2mamba.data.detection.readers.source import (
    DetectionSource,
    Reader,
    SplitPlaces,
    in_order,
    with_overlap,
)
from a2mamba.data.splits import TRAIN_NAMES, VAL_NAMES
from a2mamba.data.walk import images_below

T = TypeVar("T")

_PREFIX = "instances_"
_ROBOFLOW = "_annotations.coco.json"
_FILES = 50  # folders with more JSON files hold one for each image: another format
_SAMPLE = 16  # file names that decide which folder is that of the images
_CATEGORIES_LENGTH = 1 << 20  # bytes; a list of ten thousand categories is shorter
_SEGMENTATION = re.compile(rb'"segmentation"\s*:\s*(\[\s*\[|\{)')
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def find(root: Path) -> DetectionSource | None:
    """Annotation files in a folder, each of which is a split; None where there are none."""
    splits: dict[str, SplitPlaces] = {}
    names: dict[str, list[str]] = {}
    for file in _annotation_files(root):
        listed: list[str] = _mapped(file, _file_names, [])
        split = _split_name(file, root)
        split = split if split not in splits else f"{split} {file.stem}"
        splits[split] = SplitPlaces(_image_folder(root, file, split, listed), file)
        names[split] = listed
    if not splits:
        return None
    splits = in_order(splits)
    first = next(iter(splits.values())).annotations
    classes = [category.name for category in _quick_categories(first) or ()]
    masks = _mapped(first, lambda text: _SEGMENTATION.search(text) is not None, False)
    counts = {name: len(names[name]) for name in splits}
    source = DetectionSource("coco", root, "COCO annotations", splits, counts, classes, masks, read)
    return with_overlap(source, names)


def read(
    places: SplitPlaces, *, masks: bool | None, categories: Sequence[Category] | None, problem: Problem | None
) -> DetectionAnnotations:
    """Read one annotation file and find its images; see `ReadSplit`."""
    file = places.annotations
    content = load_content(file)
    if categories is None:
        categories = _training_categories(file, content["categories"])
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
        content = _checked_content(file, str(path))
    else:
        path = Path(file)
        content = load_content(path)
        if categories is None:
            categories = _training_categories(path, content["categories"])
    return _parse(content, path, masks=masks, categories=categories, problem=refuse_in(path), folder=None)


def detection_categories(file: Path | str) -> tuple[Category, ...]:
    """The categories of an annotation file: label k is at position k - 1, as in `read_annotations`.

    Raises:
        ValueError: as `read_annotations`, for the categories alone.
    """
    path = Path(file)
    entries = _quick_entries(path)
    if entries is None:
        entries = load_content(path)["categories"]
    expected = _training_categories(path, entries)
    own = _categories(entries, refuse_in(path))
    return own if expected is None else match_categories(own, expected, problem=refuse_in(path))[0]


def load_content(path: Path) -> dict[str, Any]:
    """The file's JSON object, with the lists "images", "annotations" and "categories" in it.

    Raises:
        ValueError: one line, naming the file.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"annotation file {path} cannot be read: {error.strerror or 'unreadable'}; check the path"
        ) from error
    text = text.removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        raise ValueError(f"annotation file {path} is empty; expected COCO's JSON")
    try:
        with _without_garbage_collection():
            content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"annotation file {path} is not JSON: {error}") from None
    except (ValueError, RecursionError):  # bytes that are no text, numbers of thousands of digits
        raise ValueError(f"annotation file {path} is not JSON") from None
    return _checked_content(content, f"annotation file {path}")


def _checked_content(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        found = "a list (of predictions?)" if isinstance(content, list) else type(content).__name__
        raise ValueError(f"{name} holds {found}; expected an object with images, annotations, ...")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise ValueError(f"{name} has no {key!r}; found {', '.join(content) or 'nothing'}")
        if not isinstance(content[key], list):
            raise ValueError(f"{name}: {key!r} is {type(content[key]).__name__}, expected a list")
    for key in ("images", "categories"):
        if not content[key]:
            raise ValueError(f"{name} lists no {key}")
    return dict(content)


def _parse(
    content: Mapping[str, Any],
    file: Path,
    *,
    masks: bool,
    categories: Sequence[Category] | None,
    problem: Problem,
    folder: Path | None,
) -> DetectionAnnotations:
    found = _categories(content["categories"], problem)
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
            identity = _identity(entry, seen, "annotation", place, problem)
        if identity is None:
            continue
        image_id, label = _whole(entry.get("image_id")), labels.get(_whole(entry.get("category_id")))
        if image_id is None or image_id not in numbers:
            wrong = entry.get("image_id")
            problem("unknown image", f"annotation {identity} is of image {wrong!r}, which is not listed")
            continue
        if label is None:
            wrong = entry.get("category_id")
            problem("unknown category", f"annotation {identity} is of category {wrong!r}, which is not listed")
            continue
        box = _numbers(entry.get("bbox"), 4)
        if box is None:
            wrong = entry.get("bbox")
            problem(
                "no valid box",
                f"annotation {identity} has the box {wrong!r}, expected four finite numbers [x, y, w, h]",
            )
            continue
        area = _numbers([entry.get("area", box[2] * box[3])], 1)
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
            crowd=_flag(entry.get("iscrowd")),
            ignore=_flag(entry.get("ignore")),
        )
    other = mixed_up(boxes, owners, TOP_LEFT)
    if other is not None:
        problem("boxes of another form", other)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """JSON makes no cycles, and looking for them again and again as millions of lists appear takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _categories(entries: Sequence[Any], problem: Problem) -> tuple[Category, ...]:
    seen: set[int] = set()
    found = []
    for place, entry in enumerate(entries):
        identity = _identity(entry, seen, "category", place, problem)
        if identity is not None:
            found.append(Category(identity, str(entry.get("name", identity))))
    return tuple(sorted(found))


def _images(entries: Sequence[Any], problem: Problem) -> Iterator[tuple[int, str, int, int]]:
    seen: set[int] = set()
    for place, entry in enumerate(entries):
        identity = _identity(entry, seen, "image", place, problem)
        if identity is None:
            continue
        name, height, width = entry.get("file_name"), _whole(entry.get("height")), _whole(entry.get("width"))
        if not isinstance(name, str) or not name:
            problem("no file name", f"image {identity} has the file_name {name!r}, expected a name")
        elif height is None or width is None or height < 1 or width < 1:
            stated = f"height {entry.get('height')!r} and width {entry.get('width')!r}"
            problem("no valid size", f"image {identity} has {stated}, expected whole pixels")
        else:
            yield identity, name, height, width


def _identity(entry: Any, seen: set[int], what: str, place: int, problem: Problem) -> int | None:
    """The entry's id, which must be a new whole number; None after a problem."""
    if not isinstance(entry, dict):
        problem("no object", f"{what} number {place} is {type(entry).__name__}, expected an object")
        return None
    identity = _whole(entry.get("id"))
    if identity is None:
        problem("no valid id", f"{what} number {place} has the id {entry.get('id')!r}, expected a whole number")
        return None
    if identity in seen:
        problem(f"duplicate {what} id", f"{what} id {identity} occurs twice")
        return None
    seen.add(identity)
    return identity


def _whole(value: Any) -> int | None:
    """A whole number, also where it was written as 1.0 or "1"."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return None


def _flag(value: Any) -> bool:
    """Whether a mark is set, also where it was written as text: "0" is not."""
    return value.strip().lower() not in ("", "0", "0.0", "false", "no") if isinstance(value, str) else bool(value)


def _numbers(values: Any, count: int) -> list[float] | None:
    if not isinstance(values, list) or len(values) != count:
        return None
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value):
            return None
    return [float(value) for value in values]


# ------------------------------------------------------------------------------------------------------- finding files


def _annotation_files(root: Path) -> list[Path]:
    folders = [root, *folders_of(root)]
    folders += [inner for folder in folders[1:] for inner in (folder / "annotations", folder / "Annotations")]
    files: list[Path] = []
    for folder in folders:
        found = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if 0 < len(found) <= _FILES:
            # Names say it of damaged files, too, which are then refused by name.
            named = {file for file in found if file.name == _ROBOFLOW or file.name.startswith(_PREFIX)}
            found = [file for file in found if file in named or _mapped(file, _is_coco, False)]
            # Beside COCO's instances lie keypoints, captions and stuff of the same images.
            files += [file for file in found if file.name.startswith(_PREFIX)] or found
    return files


def _file_names(text: mmap.mmap) -> list[str]:
    return [str(json.loads(name)) for name in _FILE_NAME.findall(text)]


def _is_coco(text: mmap.mmap) -> bool:
    keys = (b'"images"', b'"annotations"', b'"categories"', b'"file_name"')
    return all(text.find(key) >= 0 for key in keys) and text.find(b'"segments_info"') < 0


def _mapped(file: Path, look: Callable[[mmap.mmap], T], default: T) -> T:
    """What `look` makes of a file's bytes, which are not copied; the default where it cannot be read."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return look(text)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return default


def _split_name(file: Path, root: Path) -> str:
    """A name for the split: from the file's name, or from its folder's."""
    stem = file.name.removesuffix(".json").removeprefix(_PREFIX)
    if file.name.startswith(_PREFIX):
        return stem
    known = (*TRAIN_NAMES, *VAL_NAMES)
    for part in (*re.split(r"[^A-Za-z0-9]+", stem), *(folder.name for folder in file.parents if folder != root)):
        if re.fullmatch(rf"({'|'.join(known)})\d*", part.lower()):
            return part
    return stem


def _image_folder(root: Path, file: Path, split: str, names: Sequence[str]) -> Path:
    """The folder in which most of some of the images lie."""
    plain = re.sub(r"\d+$", "", split)
    candidates = [
        *(root / part for name in (split, plain) for part in (name, f"images/{name}", f"{name}/images")),
        *(file.parent / part for part in ("", "images", "data")),
        *(root / part for part in ("images", "Images", "JPEGImages", "data", "img", "")),
    ]
    sample = [name.replace("\\", "/") for name in names[:: max(1, len(names) // _SAMPLE)]]
    found = [sum((folder / name).is_file() for name in sample) for folder in candidates]
    if max(found, default=0) > 0:
        return candidates[int(np.argmax(found))]
    below = {PurePosixPath(name).name for name in images_below(root)}
    if any(PurePosixPath(name).name in below for name in sample):
        return root
    return next((folder for folder in candidates[:6] if folder.is_dir()), root / split)


# ---------------------------------------------------------------------------------------- categories of the other split


def _training_categories(file: Path, entries: Sequence[Any]) -> tuple[Category, ...] | None:
    """The categories of the training file beside an evaluation file, where their names are the same."""
    training = _training_file(file)
    if training is None:
        return None
    quiet: list[str] = []
    others = _quick_categories(training)
    own = _categories(entries, lambda _, text: quiet.append(text))
    if others is None or own == others or len(own) != len(others):
        return None
    match_categories(own, others, problem=lambda _, text: quiet.append(text))
    return None if quiet else others


def _training_file(file: Path) -> Path | None:
    if file.name == _ROBOFLOW:
        candidates = [file.parent.with_name(name) / file.name for name in TRAIN_NAMES]
    else:
        pattern = rf"(?<![A-Za-z])({'|'.join(VAL_NAMES)})(?![A-Za-z])"
        candidates = [file.with_name(re.sub(pattern, name, file.name, flags=re.IGNORECASE)) for name in TRAIN_NAMES]
    return next((other for other in candidates if other != file and other.is_file()), None)


def _quick_categories(file: Path) -> tuple[Category, ...] | None:
    """The categories of a file, nearly always without reading the rest of it; None where they are not sound."""
    wrong: list[str] = []
    entries = _quick_entries(file)
    if entries is None:
        try:
            entries = load_content(file)["categories"]
        except ValueError:
            return None
    found = _categories(entries, lambda _, text: wrong.append(text))
    return None if wrong else found


def _quick_entries(file: Path) -> list[Any] | None:
    return _mapped(file, _category_list, None)


def _category_list(text: mmap.mmap) -> list[Any] | None:
    key = b'"categories"'
    start = text.find(key)
    if start < 0 or text.find(key, start + 1) >= 0:
        return None
    begin = text.find(b"[", start)
    if begin < 0 or text[start + len(key) : begin].strip() != b":":
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text[begin : begin + _CATEGORIES_LENGTH].decode("utf-8", "ignore"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and found else None
