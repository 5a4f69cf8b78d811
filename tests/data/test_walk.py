"""What lies below a folder: the same files for every reader, links and what machines add among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2mamba.data import recognize
from a2mamba.data.walk import files_below, images_below

from .folders import BINARY, class_folders
from .helpers import write_image


def test_hidden_files_are_left_out_and_names_sorted(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.JPG", "a/1.jpg", "._a.jpg", "@eaDir/1.jpg", "a/.cache/1.jpg", "Thumbs.db", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert images_below(tmp_path) == ["a/1.jpg", "a/2.JPG", "b.png"]
    assert files_below(tmp_path, (".txt",)) == ["notes.txt"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own / "part", other):
        folder.mkdir(parents=True)
        (folder / "1.jpg").touch()
    (own / "more").symlink_to(other)
    (own / "part" / "again").symlink_to(own)
    (own / "part" / "above").symlink_to(tmp_path)
    (other / "back").symlink_to(own)  # own -> other -> own
    assert images_below(own) == ["more/1.jpg", "part/1.jpg"]


@pytest.mark.parametrize("kind", ["classes", "masks"])
def test_data_sets_may_be_put_together_by_links(kind: str, tmp_path: Path) -> None:
    root, other = tmp_path / "set", tmp_path / "other"
    if kind == "classes":
        class_folders(root, "train", "val")
        for number in range(3):
            write_image(other / f"{number}.png", seed=70 + number)
        (root / "train" / "bird").symlink_to(other)
        (root / "train" / "cat" / "loop").symlink_to(root / "train")
        assert recognize(root).counts == {"train": 13, "val": 10}
    else:
        BINARY["0 and 255"](root)
        BINARY["0 and 255"](other)
        counts = recognize(root).counts
        for folder in ("images", "masks"):
            (root / folder / "train" / "more").symlink_to(other / folder / "train")
        assert recognize(root).counts == counts | {"train": 2 * counts["train"]}
