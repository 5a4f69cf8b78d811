"""Finding YOLO's images and text files: what data.yaml says, and the arrangements that go without it."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from a2mamba.data.detection.readers.image_files import folders_of, is_image
from a2mamba.data.detection.readers.source import SplitPlaces
from a2mamba.data.names import is_hidden, plain_name
from a2mamba.data.text import read_lines, read_names, read_text
from a2mamba.data.walk import files_below, images_below

_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels.txt", "predefined_classes.txt")
_YAML_BYTES = 1 << 20
_SAMPLE = 50
_SPLITS = ("train", "val", "valid", "test")


class _Config(NamedTuple):
    """What data.yaml says: names in the order of class numbers, the places of each split, numbers of keypoints."""

    file: Path
    names: list[str]
    splits: dict[str, list[str]]
    base: str
    points: int


def find_splits(root: Path) -> dict[str, SplitPlaces]:
    """The splits that data.yaml names, or those that folders make; empty where there is no text file of YOLO's."""
    return _declared_splits(root) or _splits_by_folders(root)


def image_names(places: SplitPlaces) -> list[str]:
    """The images of a split, relative to `places.images`: of its folder, its list, or all that data.yaml names.

    Raises:
        ValueError: a list or data.yaml that cannot be read, or names what is not there; one line.
    """
    if places.subset:
        config = read_config(places.annotations)
        names: list[str] = []
        for value in config.splits.get(places.subset, []):
            place = _resolve(config, value)
            if place is None:
                raise ValueError(f"{config.file}: {places.subset} names {value}, which is not there; correct it")
            if place.is_file():
                names += _listed(place, places.images)
            else:
                prefix = os.path.relpath(place, places.images).replace(os.sep, "/")
                names += [f"{prefix}/{name}" for name in images_below(place)]
        return list(dict.fromkeys(names))
    if places.annotations.is_file() and _is_list(places.annotations):
        return _listed(places.annotations, places.images)
    return images_below(places.images)


def label_files(places: SplitPlaces, names: Sequence[str]) -> list[Path | None]:
    """The text file of each image; each folder is listed once.

    Its name may differ from the image's in case and in the form of accents, as tools and systems change them.
    """
    listed: dict[str, list[_Texts]] = {}
    files = []
    for name in names:
        parent, _, base = name.rpartition("/")
        if parent not in listed:
            folders = _label_folders(places, parent)
            listed[parent] = [_Texts(folder, parent, names) for folder in folders if folder.is_dir()]
        stem = os.path.splitext(base)[0]
        files.append(next((file for texts in listed[parent] if (file := texts.of(stem)) is not None), None))
    return files


class _Texts:
    """The text files in a folder.

    Args:
        folder: which is listed once.
        parent: of its images, as their names have it.
        images: the names of all.
    """

    def __init__(self, folder: Path, parent: str, images: Sequence[str]) -> None:
        self.folder, self.parent, self.images = folder, parent, images
        self._files = {name for name in os.listdir(folder) if name.endswith(".txt")}

    def of(self, stem: str) -> Path | None:
        """The file of an image."""
        if f"{stem}.txt" in self._files:
            return self.folder / f"{stem}.txt"
        alike = self._others.get(plain_name(stem), [])
        return self.folder / alike[0] if len(alike) == 1 else None

    @cached_property
    def _others(self) -> dict[str, list[str]]:
        """Those that are no image's, by their plain names."""
        stems = {os.path.splitext(name)[0] for name in self.images}
        others: dict[str, list[str]] = {}
        for name in self._files:
            stem = name.removesuffix(".txt")
            if (f"{self.parent}/{stem}" if self.parent else stem) not in stems:
                others.setdefault(plain_name(stem), []).append(name)
        return others


def labels_alone(places: SplitPlaces, files: Sequence[Path | None]) -> list[str]:
    """Text files of a split that are no image's; none where it is not known which files are the split's.

    That is where a list says which images are of the split, and where text files lie beside images, with other files.
    """
    folder = _labels_folder(places.images)
    if places.subset or _is_list(places.annotations) or folder == places.images:
        return []
    paired = set(files)
    return [name for name in files_below(folder, (".txt",)) if folder / name not in paired]


def some_lines(places: SplitPlaces, names: Sequence[str]) -> list[list[str]]:
    """The words of each line in the text files of some images."""
    files = _some_label_files(places, names[:_SAMPLE])
    return [line.split() for file in files if file is not None for line in read_lines(file)]


def class_names(places: SplitPlaces) -> list[str] | None:
    """The names of the classes; None where no file has them.

    Raises:
        ValueError: the file that should have them is damaged; one line.
    """
    file = _yaml_of(places)
    if file is not None:
        return read_config(file).names
    file = _own_names(places)
    return None if file is None else read_names(file)


def keypoint_numbers(places: SplitPlaces) -> int:
    """How many numbers of keypoints follow each box, as data.yaml says; 0 for sets of boxes and polygons."""
    file = _yaml_of(places)
    try:
        return 0 if file is None else read_config(file).points
    except ValueError:  # who reads the names says it
        return 0


def expected_label(images: Path) -> str:
    """Where the text file of an image is looked for, for messages."""
    return str(Path(*("labels" if part == "images" else part for part in images.parts)) / "<image>.txt")


def read_config(file: Path) -> _Config:
    """What a data.yaml says.

    Raises:
        ValueError: one line that names the file and the field.
    """
    import yaml

    # Words and numbers stay as they are written: YAML would make false and true of the names no and yes.
    # A SafeLoader still: nothing in the file makes an object.
    texts = type("_Texts", (yaml.SafeLoader,), {"yaml_implicit_resolvers": {}})
    try:
        content: Any = yaml.load(read_text(file), Loader=texts)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} is not YAML: {str(error).splitlines()[0] if str(error) else 'too deep'}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, expected names, train and val")
    names = content.get("names")
    if isinstance(names, dict) and all(key.isdecimal() for key in names) and len(names) <= 100_000:
        names = {int(key): name for key, name in names.items()}
        last = max(names, default=-1)
        if last > 100_000:
            raise ValueError(f"{file}: names has the class number {last}, expected numbers from 0 on without gaps")
        names = [names.get(number, str(number)) for number in range(last + 1)]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file}: names is {type(names).__name__}, expected a list or class numbers with names")
    splits: dict[str, list[str]] = {}
    for key in _SPLITS:
        value = content.get(key)
        parts = [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str) and part]
        if parts:
            splits[key] = parts
    base = content.get("path")
    shape = content.get("kpt_shape")
    points = math.prod(map(int, shape)) if isinstance(shape, list) and all(map(_is_number, shape)) else 0
    return _Config(file, names, splits, base if isinstance(base, str) else "", points)


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.isdecimal()


def _config_file(root: Path) -> Path | None:
    """The file that names classes and places, sound or not."""
    for file in sorted((*root.glob("*.yaml"), *root.glob("*.yml")))[:_SAMPLE]:
        try:
            content = file.read_bytes() if file.stat().st_size <= _YAML_BYTES else b""
        except OSError:
            continue
        # In any encoding: one that is not known is refused by reading, not passed over with the names in it.
        if re.search(rb"^\s*names\s*:", content.replace(b"\0", b"").removeprefix(b"\xef\xbb\xbf"), re.MULTILINE):
            return file
    return None


def _declared_splits(root: Path) -> dict[str, SplitPlaces]:
    file = _config_file(root)
    if file is None:
        return {}
    try:
        config = read_config(file)
    except ValueError:  # reading says it
        return {}
    splits, unlabeled = {}, {}
    for name, values in config.splits.items():
        found = [place for place in (_resolve(config, value) for value in values) if place is not None]
        if len(values) > 1 and found:  # what is not there is told by reading it
            splits[name] = SplitPlaces(root, file, name)
        elif not found:
            unlabeled[name] = SplitPlaces(root / values[0], file)
        elif found[0].is_file():
            splits[name] = SplitPlaces(root, found[0])
        elif _has_labels(SplitPlaces(found[0], file), declared=True):
            splits[name] = SplitPlaces(found[0], file)
        else:
            unlabeled[name] = SplitPlaces(found[0], file)
    if splits and "train" in unlabeled:  # not another one in its place: reading says what is wrong with it
        splits["train"] = unlabeled["train"]
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
    """Some images of a folder, relative to it; of a folder's own before those below it."""
    with os.scandir(folder) as entries:
        own = (entry.name for entry in entries if is_image(entry.name) and not is_hidden(entry.name))
        some = list(itertools.islice(own, _SAMPLE))
    return some or images_below(folder)[:_SAMPLE]


def _listed(file: Path, folder: Path) -> list[str]:
    return [_relative(str(Path(line)), folder) for line in read_lines(file)]


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


def _label_folders(places: SplitPlaces, parent: str) -> list[Path]:
    """Where the text files of the images in a folder may lie."""
    images = places.images / parent
    own = [places.annotations / parent] if places.annotations.is_dir() else []
    return [*own, _labels_folder(images), images]


def _some_label_files(places: SplitPlaces, names: Sequence[str]) -> list[Path | None]:
    """`label_files` of a few images; no folder is listed where one of them is found without."""
    files: list[Path | None] = []
    for name in names:
        parent, _, base = name.rpartition("/")
        texts = (folder / f"{os.path.splitext(base)[0]}.txt" for folder in _label_folders(places, parent))
        files.append(next((file for file in texts if file.is_file()), None))
    return files if any(files) else label_files(places, names)


def _has_labels(places: SplitPlaces, *, declared: bool = False) -> bool:
    """Whether one of some images has a text file of YOLO's lines; declared: or of any, which reading refuses."""
    files = _some_label_files(places, _some_images(places.images))
    return any(_is_labels(file) or (declared and file is not None) for file in files)


def _is_labels(file: Path | None) -> bool:
    if file is None or file.name in _NAME_FILES:
        return False
    try:
        lines = [line.split() for line in read_lines(file)]
        return bool(lines) and all(len(line) >= 5 and math.isfinite(sum(map(float, line))) for line in lines)
    except ValueError:
        return False


def _own_names(places: SplitPlaces) -> Path | None:
    """The file that names the classes of a split."""
    if places.annotations.is_dir() or _is_list(places.annotations):
        return _names_file(places.images, places.annotations.parent)
    return places.annotations


def _yaml_of(places: SplitPlaces) -> Path | None:
    """The data.yaml of a split, where that is what names its classes."""
    file = _own_names(places)
    return file if file is not None and file.suffix in (".yaml", ".yml") else None


def _names_file(images: Path, root: Path) -> Path | None:
    folders = (root, images, images.parent, _labels_folder(images), _labels_folder(images).parent)
    named = [folder / name for folder in folders for name in _NAME_FILES]
    return next((file for file in (_config_file(root), *named) if file is not None and file.is_file()), None)
