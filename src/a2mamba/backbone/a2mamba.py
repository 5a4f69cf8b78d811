"""A2Mamba: the backbones of "Attention-augmented State Space Models for Visual Recognition" (arXiv:2507.16624).

:mod:`a2mamba.backbone.pyramid` is the network; here stand its mixer and the table of variants, and every variant's
entry in timm's registry.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.registry import build, pretrained_cfg
from a2mamba.layers import MASS

HUB = "LMMM2025/A2Mamba"


class A2Mamba(Pyramid):
    """The pyramid with MASS mixers: sliding and dilated attention whose maps also aggregate a selective scan.

    The windows are at most 11 wide and the maps of the first three stages are never attended as a whole; the last stage
    attends globally, with memory in (H W / 32^2)^2. Arguments as in :class:`~a2mamba.backbone.pyramid.Pyramid`;
    ``heads`` must be even and each stage's channels a multiple of 4 * heads.
    """

    mixer = MASS


LAYER_SCALE: dict[str, Any] = {"scaling": ("layer",) * 4, "scale_init": (1, 1, 1e-6, 1e-6)}

# Table I of the paper, with what the paper leaves out taken from the released weights.
VARIANTS: dict[str, dict[str, Any]] = {
    "a2mamba_nano": {
        "channels": (32, 64, 128, 192),
        "depths": (2, 2, 8, 2),
        "heads": (2, 2, 4, 8),
        "mlp_ratios": (4, 4, 3, 3),
    },
    "a2mamba_tiny": {
        "channels": (48, 96, 256, 448),
        "depths": (2, 2, 10, 2),
        "heads": (2, 4, 8, 16),
        "mlp_ratios": (4, 4, 3, 3),
    },
    "a2mamba_small": {
        "channels": (64, 128, 320, 512),
        "depths": (2, 4, 12, 4),
        "heads": (2, 4, 10, 16),
        "mlp_ratios": (4, 4, 3, 3),
        "scaling": ("none", "none", "residual", "residual"),
    },
    "a2mamba_base": {
        "channels": (96, 192, 384, 512),
        "depths": (4, 6, 12, 6),
        "heads": (4, 8, 12, 16),
        "mlp_ratios": (4, 4, 3.75, 3.75),
        **LAYER_SCALE,
    },
    "a2mamba_large": {
        "channels": (96, 192, 448, 672),
        "depths": (4, 6, 18, 6),
        "heads": (4, 8, 16, 24),
        "mlp_ratios": (4, 4, 4, 4),
        **LAYER_SCALE,
    },
    # The Large of the paper's Table I, which its Tables III to VII measure. No weights were released.
    "a2mamba_large_paper": {
        "channels": (112, 224, 512, 720),
        "depths": (4, 6, 12, 6),
        "heads": (4, 8, 16, 30),
        "mlp_ratios": (4, 4, 4, 4),
        **LAYER_SCALE,
    },
    # For tests: every kind of part, in a few hundred thousand parameters.
    "a2mamba_test": {
        "channels": (16, 24, 32, 48),
        "depths": (1, 1, 2, 1),
        "heads": (2, 2, 4, 4),
        "kernel_sizes": (5, 5, 3, 7),
        "mlp_ratios": (2, 2, 2, 2),
        "scaling": ("none", "none", "residual", "layer"),
        "head_hidden_size": 128,
    },
}

CROP = {"a2mamba_base": 0.95, "a2mamba_large": 0.975, "a2mamba_large_paper": 0.975}
RELEASED = ("nano", "tiny", "small", "base", "large")

default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k" if name.removeprefix("a2mamba_") in RELEASED else name: pretrained_cfg(
            crop_pct=CROP.get(name, 0.9),
            hub=(HUB, f"a2mamba_pretrained_weights/{name}.pth") if name.removeprefix("a2mamba_") in RELEASED else None,
        )
        for name in VARIANTS
    }
)


def _create(name: str, pretrained: bool, arguments: dict[str, Any]) -> A2Mamba:
    return build(A2Mamba, name, pretrained, VARIANTS[name], arguments)


@register_model
def a2mamba_nano(pretrained: bool = False, **kwargs: Any) -> A2Mamba:
    """A2Mamba-N: 4.2 M parameters, 0.8 G multiply-accumulates; 78.7 % on ImageNet-1K (paper, Table II)."""
    return _create("a2mamba_nano", pretrained, kwargs)


@register_model
def a2mamba_tiny(pretrained: bool = False, **kwargs: Any) -> A2Mamba:
    """A2Mamba-T: 15.4 M parameters, 2.7 G multiply-accumulates; 83.0 % on ImageNet-1K (paper, Table II)."""
    return _create("a2mamba_tiny", pretrained, kwargs)


@register_model
def a2mamba_small(pretrained: bool = False, **kwargs: Any) -> A2Mamba:
    """A2Mamba-S: 30.7 M parameters, 5.4 G multiply-accumulates; 84.7 % on ImageNet-1K (paper, Table II)."""
    return _create("a2mamba_small", pretrained, kwargs)


@register_model
def a2mamba_base(pretrained: bool = False, **kwargs: Any) -> A2Mamba:
    """A2Mamba-B: 51.1 M parameters, 11.5 G multiply-accumulates; 85.7 % on ImageNet-1K (paper, Table II)."""
    return _create("a2mamba_base", pretrained, kwargs)


@register_model
def a2mamba_large(pretrained: bool = False, **kwargs: Any) -> A2Mamba:
    """A2Mamba-L as released: 93.7 M parameters, 17.4 G multiply-accumulates; 86.2 % (paper, Table VIII)."""
    return _create("a2mamba_large", pretrained, kwargs)


@register_model
def a2mamba_large_paper(pretrained: bool = False, **kwargs: Any) -> A2Mamba:
    """A2Mamba-L of the paper's Table I: 94.9 M parameters, 18.3 G multiply-accumulates; no weights released."""
    return _create("a2mamba_large_paper", pretrained, kwargs)


@register_model
def a2mamba_test(pretrained: bool = False, **kwargs: Any) -> A2Mamba:
    """Build a tiny network for tests, with every kind of part."""
    return _create("a2mamba_test", pretrained, kwargs)
