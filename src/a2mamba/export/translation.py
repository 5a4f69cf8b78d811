"""Our operators as graphs of standard ONNX operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from a2mamba.export.attention import neighborhood_attention
from a2mamba.export.graph import constant, reshape
from a2mamba.export.operators import by_operator
from a2mamba.export.regions import pool_graph, suppress_graph
from a2mamba.export.scan import selective_scan_state


def resize_pair_bias(bias: Any, tokens: int) -> Any:
    """Resize (G, N, N) to (G, tokens, tokens), bicubic, as ``layers.global_attention.resize_pair_bias``."""
    from onnxscript import opset18 as op

    heads, size = int(bias.shape[0]), int(bias.shape[1])
    sizes = constant(np.array([1, heads, tokens, tokens]))
    resized = op.Resize(
        reshape(bias, 1, heads, size, size),
        None,
        None,
        sizes,
        mode="cubic",
        cubic_coeff_a=-0.75,
        coordinate_transformation_mode="pytorch_half_pixel",
    )
    return reshape(resized, heads, tokens, tokens)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what ``torch.onnx.export`` takes as ``custom_translation_table``."""
    return {
        **by_operator(
            neighborhood_attention=neighborhood_attention,
            selective_scan_state=selective_scan_state,
            resize_pair_bias=resize_pair_bias,
        ),
        torch.ops.a2mamba.suppress_boxes.default: suppress_graph,
        torch.ops.a2mamba.pool_boxes.default: pool_graph,
    }
