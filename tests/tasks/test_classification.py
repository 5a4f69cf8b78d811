from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from a2mamba.engine import Progress, TrainingTask
from a2mamba.tasks.classification import ClassificationLosses, class_scores


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
        self.autocast = False

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        self.autocast = torch.is_autocast_enabled("cpu")
        return self.logits.expand(len(images), -1)


BATCH = Batch(torch.arange(24.0).view(2, 3, 2, 2), torch.tensor([2, 1]), ["a.png", "b.png"])


def at(epoch: int) -> Progress:
    return Progress(epoch=epoch, step=epoch * 10, steps_per_epoch=10, epochs=310)


def test_it_is_what_the_engine_calls_a_task() -> None:
    task: TrainingTask = ClassificationLosses(Constant([0.0, 1.0, 2.0]))
    assert task.batch_size(BATCH) == 2
    assert task.describe(BATCH) == ["a.png", "b.png"]


def test_loss_by_hand() -> None:
    model = Constant([0.0, 1.0, 2.0])
    losses = ClassificationLosses(model).losses(BATCH, at(0))
    probabilities = torch.tensor([0.0, 1.0, 2.0]).exp() / torch.tensor([0.0, 1.0, 2.0]).exp().sum()
    assert losses.keys() == {"cross_entropy"}
    assert losses["cross_entropy"].item() == pytest.approx(
        -(probabilities[2].log() + probabilities[1].log()).item() / 2
    )
    assert model.seen is BATCH.images


def test_soft_targets_by_hand() -> None:
    """The mean over the batch of -sum(target log softmax), for targets that prepare returns beside the images."""
    soft = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
    model = Constant([0.0, 1.0, 2.0])
    prepared = torch.ones(2, 3, 2, 2)
    given: list[Tensor] = []

    def prepare(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        given.extend((images, targets))
        return prepared, soft

    loss = ClassificationLosses(model, prepare=prepare).losses(BATCH, at(0))["cross_entropy"]
    # log softmax of (0, 1, 2): minus (2.407606, 1.407606, 0.407606)
    first = 0.1 * 2.407606 + 0.2 * 1.407606 + 0.7 * 0.407606
    second = 0.5 * 2.407606 + 0.25 * 1.407606 + 0.25 * 0.407606
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert given[0] is BATCH.images
    assert given[1] is BATCH.targets
    assert model.seen is prepared


def test_the_loss_reaches_the_weights() -> None:
    model = Constant([0.0, 1.0, 2.0])
    ClassificationLosses(model).losses(BATCH, at(0))["cross_entropy"].backward()
    assert model.logits.grad is not None
    assert (model.logits.grad != 0).all()


def test_mesa_by_hand() -> None:
    """ratio x CE(logits, softmax of the averaged model's logits): a cross-entropy, not a divergence, no temperature."""
    model, average = Constant([0.0, 1.0, 2.0]), Constant([1.0, 1.0, 3.0])
    task = ClassificationLosses(model, mesa_ratio=1.5, mesa_start=75)
    task.learn_from(average)
    losses = task.losses(BATCH, at(75))
    assert losses.keys() == {"cross_entropy", "mesa"}
    # softmax of (1, 1, 3): e^-2 = 0.135335, 1 / (2 x 0.135335 + 1) = 0.786986, 0.106507
    q = (0.106507, 0.106507, 0.786986)
    expected = 1.5 * (q[0] * 2.407606 + q[1] * 1.407606 + q[2] * 0.407606)
    assert losses["mesa"].item() == pytest.approx(expected, rel=1e-5)
    plain = ClassificationLosses(model).losses(BATCH, at(75))["cross_entropy"]
    assert losses["cross_entropy"].item() == plain.item()


def test_mesa_teaches_one_way() -> None:
    """Its gradient is ratio (softmax(logits) - q), and the averaged model has none."""
    model, average = Constant([0.0, 1.0, 2.0]), Constant([1.0, 1.0, 3.0])
    task = ClassificationLosses(model, mesa_ratio=2.0, mesa_start=0)
    task.learn_from(average)
    task.losses(BATCH, at(0))["mesa"].backward()
    assert average.logits.grad is None
    assert model.logits.grad is not None
    expected = 2.0 * (model.logits.detach().softmax(-1) - average.logits.detach().softmax(-1))
    assert torch.allclose(model.logits.grad, expected, atol=1e-6)


@pytest.mark.parametrize(("epoch", "there"), [(0, False), (74, False), (75, True), (309, True)])
def test_mesa_begins_after_75_epochs(epoch: int, there: bool) -> None:
    average = Constant([1.0, 1.0, 3.0])
    task = ClassificationLosses(Constant([0.0, 1.0, 2.0]), mesa_ratio=1.0, mesa_start=75)
    task.learn_from(average)
    assert ("mesa" in task.losses(BATCH, at(epoch))) is there
    assert (average.seen is not None) is there, "before it begins the averaged model costs nothing"


def test_without_a_ratio_there_is_no_mesa() -> None:
    average = Constant([1.0, 1.0, 3.0])
    task = ClassificationLosses(Constant([0.0, 1.0, 2.0]), mesa_ratio=0.0, mesa_start=0)
    task.learn_from(average)
    assert task.losses(BATCH, at(5)).keys() == {"cross_entropy"}
    assert average.seen is None


def test_both_models_see_the_same_prepared_batch_under_the_same_autocast() -> None:
    model, average = Constant([0.0, 1.0, 2.0]), Constant([1.0, 1.0, 3.0])

    def prepare(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return images + torch.rand(1), targets

    task = ClassificationLosses(model, prepare=prepare, mesa_ratio=1.0)
    task.learn_from(average)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = task.losses(BATCH, at(0))
    assert model.seen is average.seen
    assert model.autocast
    assert average.autocast
    assert losses["mesa"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_probabilities(dtype: torch.dtype) -> None:
    scores = class_scores(Constant([0.0, 100.0, -3.0, 99.0], dtype), BATCH.images)
    assert scores.shape == (2, 4)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores.sum(-1), torch.ones(2))
    assert scores[0].tolist() == pytest.approx([0, 1 / (1 + torch.tensor(-1.0).exp().item()), 0, 0.2689414], abs=1e-6)
