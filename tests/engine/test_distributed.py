"""Two processes on this machine, talking through gloo, against one process that sees the same samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from a2mamba.engine import load_checkpoint_file, rank, world_size

from .toy import ShuffleSampler, make_loader, make_trainer

WORKER = """
import json, sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, sys.argv[1])
from engine.toy import Batch, ShuffleSampler, make_loader, make_trainer
from a2mamba.engine import CheckpointHook, CheckpointManager, CsvLogger

folder = Path(sys.argv[2])
dist.init_process_group("gloo")
me = dist.get_rank()
whole = list(make_loader(sampler=ShuffleSampler(), augment=False))[:6]
halves = [Batch(batch.images[me::2], batch.labels[me::2], batch.names[me::2]) for batch in whole]
trainer = make_trainer(epochs=2, plain=True, with_ema=False, accumulate=3, loader=halves)
trainer.task.model = DistributedDataParallel(trainer.task.model)
syncs = []
original = trainer.task.losses


def losses(batch, progress):
    syncs.append(trainer.task.model.require_backward_grad_sync)
    return original(batch, progress)


trainer.task.losses = losses
trainer.hooks = (CsvLogger(folder / f"log-{me}.csv"), CheckpointHook(CheckpointManager(folder / f"rank-{me}")))
trainer.fit()
seed = torch.initial_seed()
(folder / f"result-{me}.json").write_text(json.dumps({"syncs": syncs[:6], "seed": seed}))
dist.destroy_process_group()
"""


def test_alone_there_is_one_process() -> None:
    assert (rank(), world_size()) == (0, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="gloo is not tested on Windows")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(29500 + os.getpid() % 1000),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parents[1]), str(tmp_path)]
    processes = [subprocess.Popen(command, env=environment | {"RANK": str(number)}) for number in range(2)]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]

    whole = list(make_loader(sampler=ShuffleSampler(), augment=False))[:6]
    alone = make_trainer(epochs=2, plain=True, with_ema=False, accumulate=3, loader=whole)
    alone.fit()

    state = load_checkpoint_file(tmp_path / "rank-0" / "last.pt")
    assert state["model"].keys() == alone.task.model.state_dict().keys(), "no module. prefix"
    for name, value in alone.task.model.state_dict().items():
        torch.testing.assert_close(state["model"][name], value, rtol=1e-5, atol=1e-6)
    results = [json.loads((tmp_path / f"result-{number}.json").read_text()) for number in range(2)]
    assert [result["syncs"] for result in results] == [[False, False, True] * 2] * 2, "one gradient exchange a step"
    assert results[0]["seed"] != results[1]["seed"], "each process draws its own dropout"
    assert not (tmp_path / "rank-1").exists(), "the first process writes alone"
    assert not (tmp_path / "log-1.csv").exists()
