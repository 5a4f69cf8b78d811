"""The names of SegMAN's released segmentation files, one table for both directions (see a2mamba.backbone.rules)."""

from __future__ import annotations

from a2mamba.backbone.rules import FOLDED, FOLDED_COLUMN, FOLDED_ROWS, MATRIX, SAME, Rule


def _conv(ours: str, released: str) -> tuple[Rule, Rule]:
    """Return the rules of a convolution with norm."""
    return (rf"{ours}\.conv\.", f"{released}.conv.", SAME), (rf"{ours}\.norm\.", f"{released}.bn.", SAME)


# Our name inside the decoder (a pattern for its beginning) -> the name after "decode_head.", and the change of shape.
MMSCOPE_RULES: tuple[Rule, ...] = (
    (r"projections\.0\.weight$", "linear_c2.proj.weight", MATRIX),
    (r"projections\.1\.weight$", "linear_c3.proj.weight", MATRIX),
    (r"projections\.2\.weight$", "linear_c4.proj.weight", MATRIX),
    (r"projections\.0\.bias$", "linear_c2.proj.bias", SAME),
    (r"projections\.1\.bias$", "linear_c3.proj.bias", SAME),
    (r"projections\.2\.bias$", "linear_c4.proj.bias", SAME),
    *_conv("fuse", "linear_fuse"),
    *_conv("short_path", "short_path"),
    *_conv(r"image_pool\.project", "image_pool.1"),
    *_conv("half_down", "conv_downsample_2"),
    *_conv("quarter_down", "conv_downsample_4"),
    *_conv("quarter_reduce", "reduce_channels.0"),
    *_conv("half_reduce", "reduce_channels.1"),
    *_conv("full_reduce", "reduce_channels.2"),
    (r"block\.pos([12])\.", r"vssm.cpe\1.", SAME),
    (r"block\.ssm\.x_proj_weight$", "vssm.token_mixer.x_proj_weight", FOLDED_ROWS),
    (r"block\.ssm\.dt_proj_weight$", "vssm.token_mixer.dt_projs_weight", SAME),
    (r"block\.ssm\.dt_proj_bias$", "vssm.token_mixer.dt_projs_bias", SAME),
    (r"block\.ssm\.A_log$", "vssm.token_mixer.A_logs", FOLDED_COLUMN),
    (r"block\.ssm\.D$", "vssm.token_mixer.Ds", FOLDED),
    (r"block\.(?=norm[12]\.|mlp\.)", "vssm.", SAME),
    *_conv("query", "proj_out"),
    *_conv("merge", "cat"),
    (r"classifier\.conv\.", "conv_seg.", SAME),
)
