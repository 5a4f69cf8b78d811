from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    EvaluationHook,
    Hook,
    Progress,
    Trainer,
    TrainingError,
    load_checkpoint_file,
    save_checkpoint,
)

from .toy import BATCH, SAMPLES, Batch, Images, Net, StopAt, ToyTask, assert_same, collate, comparable, make_trainer

STEPS = 7  # in an epoch of 26 samples in batches of 4


def resumed(path: Path, **options: Any) -> Trainer:
    trainer = make_trainer(**options)
    trainer.load_state_dict(load_checkpoint_file(path))
    return trainer


@pytest.mark.parametrize("sampler", [True, False], ids=["resumable", "plain"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("stop", [2, 3, 6, 7, 10, 14])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, stop: int, accumulate: int, sampler: bool
) -> None:
    options: dict[str, Any] = {"accumulate": accumulate, "sampler": sampler}
    whole = make_trainer(**options)
    whole.fit()

    half = make_trainer(**options, hooks=[StopAt(stop)])
    half.fit()
    save_checkpoint(tmp_path / "half.pt", half.state_dict())
    # Another process would start with other generator states.
    torch.manual_seed(999)
    random.seed(999)
    np.random.seed(999)
    rest = resumed(tmp_path / "half.pt", **options)
    assert rest.step in (stop, whole.step)
    rest.fit()
    assert rest.step == whole.step
    assert_same(comparable(rest), comparable(whole))


def test_the_comparison_would_notice_another_seed() -> None:
    first, second = make_trainer(epochs=2), make_trainer(epochs=2, seed=6)
    first.fit()
    second.fit()
    with pytest.raises(AssertionError, match="model"):
        assert_same(comparable(first)["model"], comparable(second)["model"], "model")


def test_resuming_at_the_end_of_an_epoch_and_what_happens_between_steps(tmp_path: Path) -> None:
    """Hooks that draw random numbers, and evaluation, leave training as it is."""

    class Noisy(Hook):
        def after_step(self, trainer: Trainer) -> None:
            torch.rand(3)
            random.random()

    def evaluate(model: nn.Module) -> list[tuple[str, float]]:
        torch.rand(5)
        return [("top1", float(model(torch.ones(1, 1, 6, 6))[0, 0]))]

    whole = make_trainer()
    whole.fit()
    manager = CheckpointManager(tmp_path)
    part = make_trainer(hooks=[Noisy(), EvaluationHook(evaluate), CheckpointHook(manager), StopAt(2 * STEPS + 1)])
    part.fit()
    assert {"top1", "ema_top1"} <= part.history[0].keys()
    rest = resumed(tmp_path / "checkpoint-0002.pt")
    rest.fit()
    assert_same(comparable(rest)["model"], comparable(whole)["model"])
    assert [row["epoch"] for row in rest.history] == [1, 2, 3]


def test_only_the_rest_of_the_epoch_is_drawn_from_a_resumable_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = make_trainer(hooks=[StopAt(STEPS + 2)])
    half.fit()
    save_checkpoint(tmp_path / "half.pt", half.state_dict())
    rest = resumed(tmp_path / "half.pt", epochs=3, hooks=[StopAt(STEPS + 3)])
    drawn: list[int] = []
    loader: Any = rest.loader
    dataset = loader.dataset
    original = type(dataset).__getitem__

    def recording(self: Any, index: int) -> Any:
        drawn.append(index)
        return original(self, index)

    monkeypatch.setattr(type(dataset), "__getitem__", recording)
    rest.fit()
    assert len(drawn) == BATCH


def test_what_a_loader_draws_when_an_epoch_begins_is_drawn_again_on_resuming() -> None:
    """A loader with worker processes draws their seed from the global generator, at once, when it is iterated."""

    class Eager:
        def __iter__(self) -> Iterator[Batch]:
            order = torch.randperm(SAMPLES).tolist()
            return iter([collate([images[index] for index in order[i : i + BATCH]]) for i in range(0, SAMPLES, BATCH)])

        def __len__(self) -> int:
            return STEPS

    images = Images(augment=False)
    whole = make_trainer(loader=Eager(), epochs=2)
    whole.fit()
    half = make_trainer(loader=Eager(), epochs=2, hooks=[StopAt(STEPS + 3)])
    half.fit()
    torch.manual_seed(999)
    rest = make_trainer(loader=Eager(), epochs=2)
    rest.load_state_dict(half.state_dict() | {"rng": make_trainer().state_dict()["rng"]})
    rest.fit()
    assert_same(comparable(rest)["model"], comparable(whole)["model"])


def test_the_rows_and_the_progress_that_tasks_see() -> None:
    trainer = make_trainer(epochs=2, with_ema=False)
    trainer.fit()
    task = trainer.task
    assert isinstance(task, ToyTask)
    assert task.seen == [Progress(step // STEPS, step, STEPS, 2) for step in range(2 * STEPS)]
    assert [row["step"] for row in trainer.history] == [7, 14]
    for row in trainer.history:
        assert row.keys() == {"epoch", "step", "lr", "loss", "loss_cross_entropy", "seconds", "images_per_second"}
        assert row["loss"] == pytest.approx(row["loss_cross_entropy"])
    assert trainer.history[1]["loss"] < trainer.history[0]["loss"]


def test_accumulated_gradients_are_those_of_one_large_batch() -> None:
    """26 samples, once as one batch, once as 7 batches of which the last has 2: the same mean, the same weights."""
    large = make_trainer(plain=True, batch_size=SAMPLES, with_ema=False)
    small = make_trainer(plain=True, batch_size=BATCH, accumulate=STEPS, with_ema=False)
    large.fit()
    small.fit()
    assert large.step == small.step == 3
    for name, value in large.task.model.state_dict().items():
        torch.testing.assert_close(small.task.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert small.history[-1]["loss"] == pytest.approx(large.history[-1]["loss"], rel=1e-5)
    # A mean of the batches' means would weigh the last two samples double, and be seen.
    assert small.last_step["images"] == SAMPLES


def test_the_last_group_of_an_epoch_may_be_small() -> None:
    trainer = make_trainer(epochs=2, accumulate=3)
    assert trainer.steps_per_epoch == 3  # 3 + 3 + 1 batches
    images: list[float] = []

    class Count(Hook):
        def after_step(self, trainer: Trainer) -> None:
            images.append(trainer.last_step["images"])

    trainer.hooks = (Count(),)
    trainer.fit()
    assert images == [12, 12, 2] * 2


def test_gradients_are_clipped_to_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(epochs=2, hooks=[StopAt(1)])
    seen: list[float] = []
    original = trainer.optimizer.step

    def step(*arguments: Any) -> Any:
        gradients = [p.grad for group in trainer.optimizer.param_groups for p in group["params"]]
        seen.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        return original(*arguments)

    monkeypatch.setattr(trainer.optimizer, "step", step)
    trainer.clip_grad_norm = 0.1
    trainer.fit()
    assert trainer.last_step["grad_norm"] > 0.2, "reported before clipping"
    assert seen == [pytest.approx(0.1, rel=1e-4)]


def test_a_loader_that_ends_early_is_an_error() -> None:
    trainer = make_trainer(sampler=False)
    batches = list(trainer.loader)

    class Short:
        def __iter__(self) -> Any:
            return iter(batches[:3])

        def __len__(self) -> int:
            return STEPS

    trainer.loader = Short()
    with pytest.raises(TrainingError, match="ended after 3 of the 7 steps of epoch 1"):
        trainer.fit()


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="has no batch"):
        Trainer(
            ToyTask(Net()),
            loader=[],
            optimizer=(built := make_trainer()).optimizer,
            schedule=built.schedule,
            epochs=1,
            device="cpu",
            precision=built.precision,
            clip_grad_norm=None,
            seed=0,
        )


def test_bfloat16_trains_and_resumes(tmp_path: Path) -> None:
    whole = make_trainer(precision="bfloat16", epochs=2)
    whole.fit()
    assert math.isfinite(whole.history[-1]["loss"])
    exact = make_trainer(epochs=2)
    exact.fit()
    assert not torch.equal(whole.task.model.state_dict()["0.weight"], exact.task.model.state_dict()["0.weight"])
    half = make_trainer(precision="bfloat16", epochs=2, hooks=[StopAt(3)])
    half.fit()
    save_checkpoint(tmp_path / "half.pt", half.state_dict())
    rest = resumed(tmp_path / "half.pt", precision="bfloat16", epochs=2)
    rest.fit()
    assert_same(comparable(rest), comparable(whole))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 2}, "taken inside an epoch of 7 steps, and an epoch has 13 now"),
        ({"with_ema": False}, r"has an averaged \(EMA\) model, and this run has none"),
        ({"epochs": 4}, "another schedule: t_initial 21 -> 28"),
        ({"plain": True}, "does not fit this run: model.3.weight is missing, .* and 19 more"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    half = make_trainer(hooks=[StopAt(3)])
    half.fit()
    save_checkpoint(tmp_path / "half.pt", half.state_dict())
    trainer = make_trainer(**options)
    with pytest.raises(ValueError, match=expected):
        trainer.load_state_dict(load_checkpoint_file(tmp_path / "half.pt"))


def test_channels_last_reaches_model_and_images() -> None:
    conv = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(64, 2))
    seen: list[bool] = []

    class Watched(ToyTask):
        def losses(self, batch: Batch, progress: Progress) -> dict[str, torch.Tensor]:
            seen.append(batch.images.is_contiguous(memory_format=torch.channels_last))
            return super().losses(batch, progress)

    built = make_trainer()
    trainer = Trainer(
        Watched(model),
        loader=[Batch(torch.ones(2, 3, 6, 6), torch.tensor([0, 1]), ["a", "b"])],
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        schedule=built.schedule,
        epochs=1,
        device="cpu",
        precision=built.precision,
        clip_grad_norm=None,
        seed=0,
        channels_last=True,
    )
    trainer.fit()
    assert seen == [True]
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
