"""The operators of ours that a traced network calls, and the form that a format has for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Form = Callable[..., Any]


def by_operator(
    *, neighborhood_attention: Form, selective_scan_state: Form, resize_pair_bias: Form
) -> dict[Callable[..., Any], Form]:
    """Return operator -> form, which takes the operator's arguments; all backends of an operator share its form."""
    forms = {
        "neighborhood_attention": neighborhood_attention,
        "neighborhood_attention_again": neighborhood_attention,
        "neighborhood_attention_numba": neighborhood_attention,
        "neighborhood_attention_numba_again": neighborhood_attention,
        "selective_scan_state": selective_scan_state,
        "selective_scan_state_numba": selective_scan_state,
        "resize_pair_bias": resize_pair_bias,
    }
    return {getattr(torch.ops.a2mamba, name).default: form for name, form in forms.items()}
