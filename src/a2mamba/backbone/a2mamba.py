"""A2Mamba: the backbones of "Attention-augmented State Space Models for Visual Recognition" (arXiv:2507.16624).

:mod:`a2mamba.backbone.pyramid` is the network, :class:`~a2mamba.layers.MASS` its mixer; here stand how the mixer's
weights are called in released files, and the table of variants.
"""

from __future__ import annotations

from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.registry import register
from a2mamba.backbone.rules import BATCH_OF_ONE, COLUMN, KERNEL, SAME, Rule
from a2mamba.backbone.variant import Variant
from a2mamba.layers import MASS


class A2Mamba(Pyramid):
    """The pyramid with MASS mixers: sliding and dilated attention whose maps also aggregate a selective scan.

    The windows are at most 11 wide and the maps of the first three stages are never attended as a whole; the last stage
    attends globally, with memory in (H W / 32^2)^2. Every stage has an even number of heads.
    """


MASS_RULES: tuple[Rule, ...] = (
    (r"mixer\.gate\.", "token_mixer.gate.0.", SAME),
    (r"mixer\.gate_norm\.", "token_mixer.gate.1.", SAME),
    (r"mixer\.proj_norm\.", "token_mixer.proj.0.", SAME),
    (r"mixer\.proj\.", "token_mixer.proj.1.", SAME),
    (r"mixer\.bias$", ("token_mixer.rpb.0", "token_mixer.rpb.1"), SAME),
    (r"mixer\.global_attention\.bias$", "token_mixer.rpb.2", BATCH_OF_ONE),
    (r"mixer\.ssm\.conv\.", "token_mixer.ssm.conv2d.", SAME),
    (r"mixer\.ssm\.x_proj\.weight$", "token_mixer.ssm.x_proj_weight", SAME),
    (r"mixer\.ssm\.dt_proj\.weight$", "token_mixer.ssm.dt_projs_weight", SAME),
    (r"mixer\.ssm\.dt_proj\.bias$", "token_mixer.ssm.dt_projs_bias", SAME),
    (r"mixer\.ssm\.A_log$", "token_mixer.ssm.A_logs", COLUMN),
    (r"mixer\.ssm\.D$", "token_mixer.ssm.Ds", SAME),
    (r"mixer\.ssm\.head_mix\.weight$", "token_mixer.ssm.state_fusion.weight", KERNEL),
    (r"mixer\.ssm\.head_mix\.bias$", "token_mixer.ssm.state_fusion.bias", SAME),
)
"""Our name inside a block (a pattern for its beginning) -> released name(s) there, and the change of shape."""


# Table I of the paper, with what the paper leaves out taken from the released weights.
VARIANTS: dict[str, Variant] = {
    "a2mamba_nano": Variant(
        mixer=MASS,
        channels=(32, 64, 128, 192),
        depths=(2, 2, 8, 2),
        heads=(2, 2, 4, 8),
        mlp_ratios=(4, 4, 3, 3),
        released_mixer=MASS_RULES,
    ),
    "a2mamba_tiny": Variant(
        mixer=MASS,
        channels=(48, 96, 256, 448),
        depths=(2, 2, 10, 2),
        heads=(2, 4, 8, 16),
        mlp_ratios=(4, 4, 3, 3),
        released_mixer=MASS_RULES,
    ),
    "a2mamba_small": Variant(
        mixer=MASS,
        channels=(64, 128, 320, 512),
        depths=(2, 4, 12, 4),
        heads=(2, 4, 10, 16),
        mlp_ratios=(4, 4, 3, 3),
        scaling=("none", "none", "residual", "residual"),
        released_mixer=MASS_RULES,
    ),
    "a2mamba_base": Variant(
        mixer=MASS,
        channels=(96, 192, 384, 512),
        depths=(4, 6, 12, 6),
        heads=(4, 8, 12, 16),
        mlp_ratios=(4, 4, 3.75, 3.75),
        scaling=("layer",) * 4,
        scale_init=(1, 1, 1e-6, 1e-6),
        crop_pct=0.95,
        released_mixer=MASS_RULES,
    ),
    "a2mamba_large": Variant(
        mixer=MASS,
        channels=(96, 192, 448, 672),
        depths=(4, 6, 18, 6),
        heads=(4, 8, 16, 24),
        mlp_ratios=(4, 4, 4, 4),
        scaling=("layer",) * 4,
        scale_init=(1, 1, 1e-6, 1e-6),
        crop_pct=0.975,
        released_mixer=MASS_RULES,
    ),
    # The Large of the paper's Table I, which its Tables III to VII measure. No weights were released.
    "a2mamba_large_paper": Variant(
        mixer=MASS,
        channels=(112, 224, 512, 720),
        depths=(4, 6, 12, 6),
        heads=(4, 8, 16, 30),
        mlp_ratios=(4, 4, 4, 4),
        scaling=("layer",) * 4,
        scale_init=(1, 1, 1e-6, 1e-6),
        crop_pct=0.975,
        released_mixer=MASS_RULES,
    ),
    # For tests: every kind of part, in a few hundred thousand parameters.
    "a2mamba_test": Variant(
        mixer=MASS,
        channels=(16, 24, 32, 48),
        depths=(1, 1, 2, 1),
        heads=(2, 2, 4, 4),
        kernel_sizes=(5, 5, 3, 7),
        mlp_ratios=(2, 2, 2, 2),
        scaling=("none", "none", "residual", "layer"),
        head_hidden_size=128,
        released_mixer=MASS_RULES,
    ),
}

register(A2Mamba, VARIANTS)
