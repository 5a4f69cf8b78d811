"""Steps whose loss or gradient is not finite: how many are tolerated, their counts, and undoing one.

What the loop does about one is in `Trainer`: the step is not taken; after `FaultPolicy.patience` of them in a row the
last checkpoint is restored and the learning rate lowered; after `FaultPolicy.recoveries` of those the run ends. What is
said about one is in `fault_report`.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class FaultPolicy:
    """Tolerance for non-finite steps.

    patience    non-finite steps in a row after which the last good state is restored; each is skipped
    recoveries  restorations after which the next one ends the run instead
    factor      of the learning rate, for each restoration, until the end of the run
    folder      where the batches of such steps are saved, None for nowhere
    dumps       how many files at most this process writes there; each has the size of a batch
    """

    patience: int = 3
    recoveries: int = 3
    factor: float = 0.5
    folder: Path | None = None
    dumps: int = 4

    def __post_init__(self) -> None:
        if self.patience < 1 or self.recoveries < 0 or self.dumps < 0:
            raise ValueError(
                f"patience is {self.patience}, recoveries {self.recoveries}, dumps {self.dumps}; "
                "expected at least 1, 0 and 0"
            )
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor is {self.factor:g}; it must be more than 0 and at most 1")


@dataclass
class FaultCounts:
    """What happened so far; part of every checkpoint."""

    skipped: int = 0
    in_a_row: int = 0
    recoveries: int = 0

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return asdict(self)


class StepStart:
    """What a forward pass changes beside gradients, as it was before: generators and buffers.

    Taken before every step, so it is cheap: copies into tensors that are made once. With it a step can be undone (batch
    norm has already followed the activations that are not finite) and looked at again exactly as it ran.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = None if device.type == "cpu" else torch.get_device_module(device)
        # By type: the copies of one type are one launch on a GPU.
        kinds = {buffer.dtype for buffer in model.buffers()}
        self._buffers = [[buffer for buffer in model.buffers() if buffer.dtype == kind] for kind in kinds]
        self._copies = [[buffer.clone() for buffer in buffers] for buffers in self._buffers]
        self._generators: tuple[Any, ...] = ()

    @torch.no_grad()
    def remember(self) -> None:
        """Takes the present as the start."""
        for copies, buffers in zip(self._copies, self._buffers, strict=True):
            torch._foreach_copy_(copies, buffers)
        device = None if self._device is None else self._device.get_rng_state()
        # numpy's legacy generator is the one that augmentation libraries draw from
        self._generators = (torch.get_rng_state(), device, random.getstate(), np.random.get_state())  # noqa: NPY002

    @torch.no_grad()
    def restore(self) -> None:
        """Goes back to the start."""
        for copies, buffers in zip(self._copies, self._buffers, strict=True):
            torch._foreach_copy_(buffers, copies)
        own, device, python, numpy = self._generators
        torch.set_rng_state(own)
        if self._device is not None:
            self._device.set_rng_state(device)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - as above
