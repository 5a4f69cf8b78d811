"""Every layout that docs/data.md and docs/data_detection.md list, as a user would go on: check, fit, eval.

All are written from the embedded data. One layout of each reader is in the default suite, the others are slow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from a2mamba.data import layouts, recognize, write_demo
from data import folders
from data.detection.layouts import LAYOUTS, Scenes, demo_scenes, odd_and_even

from .helpers import in_process

QUICK = {
    *("coco", "yolo_ultralytics", "voc", "labelme", "cvat"),
    *("images/masks", "beside", "colors in labelmap.txt", "ade20k", "class folders", "a table"),
}
WORDS = {
    "classification": ("--model", "a2mamba_test", "--epochs", "1"),
    "segmentation": (
        *("--model", "segman_v2_test", "schedule.iterations=2", "schedule.interval=2"),
        "schedule.warmup_iterations=1",
    ),
    "detection": (
        *("--model", "mask_rcnn_a2mamba_test", "--epochs", "1", "data.min_sizes=64", "data.max_size=80"),
        *("data.crop_resize_sizes=64", "data.crop_size=64,64", "detector.min_size=64", "detector.max_size=80"),
    ),
}
METRICS = {"classification": "top1", "segmentation": "miou", "detection": "box_ap"}

DOCUMENTS = Path(__file__).parents[2] / "docs"
OF_OBJECTS = {written.reader for written in LAYOUTS.values()}


class Layout(NamedTuple):
    """How a layout is written, its task, the reader that recognizes it, and whether it carries masks."""

    write: Callable[[Path, Scenes], None]
    task: str
    reader: str
    masks: bool = False


def _layouts() -> Iterator[tuple[str, Layout]]:
    for name, written in LAYOUTS.items():
        yield name, Layout(written.write, "detection", written.reader, written.masks)
    for group in (folders.SEGMENTATION, folders.FLAT, folders.BINARY):
        for name, write in group.items():
            yield name, Layout(_alone(write), "segmentation", "folder")
    for name, write in folders.PUBLISHED.items():
        yield name, Layout(_alone(write), "segmentation", name)
    kinds: dict[str, Callable[[Path], None]] = {
        "class folders": lambda root: folders.class_folders(root, "train", "val"),
        "class folders without splits": folders.class_folders,
        "class folders twice inside": lambda root: folders.class_folders(
            root, "seg_train/seg_train", "seg_test/seg_test"
        ),
    }
    for name, write in kinds.items():
        yield name, Layout(_alone(write), "classification", "class_folders")
    yield "a table", Layout(_alone(folders.table), "classification", "csv")


def _alone(write: Callable[[Path], None]) -> Callable[[Path, Scenes], None]:
    """A writer that has its own scenes of the embedded data."""
    return lambda root, _: write(root)


EVERY = dict(_layouts())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    root = tmp_path_factory.mktemp("scenes") / "demo"
    write_demo(root, segmentation_scenes=1, train_scenes=10, val_scenes=6)
    return odd_and_even(demo_scenes(root))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_checked_trained_and_evaluated(name: str, scenes: Scenes, tmp_path: Path) -> None:
    layout = EVERY[name]
    if layout.task == "detection":
        pytest.importorskip("faster_coco_eval")
    root, out = tmp_path / "my set", tmp_path / "run"
    layout.write(root, scenes)
    found = recognize(root)
    assert (found.task, found.layout) == (layout.task, layout.reader)
    checked = in_process("data", "check", root, "--json")
    # The scenes have 3 of Cityscapes' 19 and of COCO-Stuff's 171 classes.
    assert [text for text in checked.json["problems"] if "classes are never seen" not in text] == []
    assert (checked.status, checked.json["notes"]) == (int(bool(checked.json["problems"])), found.lines())
    assert checked.status == 0 or layout.reader in ("cityscapes", "coco_stuff")
    words = ("--scratch", "--device", "cpu", "--quiet", "--json", "data.workers=0", "--out", out)
    fitted = in_process("fit", root, *WORDS[layout.task], *words)
    assert fitted.status == 0, fitted
    assert found.sentence() in fitted.err
    evaluated = in_process("eval", "--checkpoint", out / "checkpoints" / "last.pt", "--device", "cpu", "--json")
    assert evaluated.status == 0, evaluated
    metric = METRICS[layout.task]
    last = fitted.json["last"]
    assert evaluated.json[metric] == last.get(f"ema_{metric}", last[metric])
    total = list(found.counts.values())
    held_out = evaluated.json["images"]
    assert held_out == total[1] if len(total) > 1 else 0 < held_out < total[0]
    assert ("mask_ap" in evaluated.json) == layout.masks
    assert json.loads((out / "run.json").read_text())["classes"] == found.classes


def test_the_table_has_every_layout_of_the_documents() -> None:
    documented = [
        name
        for document in ("data.md", "data_detection.md")
        for name in re.findall(r"^\| `(\w+)` \|", (DOCUMENTS / document).read_text("utf-8"), flags=re.MULTILINE)
    ]
    assert {layout.reader for layout in EVERY.values()} == set(layouts()) == set(documented)
    assert EVERY.keys() > QUICK
    assert {EVERY[name].reader for name in QUICK} >= {*OF_OBJECTS, "folder", "class_folders", "csv"}
