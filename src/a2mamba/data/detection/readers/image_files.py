"""Finding the image files that annotations speak of, and their sizes, without decoding them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, exif_orientation, read_image
from a2mamba.data.names import is_hidden, plain_name, some
from a2mamba.data.walk import images_below

_SIDEWAYS = (5, 6, 7, 8)


class ImageHeader(NamedTuple):
    """What an image file says of itself: height and width in pixels as they are stored, and EXIF's orientation."""

    height: int
    width: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width as viewers show the image."""
        return (self.width, self.height) if self.orientation in _SIDEWAYS else (self.height, self.width)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def folders_of(root: Path) -> list[Path]:
    """The folders right in a folder, sorted; none where it does not exist."""
    if not root.is_dir():
        return []
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the names that are no entry of their folder; each folder is listed once, no file is opened."""
    listed: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, _, base = name.rpartition("/")
        if parent not in listed:
            place = folder / parent
            listed[parent] = set(os.listdir(place)) if place.is_dir() else set()
        if base not in listed[parent]:
            missing.append(name)
    return missing


def locate(names: Sequence[str], folder: Path, *, below: Path) -> list[str]:
    """Where images lie that annotations list by bare or partial names.

    Names are compared without case and with accents in one form: what Windows and macOS take for one name, too.

    Args:
        names: as listed.
        folder: where they should be.
        below: where to look for those that are not there: the longest end of a name's path decides.

    Returns:
        the names, corrected where exactly one file fits; relative to `folder`.
    """
    names = [name.replace("\\", "/") for name in names]
    missing = set(missing_files(folder, names))
    if not missing:
        return names
    ends: dict[str, list[str]] = {}
    for found in images_below(below):
        ends.setdefault(plain_name(PurePosixPath(found).name), []).append(found)
    start = os.path.relpath(below, folder).replace(os.sep, "/")
    own = f"{Path(os.path.relpath(folder, below)).as_posix()}/"
    located = []
    for name in names:
        candidates = ends.get(plain_name(PurePosixPath(name).name), []) if name in missing else []
        exact = [found for found in candidates if PurePosixPath(found).name == PurePosixPath(name).name]
        candidates = closest(exact or candidates, name)
        if len(candidates) > 1:
            candidates = [found for found in candidates if found.startswith(own)]
        located.append(f"{start}/{candidates[0]}".removeprefix("./") if len(candidates) == 1 else name)
    return located


def closest(paths: Sequence[str], name: str) -> list[str]:
    """Those of some paths that share the most last parts with a path, without regard to case."""
    wanted = PurePosixPath(plain_name(name)).parts[::-1]

    def shared(path: str) -> int:
        pairs = zip(PurePosixPath(plain_name(path)).parts[::-1], wanted, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(map(shared, paths), default=0)
    return [path for path in paths if shared(path) == most]


class ImagesByStem:
    """The images at and below a folder, for annotation files that are named after them.

    Args:
        folder: of the images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, list[str]] = {}
        self._alike: dict[str, list[str]] = {}
        for name in images_below(folder):
            stem = PurePosixPath(name).stem
            self._found.setdefault(stem, []).append(name)
            self._alike.setdefault(plain_name(stem), []).append(name)

    def of(self, file: Path, stated: str) -> str:
        """The image of an annotation file: of its own name, or of that which it states.

        The file's own name comes first: the name inside is often that of another time or machine. Of several images
        of the name it is the one whose path ends most like the stated one.

        Raises:
            ValueError: there is none, or it is not known which.
        """
        stated = stated.replace("\\", "/")
        names = (file.stem, PurePosixPath(stated).stem)
        found = next((self._found[name] for name in names if name in self._found), [])
        # Case and the form of accents are changed by tools and systems.
        found = found or next((self._alike[name] for name in map(plain_name, names) if name in self._alike), [])
        if not found:
            raise ValueError(f"{file} is of the image {stated or file.stem!r}, which is not in {self.folder}")
        close = closest(found, stated)
        if len(close) > 1:
            raise ValueError(
                f"{file} is of the image {stated or file.stem!r}, and {self.folder} has {some(close)}: it is not known "
                f"which is meant; give images different names"
            )
        return close[0]


def read_header(path: Path) -> ImageHeader | None:
    """Size and orientation of an image file; None where it is no image."""
    try:
        return read_image(path, lambda image: ImageHeader(image.height, image.width, exif_orientation(image)))
    except UndecodableImageError:  # who decodes the image names it
        return None


def read_headers(paths: Sequence[Path]) -> list[ImageHeader | None]:
    """`read_header` of many files; reading them waits for the disk, so several at a time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_header, paths, chunksize=64))
