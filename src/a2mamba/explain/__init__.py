"""What a network looks at: attention maps, states, Grad-CAM, features, effective receptive field."""

from a2mamba.explain.attention import AttentionMap, attention_maps

__all__ = ["AttentionMap", "attention_maps"]
