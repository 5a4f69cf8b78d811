"""Images with one class each, listed in a table: root/train.csv with a column of images and one of labels (Kaggle's).

The images lie where the table says, or in a folder under root; their extension may be left out. A table of all images
may have a column that says which split each is of.
"""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from a2mamba.data.images import IMAGE_EXTENSIONS
from a2mamba.data.names import is_hidden, plain_name, some
from a2mamba.data.splits import find_splits, split_role
from a2mamba.data.text import read_text

_IMAGE_COLUMNS = (
    *("image", "image_id", "imageid", "image_name", "image_path", "filename", "file_name", "file", "filepath", "path"),
    *("img", "img_name", "img_path", "id", "id_code", "name"),
)
_LABEL_COLUMNS = (
    *("label", "labels", "class", "class_name", "classname", "category", "target", "diagnosis", "species", "breed"),
    *("label_name", "choice", "class_id", "label_id", "category_id", "y"),
)
_BOX_COLUMNS = frozenset(
    {"xmin", "x_min", "x1", "x0", "left", "cx", "xc", "x_center", "bbox", "bbox_x", "box", "boxes"}
    | {"encodedpixels", "segmentation", "rle"}
)
_BOX_SIZES = frozenset({"w", "width", "bbox_width", "box_width"})  # beside x and y
_SPLIT_COLUMNS = ("split", "set", "subset", "data_set", "dataset", "partition", "phase")
_SINGLE = ("labels", "train_labels", "trainlabels", "data", "dataset", "metadata", "annotations")
"""Names of a table of all images, beside those of splits."""
_ROWS = 50  # that are looked at, to find the column of images
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
    stems = {file.stem: file for file in _named(root) if _columns(_read(file)) is not None}
    train, val = find_splits(stems)
    if train is None:
        train = next((stem for stem in sorted(stems) if stem.lower() in _SINGLE), None)
    if train is not None and val is None:
        header, *rows = _read(stems[train])
        place = _split_column(header)
        if place is not None:
            _, label = _columns([header, *rows]) or (0, 0)
            labeled = {row[place] for row in rows if len(row) > max(place, label) and row[label]}
            inner = find_splits(labeled)
            return inner if inner[0] is not None else (train, None)
    return train, val


def has_table(root: Path, split: str) -> bool:
    """Whether there is a table of a split, or rows of it in another one."""
    return _table_of(root, split) is not None


def read_table(root: Path, split: str) -> Table:
    """The images and labels of root/<split>.csv, or of the rows that a table of all images has of this split.

    A row that occurs twice counts once. Paths may be of another machine, Windows among them, see `_Files`.

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
    columns = _columns([header, *rows])
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
    files = _Files()
    found_rows, missing = [], []
    place = next((place for place in places if entries and files.find(place, entries[0][0]) is not None), None)
    for name, value in entries:
        path = None if place is None else files.find(place, name)
        for other in places if path is None else ():
            path = path or files.find(other, name)
        if path is None:
            missing.append(name)
        else:
            found_rows.append((path, value))
    found_rows = list(dict.fromkeys(found_rows))
    _refuse_two_labels(file, found_rows)  # a.png and a may be one image
    if not found_rows:
        raise ValueError(
            f"none of the {len(entries)} images of {file} is in {some(map(str, places))}: {some(missing, 3)}; write "
            f"the names of the files, and put them into one of these folders"
        )
    return Table(file, found_rows, missing, incomplete)


def advice(root: Path) -> tuple[str, str, str] | None:
    """What is nearest to the tables in a folder that is not recognized, what is missing, and what to do; None without.

    A table may lie beside the images in the folder of a split, and have any name.
    """
    splits = sorted(entry for entry in root.iterdir() if entry.is_dir() and split_role(entry.name))
    anywhere = (file for place in (root, *splits) for file in sorted([*place.glob("*.csv"), *place.glob("*.tsv")]))
    headers: list[tuple[Path, list[str]]] = []
    for file in _named(root) or anywhere:
        try:
            table = _read(file)
        except ValueError:  # in another encoding, or no table at all
            continue
        if _columns(table) is not None:
            name = "train.csv" if file.parent == root else f"{file.parent.name}.csv"
            return f"a table ({file})", "its usual name", f"name it {shlex.quote(str(root / name))}"
        headers.append((file, table[0]))
    if not headers:
        return None
    file, header = headers[0]
    if _has_boxes(header):
        return f"a table of objects ({file})", "a reader for it", "export the objects as COCO, YOLO or Pascal VOC"
    missing = f"columns of images (image, ...) and of labels (label, ...); its first line is {some(header, 8)}"
    wanted = shlex.quote(str(root / "train.csv"))
    return f"a table ({file})", missing, f"write {wanted} with the columns image,label and a row for each image"


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


def _named(root: Path) -> list[Path]:
    """The tables in a folder whose names say that they list images; others may be of anything."""
    tables = sorted(root.glob("*.csv"))
    return [file for file in tables if split_role(file.stem) is not None or file.stem.lower() in _SINGLE]


def _table_of(root: Path, split: str) -> tuple[Path, int | None] | None:
    """The table of a split, and its column of splits where its rows are of several."""
    own = root / f"{split}.csv"
    for file in (own, *_named(root)):
        header, *rows = _read(file) if file.is_file() else [[]]
        place = _split_column(header)
        if place is not None and _columns([header, *rows]) and any(_is_of(row, place, split) for row in rows):
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
    first, _, rest = text.partition("\n")
    delimiter = max(",;\t|", key=first.count)
    if first.rstrip("\r").lower() in {f"sep={mark}" for mark in ",;\t|"}:  # for Excel
        delimiter, text = first[4], rest
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(f"{file}: {error}; expected a table of commas") from error
    return rows or [[]]


def _columns(table: list[list[str]]) -> tuple[int, int] | None:
    """Columns of images and labels; None for tables of something else: boxes, or images without labels.

    A column of file names is the images', whatever it is called: beside it, an id is the row's number.
    """
    header, *rows = table
    names = [name.lower() for name in header]
    label = next((names.index(name) for name in _LABEL_COLUMNS if name in names), None)
    if label is None or _has_boxes(header):
        return None
    usual = [names.index(name) for name in _IMAGE_COLUMNS if name in names]
    others = [place for place in range(len(names)) if place != label and place not in usual]
    image = next((place for place in (*usual, *others) if _holds_files(rows, place)), None)
    image = next(iter(usual), None) if image is None else image
    return None if image is None else (image, label)


def _has_boxes(header: list[str]) -> bool:
    """Whether a table is of objects: a row for each, with a box or a mask."""
    names = {name.lower() for name in header}
    return bool(_BOX_COLUMNS & names) or ({"x", "y"} <= names and bool(_BOX_SIZES & names))


def _holds_files(rows: list[list[str]], place: int) -> bool:
    """Whether the first cells of a column, as far as they are filled, are names of image files."""
    cells = [row[place].lower() for row in rows[:_ROWS] if len(row) > place and row[place]]
    return bool(cells) and 2 * sum(cell.endswith(IMAGE_EXTENSIONS) for cell in cells) > len(cells)


def _places(root: Path, split: str) -> list[Path]:
    """Folders in which the images may be, the likeliest first."""
    likely = [f"{split}_images", split, "images", f"{split}/images", "imgs", "img", "train_images", "train", "test"]
    others = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    names = [name for name in dict.fromkeys([*likely, *others]) if (root / name).is_dir()]
    return [root, *(root / name for name in names)]


class _Files:
    """Image files by the names that a table has for them."""

    def __init__(self) -> None:
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, place: Path, name: str) -> str | None:
        """The image of a name in a folder; of a path that begins on another machine, the longest end that is there."""
        name = name.replace("\\", "/")
        parts = name.split("/")
        foreign = name.startswith("/") or parts[0].endswith(":")
        ends = ["/".join(parts[start:]) for start in range(1, len(parts))] if foreign else []
        return next((file for end in (name, *ends) if (file := self._file_of(place, end)) is not None), None)

    def _file_of(self, place: Path, name: str) -> str | None:
        """A file by its name, which may lack the extension, and differ from it in case and in the form of accents."""
        path = os.path.normpath(os.path.join(place, name))
        if name.lower().endswith(IMAGE_EXTENSIONS):
            candidates = [path]
        else:
            # The usual extensions come first.
            candidates = [path + ending for ending in dict.fromkeys((".jpg", ".png", *IMAGE_EXTENSIONS))]
        exact = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
        if exact is not None:
            return exact
        folder = os.path.dirname(path)
        listed = self._of(folder)
        for candidate in candidates:
            alike = listed.get(plain_name(os.path.basename(candidate)), [])
            if len(alike) == 1:
                return os.path.join(folder, alike[0])
        return None

    def _of(self, folder: str) -> dict[str, list[str]]:
        """The files in a folder by their plain names."""
        if folder not in self._listed:
            found = self._listed[folder] = {}
            with os.scandir(folder) if os.path.isdir(folder) else nullcontext(()) as entries:
                for entry in entries:
                    if entry.is_file():
                        found.setdefault(plain_name(entry.name), []).append(entry.name)
        return self._listed[folder]
