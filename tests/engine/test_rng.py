from __future__ import annotations

import warnings

import pytest
import torch

from a2mamba.engine import kept_rng, seeded_cpu


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with four GPUs, none of which answers: `fork_rng` without devices would ask them all."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)


def refuse(device: object = None) -> torch.Tensor:
    raise AssertionError("the GPUs' generators are not to be touched")


@pytest.mark.usefixtures("four_gpus")
def test_drawing_on_the_cpu_leaves_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_rng_state", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with seeded_cpu(3):
            first = torch.rand(2)
        with kept_rng(torch.device("cpu")):
            torch.rand(5)
        with seeded_cpu(3):
            assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("four_gpus")
def test_the_run_draws_its_parameters_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was wrong: `fork_rng()` takes the generators of all devices, and warns where there are several."""
    from a2mamba.recipes import make_run
    from a2mamba.tasks import task_of

    run = make_run("digits")
    task = task_of(run)
    monkeypatch.setattr(torch.cuda, "get_rng_state", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.build_model(task.debug(run), ["a", "b"])
