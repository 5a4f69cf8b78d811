"""Images with one class each, listed in a table: root/train.csv with a column of images and one of labels (Kaggle's).

The images lie where the table says, or in a folder under root; their extension may be left out. A table of all images
may have a column that says which split each is of.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from a2mamba.data.images import IMAGE_EXTENSIONS
from a2mamba.data.names import is_hidden, some
from a2mamba.data.splits import find_splits
from a2mamba.data.text import read_text

_IMAGE_COLUMNS = (
    *("image", "image_id", "imageid", "image_name", "image_path", "filename", "file_name", "file", "filepath", "path"),
    *("img", "img_name", "img_path", "id", "id_code", "name"),
)
_LABEL_COLUMNS = (
    *("label", "labels", "class", "class_name", "classname", "category", "target", "diagnosis", "species", "breed"),
    *("label_name", "class_id", "label_id", "category_id", "y"),
)
_BOX_COLUMNS = frozenset({"xmin", "x_min", "x1", "bbox", "width", "encodedpixels", "segmentation", "rle"})
_SPLIT_COLUMNS = ("split", "set", "subset", "data_set", "dataset", "partition", "phase")
_SINGLE = ("labels", "train_labels", "trainlabels", "data", "dataset", "metadata", "annotations")
"""Names of a table of all images, beside those of splits."""
_FEW_LABELS = 20  # so few are not looked into: a first try may have one image of each class
_MANY_NUMBERS = 100  # versions, grades and chapters are fewer


class Table(NamedTuple):
    """What a table says of a split.

    rows: (image file, label) of each; missing: names of images that are not there; incomplete: how many rows lack the
    name of an image or a label, and are left out.
    """

    file: Path
    rows: list[tuple[str, str]]
    missing: list[str]
    incomplete: int

    @property
    def classes(self) -> list[str]:
        """The labels, in natural order."""
        from timm.utils import natural_key

        return sorted({label for _, label in self.rows}, key=lambda name: (natural_key(name), name))


def find_tables(root: Path) -> tuple[str | None, str | None]:
    """The names of the training and of the evaluation split in root's tables, each None where there is none.

    They are the tables' own, or values of the split column of a table of all images.
    """
    stems = {file.stem: file for file in root.glob("*.csv") if _columns(_read(file)[0]) is not None}
    train, val = find_splits(stems)
    if train is None:
        train = next((stem for stem in sorted(stems) if stem.lower() in _SINGLE), None)
    if train is not None and val is None:
        header, *rows = _read(stems[train])
        place = _split_column(header)
        if place is not None:
            _, label = _columns(header) or (0, 0)
            labeled = {row[place] for row in rows if len(row) > max(place, label) and row[label]}
            inner = find_splits(labeled)
            return inner if inner[0] is not None else (train, None)
    return train, val


def has_table(root: Path, split: str) -> bool:
    """Whether there is a table of a split, or rows of it in another one."""
    return _table_of(root, split) is not None


def read_table(root: Path, split: str) -> Table:
    """The images and labels of root/<split>.csv, or of the rows that a table of all images has of this split.

    A row that occurs twice counts once. Paths may be of another machine, Windows among them, see `_find`.

    Raises:
        ValueError: the table is missing, has no columns of images and labels, none of its images is found, or an image
            has two labels.
    """
    found_table = _table_of(root, split)
    if found_table is None:
        found = sorted(entry.name for entry in root.glob("*.csv")) if root.is_dir() else []
        raise ValueError(
            f"{root / f'{split}.csv'} does not exist; {root} holds {some(found) if found else 'no tables'}"
        )
    file, wanted = found_table
    header, *rows = _read(file)
    columns = _columns(header)
    if columns is None:
        raise ValueError(
            f"{file} has the columns {some(header, 8)}; expected one of images (image, filename, id, ...) and one of "
            f"labels (label, class, category, ...)"
        )
    image, label = columns
    if wanted is not None:
        rows = [row for row in rows if _is_of(row, wanted, split)]
    entries = [(row[image], row[label]) for row in rows if len(row) > max(columns) and row[image] and row[label]]
    incomplete = sum(map(any, rows)) - len(entries)
    entries = list(dict.fromkeys(entries))
    _refuse_two_labels(file, entries)
    places = _places(root, split)
    found_rows, missing = [], []
    place = next((place for place in places if entries and _find(place, entries[0][0]) is not None), None)
    for name, value in entries:
        path = None if place is None else _find(place, name)
        for other in places if path is None else ():
            path = path or _find(other, name)
        if path is None:
            missing.append(name)
        else:
            found_rows.append((path, value))
    found_rows = list(dict.fromkeys(found_rows))
    _refuse_two_labels(file, found_rows)  # a.png and a may be one image
    if not found_rows:
        raise ValueError(
            f"none of the {len(entries)} images of {file} is in {some(map(str, places))}: {some(missing, 3)}"
        )
    return Table(file, found_rows, missing, incomplete)


def refuse_measurements(table: Table) -> None:
    """Raise ValueError where the labels of a training table are no classes: measurements, or one text an image.

    Numbers that occur once as a rule are measurements, however they are written; so are many different decimals.
    """
    counts = Counter(label for _, label in table.rows)
    if len(counts) <= _FEW_LABELS:
        return
    once = sum(count == 1 for count in counts.values())
    values = _numbers(counts)
    decimals = values is not None and any(value % 1 > 0 for value in values)
    if values is not None and (2 * once > len(counts) or (decimals and len(counts) > _MANY_NUMBERS)):
        raise ValueError(
            f"the labels of {table.file} are {len(counts)} different numbers for {len(table.rows)} images "
            f"({some(table.classes, 3)}): measurements, not classes, and there is no regression here; divide them into "
            f"ranges and write the name of its range for each image"
        )
    if once == len(counts):
        raise ValueError(
            f"the labels of {table.file} are {len(counts)} different texts for as many images "
            f"({some(table.classes, 3)}): a class needs several images; write the same label for images of one class"
        )


def _numbers(labels: Iterable[str]) -> list[float] | None:
    """The numbers that labels are, with a point or a comma; None where one is no number."""
    try:
        return [float(label.replace(",", ".")) for label in labels]
    except ValueError:
        return None


def _refuse_two_labels(file: Path, entries: list[tuple[str, str]]) -> None:
    labels: dict[str, set[str]] = {}
    for name, label in entries:
        labels.setdefault(name, set()).add(label)
    several = [f"{name} ({', '.join(sorted(found))})" for name, found in labels.items() if len(found) > 1]
    if several:
        raise ValueError(
            f"{len(several)} images of {file} have more than one label: {some(several, 3)}; leave one row "
            f"for each image, which has one class here"
        )


def _table_of(root: Path, split: str) -> tuple[Path, int | None] | None:
    """The table of a split, and its column of splits where its rows are of several."""
    own = root / f"{split}.csv"
    for file in (own, *sorted(root.glob("*.csv"))):
        header, *rows = _read(file) if file.is_file() else [[]]
        place = _split_column(header)
        if place is not None and _columns(header) and any(_is_of(row, place, split) for row in rows):
            return file, place
        if file == own and own.is_file():
            return own, None
    return None


def _is_of(row: list[str], place: int, split: str) -> bool:
    """Whether a row is of a split: tables that were put together write Train beside train."""
    return len(row) > place and row[place].lower() == split.lower()


def _split_column(header: list[str]) -> int | None:
    names = [name.lower() for name in header]
    return next((names.index(name) for name in _SPLIT_COLUMNS if name in names), None)


def _read(file: Path) -> list[list[str]]:
    text = read_text(file)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(f"{file}: {error}; expected a table of commas") from error
    return rows or [[]]


def _columns(header: list[str]) -> tuple[int, int] | None:
    """Columns of images and labels; None for tables of something else: boxes, or images without labels."""
    names = [name.lower() for name in header]
    if _BOX_COLUMNS & set(names):
        return None
    image = next((names.index(name) for name in _IMAGE_COLUMNS if name in names), None)
    label = next((names.index(name) for name in _LABEL_COLUMNS if name in names), None)
    return None if image is None or label is None else (image, label)


def _places(root: Path, split: str) -> list[Path]:
    """Folders in which the images may be, the likeliest first."""
    likely = [f"{split}_images", split, "images", f"{split}/images", "imgs", "img", "train_images", "train", "test"]
    others = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    names = [name for name in dict.fromkeys([*likely, *others]) if (root / name).is_dir()]
    return [root, *(root / name for name in names)]


def _find(place: Path, name: str) -> str | None:
    """The image of a name in a folder; of a path that begins on another machine, the longest end that is there."""
    name = name.replace("\\", "/")
    parts = name.split("/")
    foreign = name.startswith("/") or parts[0].endswith(":")
    ends = ["/".join(parts[start:]) for start in range(1, len(parts))] if foreign else []
    return next((file for end in (name, *ends) if (file := _file_of(place, end)) is not None), None)


def _file_of(place: Path, name: str) -> str | None:
    """A file by its name, which may lack the extension."""
    path = os.path.normpath(os.path.join(place, name))
    if name.lower().endswith(IMAGE_EXTENSIONS):
        return path if os.path.isfile(path) else None
    endings = dict.fromkeys((".jpg", ".png", *IMAGE_EXTENSIONS))  # the usual ones first
    return next((path + ending for ending in endings if os.path.isfile(path + ending)), None)
