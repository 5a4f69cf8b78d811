"""What commands are given: a network, by name or by file, with images; numbers."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_network_and_images(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Declare both; return the group of where the network is from."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="[NAME] IMAGE", help="image files, folders, globs; first the network"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="weights, of any layout that load_checkpoint takes")
    source.add_argument(
        "--pretrained",
        action="store_true",
        help="the released weights of NAME, downloaded once; a word behind it may be the data set: a2mamba weights",
    )
    return source


def network_and_images(words: list[Path]) -> tuple[str | None, list[Path]]:
    """The network's name, where the first word is one, and the images."""
    first = str(words[0])
    named = not words[0].exists() and not any(sign in first for sign in "./\\*?[")
    return (first, words[1:]) if named else (None, words)


def image_files(words: list[Path]) -> list[Path]:
    """The files that paths, folders and globs mean; ValueError where there is none."""
    from a2mamba.predictor import find_images

    if not words:
        raise ValueError("an IMAGE is missing: expected image files, folders or globs")
    return [file for word in words for file in find_images(word)]


def positive(text: str) -> int:
    """The type of an option that is a whole number of 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)
