"""The self-test of Numba's kernel of the positional convolution with its norm."""

from __future__ import annotations

import torch

from a2mamba.ops.positional import numba_impl, reference
from a2mamba.ops.positional.cases import CASES
from a2mamba.ops.self_test import TOLERANCES, asked_once, compare_outputs


@asked_once("positional_norm/numba")
def positional_norm(device: torch.device) -> str | None:
    """Return why the kernel is not to be trusted on ``device``, or None."""
    case = CASES[1]
    with torch.no_grad():
        expected = reference.positional_norm(*case.inputs(torch.float64, device))
        for dtype, tolerance in TOLERANCES.items():
            found = numba_impl.positional_norm(*case.inputs(dtype, device))
            reason = compare_outputs(["map", "norm"], found, expected, tolerance)
            if reason is not None:
                return f"{reason} (inputs {dtype})"
    return None
