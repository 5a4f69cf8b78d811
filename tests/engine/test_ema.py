from __future__ import annotations

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from a2mamba.engine import Ema


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.alias = self.weight
        self.register_buffer("mean", torch.tensor(10.0))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("cache", torch.tensor(7.0), persistent=False)


def move(model: Model, weight: float, mean: float, count: int) -> None:
    with torch.no_grad():
        model.weight.fill_(weight)
        model.get_buffer("mean").fill_(mean)
        model.get_buffer("count").fill_(count)
        model.get_buffer("cache").fill_(weight)


def test_by_hand() -> None:
    model = Model()
    ema = Ema(model, decay=0.75)
    move(model, weight=5.0, mean=20.0, count=4)
    ema.update(model)
    # 0.75 * old + 0.25 * new; the shared parameter once, the integer copied, what is not in the state dict left alone
    assert ema.module.get_parameter("weight").tolist() == [2.0, 2.75]
    assert ema.module.get_buffer("mean").item() == 12.5
    assert ema.module.get_buffer("count").item() == 4
    assert ema.module.get_buffer("cache").item() == 7.0
    move(model, weight=2.0, mean=12.5, count=5)
    ema.update(model)
    assert ema.module.get_parameter("weight").tolist() == [2.0, 2.5625]
    assert model.weight.tolist() == [2.0, 2.0]


def test_agrees_with_timm_where_nothing_is_shared() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    ours, theirs = Ema(model, decay=0.9), ModelEmaV3(model, decay=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        model(torch.randn(2, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        ours.update(model)
        theirs.update(model)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_the_copy_is_for_evaluation_and_independent() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    ema = Ema(model, decay=0.9)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_its_state_has_the_models_names_and_comes_back() -> None:
    model = Model()
    ema = Ema(model, decay=0.5)
    move(model, weight=3.0, mean=0.0, count=9)
    ema.update(model)
    other = Ema(Model(), decay=0.5)
    assert other.state_dict().keys() == model.state_dict().keys()
    other.load_state_dict(ema.state_dict())
    assert other.module.get_parameter("weight").tolist() == ema.module.get_parameter("weight").tolist() == [2.0, 2.5]


def test_a_decay_outside_its_range_is_refused() -> None:
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match="ema decay"):
            Ema(nn.Linear(1, 1), decay=decay)
