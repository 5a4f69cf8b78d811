"""What a network looks at: attention maps, hidden states, Grad-CAM, features, effective receptive field."""

from a2mamba.explain.attention import AttentionMap, attention_maps
from a2mamba.explain.features import principal_colors, stage_maps
from a2mamba.explain.grad_cam import ClassScore, GradCAM, class_score, grad_cam
from a2mamba.explain.receptive_field import effective_receptive_field, last_map, side_holding
from a2mamba.explain.states import HiddenStates, hidden_states

__all__ = [
    "AttentionMap",
    "ClassScore",
    "GradCAM",
    "HiddenStates",
    "attention_maps",
    "class_score",
    "effective_receptive_field",
    "grad_cam",
    "hidden_states",
    "last_map",
    "principal_colors",
    "side_holding",
    "stage_maps",
]
