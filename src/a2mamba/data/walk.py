"""The files below a folder, as every reader of a data set sees them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from a2mamba.data.images import IMAGE_EXTENSIONS
from a2mamba.data.names import is_hidden


def folders_below(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder at and below one, with the names of the files right in it; in no certain order.

    Links to folders are followed: large sets are often put together from them. One that leads back to a folder above
    it is not, for the walk would not end. Hidden files and folders are left out, see `is_hidden`.

    Returns:
        pairs of a path relative to `folder`, with slashes, "" for itself, and names.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name) and not leads_back(folder, place, name)]
        relative = Path(place).relative_to(folder).as_posix()
        yield "" if relative == "." else relative, [name for name in names if not is_hidden(name)]


def files_below(folder: Path, extensions: Iterable[str]) -> list[str]:
    """Files at and below a folder with one of the extensions, whatever their case: sorted paths relative to it."""
    endings = tuple(extensions)
    found = []
    for place, names in folders_below(folder):
        prefix = f"{place}/" if place else ""
        found += [prefix + name for name in names if name.lower().endswith(endings)]
    return sorted(found)


def images_below(folder: Path) -> list[str]:
    """The images at and below a folder, as sorted paths relative to it, with slashes."""
    return files_below(folder, IMAGE_EXTENSIONS)


def leads_back(folder: Path, place: str, name: str) -> bool:
    """Whether `name` in `place`, a folder at or below `folder`, is a link to one on the way there, or above the way."""
    path = os.path.join(place, name)
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    steps = Path(place).relative_to(folder).parts
    passed = (folder.joinpath(*steps[:count]) for count in range(len(steps) + 1))
    return any(above.resolve().is_relative_to(target) for above in passed)
