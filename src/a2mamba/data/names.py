"""Names of classes and files: phrases about them for messages, and those that people did not give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from unicodedata import normalize


def describe_class_difference(expected: Sequence[str], found: Sequence[str]) -> str:
    """One phrase about what differs between two lists of class names, names included; empty when nothing does."""
    missing = [name for name in expected if name not in set(found)]
    extra = [name for name in found if name not in set(expected)]
    parts = []
    if missing:
        parts.append(f"missing {some(missing)}")
    if extra:
        parts.append(f"unexpected {some(extra)}")
    if {normalize("NFC", name) for name in missing} & {normalize("NFC", name) for name in extra}:
        parts.append("which look alike: accents are written in two ways (Unicode NFC and NFD); rename one of them")
    elif alike := {plain_name(name) for name in missing} & {plain_name(name) for name in extra}:
        pairs = [f"{one!r} and {two!r}" for one in missing for two in extra if plain_name(one) == plain_name(two)]
        what = "upper and lower case or blanks alone"
        parts.append(f"where {some(pairs)} differ in {what}; rename {'one' if len(alike) == 1 else 'one of each'}")
    if not parts and list(expected) != list(found):
        parts.append(f"the same names in another order, {some(expected)} against {some(found)}")
    return ", ".join(parts)


def plain_name(name: str) -> str:
    """A name without what people and systems change: case, blanks, and the form of accents (Unicode NFC or NFD)."""
    return " ".join(normalize("NFC", name).split()).casefold()


def several(count: int, what: str) -> str:
    """A number of things, with an s where it is not one."""
    return f"{count:,} {what if count == 1 else what + ('es' if what.endswith('s') else 's')}"


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    text = ", ".join(names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text


_NOT_OURS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's: hidden, or what macOS, Windows and storage servers add."""
    return name.startswith(".") or name.lower() in _NOT_OURS
