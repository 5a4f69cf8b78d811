"""SegMAN's encoder, A2Mamba's predecessor: the same pyramid with LASS mixers (arXiv:2412.11890)."""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.registry import build, pretrained_cfg
from a2mamba.layers import LASS


class SegMANEncoder(Pyramid):
    """The pyramid with LASS mixers: neighborhood attention, then a selective scan in four directions.

    Arguments as in :class:`~a2mamba.backbone.pyramid.Pyramid`; each stage's channels must be a multiple of 4 * heads.
    """

    mixer = LASS


LAYER_SCALE: dict[str, Any] = {"scaling": ("layer",) * 4, "scale_init": (1e-6,) * 4}

VARIANTS: dict[str, dict[str, Any]] = {
    "segman_encoder_tiny": {
        "channels": (32, 64, 144, 192),
        "depths": (2, 2, 4, 2),
        "heads": (1, 2, 4, 8),
        "kernel_sizes": (11, 9, 9, 7),
        "mlp_ratios": (4, 4, 3, 3),
    },
    "segman_encoder_small": {
        "channels": (64, 144, 288, 512),
        "depths": (2, 2, 10, 4),
        "heads": (2, 4, 8, 16),
        "mlp_ratios": (4, 4, 3.4, 3.4),
    },
    "segman_encoder_base": {
        "channels": (96, 160, 364, 560),
        "depths": (4, 4, 18, 4),
        "heads": (4, 8, 13, 20),
        "mlp_ratios": (4, 4, 3, 3),
        **LAYER_SCALE,
    },
    "segman_encoder_large": {
        "channels": (96, 192, 432, 640),
        "depths": (4, 4, 28, 4),
        "heads": (4, 8, 12, 20),
        "mlp_ratios": (4, 4, 3, 3),
        **LAYER_SCALE,
    },
}

CROP = {"segman_encoder_base": 0.95, "segman_encoder_large": 0.95}

default_cfgs = generate_default_cfgs(
    {name: pretrained_cfg(crop_pct=CROP.get(name, 0.9), hub=None) for name in VARIANTS}
)


def _create(name: str, pretrained: bool, arguments: dict[str, Any]) -> SegMANEncoder:
    return build(SegMANEncoder, name, pretrained, VARIANTS[name], arguments)


@register_model
def segman_encoder_tiny(pretrained: bool = False, **kwargs: Any) -> SegMANEncoder:
    """Encoder of SegMAN-T: 3.5 M parameters; 76.2 % on ImageNet-1K."""
    return _create("segman_encoder_tiny", pretrained, kwargs)


@register_model
def segman_encoder_small(pretrained: bool = False, **kwargs: Any) -> SegMANEncoder:
    """Encoder of SegMAN-S: 25.5 M parameters; 84.0 % on ImageNet-1K."""
    return _create("segman_encoder_small", pretrained, kwargs)


@register_model
def segman_encoder_base(pretrained: bool = False, **kwargs: Any) -> SegMANEncoder:
    """Encoder of SegMAN-B: 45.0 M parameters; 85.1 % on ImageNet-1K."""
    return _create("segman_encoder_base", pretrained, kwargs)


@register_model
def segman_encoder_large(pretrained: bool = False, **kwargs: Any) -> SegMANEncoder:
    """Encoder of SegMAN-L: 81.0 M parameters; 85.5 % on ImageNet-1K."""
    return _create("segman_encoder_large", pretrained, kwargs)
