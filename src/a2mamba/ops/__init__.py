"""The operators that A2Mamba is made of. Each has a folder: reference, implementations, dispatch."""

from a2mamba.ops.channel_norm import channel_norm
from a2mamba.ops.depthwise import depthwise_conv
from a2mamba.ops.feed_forward import gelu_depthwise
from a2mamba.ops.neighborhood import BranchedMap, NeighborhoodMap, neighborhood_attention
from a2mamba.ops.positional import positional_norm
from a2mamba.ops.readout import gated_norm, read_out
from a2mamba.ops.rotary import rotate
from a2mamba.ops.selective_scan import selective_scan_state

__all__ = [
    "BranchedMap",
    "NeighborhoodMap",
    "channel_norm",
    "depthwise_conv",
    "gated_norm",
    "gelu_depthwise",
    "neighborhood_attention",
    "positional_norm",
    "read_out",
    "rotate",
    "selective_scan_state",
]
