"""Several processes on this machine, talking through gloo, against one process that sees the same samples."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    CsvLogger,
    EvaluationHook,
    Hook,
    Interrupted,
    Trainer,
    TrainingError,
    load_checkpoint_file,
    merge_metrics,
    process_group,
    rank,
    world_size,
)
from a2mamba.engine.distributed import average_batch_norm, gather_objects, sum_over_processes
from a2mamba.engine.sync_norm import SyncBatchNorm2d, synchronize_norms
from a2mamba.evaluation import TopK

from .parallel import run_together
from .toy import Batch, ShuffleSampler, StopAt, assert_same, make_loader, make_trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo is not tested on Windows")
SIZES = (3, 1)  # samples of the two processes


def test_alone_there_is_one_process() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert sum_over_processes([1.5, 2.0]) == [1.5, 2.0]
    assert gather_objects("a") == ["a"]
    with process_group("cpu") as device:
        assert device == "cpu"
        assert not dist.is_initialized()


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT not; start the processes with torchrun"):
        process_group("cpu").__enter__()
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(ValueError, match="several processes cannot train on 'mps'"):
        process_group("mps").__enter__()


# --------------------------------------------------------------------------------------------------------- batch norm


def _inputs() -> tuple[Tensor, Tensor]:
    """A batch with a mean far from zero, and a gradient for the output."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(SIZES), 5, 4, 3, generator=generator) * 2 + 7
    return x, torch.randn(x.shape, generator=generator)


def _norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(5, momentum=0.3)
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    nn.init.uniform_(norm.bias, generator=torch.Generator().manual_seed(2))
    return norm


def _normalize(dtype: torch.dtype, sizes: tuple[int, int] = SIZES) -> dict[str, Any]:
    with process_group("cpu"):
        norm = synchronize_norms(_norm())
        assert isinstance(norm, SyncBatchNorm2d)
        x, grad = (value.split(sizes)[rank()].to(dtype) for value in _inputs())
        x.requires_grad_()
        y = norm(x)
        y.backward(grad)
        assert y.dtype == x.grad.dtype == dtype
        found = {"y": y.detach(), "x": x.grad, "grad_weight": norm.weight.grad, "grad_bias": norm.bias.grad}
        # numpy, as torch would hand its tensors over in shared memory that ends with the process
        return {name: value.float().numpy() for name, value in (found | norm.state_dict()).items()}


@pytest.mark.parametrize(
    ("dtype", "tolerance", "sizes"),
    [(torch.float32, 1e-5, SIZES), (torch.bfloat16, 4e-2, SIZES), (torch.float32, 1e-5, (4, 0))],
)
def test_batch_norm_over_processes_is_that_over_the_whole_batch(
    dtype: torch.dtype, tolerance: float, sizes: tuple[int, int]
) -> None:
    parts = [{k: torch.from_numpy(v) for k, v in part.items()} for part in run_together(_normalize, 2, dtype, sizes)]
    norm = _norm()
    x, grad = _inputs()
    x.requires_grad_()
    y = norm(x)
    y.backward(grad)
    assert x.grad is not None

    def close(actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected.detach(), rtol=tolerance, atol=tolerance)

    close(torch.cat([part["y"] for part in parts]), y)
    close(torch.cat([part["x"] for part in parts]), x.grad)
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    close(_sum(parts, "grad_weight"), norm.weight.grad)
    close(_sum(parts, "grad_bias"), norm.bias.grad)
    for name, value in norm.state_dict().items():
        for part in parts:
            close(part[name], value.float())


def _sum(parts: list[dict[str, Tensor]], name: str) -> Tensor:
    return parts[0][name] + parts[1][name]


def test_conversion_keeps_objects_names_and_modes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, momentum=None), nn.BatchNorm2d(4)))
    inner = model[1]
    assert isinstance(inner, nn.Sequential)
    inner[1].eval()
    state, parameters = dict(model.state_dict(keep_vars=True)), list(model.parameters())
    synchronize_norms(model)
    assert [type(module) for module in inner] == [SyncBatchNorm2d, SyncBatchNorm2d]
    assert [module.training for module in inner] == [True, False]
    assert inner[0].momentum is None
    after = dict(model.state_dict(keep_vars=True))
    assert [*after] == [*state]
    assert all(after[name] is state[name] for name in state)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    # alone, and in eval mode, it is batch norm
    x = torch.randn(2, 3, 4, 4)
    expected = nn.BatchNorm2d(4)(model[0](x))
    torch.testing.assert_close(synchronize_norms(nn.BatchNorm2d(4))(model[0](x)), expected)


def test_an_empty_batch_passes_alone_and_in_eval_mode() -> None:
    norm = synchronize_norms(_norm())
    assert isinstance(norm, SyncBatchNorm2d)
    for module in (norm, norm.eval()):
        y = module(torch.zeros(0, 5, 4, 3, requires_grad=True))
        assert y.shape == (0, 5, 4, 3)
        assert torch.equal(torch.autograd.grad(y.sum(), norm.weight)[0], torch.zeros(5))


def test_a_batch_norm_that_cannot_be_synchronized_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^1\.0 is a BatchNorm1d, .* set sync_batch_norm=false"):
        synchronize_norms(nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3))))


# ------------------------------------------------------------------------------------------------------------ training


def _shares(count: int) -> list[Batch]:
    """This process's half of every full batch of an epoch, alternating as the samplers of `data` do."""
    whole = list(make_loader(sampler=ShuffleSampler(), augment=False))[:count]
    me, step = rank(), world_size()
    return [Batch(b.images[me::step], b.labels[me::step], b.names[me::step]) for b in whole]


class Undropped(nn.Sequential):
    """Batch norm, and no dropout: what each process draws for itself would differ."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        blocks = nn.ModuleList([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)])
        # A bias before the batch norm would have no gradient but rounding, which Adam makes steps of.
        stem = nn.Conv2d(1, 4, 3, bias=False)
        super().__init__(stem, nn.BatchNorm2d(4), nn.ReLU(), _Blocks(blocks), nn.Flatten())
        self.append(nn.Linear(16, 2))


class _Blocks(nn.Module):
    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def _trainer(hooks: list[Hook], **options: Any) -> Trainer:
    return make_trainer(epochs=2, accumulate=3, loader=_shares(6), model=Undropped(), hooks=hooks, **options)


def _exchanges(model: nn.Module) -> bool:
    """Whether the next backward pass exchanges gradients."""
    assert isinstance(model, DistributedDataParallel)
    return model.require_backward_grad_sync


def _train(folder: Path) -> dict[str, Any]:
    with process_group("cpu"):
        evaluated: list[int] = []

        def evaluate(model: nn.Module) -> Any:
            metric = TopK((1,))
            for batch in _shares(4)[: 2 + rank()]:  # the processes differ in their number of forward passes
                metric.update(model(batch.images), batch.labels)
            merge_metrics([metric])
            evaluated.append(metric.state()["count"])
            # The process's own number stands for sums that differ in their last bits: the first one's is taken.
            return [("process", float(rank())), *((f"eval_{name}", value) for name, value in metric.results())]

        hooks: list[Hook] = [EvaluationHook(evaluate), CsvLogger(folder / f"log-{rank()}.csv")]
        manager = CheckpointManager(folder / f"rank-{rank()}", best_metric="ema_eval_top1")
        trainer = _trainer([*hooks, CheckpointHook(manager)])
        exchanges: list[bool] = []
        original = trainer.task.losses

        def losses(batch: Any, progress: Any) -> Any:
            exchanges.append(_exchanges(trainer.task.model))
            return original(batch, progress)

        with mock.patch.object(trainer.task, "losses", losses):
            trainer.fit()
        assert exchanges == [False, False, True] * 4, "gradients are exchanged once a step"
        rows = [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in trainer.history]
        return {"seed": torch.initial_seed(), "history": rows, "evaluated": evaluated}


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    first, second = run_together(_train, 2, tmp_path)
    alone = _trainer([])
    alone.fit()
    state = load_checkpoint_file(tmp_path / "rank-0" / "last.pt")
    expected = alone.state_dict()
    for part in ("model", "ema"):
        assert state[part].keys() == expected[part].keys(), "no module. prefix"
        for name, value in expected[part].items():
            torch.testing.assert_close(state[part][name], value, rtol=1e-4, atol=1e-5)
    for number, moments in expected["optimizer"]["state"].items():
        for name, value in moments.items():
            torch.testing.assert_close(state["optimizer"]["state"][number][name], value, rtol=1e-3, atol=1e-5)
    assert first["history"] == second["history"], "losses and metrics are those of all processes"
    assert [row["loss"] for row in first["history"]] == pytest.approx([r["loss"] for r in alone.history], rel=1e-5)
    assert first["seed"] != second["seed"], "each process draws its own dropout"
    assert first["evaluated"] == [10] * 4, "two batches of two and three of two, model and average, twice"
    assert not (tmp_path / "rank-1").exists(), "the first process writes alone"
    assert not (tmp_path / "log-1.csv").exists()
    # and the checkpoint, whatever wrote it, goes on in one process
    rest = _trainer([])
    rest.load_state_dict(state)
    assert_same(rest.state_dict()["model"], state["model"])
    assert_same(rest.state_dict()["optimizer"]["state"], state["optimizer"]["state"])


def _resume(path: Path) -> list[float]:
    with process_group("cpu"):
        trainer = _trainer([])
        state = load_checkpoint_file(path)
        trainer.load_state_dict(state)
        again = trainer.state_dict()
        assert_same(again["model"], state["model"])
        assert_same(again["ema"], state["ema"])
        assert_same(again["optimizer"], state["optimizer"])
        trainer.fit()
        return [row["loss"] for row in trainer.history]


def test_a_checkpoint_of_one_process_goes_on_in_two(tmp_path: Path) -> None:
    _trainer([StopAt(3), CheckpointHook(CheckpointManager(tmp_path))]).fit()
    whole = _trainer([])
    whole.fit()
    expected = [row["loss"] for row in whole.history]
    for found in run_together(_resume, 2, tmp_path / "last.pt"):
        assert found == pytest.approx(expected, rel=1e-5)


def _without_synchronized_norm() -> tuple[bool, list[float]]:
    with process_group("cpu"):
        trainer = _trainer([], sync_batch_norm=False)
        trainer.fit()
        norm = trainer.task.model.get_submodule("module.1")
        assert type(norm) is nn.BatchNorm2d
        assert norm.running_mean is not None
        states = gather_objects(norm.running_mean.tolist())
        other = nn.BatchNorm2d(1)
        assert other.running_mean is not None
        other.running_mean.fill_(rank())
        average_batch_norm(nn.Sequential(other))
        return states[0] == states[1], other.running_mean.tolist()


def test_without_synchronized_batch_norm_the_running_statistics_are_averaged() -> None:
    assert run_together(_without_synchronized_norm, 2) == [(True, [0.5])] * 2


class _AskAt(Hook):
    def __init__(self, step: int, *, process: int) -> None:
        self.step, self.process = step, process

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step == self.step and rank() == self.process:
            trainer.request_stop("enough", interrupt=True, status=75)


def _stop_one() -> tuple[int, str, int]:
    with process_group("cpu"):
        trainer = _trainer([_AskAt(1, process=1)])
        try:
            trainer.fit()
        except Interrupted as error:
            return trainer.step, str(error), error.exit_status
        return trainer.step, "", 0


def test_a_request_to_one_process_stops_all_at_the_same_step() -> None:
    other = "another process of the run was asked to stop"
    assert run_together(_stop_one, 2) == [(2, other, 75), (2, "enough", 75)]


class _Die(Hook):
    def after_step(self, trainer: Trainer) -> None:
        if rank() == 1 and trainer.step == 2:
            os._exit(9)


def _lose_one() -> str:
    with process_group("cpu"):
        try:
            _trainer([_Die()]).fit()
        except TrainingError as error:
            return str(error)
        return "trained on"


def test_a_lost_process_ends_the_others_with_a_line() -> None:
    left, gone = run_together(_lose_one, 2, timeout=60)
    assert gone is None
    assert left == (
        "another process of this run has ended (process 0 of 2 lost it at step 2); resume from the newest checkpoint"
    )


class _Nan(Hook):
    """The loss of one process is not finite at the second step."""

    def before_fit(self, trainer: Trainer) -> None:
        original = trainer.task.losses

        def losses(batch: Any, progress: Any) -> Any:
            found = original(batch, progress)
            bad = rank() == 1 and progress.step == 1
            return {name: value * float("nan") if bad else value for name, value in found.items()}

        trainer.task.losses = losses  # type: ignore[method-assign]  # in its own process


def _one_is_not_finite(folder: Path) -> tuple[int, list[str], bool]:
    from a2mamba.engine import FaultPolicy

    with process_group("cpu"):
        trainer = _trainer([_Nan()], faults=FaultPolicy(folder=folder))
        trainer.fit()
        states = gather_objects([v.tolist() for v in trainer.state_dict()["model"].values()])
        files = sorted(path.name for path in folder.iterdir())
        return trainer.fault_counts.skipped, files, states[0] == states[1]


def test_a_fault_in_one_process_is_left_out_by_all(tmp_path: Path) -> None:
    assert run_together(_one_is_not_finite, 2, tmp_path) == [(1, ["step-00000001-process-1.pt"], True)] * 2
