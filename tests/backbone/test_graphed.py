"""What can be said of CUDA graphs without a GPU: what is refused, and what is kept. The rest is in test_gpu.py."""

from __future__ import annotations

from typing import Any, cast
from unittest import mock

import pytest
import torch
from torch import nn

from a2mamba.backbone import cuda_graph
from a2mamba.backbone.graphed import GraphedModel, _copied


def test_images_on_a_cpu_are_refused() -> None:
    with pytest.raises(ValueError, match="for images on cuda, got them on cpu; call the model itself"):
        cuda_graph(nn.Identity().eval())(torch.zeros(1))


def test_at_least_one_graph() -> None:
    with pytest.raises(ValueError, match="most=0"):
        cuda_graph(nn.Identity().eval(), most=0)


class OnGpu:
    """A tensor that says that it is on a GPU."""

    device = torch.device("cuda", 0)
    dtype = torch.float32

    def __init__(self, *shape: int, requires_grad: bool = False) -> None:
        self.shape = torch.Size(shape)
        self.requires_grad = requires_grad

    def stride(self) -> tuple[int, ...]:
        return (1,) * len(self.shape)


def images(*shape: int, requires_grad: bool = False) -> torch.Tensor:
    return cast(torch.Tensor, OnGpu(*shape, requires_grad=requires_grad))


def test_training_and_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        cuda_graph(nn.Identity())(images(1))
    with pytest.raises(ValueError, match="no gradient"):
        cuda_graph(nn.Identity().eval())(images(1, requires_grad=True))


class Recorder:
    """Stands for the graphs of a model, of which it counts recordings and replays."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, ...]] = []
        self.replayed: list[tuple[int, ...]] = []

    def __call__(self, model: nn.Module, image: Any, half: torch.dtype | None) -> Any:
        shape = tuple(image.shape)
        self.recorded.append(shape)
        return mock.Mock(stale=False, side_effect=lambda _: self.replayed.append(shape))


def test_a_graph_for_every_shape_and_the_oldest_goes() -> None:
    recorder = Recorder()
    model = GraphedModel(nn.Identity().eval(), 2, "cuda", recorder)
    for side in (1, 2, 1, 3, 1, 2):
        model(images(side))
    assert recorder.replayed == [(1,), (2,), (1,), (3,), (1,), (2,)]
    assert recorder.recorded == [(1,), (2,), (3,), (2,)]


def test_results_are_copies() -> None:
    x = torch.zeros(2)
    found = _copied({"a": [x, (x,)]})
    x += 1
    assert found["a"][0].tolist() == found["a"][1][0].tolist() == [0, 0]
