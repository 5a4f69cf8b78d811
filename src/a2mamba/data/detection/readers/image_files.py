"""Finding the image files that annotations speak of, and their sizes, without decoding them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, exif_orientation, read_image
from a2mamba.data.names import is_hidden
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


def images_in(folder: Path) -> list[str]:
    """The names of the images right in a folder, sorted; none where it does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image(entry.name) and not is_hidden(entry.name))


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
    ends: dict[str, set[str]] = {}
    for found in images_below(below):
        ends.setdefault(PurePosixPath(found).name, set()).add(found)
    start = os.path.relpath(below, folder).replace(os.sep, "/")
    located = []
    for name in names:
        parts = PurePosixPath(name).parts
        candidates = ends.get(parts[-1], set()) if name in missing and parts else set()
        for length in range(2, len(parts) + 1):
            closer = {found for found in candidates if PurePosixPath(found).parts[-length:] == parts[-length:]}
            candidates = closer or candidates
        located.append(f"{start}/{candidates.pop()}".removeprefix("./") if len(candidates) == 1 else name)
    return located


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
