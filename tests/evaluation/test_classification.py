from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from a2mamba.evaluation import ConfusionMatrix, TopK


def batch(size: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, classes, generator=generator), torch.randint(classes, (size,), generator=generator)


def test_top_k_against_sorting() -> None:
    logits, targets = batch(400, 20)
    metric = TopK((1, 3, 5))
    for start in range(0, 400, 64):  # the last batch is smaller
        metric.update(logits[start : start + 64], targets[start : start + 64])
    order = np.argsort(-logits.numpy(), axis=1)
    expected = {
        f"top{k}": 100 * np.mean([t in row[:k] for t, row in zip(targets.tolist(), order, strict=True)])
        for k in (1, 3, 5)
    }
    results = dict(metric.results())
    assert list(results) == ["top1", "top3", "top5", "loss"]
    for name, value in expected.items():
        assert results[name] == pytest.approx(value, abs=1e-12)
    log_softmax = logits.double() - torch.logsumexp(logits.double(), dim=1, keepdim=True)
    assert results["loss"] == pytest.approx(float(-log_softmax[range(400), targets].mean()), rel=1e-12)


def test_equal_logits_are_not_called_right() -> None:
    metric = TopK((1, 2))
    metric.update(torch.zeros(4, 4), torch.arange(4))
    results = dict(metric.results())
    assert (results["top1"], results["top2"]) == (25.0, 50.0)
    assert results["loss"] == pytest.approx(np.log(4))


def test_k_beyond_the_classes() -> None:
    metric = TopK((1, 5))
    metric.update(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0]))
    assert [value for name, value in metric.results() if name != "loss"] == [0.0, 100.0]


def test_loss_is_accumulated_in_float64() -> None:
    metric = TopK((1,))
    for _ in range(3000):
        metric.update(torch.tensor([[0.1, 0.0]], dtype=torch.float32), torch.tensor([1]))
    exact = np.log1p(np.exp(np.float64(np.float32(0.1))))
    assert dict(metric.results())["loss"] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    logits, targets = batch(50, 7)
    ours, reference = TopK(), TopK()
    ours.update(logits.to(dtype), targets.to(torch.int32))
    reference.update(logits.to(dtype).double(), targets)
    assert ours.state() == reference.state()


def test_gradients_are_not_kept() -> None:
    logits, targets = batch(5, 3)
    metric = TopK()
    metric.update(logits.requires_grad_(), targets)
    assert isinstance(metric.state()["loss_sum"], float)


def test_parts_of_several_processes_make_the_whole() -> None:
    logits, targets = batch(90, 6)
    for make in (lambda: TopK((1, 5)), lambda: ConfusionMatrix(6)):
        whole: Any = make()
        whole.update(logits, targets)
        merged: Any = make()
        for rank in range(3):
            part: Any = make()
            if rank < 2:  # the third process had no samples
                part.update(logits[rank::2], targets[rank::2])
            merged.merge(json.loads(json.dumps(part.state())))
        assert dict(merged.results()) == pytest.approx(dict(whole.results()), rel=1e-12)


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        TopK((1,)).merge(TopK((1, 5)).state())
    with pytest.raises(ValueError, match="cannot merge"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4).state())


def test_confusion_matrix_by_hand() -> None:
    metric = ConfusionMatrix(3)
    metric.update(torch.eye(3)[[0, 1, 1, 0]], torch.tensor([0, 0, 1, 1]))
    metric.update(torch.eye(3)[[0]], torch.tensor([0]))
    assert metric.matrix.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert dict(metric.results()) == pytest.approx({"accuracy": 60.0, "mean_class_accuracy": 100 * (2 / 3 + 1 / 2) / 2})
    metric.matrix.zero_()
    assert metric.matrix.sum() == 5  # a copy was handed out


def test_confusion_matrix_agrees_with_top1() -> None:
    logits, targets = batch(300, 9)
    matrix, top = ConfusionMatrix(9), TopK((1,))
    matrix.update(logits, targets)
    top.update(logits, targets)
    assert dict(matrix.results())["accuracy"] == dict(top.results())["top1"]


@pytest.mark.parametrize("metric", [TopK(), ConfusionMatrix(4)], ids=["topk", "confusion"])
def test_bad_input(metric: Any) -> None:
    logits, targets = batch(6, 4)
    with pytest.raises(ValueError, match="no samples"):
        list(metric.results())
    for value in (float("nan"), float("inf"), float("-inf")):
        broken = logits.clone()
        broken[2, 1] = broken[5, 0] = value
        with pytest.raises(ValueError, match="2 of 6 samples are not finite, first at 2"):
            metric.update(broken, targets)
    for outside in (-1, 4):
        with pytest.raises(ValueError, match=f"target {outside} is out of range for 4 classes"):
            metric.update(logits, torch.full((6,), outside))
    for wrong in (targets[:5], targets[:, None], targets.float()):
        with pytest.raises(ValueError, match="expected"):
            metric.update(logits, wrong)
    with pytest.raises(ValueError, match="expected"):
        metric.update(logits[0], targets[:1])
    with pytest.raises(ValueError, match="no samples"):
        list(metric.results())  # a refused batch leaves no trace


def test_other_number_of_classes() -> None:
    with pytest.raises(ValueError, match="5 classes"):
        ConfusionMatrix(4).update(*batch(3, 5))


def test_bad_arguments() -> None:
    for ks in ((), (0,), (1, 1)):
        with pytest.raises(ValueError, match="ks="):
            TopK(ks)
    with pytest.raises(ValueError, match="num_classes=0"):
        ConfusionMatrix(0)
