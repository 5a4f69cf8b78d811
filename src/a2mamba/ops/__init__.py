"""The two operators that A2Mamba is made of. Each is a folder: reference, implementations, dispatch."""

from a2mamba.ops.neighborhood import NeighborhoodMap, neighborhood_attention
from a2mamba.ops.selective_scan import selective_scan_state

__all__ = ["NeighborhoodMap", "neighborhood_attention", "selective_scan_state"]
