"""The same scenes through every layout: recognized, checked, loaded, and measured alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from a2mamba.data import (
    DetectionAnnotations,
    DetectionData,
    check_dataset,
    eval_detection_loader,
    read_detection_split,
    train_detection_loader,
)
from a2mamba.data.detection import find_detection, with_detection_source
from a2mamba.evaluation import CocoMetric
from a2mamba.evaluation.coco import IouType

from .layouts import LAYOUTS, Scenes, demo_scenes

pytest.importorskip("faster_coco_eval")

SMALL = DetectionData(
    root="", workers=0, batch_size=4, min_sizes=(96,), max_size=160, crop_resize_sizes=(96,), crop_probability=0.0
)


@pytest.fixture(scope="session")
def scenes(demo: Path) -> Scenes:
    return demo_scenes(demo)


@pytest.fixture(scope="session", params=list(LAYOUTS))
def written(request: pytest.FixtureRequest, scenes: Scenes, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("layouts") / request.param
    LAYOUTS[request.param].write(root, scenes)
    return root, LAYOUTS[request.param]


def test_recognized_in_one_sentence(written: Any, scenes: Scenes) -> None:
    root, layout = written
    source = find_detection(root)
    assert source is not None
    assert (source.layout, source.masks) == (layout.reader, layout.masks)
    total = len(scenes["train"]) + len(scenes["val"])
    if layout.one_split:
        assert list(source.counts.values()) == [total]
    else:
        assert source.train_split.lower() == "train"
        assert source.val_split.lower() in ("val", "valid", "validation")
        assert list(source.counts.values()) == [len(scenes["train"]), len(scenes["val"])]


def test_sound_and_loaded(written: Any, scenes: Scenes) -> None:
    root, layout = written
    source = find_detection(root)
    assert source is not None
    problems = [text for text in check_dataset(root).problems if "categories" not in text]
    assert problems == []
    data = with_detection_source(SMALL, source)
    assert bool(data.holdout) == layout.one_split
    train = read_detection_split(data, "train")
    batch = next(iter(train_detection_loader(data, annotations=train, seed=0)))
    assert all(("masks" in target) == layout.masks for target in batch.targets)
    seen = [len(one.targets) for one in eval_detection_loader(data, categories=train.categories)]
    total = len(scenes["train"]) + len(scenes["val"])
    assert sum(seen) == (round(data.holdout * total) if layout.one_split else len(scenes["val"]))


def detections(truth: DetectionAnnotations) -> dict[str, dict[str, Tensor]]:
    """By file name: the objects, moved and resized a little, some lost, some of another class."""
    draw = np.random.default_rng(3)
    found = {}
    for image, name in enumerate(truth.file_names):
        rows = truth.objects(image)
        boxes = truth.corners(image) + draw.normal(0, 1.2, (len(rows), 4))
        masks = np.stack([np.roll(truth.mask(row), draw.integers(-2, 3, 2), (0, 1)) for row in rows])
        wrong = draw.random(len(rows)) < 0.15
        keep = draw.random(len(rows)) < 0.9
        labels = np.where(wrong, 1 + truth.labels[rows] % len(truth.categories), truth.labels[rows])
        found[name] = {
            "boxes": torch.from_numpy(boxes[keep]),
            "labels": torch.from_numpy(labels[keep]),
            "scores": torch.from_numpy(draw.uniform(0.1, 1, int(keep.sum()))),
            "masks": torch.from_numpy(masks[keep]),
        }
    return found


def results(truth: DetectionAnnotations, found: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    kinds: list[IouType] = ["bbox"] if truth.segmentations is None else ["bbox", "segm"]
    metric = CocoMetric(truth, iou_types=kinds)
    names = [Path(name).name for name in truth.file_names]
    metric.update(truth.image_ids.tolist(), [found[name] for name in names])
    return dict(metric.results())


def test_the_metric_is_the_same_through_each(
    written: Any, scenes: Scenes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, layout = written
    reference = tmp_path_factory.mktemp("reference")
    shown = {name: [scene for scene in some if scene.things] for name, some in scenes.items()}
    if layout.one_split:
        shown["val"] = [*shown["train"], *shown["val"]]
    LAYOUTS["coco"].write(reference, shown)
    sources = find_detection(reference), find_detection(root)
    truths = []
    for source in sources:
        assert source is not None
        data = replace(with_detection_source(SMALL, source), holdout=0.0)
        train = read_detection_split(data, "train", masks=False)
        truths.append(read_detection_split(data, "val", categories=train.categories))
    assert [c.name for c in truths[0].categories] == [c.name for c in truths[1].categories]
    found = detections(truths[0])
    for scene in (scene for some in scenes.values() for scene in some):  # of nothing
        empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
        found.setdefault(scene.file.name, {**empty, "masks": torch.zeros(0, scene.height, scene.width)})
    expected, measured = (results(truth, found) for truth in truths)
    assert 20 < expected["box_ap"] < 95
    for name in ("box_ap", "box_ap50", "box_ap75", *(("mask_ap", "mask_ap50") if layout.masks else ())):
        assert measured[name] == pytest.approx(expected[name], abs=0.05), name
