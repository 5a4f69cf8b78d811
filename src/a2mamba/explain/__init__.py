"""What a network looks at: attention maps, hidden states, Grad-CAM, features, effective receptive field."""

from a2mamba.explain.attention import AttentionMap, attention_maps
from a2mamba.explain.baselines import check_timm_name, timm_features
from a2mamba.explain.drawing import (
    Drawing,
    draw_attention,
    draw_features,
    draw_grad_cam,
    draw_receptive_fields,
    draw_states,
)
from a2mamba.explain.features import principal_colors, stage_maps
from a2mamba.explain.grad_cam import ClassScore, GradCAM, class_score, grad_cam
from a2mamba.explain.receptive_field import effective_receptive_field, last_map, side_holding
from a2mamba.explain.states import HiddenStates, hidden_states

__all__ = [
    "AttentionMap",
    "ClassScore",
    "Drawing",
    "GradCAM",
    "HiddenStates",
    "attention_maps",
    "check_timm_name",
    "class_score",
    "draw_attention",
    "draw_features",
    "draw_grad_cam",
    "draw_receptive_fields",
    "draw_states",
    "effective_receptive_field",
    "grad_cam",
    "hidden_states",
    "last_map",
    "principal_colors",
    "side_holding",
    "stage_maps",
    "timm_features",
]
