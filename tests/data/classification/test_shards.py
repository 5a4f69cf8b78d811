"""Images in tar files: the same samples, order and resuming as in folders."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from a2mamba.data import ClassificationData, eval_loader, train_loader
from a2mamba.data.classification.shards import ShardReader, find_shards
from a2mamba.data.classification.splits import open_split, split_classes

from ..helpers import error_line

CLASSES = ("cat", "dog")


def settings(root: Path | str, **changes: Any) -> ClassificationData:
    small: dict[str, Any] = {"image_size": 16, "batch_size": 2, "eval_batch_size": 4, "workers": 0}
    return ClassificationData(root=str(root), **{**small, **changes})


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def folders(tiny: Path, tmp_path: Path) -> Path:
    """The class folders of `tiny` in two shards a split: <class>/<image>, with other files among them."""
    root = tmp_path / "tars"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        files = sorted((tiny / split).glob("*/*.png"))
        for number, part in enumerate((files[::2], files[1::2])):
            with tarfile.open(root / split / f"{number}.tar", "w") as archive:
                add(archive, "README.txt", b"no image")
                add(archive, ".cache/cat/9.png", b"hidden")
                for file in part:
                    add(archive, f"./{file.parent.name}/{file.name}", file.read_bytes())
    return root


@pytest.fixture
def keyed(tiny: Path, tmp_path: Path) -> Path:
    """The same as WebDataset writes it: train-0000.tar with <key>.png beside <key>.cls, and classes.txt."""
    root = tmp_path / "wds"
    root.mkdir()
    (root / "classes.txt").write_text("cat\ndog\n")
    for split in ("train", "val"):
        files = sorted((tiny / split).glob("*/*.png"))
        for number, part in enumerate((files[::2], files[1::2])):
            with tarfile.open(root / f"{split}-{number:04d}.tar", "w") as archive:
                for file in part:
                    key = f"{file.parent.name}-{file.stem}"
                    add(archive, f"{key}.cls", f"{CLASSES.index(file.parent.name)}\n".encode())
                    add(archive, f"{key}.json", b"{}")
                    add(archive, f"{key}.png", file.read_bytes())
    return root


def content(loader: Any) -> list[tuple[bytes, int]]:
    return [
        (image.numpy().tobytes(), int(target))
        for batch in loader
        for image, target in zip(batch.images, batch.targets, strict=True)
    ]


@pytest.mark.parametrize("source", ["tar", "wds"])
def test_shards_hold_the_samples_of_the_folders(source: Any, tiny: Path, folders: Path, keyed: Path) -> None:
    data = settings(folders if source == "tar" else keyed, source=source)
    assert split_classes(data, "train") == list(CLASSES)
    found = sorted(content(eval_loader(data)))
    assert len(found) == 6
    assert found == sorted(content(eval_loader(settings(tiny))))
    assert len(open_split(data, "train")) == 10


@pytest.mark.parametrize("source", ["tar", "wds"])
def test_resuming_and_workers_are_exact(source: Any, folders: Path, keyed: Path) -> None:
    root = folders if source == "tar" else keyed
    loader = train_loader(settings(root, source=source), seed=3)
    loader.set_epoch(2)
    whole = content(loader)
    resumed = train_loader(settings(root, source=source, workers=2), seed=3)
    resumed.set_epoch(2)
    resumed.skip(4)
    assert content(resumed) == whole[4:]
    # Each sample once over three processes; the tenth makes no whole step.
    paths = [
        path
        for rank in range(3)
        for batch in train_loader(settings(root, source=source, batch_size=3), seed=3, rank=rank, world_size=3)
        for path in batch.paths
    ]
    assert len(paths) == len(set(paths)) == 9


def test_names_say_where_a_image_is(folders: Path) -> None:
    dataset = open_split(settings(folders, source="tar"), "train")
    names = {dataset.path(i) for i in range(len(dataset))}
    assert f"{folders}/train/0.tar/./cat/0.png" in names
    assert len(names) == 10


def test_a_damaged_image_is_named(folders: Path) -> None:
    shard = folders / "val" / "1.tar"
    whole = shard.read_bytes()
    start = whole.index(b"\x89PNG") + 60
    shard.write_bytes(whole[:start] + b"\0" * 200 + whole[start + 200 :])
    error_line(lambda: list(eval_loader(settings(folders, source="tar"))), f"{shard}/./", ".png", "cannot decode")


def test_a_shard_that_was_replaced_is_walked_again(folders: Path) -> None:
    data = settings(folders, source="tar")
    before = len(open_split(data, "train"))
    shard = folders / "train" / "0.tar"
    with tarfile.open(shard, "a") as archive:
        add(archive, "dog/new.png", b"")
    os.utime(shard, ns=(1, 1))
    assert len(open_split(data, "train")) == before + 1


def test_a_shard_is_its_class_where_it_has_no_folders(tmp_path: Path, tiny: Path) -> None:
    """As ImageNet's own training file holds one tar file a class."""
    for name in CLASSES:
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for file in (tiny / "train" / name).iterdir():
                add(archive, file.name, file.read_bytes())
    reader = ShardReader(find_shards(tmp_path, None), labels="folder")
    assert reader.classes == list(CLASSES)
    assert reader.targets.tolist() == [0] * 5 + [1] * 5


def test_names_are_read_whatever_editor_wrote_them(keyed: Path) -> None:
    data = settings(keyed, source="wds")
    for encoding in ("utf-8-sig", "utf-16"):
        (keyed / "classes.txt").write_text("Kätzchen\r\nHund\r\n", encoding=encoding, newline="")
        assert split_classes(data, "train") == ["Kätzchen", "Hund"]
    (keyed / "classes.txt").write_text("Kätzchen\nHund\n", encoding="latin-1")
    error_line(lambda: split_classes(data, "train"), "classes.txt", "is not UTF-8 text")


def test_numbers_are_the_names_without_a_list(keyed: Path) -> None:
    (keyed / "classes.txt").unlink()
    data = settings(keyed, source="wds")
    assert split_classes(data, "train") == ["0", "1"]
    assert len(content(eval_loader(data, classes=["0", "1"]))) == 6


def test_mistakes(folders: Path, keyed: Path, tmp_path: Path) -> None:
    def opened(root: Path, source: Any, split: str = "train") -> Any:
        return open_split(settings(root, source=source), split)

    error_line(lambda: opened(folders, "tar", "test"), "no tar files", f"{folders}/test/*.tar")
    (keyed / "classes.txt").write_text("cat\n")
    error_line(lambda: opened(keyed, "wds"), "labels 1", "1 classes")
    (keyed / "classes.txt").write_text("cat\ncat\n")
    error_line(lambda: opened(keyed, "wds"), "classes.txt", "each once")
    (keyed / "classes.txt").unlink()
    with tarfile.open(keyed / "train-0002.tar", "w") as archive:
        add(archive, "a.png", b"x")
    error_line(lambda: opened(keyed, "wds"), "train-0002.tar/a.png", "no a.cls")
    with tarfile.open(keyed / "train-0002.tar", "w") as archive:
        add(archive, "a.png", b"x")
        add(archive, "a.cls", b"cat")
    error_line(lambda: opened(keyed, "wds"), "train-0002.tar/a.cls", "expected a class number, found 'cat'")
    bad = tmp_path / "bad" / "train"
    bad.mkdir(parents=True)
    with tarfile.open(bad / "0.tar", "w:gz") as archive:
        add(archive, "cat/a.png", b"x" * 4000)
    error_line(lambda: opened(tmp_path / "bad", "tar"), "0.tar", "no uncompressed tar file")
    with tarfile.open(bad / "0.tar", "w") as archive:
        add(archive, "cat/a.png", b"x" * 40_000)
    (bad / "0.tar").write_bytes((bad / "0.tar").read_bytes()[:9000])
    error_line(lambda: opened(tmp_path / "bad", "tar"), "0.tar", "damaged", "unexpected end")
    with tarfile.open(bad / "0.tar", "w") as archive:
        add(archive, "cat/a.txt", b"x")
    error_line(lambda: opened(tmp_path / "bad", "tar"), "0.tar", "holds no images")


# ------------------------------------------------------------------------------------------------------------ hub


class Rows:
    """What timm's reader and ours ask of a data set of the `datasets` library."""

    def __init__(self, rows: list[dict[str, Any]], names: list[str], split: str) -> None:
        self.rows = rows
        label = types.SimpleNamespace(names=names, str2int=names.index, num_classes=len(names))
        size = types.SimpleNamespace(num_examples=len(rows))
        self.info = types.SimpleNamespace(features={"label": label}, splits={split: size})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        """A row by its number, a column by its name."""
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def cast_column(self, name: str, _: object) -> Rows:
        return self


def test_the_hub_through_timms_reader(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself is not installed here: what stands in for it answers as its documentation says."""
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, *, split: str, cache_dir: str | None, trust_remote_code: bool = False) -> Rows:
        assert not trust_remote_code  # which older versions of timm say, and newer ones leave out
        asked.append((name, split))
        rows = [
            {"image": {"bytes": file.read_bytes(), "path": None}, "label": label}
            for label, folder in enumerate(CLASSES)
            for file in sorted((tiny / split / folder).iterdir())
        ]
        return Rows(rows, list(CLASSES), split)

    library = types.ModuleType("datasets")
    library.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec("datasets", None)
    monkeypatch.setattr(library, "load_dataset", load_dataset, raising=False)
    monkeypatch.setattr(library, "Image", lambda decode: None, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    data = settings("someone/animals", source="hfds")
    assert split_classes(data, "train") == list(CLASSES)
    assert sorted(content(eval_loader(data))) == sorted(content(eval_loader(settings(tiny))))
    assert ("someone/animals", "val") in asked
    (batch, *_) = train_loader(data, seed=0)
    assert batch.images.dtype == torch.uint8
    assert all(path.startswith("someone/animals[train][") for path in batch.paths)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)


def test_the_hub_needs_its_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error_line(lambda: open_split(settings("a/b", source="hfds"), "train"), "pip install datasets")
    assert capsys.readouterr().out == ""
