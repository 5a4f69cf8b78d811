from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.engine import Task
from a2mamba.tasks import ClassificationTask, class_scores


class Batch(NamedTuple):
    images: Tensor
    targets: Tensor
    paths: list[str]


class Constant(nn.Module):
    """The same logits for every image, in a dtype of choice; remembers what it was given."""

    def __init__(self, logits: list[float], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=dtype))
        self.seen: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return self.logits.expand(len(images), -1)


BATCH = Batch(torch.arange(24.0).view(2, 3, 2, 2), torch.tensor([2, 1]), ["a.png", "b.png"])


def test_it_is_what_the_engine_calls_a_task() -> None:
    task: Task = ClassificationTask(Constant([0.0, 1.0, 2.0]))
    assert task.batch_size(BATCH) == 2
    assert task.describe(BATCH) == ["a.png", "b.png"]


def test_loss_by_hand() -> None:
    model = Constant([0.0, 1.0, 2.0])
    losses = ClassificationTask(model).losses(BATCH, progress=None)
    probabilities = torch.tensor([0.0, 1.0, 2.0]).exp() / torch.tensor([0.0, 1.0, 2.0]).exp().sum()
    assert losses.keys() == {"cross_entropy"}
    assert losses["cross_entropy"].item() == pytest.approx(
        -(probabilities[2].log() + probabilities[1].log()).item() / 2
    )
    assert model.seen is BATCH.images


def test_label_smoothing_by_hand() -> None:
    logits, smoothing = torch.tensor([0.0, 1.0, 2.0]), 0.3
    losses = ClassificationTask(Constant(logits.tolist()), label_smoothing=smoothing).losses(BATCH, progress=None)
    targets = F.one_hot(BATCH.targets, 3) * (1 - smoothing) + smoothing / 3
    expected = -(targets * logits.log_softmax(-1)).sum(-1).mean()
    assert losses["cross_entropy"].item() == pytest.approx(expected.item())
    assert losses["cross_entropy"] > 0


def test_the_loss_reaches_the_weights() -> None:
    model = Constant([0.0, 1.0, 2.0])
    ClassificationTask(model).losses(BATCH, progress=None)["cross_entropy"].backward()
    assert model.logits.grad is not None
    assert (model.logits.grad != 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_probabilities(dtype: torch.dtype) -> None:
    scores = class_scores(Constant([0.0, 100.0, -3.0, 99.0], dtype), BATCH.images)
    assert scores.shape == (2, 4)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores.sum(-1), torch.ones(2))
    assert scores[0].tolist() == pytest.approx([0, 1 / (1 + torch.tensor(-1.0).exp().item()), 0, 0.2689414], abs=1e-6)
