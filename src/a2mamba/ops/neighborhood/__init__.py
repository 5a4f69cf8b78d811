"""Two-dimensional neighborhood attention with dilation and relative position bias."""

from a2mamba.ops.neighborhood.branches import BranchedMap
from a2mamba.ops.neighborhood.cases import CASES, Case
from a2mamba.ops.neighborhood.operator import NeighborhoodMap, explain_backends, neighborhood_attention

__all__ = ["CASES", "BranchedMap", "Case", "NeighborhoodMap", "explain_backends", "neighborhood_attention"]
