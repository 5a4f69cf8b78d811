from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from a2mamba.engine import OptimizerConfig, build_optimizer, parameter_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.log_a = nn.Parameter(torch.zeros(4, 1))
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def names(model: nn.Module, groups: list[dict[str, Any]], weight_decay: float) -> set[str]:
    held = {id(p) for group in groups if group["weight_decay"] == weight_decay for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in held}


def test_vectors_scalars_and_named_parameters_do_not_decay() -> None:
    model = Model()
    groups = parameter_groups(model, weight_decay=0.05, no_decay={"log_a"})
    assert names(model, groups, 0.05) == {"conv.weight", "first.weight"}
    assert names(model, groups, 0.0) == {"conv.bias", "norm.weight", "norm.bias", "log_a", "gain"}
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held)) == 7


def test_a_shared_parameter_may_be_named_by_either_name() -> None:
    model = Model()
    for alias in ("first.weight", "second.weight"):
        assert names(model, parameter_groups(model, weight_decay=0.05, no_decay=[alias]), 0.05) == {
            "conv.weight",
            "log_a",
        }


def test_a_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the model does not have: absolute_pos_embed, log_b$"):
        parameter_groups(Model(), weight_decay=0.05, no_decay=["log_b", "log_a", "absolute_pos_embed"])


def test_adamw_has_torchs_defaults_and_the_groups_decay() -> None:
    optimizer = build_optimizer(Model(), OptimizerConfig(lr=2e-3), no_decay=["log_a"])
    assert type(optimizer) is torch.optim.AdamW
    assert [(g["lr"], g["weight_decay"], g["betas"], g["eps"]) for g in optimizer.param_groups] == [
        (2e-3, 0.05, (0.9, 0.999), 1e-8),
        (2e-3, 0.0, (0.9, 0.999), 1e-8),
    ]
    assert optimizer.defaults["fused"]


def test_numbers_reach_the_optimizer_or_are_refused() -> None:
    model = Model()
    adam = build_optimizer(model, OptimizerConfig(lr=1e-3, betas=(0.8, 0.9), eps=1e-6))
    assert adam.param_groups[0]["betas"] == (0.8, 0.9)
    assert adam.param_groups[1]["eps"] == 1e-6
    assert build_optimizer(model, OptimizerConfig(name="sgd", lr=1.0, momentum=0.5)).param_groups[0]["momentum"] == 0.5
    with pytest.raises(ValueError, match="'sgd' has no betas"):
        build_optimizer(model, OptimizerConfig(name="sgd", lr=1.0, betas=(0.9, 0.9)))
    with pytest.raises(ValueError, match="'adamw' has no momentum"):
        build_optimizer(model, OptimizerConfig(lr=1.0, momentum=0.9))
    with pytest.raises(ValueError, match="adamx"):
        build_optimizer(model, OptimizerConfig(name="adamx", lr=1.0))


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimizerConfig(lr=1e-3))


def test_a_scale_of_the_learning_rate_makes_groups_of_its_own() -> None:
    model = Model()
    groups = parameter_groups(model, weight_decay=0.05, lr_scale={"conv.weight": 10.0, "conv.bias": 10.0})
    assert [(group["name"], group.get("lr_scale", 1.0), len(group["params"])) for group in groups] == [
        ("decay", 1.0, 2),
        ("no_decay", 1.0, 3),
        ("decay_lr_x10", 10.0, 1),
        ("no_decay_lr_x10", 10.0, 1),
    ]
    with pytest.raises(ValueError, match="lr_scale names parameters that the model does not have: nothing"):
        parameter_groups(model, weight_decay=0.05, lr_scale={"nothing": 10.0})
