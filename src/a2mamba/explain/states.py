"""The hidden states of every selective scan, before and after attention maps aggregate them (paper section III)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from a2mamba.explain.network import as_batch, blocks_of, pyramid_of, run_once
from a2mamba.layers import A2SSM

_Aggregate = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class HiddenStates:
    """What one scan has in its memory at every position."""

    stage: int
    """from 0"""
    block: int
    """number in its stage, from 0"""
    before: Tensor
    """float32 (heads, h, w, d): the states of the scan, which runs over the rows of the stage's map"""
    after: Tensor
    """the same, aggregated by the attention maps: what is read out"""

    def strength(self) -> tuple[Tensor, Tensor]:
        """Return the root mean square of before and after over heads and channels, (h, w) each."""
        before, after = (states.square().mean((0, 3)).sqrt() for states in (self.before, self.after))
        return before, after


def hidden_states(model: nn.Module, image: Tensor) -> list[HiddenStates]:
    """Return the states of every block that has an A2SSM, in the order in which they run.

    Args:
        model: as in ``attention_maps``.
        image: as in ``attention_maps``.

    Raises:
        ValueError: another shape, a network in training mode or one whose states are not aggregated.
    """
    pyramid, batch = pyramid_of(model), as_batch(model, image)
    found: list[HiddenStates] = []

    def watch(stage: int, number: int, _: nn.Module, inputs: tuple[Tensor, _Aggregate]) -> tuple[Tensor, _Aggregate]:
        y, aggregate = inputs

        def watched(states: Tensor) -> Sequence[Tensor]:
            aggregated = aggregate(states)
            found.append(HiddenStates(stage, number, _float(states), _float(torch.cat(list(aggregated), dim=1))))
            return aggregated

        return y, watched

    hooks = []
    for stage, number, block in blocks_of(pyramid):
        scan = getattr(block.mixer, "ssm", None)
        if isinstance(scan, A2SSM):
            hooks.append(scan.register_forward_pre_hook(partial(watch, stage, number)))
    if not hooks:
        raise ValueError("this network has no A2SSM, whose hidden states are aggregated; A2Mamba has")
    run_once(pyramid, batch, hooks)
    return found


def _float(states: Tensor) -> Tensor:
    """(1, heads, h, w, d) -> (heads, h, w, d), float32 on the CPU, not shared with what runs on."""
    return states[0].float().cpu().clone()
