"""Run folders that somebody altered: refused in one line that names file and field, before anything is loaded."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from a2mamba.engine import CsvLogger, load_checkpoint_file, save_checkpoint

from .toy import StopAt, assert_same, comparable, make_trainer

DEEP = "[" * 100_000
State = dict[str, Any]


@pytest.fixture(scope="module")
def whole() -> State:
    """A state inside the second epoch."""
    trainer = make_trainer(hooks=[StopAt(9)])
    trainer.fit()
    return trainer.state_dict()


def put(value: Any, *keys: Any) -> Callable[[State], None]:
    """Puts a value in the place that the keys lead to."""

    def alter(state: State) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return alter


def drop(*keys: Any) -> Callable[[State], None]:
    def alter(state: State) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return alter


ALTERED: list[tuple[Callable[[State], None], str]] = [
    (put(None, "model"), "model is None, expected dict"),
    (put(None, "model", "0.weight"), "model.0.weight is None, expected a tensor"),
    (put(torch.ones(4, 1, 3), "model", "0.weight"), r"model.0.weight is (4, 1, 3), expected (4, 1, 3, 3)"),
    (put(torch.ones(4, 1, 3, 3).to_sparse(), "model", "0.weight"), "model.0.weight is a torch.sparse_coo tensor"),
    (put(torch.ones(4, 1, 3, 3).double(), "model", "0.weight"), "model.0.weight is torch.float64, expected"),
    (put(torch.ones(1), "model", "new\nname"), r"model.'new\nname' is not in this run"),
    (drop("ema", "0.bias"), "ema.0.bias is missing"),
    (put("", "ema"), "ema is str, expected dict"),
    (put(None, "optimizer"), "optimizer is None, expected a dict with state and param_groups"),
    (drop("optimizer", "state"), "optimizer is dict, expected a dict with state and param_groups"),
    (put([None], "optimizer", "param_groups"), "optimizer.param_groups is list, expected a list of dicts"),
    (put([], "optimizer", "param_groups"), "optimizer.param_groups has 0 entries, expected 2"),
    (put(None, "optimizer", "param_groups", 0, "lr"), "optimizer.param_groups.0.lr is missing"),
    (put("fast", "optimizer", "param_groups", 0, "lr"), "optimizer.param_groups.0.lr is str, expected float"),
    (drop("optimizer", "param_groups", 1, "betas"), "optimizer.param_groups.1.betas is missing"),
    (put([0, 9], "optimizer", "param_groups", 0, "params"), "optimizer.param_groups"),
    (put({}, "optimizer", "state", 99), "optimizer.state.99 is not in this run"),
    (put(None, "optimizer", "state", 0), "optimizer.state.0 is None, expected dict"),
    (drop("optimizer", "state", 0, "exp_avg"), "optimizer.state.0.exp_avg is missing"),
    (put(torch.ones(1), "optimizer", "state", 0, "exp_avg"), "optimizer.state.0.exp_avg is (1,), expected"),
    (put(None, "optimizer", "state", 0, "step"), "optimizer.state.0.step is None, expected a tensor"),
    (put(torch.ones(3), "optimizer", "state", 0, "step"), "optimizer.state.0.step is (3,), expected ()"),
    (put(None, "schedule"), "schedule is not that of this run, or damaged"),
    (put(torch.ones(3), "schedule", "t_initial"), "schedule is not that of this run, or damaged"),
    (put(None, "rng"), "rng is None, expected dict"),
    (put(None, "rng", "python"), "rng is not a state of the generators"),
    (put([3, [0] * 624 + [9999], None], "rng", "python"), "rng is not a state of the generators"),
    (put(["MT19937", [0] * 624, 10**6, 0, 0.0], "rng", "numpy"), "rng"),
    (put(torch.zeros(5, dtype=torch.uint8), "rng", "torch"), "rng.torch is (5,), expected"),
    (put(3, "rng", "device"), "rng.device is not a tensor"),
    (put(None, "progress"), "progress.epoch is missing"),
    (put(None, "progress", "step"), "progress.step is None, expected int"),
    (put(-1, "progress", "epoch"), "progress.epoch is -1, expected a count"),
    (put(10**400, "progress", "step"), "expected a count"),
    (put(0, "progress", "world_size"), "world_size are at least 1"),
    (put({"loss": "low"}, "progress", "sums"), "progress.sums.loss is not a finite number"),
    (put(None, "progress", "sums"), "progress.sums is None"),
    (put(DEEP, "progress", "history"), "progress.history is no JSON"),
    (put("{}", "progress", "history"), "progress.history is not a list of rows"),
    (put("[]", "progress", "history"), "progress.history has 0 rows, and 1 epochs are completed"),
    (put('[{"loss": "low"}]', "progress", "history"), "progress.history has a value that is no number"),
    (drop("faults", "skipped"), "faults.skipped is missing"),
    (put("many", "faults", "recoveries"), "faults.recoveries is str, expected int"),
    (put({"metric": "top1", "value": None, "epoch": 1}, "best"), "best.value is None, expected float"),
    (put(7, "run"), "run is int, expected text"),
    (put(DEEP, "run"), "run is damaged"),
]


@pytest.mark.parametrize(("alter", "expected"), ALTERED, ids=[expected[:40] for _, expected in ALTERED])
def test_an_altered_state_is_refused_by_field(
    tmp_path: Path, whole: State, alter: Callable[[State], None], expected: str
) -> None:
    state = copy.deepcopy(whole)
    alter(state)
    path = tmp_path / "altered.pt"
    save_checkpoint(path, state)
    trainer = make_trainer()
    before = copy.deepcopy(trainer.state_dict())
    with pytest.raises(ValueError, match=re.escape(expected)) as error:
        trainer.load_state_dict(load_checkpoint_file(path), source=str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    del before["rng"]
    after = trainer.state_dict()
    assert_same({key: after[key] for key in before}, before)


def test_what_is_not_altered_loads_and_moments_have_memory_of_their_own(whole: State) -> None:
    """Two moments in one memory, and one whose numbers all lie in the same place, are what a file can hold, too."""
    state = copy.deepcopy(whole)
    moments = state["optimizer"]["state"][0]
    moments["exp_avg"] = moments["exp_avg_sq"] = torch.full((1,), 0.5).expand(moments["exp_avg"].shape)
    trainer = make_trainer()
    trainer.load_state_dict(state)
    loaded = trainer.optimizer.state_dict()["state"][0]
    assert loaded["exp_avg"].data_ptr() != loaded["exp_avg_sq"].data_ptr()
    assert loaded["exp_avg"].is_contiguous()
    trainer.fit()


def test_moments_follow_the_memory_format_of_their_parameter(whole: State) -> None:
    """Fused kernels pair numbers by their place in memory."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    first = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.randn(2, 3, 6, 6)).square().sum().backward()
    first.step()
    saved = copy.deepcopy(first.state_dict())
    from a2mamba.engine.state import load_optimizer

    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    second = torch.optim.AdamW(other.parameters(), lr=0.1, fused=True)
    load_optimizer(second, saved)
    for parameters, optimizer in ((model.parameters(), first), (other.parameters(), second)):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for x, y in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(y, x)


def test_switches_of_other_versions_and_an_unused_parameter_do_not_matter(whole: State) -> None:
    state = copy.deepcopy(whole)
    for group in state["optimizer"]["param_groups"]:
        del group["foreach"]
        group["of_another_version"] = False
    del state["optimizer"]["state"][0]  # had no gradient so far
    del state["progress"]["epoch_open"]  # a file of an earlier version
    trainer = make_trainer()
    trainer.load_state_dict(state)
    trainer.fit()
    unaltered = make_trainer()
    unaltered.load_state_dict(whole)
    unaltered.fit()
    with pytest.raises(AssertionError):
        assert_same(comparable(trainer)["model"], comparable(unaltered)["model"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"epoch\n1\n", "row 2 has no epoch or no step"),
        (b"epoch,loss\n1,low\n", "row 2 has a cell that is no number"),
        (b"epoch,loss\n1,2,3\n", "row 2 has a cell that is no number, or too many or few"),
        (b"epoch,loss\n1\n", "row 2 has a cell that is no number, or too many or few"),
        (b"epoch\n\xff\n", "can't decode"),
        (b'epoch\n"' + b"1" * 200_000 + b'"\n', "field larger than field limit"),
    ],
)
def test_a_damaged_metrics_file_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=expected) as error:
        make_trainer(epochs=2, hooks=[CsvLogger(path)]).fit()
    assert str(error.value).startswith(f"{path} is damaged (")
    assert "\n" not in str(error.value)
