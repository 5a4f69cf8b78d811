from __future__ import annotations

import builtins
import hashlib
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from a2mamba.data import check_dataset, demo_photos, write_demo
from a2mamba.data.demo import scenes, writing
from a2mamba.data.demo.digits import Digits, demo_digits, split_digits
from a2mamba.data.demo.layouts import run_lengths

from .helpers import error_line


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def instances(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / "coco" / "annotations" / f"instances_{split}.json").read_text())


def decode(segmentation: dict[str, Any]) -> np.ndarray:
    """COCO's uncompressed RLE, run by run."""
    height, width = segmentation["size"]
    values = [number % 2 for number, run in enumerate(segmentation["counts"]) for _ in range(run)]
    assert len(values) == height * width
    return np.array(values, dtype=bool).reshape(width, height).T


def test_same_seed_same_bytes(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again", segmentation_scenes=24, train_scenes=24, val_scenes=12)
    assert digests(tmp_path / "again") == digests(demo)
    write_demo(tmp_path / "other", segmentation_scenes=24, train_scenes=24, val_scenes=12, seed=1)
    ours, others = digests(demo), digests(tmp_path / "other")
    changed = {name for name in ours if name in others and ours[name] != others[name]}
    assert sum(name.startswith("coco/train2017") for name in changed) == 24
    assert sum(name.startswith("ADEChallengeData2016/images/training") for name in changed) == 24
    assert sum(name.startswith("imagenet/val") for name in changed) > 300  # other digits are held out


def test_summary_counts_the_files(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    summary = write_demo(
        tmp_path / "d",
        segmentation_scenes=3,
        train_scenes=3,
        val_scenes=2,
        progress=lambda *arguments: calls.append(arguments),
    )
    assert summary.to_dict() == {
        "root": str(tmp_path / "d"),
        "imagenet": {"train": 1438, "val": 359},
        "ade20k": {"training": 3, "validation": 2},
        "coco": {"train2017": 3, "val2017": 2},
    }
    assert str(tmp_path / "d") in summary.summary()
    assert [done for done, _, _ in calls] == list(range(1, 1797 + 10 + 1))
    assert {total for _, total, _ in calls} == {1807}
    for folder, count in (
        ("imagenet/train", 1438),
        ("imagenet/val", 359),
        ("ADEChallengeData2016/images/training", 3),
        ("ADEChallengeData2016/annotations/validation", 2),
        ("coco/train2017", 3),
        ("coco/val2017", 2),
    ):
        assert sum(path.is_file() for path in (tmp_path / "d" / folder).rglob("*")) == count


def test_digits_are_stratified_and_every_one_is_in_one_split(demo: Path) -> None:
    report = check_dataset(demo / "imagenet")
    assert report.problems == []
    everything = Counter(load_digits().target.tolist())
    for digit in range(10):
        name = f"digit_{digit}"
        train, val = report.splits["train"].classes[name], report.splits["val"].classes[name]
        assert train + val == everything[digit]
        assert abs(val - everything[digit] / 5) <= 0.5


def test_digit_images_are_the_digits_of_their_class(demo: Path) -> None:
    """Averaged back to 8 x 8, an image is nearest to a scikit-learn digit with its label."""
    bunch = load_digits()
    for path in sorted((demo / "imagenet" / "val").rglob("*.png"))[::17]:
        image = pixels(path)
        assert image.shape == (32, 32)
        small = image.reshape(8, 4, 8, 4).mean(axis=(1, 3)) * 16 / 255
        nearest = np.abs(bunch.images - small).sum(axis=(1, 2)).argmin()
        assert path.parent.name == f"digit_{bunch.target[nearest]}"


def test_scenes_use_only_the_digits_of_their_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    used: list[bytes] = []
    place = scenes._place

    def recording(ink: np.ndarray, *arguments: Any) -> Any:
        used.append(ink.tobytes())
        return place(ink, *arguments)

    monkeypatch.setattr(scenes, "_place", recording)
    splits = split_digits(demo_digits(), 0)
    train, val = ({ink.tobytes() for ink in split.ink} for split in splits)
    assert not train & val
    names: list[str] = []
    seen: dict[str, set[bytes]] = {"train": set(), "val": set()}

    def progress(done: int, total: int, what: str) -> None:
        names.append(what)
        scene = names.count(what)
        if what != "imagenet":
            seen["train" if scene <= 12 else "val"].update(used)
        used.clear()

    write_demo(tmp_path / "d", segmentation_scenes=12, train_scenes=12, val_scenes=6, progress=progress)
    assert seen["train"]
    assert seen["val"]
    assert seen["train"] <= train
    assert seen["val"] <= val


def test_class_maps_follow_ade20k(demo: Path) -> None:
    root = demo / "ADEChallengeData2016"
    present: Counter[int] = Counter()
    empty = {"training": 0, "validation": 0}
    for split, count in (("training", 24), ("validation", 12)):
        images = sorted((root / "images" / split).iterdir())
        annotations = sorted((root / "annotations" / split).iterdir())
        assert [path.stem for path in images] == [path.stem for path in annotations]
        assert {path.suffix for path in images} == {".jpg"}
        assert {path.suffix for path in annotations} == {".png"}
        assert len(images) == count
        for image, annotation in zip(images, annotations, strict=True):
            with Image.open(annotation) as opened:
                assert opened.mode == "L"
            assert pixels(image).shape == (128, 160, 3)
            classes = pixels(annotation)
            assert classes.shape == (128, 160)
            values = set(np.unique(classes).tolist())
            assert values <= set(range(12))
            assert 1 in values
            present.update(values)
            if values <= {0, 1}:
                assert values == {1}  # without a digit there is no edge of a digit either
                empty[split] += 1
            else:
                assert 0.01 < np.isin(classes, range(2, 12)).mean() < 0.5
                assert 0 < (classes == 0).mean() < 0.1
    assert set(present) == set(range(12))
    assert empty == {"training": 5, "validation": 2}  # a fifth


def test_ink_stands_out_from_the_ground_around_it(demo: Path) -> None:
    """Label and image agree: across a digit's edge the image changes, across the same edge mirrored it does not."""
    root = demo / "ADEChallengeData2016"
    right, wrong = [], []
    for annotation in sorted((root / "annotations" / "training").iterdir()):
        classes = pixels(annotation)
        gray = pixels(root / "images" / "training" / f"{annotation.stem}.jpg").mean(axis=2)
        edge = (classes[:, 5:] >= 2) & (classes[:, :-5] == 1)
        step = np.abs(gray[:, 5:] - gray[:, :-5])
        right.append(step[edge])
        wrong.append(step[edge[::-1, ::-1]])
    assert np.median(np.concatenate(right)) > 4 * np.median(np.concatenate(wrong))


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_instances_are_consistent(demo: Path, split: str) -> None:
    content = instances(demo, split)
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(d + 1, f"digit_{d}") for d in range(10)]
    files = sorted(path.name for path in (demo / "coco" / split).iterdir())
    assert [image["file_name"] for image in content["images"]] == files
    images = {image["id"]: image for image in content["images"]}
    assert len(images) == len(files)
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(ids)) == len(ids) > 0
    covered: dict[int, np.ndarray] = {}
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        assert annotation["iscrowd"] == 0
        assert 1 <= annotation["category_id"] <= 10
        assert annotation["segmentation"]["size"] == [image["height"], image["width"]]
        mask = decode(annotation["segmentation"])
        assert annotation["area"] == mask.sum() > 0
        rows, columns = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
        before = covered.setdefault(annotation["image_id"], np.zeros_like(mask))
        assert not (before & mask).any()  # only what is visible belongs to an instance
        before |= mask
    assert len(content["images"]) - len(covered) == round(len(files) / 5)


def test_image_ids_of_the_splits_differ(demo: Path) -> None:
    ids = [image["id"] for split in ("train2017", "val2017") for image in instances(demo, split)["images"]]
    assert len(set(ids)) == len(ids)
    for split in ("train2017", "val2017"):
        for image in instances(demo, split)["images"]:
            assert pixels(demo / "coco" / split / image["file_name"]).shape == (image["height"], image["width"], 3)


def test_masks_and_class_map_of_a_scene_agree() -> None:
    train, _ = split_digits(demo_digits(), 0)
    overlaps = 0
    for scene in scenes.draw_scenes(train, 12, (96, 112), entropy=(0, 9)):
        expected = np.zeros_like(scene.classes)
        for instance in scene.instances:
            expected[instance.mask] = 2 + instance.label
        labeled = scene.classes >= 2
        # A later digit's faint edge makes an earlier digit's pixels unlabeled; otherwise the two are the same.
        assert np.array_equal(scene.classes[labeled], expected[labeled])
        assert not (scene.classes[expected >= 2] == 1).any()
        overlaps += int(((expected >= 2) & ~labeled).any())
    assert overlaps > 0


@pytest.mark.parametrize("mask", [[[0, 0], [0, 0]], [[1, 1], [1, 1]], [[0, 1, 1], [1, 0, 1]], [[1]], [[0]]])
def test_run_lengths(mask: list[list[int]]) -> None:
    array = np.array(mask, dtype=bool)
    counts = run_lengths(array)
    assert np.array_equal(decode({"size": list(array.shape), "counts": counts}), array)
    assert all(run > 0 for run in counts[1:])


def test_known_run_lengths() -> None:
    assert run_lengths(np.array([[0, 1, 1], [1, 0, 1]], dtype=bool)) == [1, 2, 1, 2]
    assert run_lengths(np.array([[1, 0], [1, 0]], dtype=bool)) == [0, 2, 2]


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every twentieth digit, where the test is about folders."""
    everything = demo_digits()
    few = Digits(everything.ink[::20], everything.labels[::20])
    monkeypatch.setattr(writing, "demo_digits", lambda: few)


def small(root: Path, **changes: Any) -> None:
    write_demo(root, **{"segmentation_scenes": 1, "train_scenes": 1, "val_scenes": 1, **changes})


@pytest.mark.usefixtures("few_digits")
def test_existing_data_is_not_overwritten_unasked(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    small(root)  # an empty folder is fine
    before = digests(root)
    error_line(lambda: small(root, seed=1), str(root), "imagenet", "overwrite=True")
    assert digests(root) == before
    small(root, seed=1, overwrite=True)
    assert digests(root) != before
    small(root, seed=0, overwrite=True)
    assert digests(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.usefixtures("few_digits")
def test_other_files_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        error_line(partial(small, tmp_path, overwrite=overwrite), "thesis.tex", "empty or new folder")
    error_line(lambda: small(tmp_path / "thesis.tex"), "is a file")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("few_digits")
def test_interrupted_call_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "d", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    small(tmp_path / "d")
    before = digests(tmp_path / "d")
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "d", seed=1, overwrite=True, progress=interrupt)
    assert digests(tmp_path / "d") == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"train_scenes": 0}, "train_scenes"), ({"scene_size": (32, 200)}, "scene_size"), ({"seed": -1}, "seed")],
)
def test_bad_sizes(changes: dict[str, Any], name: str, tmp_path: Path) -> None:
    error_line(lambda: small(tmp_path / "d", **changes), name)
    assert list(tmp_path.iterdir()) == []


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "sklearn.datasets")
    for call in (lambda: small(tmp_path / "d"), demo_photos):
        with pytest.raises(ImportError, match=r'pip install "a2mamba\[demo\]"'):
            call()
    assert list(tmp_path.iterdir()) == []


def test_photos() -> None:
    photos = demo_photos()
    assert sorted(photos) == ["china", "flower"]
    assert {(photo.mode, photo.size) for photo in photos.values()} == {("RGB", (640, 427))}
