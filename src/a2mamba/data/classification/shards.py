"""Images in tar files, read in any order: the shards are walked once, and each image is then read at its place.

Streaming shards from one end to the other, as WebDataset does, would give up three things that every other source
has here: an epoch's order that does not depend on the number of processes, each image exactly once, and resuming
inside an epoch. An uncompressed tar file needs no streaming: its members lie in it as they are.

    labels "folder"   <class>/<image> inside of the shards; without a folder, the shard's own name is the class
    labels "cls"      WebDataset's: <key>.<jpg, png, ...> beside <key>.cls, a number; names in root/classes.txt, if any
"""

from __future__ import annotations

import functools
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from a2mamba.data.images import IMAGE_EXTENSIONS
from a2mamba.data.text import read_names

Labels = Literal["folder", "cls"]


class _Member(NamedTuple):
    """An image in a shard: its name there, where its bytes lie, and its label, a class name or number."""

    name: str
    offset: int
    size: int
    label: str


class ShardReader:
    """The images of one split, in the form of timm's readers: indexing gives (file, class index).

    Every image is read through a file of its own, so that loader processes share nothing.

    Args:
        shards: uncompressed tar files.
        labels: where the label of an image stands, see above.
        classes: class names in index order; None: those that are found, in natural order.

    Raises:
        ValueError: a shard is compressed, truncated, no tar file, or without images; an image without a label; a
            label that is not one of ``classes``. The message names the shard.
    """

    def __init__(self, shards: Sequence[Path], *, labels: Labels, classes: Sequence[str] | None = None) -> None:
        members = [(number, member) for number, shard in enumerate(shards) for member in _index(shard, labels)]
        found = sorted({member.label for _, member in members}, key=_natural)
        if labels == "cls":
            # Labels are the indices themselves; without names, the numbers are the names.
            count = 1 + max(int(label) for label in found)
            self.classes = [str(i) for i in range(count)] if classes is None else list(classes)
            target_of = {label: int(label) for label in found}
            unknown = [label for label in found if not 0 <= int(label) < len(self.classes)]
        else:
            self.classes = found if classes is None else list(classes)
            target_of = {name: index for index, name in enumerate(self.classes)}
            unknown = [label for label in found if label not in target_of]
        if unknown:
            where = next(shards[number] for number, member in members if member.label in unknown)
            raise ValueError(
                f"{where} has labels {', '.join(unknown[:5])}, which are none of the {len(self.classes)} classes; "
                f"all splits need the same classes"
            )
        # Arrays: a list of a million tuples would be copied page by page into every loader process.
        self.shards = [str(shard) for shard in shards]
        self._shard = np.array([number for number, _ in members], dtype=np.int32)
        self._name = np.array([member.name.encode() for _, member in members])
        self._offset = np.array([member.offset for _, member in members], dtype=np.int64)
        self._size = np.array([member.size for _, member in members], dtype=np.int64)
        self.targets = np.array([target_of[member.label] for _, member in members], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def filename(self, index: int, *, absolute: bool = False) -> str:
        """The shard and the name inside of it."""
        shard = self.shards[self._shard[index]]
        name = bytes(self._name[index]).decode()
        return f"{shard if absolute else Path(shard).name}/{name}"

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        """The bytes of one image and its class; OSError where the shard has become shorter, or unreadable."""
        with open(self.shards[self._shard[index]], "rb") as file:
            file.seek(int(self._offset[index]))
            content = file.read(int(self._size[index]))
        if len(content) < self._size[index]:
            raise OSError("the shard ends inside of this image")
        return io.BytesIO(content), int(self.targets[index])


def find_shards(root: Path | str, split: str | None) -> list[Path]:
    """The tar files of a split: root/split/*.tar, or root/split*.tar; root itself, or root/*.tar, without a split.

    Raises:
        ValueError: there are none.
    """
    root = Path(root)
    if split is None:
        found = [root] if root.suffix == ".tar" and root.is_file() else list(root.glob("*.tar"))
        places = f"{root}/*.tar"
    else:
        found = list((root / split).glob("*.tar")) or list(root.glob(f"{split}*.tar"))
        places = f"{root}/{split}/*.tar or {root}/{split}*.tar"
    if not found:
        raise ValueError(f"no tar files: expected {places}; check data.root and the split's name")
    return sorted(found, key=lambda path: _natural(path.name))


def class_list(root: Path | str) -> list[str] | None:
    """The class names of root/classes.txt, one a line; None without this file.

    Raises:
        ValueError: an empty file, one that is no text, an empty line among names, or a name that stands there twice.
    """
    path = Path(root) / "classes.txt"
    if not path.is_file():
        return None
    names = read_names(path)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path}: expected one class name a line, each once")
    return names


def _index(shard: Path, labels: Labels) -> tuple[_Member, ...]:
    try:
        stat = shard.stat()
    except OSError as error:
        raise ValueError(f"shard {shard}: {error.strerror}") from None
    return _walk(str(shard), stat.st_size, stat.st_mtime_ns, labels)


@functools.lru_cache(maxsize=8192)
def _walk(shard: str, size: int, modified: int, labels: Labels) -> tuple[_Member, ...]:
    """The images of a shard. Size and time are there for the cache: a shard that was replaced is walked again."""
    try:
        with tarfile.open(shard, mode="r:") as archive:
            files = [entry for entry in archive if entry.isfile() and not _is_hidden(entry.name)]
            found = _labeled_by_cls(shard, archive, files) if labels == "cls" else _labeled_by_folder(shard, files)
            members = tuple(found)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"shard {shard} is no uncompressed tar file, or damaged: {error}") from None
    if not members:
        raise ValueError(f"shard {shard} holds no images ({' '.join(IMAGE_EXTENSIONS)})")
    return members


def _labeled_by_folder(shard: str, files: Sequence[tarfile.TarInfo]) -> Iterator[_Member]:
    for entry in files:
        if os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS:
            folder = os.path.basename(os.path.dirname(entry.name))
            yield _Member(entry.name, entry.offset_data, entry.size, folder or Path(shard).stem)


def _labeled_by_cls(shard: str, archive: tarfile.TarFile, files: Sequence[tarfile.TarInfo]) -> Iterator[_Member]:
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    for entry in files:
        # WebDataset's key ends at the first dot of the file's name, not at the last.
        folder, name = os.path.split(entry.name)
        stem, _, extension = name.partition(".")
        key = os.path.join(folder, stem)
        if f".{extension.lower()}" in IMAGE_EXTENSIONS:
            images[key] = entry
        elif extension.lower() == "cls":
            content = archive.extractfile(entry)
            assert content is not None, "it is a file"
            text = content.read(32).decode(errors="replace").strip()
            if not text.isdigit():
                raise ValueError(f"{shard}/{entry.name}: expected a class number, found {text!r}")
            labels[key] = str(int(text))
    for key, entry in images.items():
        if key not in labels:
            raise ValueError(f"{shard}/{entry.name}: no {key}.cls beside it; expected the class number there")
        yield _Member(entry.name, entry.offset_data, entry.size, labels[key])


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in name.split("/"))


def _natural(name: str) -> tuple[list[str | int], str]:
    """timm's order of class names, ties broken the same way everywhere."""
    from timm.utils import natural_key

    return natural_key(name), name
