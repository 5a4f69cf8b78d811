from __future__ import annotations

import csv
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    CsvLogger,
    EarlyStoppingHook,
    EvaluationHook,
    FaultPolicy,
    Hook,
    Interrupted,
    ProgressHook,
    SignalHook,
    TensorBoardLogger,
    TimeLimitHook,
    Trainer,
    load_checkpoint_file,
)

from .toy import StopAt, assert_same, comparable, make_trainer


class Scores:
    """An evaluation with a given result per epoch; remembers what it saw."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)
        self.seen: list[tuple[nn.Module, bool, bool]] = []

    def __call__(self, model: nn.Module) -> list[tuple[str, float]]:
        self.seen.append((model, model.training, torch.is_grad_enabled()))
        return [("top1", self.scores.pop(0)), ("top5", 1.0)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_evaluation_sees_both_models_in_eval_mode() -> None:
    scores = Scores(0.1, 0.2)
    trainer = make_trainer(epochs=3, hooks=[EvaluationHook(scores, every=2, use_ema=False)])
    trainer.fit()
    assert [row.get("top1") for row in trainer.history] == [None, 0.1, 0.2], "every second epoch, and the last"
    scores = Scores(0.1, 0.2)
    trainer = make_trainer(epochs=2, hooks=[EvaluationHook(scores, every=2)])
    trainer.fit()
    assert trainer.ema is not None
    assert scores.seen == [(trainer.task.model, False, False), (trainer.ema.module, False, False)]
    assert trainer.history[1]["ema_top1"] == 0.2
    assert trainer.task.model.training
    assert not trainer.ema.module.training


def test_the_best_checkpoint_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    evaluation = EvaluationHook(Scores(0.2, 0.9, 0.5, 0.9), use_ema=False)
    trainer = make_trainer(epochs=4, hooks=[evaluation, CheckpointHook(manager, every=3)])
    trainer.fit()
    best = load_checkpoint_file(tmp_path / "best.pt")
    assert best["best"] == {"metric": "top1", "value": 0.9, "epoch": 2}
    assert best["progress"]["epoch"] == 2
    assert load_checkpoint_file(tmp_path / "last.pt")["best"] == best["best"]
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "checkpoint-0004.pt", "last.pt"]


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    hooks = [
        EvaluationHook(Scores(float("nan"), 0.5, float("nan")), use_ema=False),
        CheckpointHook(CheckpointManager(tmp_path)),
    ]
    trainer = make_trainer(epochs=3, hooks=hooks)
    trainer.fit()
    assert trainer.best == {"metric": "top1", "value": 0.5, "epoch": 2}


def test_a_best_metric_that_nobody_evaluates_is_an_error_after_saving(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, best_metric="miou")
    trainer = make_trainer(hooks=[EvaluationHook(Scores(0.1), use_ema=False), CheckpointHook(manager)])
    with pytest.raises(ValueError, match="chosen by 'miou', which is not evaluated; there are: top1, top5"):
        trainer.fit()
    assert manager.latest() is not None


def test_a_new_run_does_not_begin_among_anothers_checkpoints(tmp_path: Path) -> None:
    def hook() -> CheckpointHook:
        return CheckpointHook(CheckpointManager(tmp_path))

    first = make_trainer(epochs=2, hooks=[hook(), StopAt(8)])
    first.fit()
    with pytest.raises(ValueError, match="holds checkpoints of another run; resume it"):
        make_trainer(epochs=2, hooks=[hook()]).fit()
    again = make_trainer(epochs=2, hooks=[hook()])
    latest = CheckpointManager(tmp_path).latest()
    assert latest is not None
    assert latest[0].name == "checkpoint-0001-000001.pt", "a stop inside an epoch is saved"
    again.load_state_dict(latest[1])
    again.fit()
    whole = make_trainer(epochs=2)
    whole.fit()
    assert_same(comparable(again)["model"], comparable(whole)["model"])


def test_saving_inside_epochs(tmp_path: Path) -> None:
    trainer = make_trainer(epochs=2, hooks=[CheckpointHook(CheckpointManager(tmp_path, keep_last=9), every_steps=5)])
    trainer.fit()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        *("checkpoint-0000-000005.pt", "checkpoint-0001-000003.pt", "checkpoint-0001.pt", "checkpoint-0002.pt")
    ]


def test_csv_rows_are_never_double_and_late_columns_are_added(tmp_path: Path) -> None:
    path = tmp_path / "log" / "epochs.csv"
    manager = CheckpointManager(tmp_path / "checkpoints", keep_last=9)

    def hooks(*scores: float) -> list[Hook]:
        return [EvaluationHook(Scores(*scores), every=2, use_ema=False), CsvLogger(path), CheckpointHook(manager)]

    whole = make_trainer(epochs=4, hooks=hooks(0.2, 0.4))
    whole.fit()
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3", "4"]
    assert [row["top1"] for row in rows(path)] == ["", "0.2", "", "0.4"]
    first_row = rows(path)[0]

    again = make_trainer(epochs=4, hooks=hooks(0.6))
    again.load_state_dict(load_checkpoint_file(tmp_path / "checkpoints" / "checkpoint-0002.pt"))
    again.fit()
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3", "4"]
    assert [row["top1"] for row in rows(path)] == ["", "0.2", "", "0.6"]
    assert rows(path)[0] == first_row
    assert float(rows(path)[3]["loss"]) == pytest.approx(whole.history[3]["loss"], rel=1e-9)
    assert os.listdir(path.parent) == ["epochs.csv"]


def test_tensorboard_hides_what_is_made_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def hooks() -> list[Hook]:
        return [TensorBoardLogger(tmp_path, every_steps=1)]

    part = make_trainer(epochs=2, hooks=[*hooks(), StopAt(3)])
    part.fit()
    state = part.state_dict()
    lost = make_trainer(epochs=2, hooks=[*hooks(), StopAt(6)])  # steps 4 to 6
    lost.load_state_dict(state)
    lost.fit()
    rest = make_trainer(epochs=2, hooks=hooks())
    rest.load_state_dict(state)
    rest.fit()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 15))
    assert [event.step for event in events.Scalars("epoch/loss")] == [7, 14]
    assert events.Scalars("epoch/loss")[1].value == pytest.approx(rest.history[1]["loss"])


def test_without_tensorboard_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r'pip install "a2mamba\[tensorboard\]"'):
        make_trainer(hooks=[TensorBoardLogger(tmp_path)]).fit()


def test_progress_is_a_line_per_epoch_when_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    make_trainer(epochs=2, hooks=[EvaluationHook(Scores(0.25, 0.5), use_ema=False), ProgressHook()]).fit()
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2  loss 1.")
    assert "  top1 0.5  top5 1  lr " in lines[1]
    assert lines[1].endswith(" images/s  0 s left")
    make_trainer(epochs=2, hooks=[ProgressHook(quiet=True)]).fit()
    assert capfd.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    make_trainer(epochs=2, hooks=[ProgressHook()]).fit()
    shown = terminal.getvalue()
    assert "14/14" in shown
    assert "images/s" in shown
    assert "epoch 1/2  loss" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_raises(tmp_path: Path, number: signal.Signals) -> None:
    class Send(Hook):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.step == 4:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    manager = CheckpointManager(tmp_path)
    trainer = make_trainer(epochs=2, hooks=[Send(), SignalHook(), CheckpointHook(manager)])
    with pytest.raises(Interrupted, match=f"received {number.name}") as stopped:
        trainer.fit()
    assert stopped.value.exit_status == 128 + number
    assert signal.getsignal(number) is before
    latest = manager.latest()
    assert latest is not None
    assert latest[0].name == "checkpoint-0000-000004.pt"


def test_the_time_limit_saves_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("a2mamba.engine.hooks.time.monotonic", lambda: now)

    class Clock(Hook):
        """A step takes 25 seconds."""

        def after_step(self, trainer: Trainer) -> None:
            nonlocal now
            now += 25

    manager = CheckpointManager(tmp_path)
    trainer = make_trainer(epochs=2, hooks=[Clock(), TimeLimitHook(2.0), CheckpointHook(manager)])
    with pytest.raises(Interrupted, match="the time limit of 2 minutes") as stopped:
        trainer.fit()
    assert stopped.value.exit_status == 75
    assert trainer.step == 5
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-0000-000005.pt"]
    with pytest.raises(ValueError, match="it must be more than 0"):
        TimeLimitHook(0.0)


def test_saving_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("a2mamba.engine.hooks.time.monotonic", lambda: now)

    class Clock(Hook):
        def after_step(self, trainer: Trainer) -> None:
            nonlocal now
            now += 25

    hook = CheckpointHook(CheckpointManager(tmp_path, keep_last=9), every_minutes=1.0)
    make_trainer(epochs=2, hooks=[Clock(), hook]).fit()
    # due after three steps, and written with the next, when every process has heard of it
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        *("checkpoint-0000-000004.pt", "checkpoint-0001-000004.pt", "checkpoint-0001.pt", "checkpoint-0002.pt")
    ]


def test_the_last_good_state_is_the_newest_taken_outside_of_bad_steps(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=9)
    with pytest.raises(ValueError, match="were removed while the run needed them"):
        manager.last_good()
    trainer = make_trainer(epochs=2, bad_steps=[8], hooks=[CheckpointHook(manager), StopAt(9)])
    trainer.fit()
    latest = manager.latest()
    assert latest is not None
    assert latest[0].name == "checkpoint-0001-000002.pt"
    assert latest[1]["faults"]["in_a_row"] == 1
    assert manager.last_good()["progress"]["step"] == 7
    (tmp_path / "checkpoint-0001.pt").unlink()
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).unlink(missing_ok=True)
    assert manager.last_good()["progress"]["step"] == 9, "where all were taken there, the newest"


def test_the_second_signal_acts_at_once() -> None:
    class SendTwice(Hook):
        def after_step(self, trainer: Trainer) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    # A shell's background jobs are started with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            make_trainer(hooks=[SendTwice(), SignalHook()]).fit()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_hooks_run_in_order_and_close_whatever_happens() -> None:
    calls: list[str] = []

    class Recorder(Hook):
        def __init__(self, name: str) -> None:
            self.name = name

        def before_fit(self, trainer: Trainer) -> None:
            calls.append(f"{self.name} before")

        def after_step(self, trainer: Trainer) -> None:
            calls.append(f"{self.name} step")

        def after_epoch(self, trainer: Trainer) -> None:
            calls.append(f"{self.name} epoch {trainer.epoch}")

        def after_fit(self, trainer: Trainer) -> None:
            calls.append(f"{self.name} after")

        def close(self, trainer: Trainer) -> None:
            calls.append(f"{self.name} close")

    make_trainer(epochs=2, hooks=[Recorder("a"), Recorder("b")]).fit()
    steps = ["a step", "b step"] * 7
    middle = [*steps, "a epoch 1", "b epoch 1", *steps, "a epoch 2", "b epoch 2"]
    assert calls == ["a before", "b before", *middle, "a after", "b after", "b close", "a close"]

    calls.clear()

    class Failing(Recorder):
        def close(self, trainer: Trainer) -> None:
            raise RuntimeError("a hook that cannot close")

    with pytest.raises(RuntimeError, match="cannot close"):
        make_trainer(hooks=[Recorder("a"), Failing("b")], bad_steps=range(9), faults=FaultPolicy(recoveries=0)).fit()
    skipped = ["a step", "b step"] * 2
    assert calls == ["a before", "b before", *skipped, "a close"], "after_fit is not called when training fails"


def test_a_hook_can_stop_after_an_epoch() -> None:
    class Enough(Hook):
        def after_epoch(self, trainer: Trainer) -> None:
            trainer.request_stop("good enough")

    trainer = make_trainer(epochs=5, hooks=[Enough()])
    trainer.fit()
    assert trainer.epoch == 1
    assert trainer.stop_reason == "good enough"


@pytest.mark.parametrize(
    "make",
    [
        lambda: EvaluationHook(Scores(), every=0),
        lambda: CheckpointHook(CheckpointManager("x"), every=0),
        lambda: CheckpointHook(CheckpointManager("x"), every_steps=0),
        lambda: CheckpointHook(CheckpointManager("x"), every_minutes=0.0),
    ],
)
def test_intervals_of_nothing_are_refused(make: Callable[[], Hook]) -> None:
    with pytest.raises(ValueError, match=r"the least is 1|expected more than 0"):
        make()


def test_an_epoch_is_saved_before_its_evaluation(tmp_path: Path) -> None:
    """A broken image there costs nothing: the run goes on with that evaluation, and ends as if nothing had happened."""
    broken = [True]

    def evaluate(model: nn.Module) -> list[tuple[str, float]]:
        if broken[0]:
            raise ValueError("val/3.jpg cannot be decoded")
        return [("top1", float(sum(p.sum() for p in model.parameters())))]

    def hooks(folder: Path) -> list[Hook]:
        manager = CheckpointManager(folder)
        return [EvaluationHook(evaluate, use_ema=False), CsvLogger(folder / "log.csv"), CheckpointHook(manager)]

    with pytest.raises(ValueError, match=r"val/3\.jpg"):
        make_trainer(epochs=2, hooks=hooks(tmp_path / "a")).fit()
    state = load_checkpoint_file(tmp_path / "a" / "checkpoint-0001.pt")
    assert state["progress"]["epoch_open"] is True
    broken.clear()
    broken.append(False)
    rest = make_trainer(epochs=2, hooks=hooks(tmp_path / "a"))
    rest.load_state_dict(state)
    rest.fit()
    whole = make_trainer(epochs=2, hooks=hooks(tmp_path / "b"))
    whole.fit()
    assert_same(comparable(rest), comparable(whole))
    assert [(row["epoch"], row["top1"]) for row in rows(tmp_path / "a" / "log.csv")] == [
        (row["epoch"], row["top1"]) for row in rows(tmp_path / "b" / "log.csv")
    ]
    for name in ("last.pt", "best.pt"):
        assert_same(load_checkpoint_file(tmp_path / "a" / name)["best"], whole.best)
    assert load_checkpoint_file(tmp_path / "b" / "last.pt")["progress"]["epoch_open"] is False


def test_the_evaluation_of_the_last_epoch_is_made_up_for(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)

    class Broken(Hook):
        def after_epoch(self, trainer: Trainer) -> None:
            if trainer.epoch == 2:
                raise ValueError("no evaluation")

    with pytest.raises(ValueError, match="no evaluation"):
        make_trainer(epochs=2, hooks=[Broken(), CheckpointHook(manager)]).fit()
    rest = make_trainer(epochs=2, hooks=[EvaluationHook(Scores(0.7), use_ema=False), CheckpointHook(manager)])
    rest.load_state_dict(load_checkpoint_file(tmp_path / "last.pt"))
    rest.fit()
    assert rest.best == {"metric": "top1", "value": 0.7, "epoch": 2}
    assert load_checkpoint_file(tmp_path / "best.pt")["best"] == rest.best


def test_a_run_ends_early_when_nothing_gets_better(tmp_path: Path) -> None:
    def hooks(*scores: float, every: int = 1) -> list[Hook]:
        checkpoints = CheckpointHook(CheckpointManager(tmp_path / str(len(scores))))
        return [EvaluationHook(Scores(*scores), use_ema=False, every=every), checkpoints, stop]

    stop = EarlyStoppingHook("top1", patience=2)
    trainer = make_trainer(epochs=9, hooks=hooks(0.1, 0.5, 0.4, 0.5))
    trainer.fit()
    assert trainer.epoch == 4
    assert trainer.stop_reason == "top1 was not above 0.5, that of epoch 2, in 2 epochs (patience 2)"
    assert load_checkpoint_file(tmp_path / "4" / "last.pt")["progress"]["epoch"] == 4
    trainer = make_trainer(epochs=9, hooks=hooks(0.5, 0.6, 0.1, every=3))
    trainer.fit()
    assert trainer.epoch == 9, "only epochs that were evaluated count, and the last is the end anyway"
    assert trainer.stop_reason is None
    with pytest.raises(ValueError, match="patience is 0"):
        EarlyStoppingHook("top1", patience=0)


def test_a_finished_run_says_so(caplog: pytest.LogCaptureFixture) -> None:
    done = make_trainer(epochs=2)
    done.fit()
    assert caplog.text == ""
    again = make_trainer(epochs=2)
    again.load_state_dict(done.state_dict())
    again.fit()
    assert "the run is finished: all of its 2 epochs are completed" in caplog.text
