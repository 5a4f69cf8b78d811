"""Steps that are not finite: left out, explained, survived; and what is kept of them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    FaultPolicy,
    Hook,
    Precision,
    Progress,
    Trainer,
    TrainingError,
    load_checkpoint_file,
    save_checkpoint,
)
from a2mamba.engine.fault_report import first_nonfinite_module
from a2mamba.engine.faults import StepStart

from .toy import BATCH, SAMPLES, StopAt, ToyTask, assert_same, comparable, make_trainer

STEPS = 7


def inject(trainer: Trainer, *steps: int, once: bool = True, layer: int = 0) -> None:
    """Makes a layer's output NaN at some steps; with `once`, until the run has gone back."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        now = trainer.step in steps and not (once and trainer.fault_counts.recoveries)
        return output * math.nan if now else None

    trainer.task.model.get_submodule(str(layer)).register_forward_hook(hook)


class Remember(Hook):
    """The model's state and the average's after each step."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.rates: list[float] = []

    def after_step(self, trainer: Trainer) -> None:
        assert trainer.ema is not None
        self.states.append(copy.deepcopy((trainer.task.model.state_dict(), trainer.ema.state_dict())))
        self.rates.append(trainer.last_step["lr"])


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_one_step_that_is_not_finite_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    seen = Remember()
    trainer = make_trainer(epochs=2, bad_steps=[9], hooks=[seen])
    trainer.fit()
    assert trainer.step == 2 * STEPS, "its samples are used up"
    assert_same(seen.states[9], seen.states[8])
    with pytest.raises(AssertionError):
        assert_same(seen.states[10], seen.states[9])
    assert trainer.fault_counts.state_dict() == {"skipped": 1, "in_a_row": 0, "recoveries": 0}
    row = trainer.history[1]
    assert row["skipped_steps"] == 1
    assert math.isfinite(row["loss"]), "the step is not in the epoch's mean"
    assert "skipped_steps" not in trainer.history[0]
    (message,) = warnings_of(caplog)
    assert "\n" not in message
    assert message.startswith(
        "the loss is not finite at step 9 (epoch 2), first in the loss itself; the optimizer step"
    )
    assert "cross_entropy inf, mesa 0." in message
    loader: Any = trainer.loader
    loader.sampler.set_epoch(1)
    order = list(loader.sampler)
    names = [f"image-{index}.png" for index in order[2 * BATCH : 3 * BATCH]]
    assert message.endswith(f"samples: {', '.join(names)}")


def test_the_mean_of_an_epoch_is_over_the_steps_that_were_taken() -> None:
    losses: list[tuple[float, float]] = []

    class Collect(Hook):
        def after_step(self, trainer: Trainer) -> None:
            losses.append((trainer.last_step["loss"], trainer.last_step["images"]))

    trainer = make_trainer(epochs=2, bad_steps=[2], hooks=[Collect()])
    trainer.fit()
    taken = [pair for step, pair in enumerate(losses[:STEPS]) if step != 2]
    mean = sum(loss * images for loss, images in taken) / sum(images for _, images in taken)
    assert trainer.history[0]["loss"] == pytest.approx(mean, rel=1e-6)


def test_the_first_module_is_found_and_the_batch_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen = Remember()
    trainer = make_trainer(epochs=2, hooks=[seen], faults=FaultPolicy(folder=tmp_path / "faults"))
    inject(trainer, 9, layer=2)
    trainer.fit()
    assert_same(seen.states[9], seen.states[8])
    assert all(value.isfinite().all() for value in trainer.task.model.state_dict().values())
    (message,) = warnings_of(caplog)
    assert "first in the output of 2 (ReLU)" in message
    file = tmp_path / "faults" / "step-00000009-process-0.pt"
    assert message.endswith(f"; saved to {file}")
    dump = torch.load(file, weights_only=True)
    assert (dump["step"], dump["epoch"], dump["seed"], dump["place"]) == (9, 1, 5, "2 (ReLU)")
    assert math.isnan(dump["losses"][0]["cross_entropy"])
    (batch,) = dump["batches"]
    assert batch["images"].shape == (BATCH, 1, 6, 6)
    assert batch["names"] == dump["samples"]
    assert batch["labels"].tolist() == [int(name.split("-")[1].split(".")[0]) % 2 for name in batch["names"]]


def test_batch_statistics_do_not_keep_what_is_not_finite() -> None:
    """The NaN comes before the batch norm, which follows it in the forward already."""
    trainer = make_trainer(epochs=2)
    inject(trainer, 3, layer=0)
    trainer.fit()
    assert all(value.isfinite().all() for value in trainer.task.model.state_dict().values())
    assert trainer.task.model.get_buffer("1.num_batches_tracked") == 2 * STEPS - 1


def test_a_gradient_that_is_not_finite_is_a_fault_too(caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(epochs=2, with_ema=False, accumulate=3)

    def overflow(gradient: Tensor) -> Tensor:
        return gradient * (math.inf if trainer.step == 1 else 1)

    # Of the output of the ReLU: batch norm and convolution before it get it too, batch norm first.
    trainer.task.model.get_submodule("2").register_forward_hook(
        lambda module, inputs, output: output.register_hook(overflow) and None if output.requires_grad else None
    )
    trainer.fit()
    assert trainer.fault_counts.skipped == 1
    (message,) = warnings_of(caplog)
    assert message.startswith("the gradient (norm ")
    assert "is not finite at step 1 (epoch 1), first in the gradient of 1.bias" in message
    assert "and 4 more" in message, "all samples of the step: 12, of which 8 are named"


def test_of_an_accumulated_step_only_the_bad_batch_is_named(caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(epochs=2, accumulate=3, with_ema=False)
    assert isinstance(trainer.task, ToyTask)
    original = trainer.task.losses

    def losses(batch: Any, progress: Progress) -> Any:
        values = original(batch, progress)
        if "image-3.png" in batch.names:
            values["cross_entropy"] = values["cross_entropy"] * math.nan
        return values

    with mock.patch.object(trainer.task, "losses", losses):
        trainer.fit()
    first, second = warnings_of(caplog)
    for message in (first, second):
        assert "image-3.png" in message
        assert message.count("image-") <= BATCH


def test_after_several_in_a_row_the_last_checkpoint_is_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path)
    seen = Remember()
    saved: list[int] = []
    save = manager.save

    def remember(state: dict[str, Any], *, is_best: bool = False) -> Path:
        saved.append(state["progress"]["step"])
        return save(state, is_best=is_best)

    trainer = make_trainer(epochs=3, hooks=[seen, CheckpointHook(manager, every_steps=2)])
    inject(trainer, 11, 12, 13)
    with mock.patch.object(manager, "save", remember):
        trainer.fit()
    assert saved == [2, 4, 6, 7, 8, 10, 12, 14, 14, 16, 18, 20, 21]
    assert trainer.step == 3 * STEPS
    assert [row["epoch"] for row in trainer.history] == [1, 2, 3]
    assert trainer.fault_counts.state_dict() == {"skipped": 3, "in_a_row": 0, "recoveries": 1}
    # Saved at 8 and 10, not at 12, among the bad ones; 11 and 12 are left out, the third goes back to 10.
    plain = make_trainer(epochs=3, hooks=[rates := Remember()])
    plain.fit()
    assert seen.rates[:13] == rates.rates[:13]
    assert seen.rates[13:] == [0.5 * rate for rate in rates.rates[10:]]
    assert warnings_of(caplog)[-1].endswith(
        "that is 3 in a row: going back to step 10 with 0.5 times the learning rate"
    )
    assert load_checkpoint_file(tmp_path / "last.pt")["faults"]["recoveries"] == 1


def test_without_a_checkpoint_the_run_goes_back_to_where_it_began() -> None:
    trainer = make_trainer(epochs=2)
    begin = copy.deepcopy(trainer.task.model.state_dict())
    seen: list[Any] = []

    class First(Hook):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.fault_counts.recoveries and not seen:
                seen.append(trainer.step)

    trainer.hooks = (First(),)
    inject(trainer, 0, 1, 2)
    trainer.fit()
    assert seen == [1]
    with pytest.raises(AssertionError):
        assert_same(trainer.task.model.state_dict(), begin)
    assert trainer.fault_counts.recoveries == 1


def test_a_run_that_does_not_recover_ends_and_says_what_it_tried(tmp_path: Path) -> None:
    faults = FaultPolicy(patience=2, recoveries=2, factor=0.1, folder=tmp_path / "faults", dumps=3)
    manager = CheckpointManager(tmp_path / "checkpoints")
    trainer = make_trainer(epochs=2, hooks=[CheckpointHook(manager)], faults=faults)
    inject(trainer, 8, 9, once=False)
    with pytest.raises(TrainingError) as error:
        trainer.fit()
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(
        "2 steps in a row were not finite, after 2 restarts from the last good state; the loss is"
    )
    assert error.value.samples
    assert all(name in message for name in error.value.samples)
    assert len(list((tmp_path / "faults").iterdir())) == 2, "the same two steps again and again"
    assert [path.name for path in manager.directory.glob("checkpoint*")] == ["checkpoint-0001.pt"]
    assert trainer.optimizer.param_groups[0]["lr"] < 1e-2 * 0.1**2 * 1.01


def test_the_number_of_saved_batches_is_limited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = FaultPolicy(patience=9, folder=tmp_path / "faults", dumps=2)
    trainer = make_trainer(epochs=2, bad_steps=[3, 4, 5, 6], faults=faults)
    trainer.fit()
    assert sorted(path.name for path in (tmp_path / "faults").iterdir()) == [
        f"step-0000000{step}-process-0.pt" for step in (3, 4)
    ]
    assert sum("saved to" in message for message in warnings_of(caplog)) == 2


def test_evidence_that_cannot_be_saved_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "faults").write_text("a file where the folder should be")
    trainer = make_trainer(epochs=2, bad_steps=[3], faults=FaultPolicy(folder=tmp_path / "faults"))
    trainer.fit()
    assert "; not saved: " in warnings_of(caplog)[0]
    assert trainer.epoch == 2


@pytest.mark.parametrize("stop", [10, 11, 13])
def test_a_run_stopped_among_bad_steps_resumes_exactly(tmp_path: Path, stop: int) -> None:
    """Bad at 9, 10 and 11; back to the end of the first epoch; whether it is stopped in between or not.

    (A stop before them would add a checkpoint to go back to.)
    """

    def make(folder: str, *hooks: Hook) -> Trainer:
        manager = CheckpointManager(tmp_path / folder, keep_last=3)
        trainer = make_trainer(epochs=3, hooks=[CheckpointHook(manager), *hooks])
        inject(trainer, 9, 10, 11)
        latest = manager.latest()
        if latest is not None:
            trainer.load_state_dict(latest[1])
        return trainer

    whole = make("whole")
    whole.fit()
    assert whole.fault_counts.recoveries == 1
    make("part", StopAt(stop)).fit()
    rest = make("part")
    rest.fit()
    assert_same(comparable(rest), comparable(whole))


def test_counts_are_in_the_checkpoint(tmp_path: Path) -> None:
    half = make_trainer(bad_steps=[5, 8], hooks=[StopAt(9)])
    half.fit()
    save_checkpoint(tmp_path / "half.pt", half.state_dict())
    rest = make_trainer()
    rest.load_state_dict(load_checkpoint_file(tmp_path / "half.pt"))
    assert rest.fault_counts.state_dict() == {"skipped": 2, "in_a_row": 1, "recoveries": 0}


def test_an_overflow_in_float16_is_the_scalers_business(caplog: pytest.LogCaptureFixture) -> None:
    """Its gradient is not finite and its loss is: the step is left out and the scale halved, as torch does it."""
    trainer = make_trainer(epochs=2, with_ema=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer._scaler = scaler
    weight = trainer.task.model.get_parameter("0.weight")
    weight.register_hook(lambda g: g * (math.inf if trainer.step == 2 else 1))
    trainer.fit()
    assert scaler.get_scale() == 32.0
    assert trainer.fault_counts.skipped == 0
    assert warnings_of(caplog) == []


def test_a_scaler_that_has_nothing_left_to_lower_is_a_fault() -> None:
    trainer = make_trainer(epochs=2, with_ema=False, faults=FaultPolicy(recoveries=0))
    trainer._scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer.task.model.get_parameter("0.weight").register_hook(lambda g: g * math.nan)
    with pytest.raises(TrainingError, match=r"the gradient \(norm nan\) is not finite at step 4"):
        trainer.fit()


class Divides(nn.Module):
    """Code between modules that makes what is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x) / 0)


@pytest.mark.parametrize(
    ("model", "value", "place"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), 1.0, None),
        (nn.Sequential(nn.Linear(3, 3), Divides()), 1.0, "1, before its outer"),
        (Divides(), 1.0, "the model, before its outer"),
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), math.inf, "the model's input"),
        (nn.Sequential(nn.Identity(), nn.Threshold(2.0, math.nan)), 1.0, "1 (Threshold)"),
    ],
)
def test_the_place_in_words(model: nn.Module, value: float, place: str | None) -> None:
    assert first_nonfinite_module(model, lambda: model(torch.full((2, 3), value))) == place
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
    assert not any(hooks), "the model is left as it was"


def test_a_step_can_be_undone() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    x = torch.randn(4, 3)
    start = StepStart(model, torch.device("cpu"))
    before = copy.deepcopy(model.state_dict())
    start.remember()
    first = model(x)
    model(torch.full((4, 3), math.nan))
    start.restore()
    assert_same(model.state_dict(), before)
    assert torch.equal(model(x), first), "the same mask is drawn again"


@pytest.mark.parametrize(
    "make",
    [
        lambda: FaultPolicy(patience=0),
        lambda: FaultPolicy(recoveries=-1),
        lambda: FaultPolicy(factor=0.0),
        lambda: FaultPolicy(factor=1.5),
    ],
)
def test_impossible_policies_are_refused(make: Callable[[], FaultPolicy]) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        make()


def test_samples_of_the_toy_fit_the_numbers_here() -> None:
    assert math.ceil(SAMPLES / BATCH) == STEPS
    assert Precision("float32", "cpu").name == "float32"
