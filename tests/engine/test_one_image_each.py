"""Several processes with one image each: Cityscapes on eight GPUs, ADE20K on sixteen."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import a2mamba
from a2mamba.engine import process_group, rank
from a2mamba.engine.distributed import gather_objects
from a2mamba.segmentation.conv import PooledConv

from .parallel import run_together
from .toy import Batch, make_trainer


class _Pixels:
    """Cross-entropy of every pixel."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def losses(self, batch: Batch, progress: Any) -> dict[str, Tensor]:
        return {"pixels": nn.functional.cross_entropy(self.model(batch.images), batch.labels)}

    def batch_size(self, batch: Batch) -> int:
        return len(batch.labels)

    def describe(self, batch: Batch) -> list[str]:
        return batch.names


def _train_segmenter() -> tuple[int, float, bool]:
    with process_group("cpu"):
        torch.manual_seed(0)
        model: Any = a2mamba.create_segmenter("segman_v2_nano", num_classes=3)
        generator = torch.Generator().manual_seed(rank())
        images = torch.randn(2, 3, 64, 64, generator=generator)
        labels = torch.randint(3, (2, 64, 64), generator=generator)
        size = labels.shape[1:]
        loader = [Batch(images[i : i + 1], labels[i : i + 1], [str(i)]) for i in range(2)]
        trainer = make_trainer(model=_Resized(model, (size[0], size[1])), loader=loader, epochs=2, with_ema=False)
        trainer.task.losses = _Pixels(trainer.task.model).losses  # type: ignore[method-assign]  # in its own process
        trainer.epochs = 1
        trainer.fit()
        states = gather_objects([float(value.double().sum()) for value in trainer.state_dict()["model"].values()])
        return trainer.step, trainer.last_step["loss"], states[0] == states[1]


class _Resized(nn.Module):
    """The logits in the size of the labels."""

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.model(x), self.size)


@pytest.mark.skipif(sys.platform == "win32", reason="gloo is not tested on Windows")
def test_two_processes_with_one_image_each_train_segman_v2() -> None:
    first, second = run_together(_train_segmenter, 2)
    assert first == second
    steps, loss, same = first
    assert (steps, same) == (2, True)
    assert 0 < loss < 10


def test_one_image_alone_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="a batch of one image in training"):
        PooledConv(4, 4)(torch.zeros(1, 4, 3, 3))


def test_planning_for_one_image_each_finds_room() -> None:
    """What a device has room for is measured before norms are synchronized, on one image where each process has one."""
    from a2mamba.tasks.batches import _attempt

    torch.manual_seed(0)
    model = nn.Sequential(PooledConv(3, 2), nn.Conv2d(2, 2, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run: Any = type("Run", (), {"channels_last": False, "precision": "float32"})
    sizes: list[int] = []

    def noise(size: int) -> Batch:
        sizes.append(size)
        return Batch(torch.randn(size, 3, 4, 4), torch.zeros(size, 4, 4, dtype=torch.int64), ["a"] * size)

    for size in (1, 2):
        _attempt(run, _Pixels(model), noise, torch.device("cpu"), size)
    assert sizes == [1, 2]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
