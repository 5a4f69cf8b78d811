"""Two-dimensional neighborhood attention with dilation and relative position bias."""

from a2mamba.ops.neighborhood.operator import explain_backends, neighborhood_attention

__all__ = ["explain_backends", "neighborhood_attention"]
