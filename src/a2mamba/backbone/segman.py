"""SegMAN's encoder, A2Mamba's predecessor: the same pyramid with LASS mixers (arXiv:2412.11890)."""

from __future__ import annotations

from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.registry import register
from a2mamba.backbone.rules import FOLDED, FOLDED_COLUMN, FOLDED_ROWS, SAME, Rule
from a2mamba.backbone.variant import Variant
from a2mamba.layers import LASS


class SegMANEncoder(Pyramid):
    """The pyramid with LASS mixers: neighborhood attention, then a selective scan in four directions."""


LASS_RULES: tuple[Rule, ...] = (
    (r"mixer\.conv\.", "token_mixer.dwconv.0.", SAME),
    (r"mixer\.conv_norm\.", "token_mixer.dwconv.1.", SAME),
    (r"mixer\.bias$", "token_mixer.rpb.0", SAME),
    (r"mixer\.global_attention\.bias$", "token_mixer.rpb.1", SAME),
    (r"mixer\.ssm\.x_proj_weight$", "token_mixer.ssm.x_proj_weight", FOLDED_ROWS),
    (r"mixer\.ssm\.dt_proj_weight$", "token_mixer.ssm.dt_projs_weight", SAME),
    (r"mixer\.ssm\.dt_proj_bias$", "token_mixer.ssm.dt_projs_bias", SAME),
    (r"mixer\.ssm\.A_log$", "token_mixer.ssm.A_logs", FOLDED_COLUMN),
    (r"mixer\.ssm\.D$", "token_mixer.ssm.Ds", FOLDED),
)
"""Our name inside a block (a pattern for its beginning) -> released name(s) there, and the change of shape."""

VARIANTS: dict[str, Variant] = {
    "segman_encoder_tiny": Variant(
        mixer=LASS,
        channels=(32, 64, 144, 192),
        depths=(2, 2, 4, 2),
        heads=(1, 2, 4, 8),
        kernel_sizes=(11, 9, 9, 7),
        mlp_ratios=(4, 4, 3, 3),
        released_mixer=LASS_RULES,
    ),
    "segman_encoder_small": Variant(
        mixer=LASS,
        channels=(64, 144, 288, 512),
        depths=(2, 2, 10, 4),
        heads=(2, 4, 8, 16),
        mlp_ratios=(4, 4, 3.4, 3.4),
        released_mixer=LASS_RULES,
    ),
    "segman_encoder_base": Variant(
        mixer=LASS,
        channels=(96, 160, 364, 560),
        depths=(4, 4, 18, 4),
        heads=(4, 8, 13, 20),
        mlp_ratios=(4, 4, 3, 3),
        scaling=("layer",) * 4,
        scale_init=(1e-6,) * 4,
        crop_pct=0.95,
        released_mixer=LASS_RULES,
    ),
    "segman_encoder_large": Variant(
        mixer=LASS,
        channels=(96, 192, 432, 640),
        depths=(4, 4, 28, 4),
        heads=(4, 8, 12, 20),
        mlp_ratios=(4, 4, 3, 3),
        scaling=("layer",) * 4,
        scale_init=(1e-6,) * 4,
        crop_pct=0.95,
        released_mixer=LASS_RULES,
    ),
}

register(SegMANEncoder, VARIANTS)
