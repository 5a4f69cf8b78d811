from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from a2mamba.evaluation import MeanIoU


def maps(*shape: int, classes: int, seed: int = 0, ignored: float = 0.1) -> tuple[Tensor, Tensor]:
    """A prediction that is right in about half of the pixels, and its target."""
    stream = np.random.default_rng(seed)
    target = stream.integers(0, classes, shape)
    prediction = np.where(stream.random(shape) < 0.5, target, stream.integers(0, classes, shape))
    target[stream.random(shape) < ignored] = 255
    return torch.from_numpy(prediction), torch.from_numpy(target)


def counted(pairs: list[tuple[Tensor, Tensor]], classes: int) -> dict[str, float]:
    """The definition, with sets of pixels."""
    ious, accuracies, right, total = [], [], 0, 0
    for label in range(classes):
        intersection = union = size = 0
        for prediction, target in pairs:
            for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
                if t == 255:
                    continue
                intersection += p == t == label
                union += label in (p, t)
                size += t == label
        if size:
            ious.append(intersection / union)
        if size:
            accuracies.append(intersection / size)
        right += intersection
        total += size
    return {
        "miou": 100 * sum(ious) / len(ious),
        "macc": 100 * sum(accuracies) / len(accuracies),
        "pixel_accuracy": 100 * right / total,
    }


@pytest.mark.parametrize(("present", "classes"), [(7, 7), (5, 9)])
def test_against_counting_pixel_by_pixel(present: int, classes: int) -> None:
    metric = MeanIoU(classes)
    pairs = [
        maps(11, 13, classes=present),
        maps(3, 5, 8, classes=present, seed=1),
        maps(1, 40, classes=present, seed=2),
    ]
    for prediction, target in pairs:
        metric.update(prediction, target)
    results = dict(metric.results())
    assert list(results) == ["miou", "macc", "pixel_accuracy"]
    assert results == pytest.approx(counted(pairs, classes), rel=1e-12)
    assert metric.iou().isnan().tolist() == [label >= present for label in range(classes)]


def test_a_class_that_the_targets_lack_does_not_count() -> None:
    """Pixels that are taken for it are errors of the classes that they are of, once."""
    metric = MeanIoU(3)
    metric.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]]))
    assert metric.present().tolist() == [True, True, False]
    assert dict(metric.results())["miou"] == pytest.approx(75)
    assert metric.iou().isnan().tolist() == [False, False, True]


def test_against_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    ours = MeanIoU(19)
    theirs = torchmetrics.classification.MulticlassJaccardIndex(19, average="none", ignore_index=255)
    for seed in range(4):
        prediction, target = maps(2, 30, 40, classes=19, seed=seed)
        ours.update(prediction, target)
        theirs.update(prediction, target)
    expected = theirs.compute().double()
    assert torch.allclose(ours.iou(), expected, atol=1e-6)
    assert dict(ours.results())["miou"] == pytest.approx(100 * float(expected.mean()), abs=1e-4)


def test_pixels_weigh_the_same_whatever_the_image() -> None:
    metric = MeanIoU(2)
    metric.update(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    metric.update(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64))
    # A mean over images would give class 0 an IoU of one half.
    assert metric.iou().tolist() == [0.25, 0.0]
    assert metric.accuracy().tolist() == [1.0, 0.0]


def test_ignored_pixels_do_not_matter() -> None:
    prediction, target = maps(20, 20, classes=4, ignored=0.3)
    one, other = MeanIoU(4), MeanIoU(4)
    one.update(prediction, target)
    changed = torch.where(target == 255, torch.tensor(77), prediction)
    other.update(changed, target)
    assert one.state() == other.state()
    assert int(one.matrix.sum()) == int((target != 255).sum())
    third = MeanIoU(4, ignore_index=-1)
    third.update(prediction, torch.where(target == 255, torch.tensor(-1), target))
    assert torch.equal(third.matrix, one.matrix)


def test_matrix_by_hand() -> None:
    metric = MeanIoU(3)
    metric.update(torch.tensor([[0, 1, 1], [2, 2, 0]]), torch.tensor([[0, 0, 1], [1, 2, 255]]))
    assert metric.matrix.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    metric.matrix.zero_()
    assert metric.matrix.sum() == 5  # a copy was handed out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_dtypes(dtype: torch.dtype) -> None:
    prediction, target = maps(9, 9, classes=200)
    one, other = MeanIoU(200), MeanIoU(200)
    one.update(prediction.to(dtype), target.to(dtype))
    other.update(prediction, target)
    assert one.state() == other.state()


def test_parts_of_several_processes_make_the_whole() -> None:
    prediction, target = maps(8, 10, 10, classes=5)
    whole, merged = MeanIoU(5), MeanIoU(5)
    whole.update(prediction, target)
    for rank in range(3):
        part = MeanIoU(5)
        if rank < 2:  # the third process had no images
            part.update(prediction[rank::2], target[rank::2])
        merged.merge(json.loads(json.dumps(part.state())))
    assert dict(merged.results()) == dict(whole.results())
    for other in (MeanIoU(4), MeanIoU(5, ignore_index=-1)):
        with pytest.raises(ValueError, match="cannot merge"):
            merged.merge(other.state())


def test_bad_input() -> None:
    metric = MeanIoU(4)
    prediction, target = maps(6, 6, classes=4)
    with pytest.raises(ValueError, match="no pixels"):
        list(metric.results())
    metric.update(prediction, torch.full((6, 6), 255))
    with pytest.raises(ValueError, match="no pixels"):
        list(metric.results())
    wrong: list[tuple[Any, Any, str]] = [
        (prediction[:5], target, "expected"),
        (prediction[0], target[0], "expected"),
        (prediction.float(), target, "prediction is torch.float32"),
        (prediction, target.double(), "target is torch.float64"),
        (prediction == 1, target, "prediction is torch.bool"),
        (torch.full((6, 6), 4), target, "prediction 4 is out of range for 4 classes"),
        (prediction, torch.full((6, 6), -1), "target -1 is out of range for 4 classes"),
    ]
    for first, second, message in wrong:
        with pytest.raises(ValueError, match=message):
            metric.update(first, second)
    assert metric.matrix.sum() == 0  # a refused image leaves no trace
    with pytest.raises(ValueError, match="num_classes=0"):
        MeanIoU(0)
    with pytest.raises(ValueError, match="ignore_index=3"):
        MeanIoU(4, ignore_index=3)
