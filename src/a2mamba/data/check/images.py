"""Looking through image files: what cannot be decoded, and what lies in more than one split."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from a2mamba.data.check.report import Progress
from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.data.names import some

_BLOCK = 256
_NEAR_BITS = 2  # bits of 64 in which the hashes of near-duplicates may differ
_NEAR_LEVELS = 4.0  # of 255: mean difference of their thumbnails
_MOST_CANDIDATES = 20_000  # pairs whose thumbnails are compared
_LARGEST_GROUP = 2000  # hashes with an equal part that are compared with each other
_THUMBNAIL = (32, 32)

T = TypeVar("T")
Result = TypeVar("Result")


class ImageFacts(NamedTuple):
    """What is in an image file.

    digest: of its bytes; looks: its difference hash; size: height and width, upright; reason: why it cannot be decoded.
    """

    digest: bytes
    looks: int
    size: tuple[int, int]
    reason: str | None


def inspect_image(file: str) -> ImageFacts:
    """Decode one image."""
    try:
        content = Path(file).read_bytes()
        image = decode_image(io.BytesIO(content), name=file)
    except UndecodableImageError as error:
        return ImageFacts(b"", 0, (0, 0), error.reason)
    except OSError as error:
        return ImageFacts(b"", 0, (0, 0), error.strerror or "unreadable")
    return ImageFacts(hashlib.sha256(content).digest(), difference_hash(image), (image.height, image.width), None)


def inspect_all(
    inspect: Callable[[T], Result], items: Sequence[T], split: str, progress: Progress | None
) -> Iterator[Result]:
    """The results for all items, in order."""
    # Decoding and hashing release the interpreter's lock. Blocks keep the queue short: map submits all at once.
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), _BLOCK):
            block = items[start : start + _BLOCK]
            yield from pool.map(inspect, block)
            if progress is not None:
                progress(start + len(block), len(items), split)


def difference_hash(image: Image.Image) -> int:
    """64 bits that survive another size, quality or brightness: whether each of 8 x 8 places is darker than its right
    neighbor, in a copy of 9 x 8 pixels.
    """
    pixels = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(pixels[:, 1:] > pixels[:, :-1]).tobytes(), "big")


class _Place(NamedTuple):
    split: str
    file: str
    digest: bytes


class Seen:
    """Where each image was seen: finds those that are in more than one split."""

    def __init__(self) -> None:
        self._digests: dict[bytes, list[tuple[str, str]]] = {}
        self._looks: dict[int, dict[tuple[str, bytes], _Place]] = {}
        self._left_out: set[int] = set()  # hashes of groups that are too large

    def add(self, split: str, file: str, facts: ImageFacts) -> None:
        """Note one image that was decoded."""
        self._digests.setdefault(facts.digest, []).append((split, file))
        # Of identical files in a split one stands for all.
        places = self._looks.setdefault(facts.looks, {})
        places.setdefault((split, facts.digest), _Place(split, file, facts.digest))

    def duplicates(self) -> list[list[str]]:
        """Groups of files with identical bytes that lie in more than one split."""
        return [
            [file for _, file in group] for group in self._digests.values() if len({split for split, _ in group}) > 1
        ]

    @cached_property
    def _near(self) -> tuple[list[tuple[str, str]], bool]:
        """The near-duplicates, and whether there were more pairs than are compared."""
        pairs = self._alike()
        found = [
            (one.file, two.file)
            for one, two in islice(pairs, _MOST_CANDIDATES)  # many flat images have hashes that say little
            if np.abs(_thumbnail(one.file) - _thumbnail(two.file)).mean() <= _NEAR_LEVELS
        ]
        return found, next(pairs, None) is not None

    def near_duplicates(self) -> list[tuple[str, str]]:
        """Pairs of files from two splits that show the same in another size, format or quality."""
        return self._near[0]

    def notes(self) -> list[str]:
        """What was not compared, of a set with very many images that look alike."""
        notes = []
        if self._near[1]:
            notes.append(
                f"near-duplicates were looked for among {_MOST_CANDIDATES:,} pairs of images that look alike; there "
                f"are more such pairs, which were not compared"
            )
        if self._left_out:
            notes.append(
                f"{len(self._left_out):,} kinds of images look too much alike to be told apart, and were not compared "
                f"with each other for near-duplicates: flat images, as a rule"
            )
        return notes

    def _alike(self) -> Iterator[tuple[_Place, _Place]]:
        """Pairs of different images of two splits whose hashes differ in at most `_NEAR_BITS` bits."""
        for first, second in self._alike_hashes():
            by_split: dict[str, list[_Place]] = {}
            for place in self._looks[second].values():
                by_split.setdefault(place.split, []).append(place)
            for one in self._looks[first].values():
                for split, others in by_split.items():
                    # Of one hash with itself, every pair comes twice.
                    if split != one.split and (first != second or split > one.split):
                        yield from ((one, two) for two in others if two.digest != one.digest)

    def _alike_hashes(self) -> Iterator[tuple[int, int]]:
        """Pairs of hashes, each with itself first.

        If so many bits differ, then of one part more one at least is equal: hashes are compared in such groups alone.
        """
        yield from ((looks, looks) for looks in self._looks)
        parts = _NEAR_BITS + 1
        width = -(-64 // parts)
        done: set[tuple[int, int]] = set()
        for part in range(parts):
            groups: dict[int, list[int]] = {}
            for looks in self._looks:
                groups.setdefault((looks >> (part * width)) & ((1 << width) - 1), []).append(looks)
            for group in groups.values():
                if len(group) > _LARGEST_GROUP:  # flat images
                    self._left_out.update(group)
                    continue
                for first, second in combinations(group, 2):
                    key = (min(first, second), max(first, second))
                    if (first ^ second).bit_count() <= _NEAR_BITS and key not in done:
                        done.add(key)
                        yield first, second

    def problems(self) -> Iterator[str]:
        """One line for identical images in two splits, and one for alike ones."""
        duplicates = self.duplicates()
        if duplicates:
            groups = some(" = ".join(group) for group in duplicates)
            yield f"{len(duplicates)} images lie in more than one split: {groups}"
        near = self.near_duplicates()
        if near:
            pairs = some(f"{one} ~ {two}" for one, two in near)
            yield f"{len(near)} images look like one of another split (near-duplicates): {pairs}"


def _thumbnail(file: str) -> np.ndarray:
    try:
        image = decode_image(file, mode="L")
    except UndecodableImageError:  # it was decoded before, and has changed
        return np.full(_THUMBNAIL, np.inf)
    return np.asarray(image.resize(_THUMBNAIL, Image.Resampling.BOX), dtype=np.float32)
