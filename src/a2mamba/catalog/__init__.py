"""What is known of every model before one is made: sizes by our count, accuracy by the papers, the state of weights.

Imports nothing, so that commands which only name models start at once; tests recount the figures.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Figures of one variant."""

    parameters: int
    """with 1000 classes; tests recount them"""
    flops: int
    """multiply-accumulates at 224 x 224, by ``a2mamba.analysis.flops``; tests recount them"""
    top1: float | None
    """percent on ImageNet-1K at 224 x 224, as published"""
    weights: str
    """what is released, and under which license"""


RELEASED = "released; no license stated"
NONE = "none released"

FACTS: dict[str, Facts] = {
    "a2mamba_nano": Facts(4_195_052, 825_294_160, 78.7, RELEASED),
    "a2mamba_tiny": Facts(15_365_506, 2_712_088_160, 83.0, RELEASED),
    "a2mamba_small": Facts(30_672_834, 5_387_670_048, 84.7, RELEASED),
    "a2mamba_base": Facts(51_134_464, 11_451_270_304, 85.7, RELEASED),
    "a2mamba_large": Facts(93_737_376, 17_428_002_576, 86.2, RELEASED),
    "a2mamba_large_paper": Facts(94_948_590, 18_270_004_660, 86.1, NONE),
    "a2mamba_test": Facts(238_008, 58_874_100, None, NONE),
    "segman_encoder_tiny": Facts(3_506_014, 647_065_872, 76.2, NONE),
    "segman_encoder_small": Facts(25_507_582, 4_036_810_216, 84.0, NONE),
    "segman_encoder_base": Facts(45_020_682, 9_924_277_816, 85.1, NONE),
    "segman_encoder_large": Facts(80_985_272, 16_784_282_128, 85.5, NONE),
}
"""The paper's Table II gives Large the size of large_paper and 86.1; Table VIII has the released one, with 86.2."""

# Top-1 by timm's names: of the models that the paper's Tables II and VIII list beside ours, and of two that a CPU
# would run, by timm's results for its default weights (distilled, and trained on more than ImageNet-1K).
_PUBLISHED = {
    "convnext_tiny": 82.1,
    "convnext_small": 83.1,
    "convnext_base": 83.8,
    "swin_tiny_patch4_window7_224": 81.3,
    "swin_small_patch4_window7_224": 83.0,
    "pvt_v2_b0": 70.5,
    "pvt_v2_b1": 78.7,
    "repvit_m1_5": 82.5,
    "hgnetv2_b4": 83.7,
}


def published_top1(model: str) -> float | None:
    """Return a model's published top-1 on ImageNet-1K in percent, or None if we know of none."""
    facts = FACTS.get(model)
    return _PUBLISHED.get(model) if facts is None else facts.top1


_SIZES = ("nano", "tiny", "small", "base", "large", "large_paper", "test")

SEGMENTERS: dict[str, str] = (
    # Table VII measures SegMAN-V2-L on the Large of the paper's Table I.
    {f"segman_v2_{size}": f"a2mamba_{size}" for size in ("nano", "tiny", "small", "base")}
    | {"segman_v2_large": "a2mamba_large_paper", "segman_v2_test": "a2mamba_test"}
    | {f"segman_{size}": f"segman_encoder_{size}" for size in ("tiny", "small", "base", "large")}
    | {f"upernet_a2mamba_{size}": f"a2mamba_{size}" for size in _SIZES}
)
"""Name of a segmentation network -> its backbone, smallest first within a family."""

DETECTORS: dict[str, str] = {
    f"{kind}_a2mamba_{size}": f"a2mamba_{size}" for kind in ("mask_rcnn", "cascade_mask_rcnn") for size in _SIZES
}
"""Name of a detector -> its backbone; the large ones of the paper's Tables IV and V end in ``large_paper``."""

MODELS: dict[str, tuple[str, ...]] = {
    "classification": tuple(FACTS),
    "segmentation": tuple(SEGMENTERS),
    "detection": tuple(DETECTORS),
}
"""Task -> names of its models."""
