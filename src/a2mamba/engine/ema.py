"""An exponential moving average of a model."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from a2mamba.engine.distributed import unwrap


class Ema:
    """A copy of a model in eval mode whose state dict follows that model's: decay * old + (1 - decay) * new.

    The decay is constant (no warm-up), and covers parameters and persistent buffers, batch-norm statistics included;
    entries that are not floating point are copied. Not timm's class: that one averages a tensor with two names in the
    state dict twice a step, so that its decay is squared.

    `module` is the averaged model. Make the Ema after the start weights are loaded: it starts from what it is given.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay is {decay}; it must be at least 0 and less than 1")
        self.decay = decay
        self.module = deepcopy(unwrap(model)).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards `model` (DistributedDataParallel around it does not matter)."""
        newest = unwrap(model).state_dict(keep_vars=True)
        averages: dict[int, tuple[Tensor, Tensor]] = {}
        for name, average in self.module.state_dict(keep_vars=True).items():
            if average.is_floating_point():
                averages[id(average)] = (average.data, newest[name].data)  # a shared tensor once
            else:
                average.copy_(newest[name])
        if averages:
            old, new = zip(*averages.values(), strict=True)
            torch._foreach_lerp_(list(old), list(new), weight=1.0 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        """The state dict of the averaged model, with the model's own names."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Strict; raises RuntimeError as `nn.Module.load_state_dict` does."""
        self.module.load_state_dict(state)
