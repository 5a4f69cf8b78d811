"""Registering an operator with torch.library from its schema, so that no signature is written twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from a2mamba.ops.precision import without_autocast


def shielded(implementation: Callable[[Tensor], Any], function: str) -> Callable[..., Any]:
    """Return what an operator does, by a function of the implementation that is chosen for its first argument.

    The operator decides its own precision; autocast does not change it from outside.
    """

    def compute(first: Tensor, *others: Any) -> Any:
        with without_autocast(first):
            return getattr(implementation(first), function)(first, *others)

    return compute


def register(
    name: str,
    schema: str,
    compute: Callable[..., Any],
    fake: Callable[..., Any],
    differentiate: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> torch.library.CustomOpDef:
    """Register ``compute`` as the operator ``name``, which changes none of its arguments.

    Args:
        name: "a2mamba::...".
        schema: arguments and results in torch.library's words, "(Tensor x, int n) -> Tensor".
        compute: what it does, on every device.
        fake: returns results of the right shape, dtype and strides, empty.
        differentiate: its gradient, (ctx, *grads) -> one gradient or None an argument; None for an operator without.
        setup_context: (ctx, inputs, output), keeps what ``differentiate`` needs.
    """
    operator = torch.library.custom_op(name, compute, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    if differentiate is not None:
        operator.register_autograd(differentiate, setup_context=setup_context)
    return operator
