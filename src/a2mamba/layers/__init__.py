"""Building blocks, one idea a file."""

from a2mamba.layers.a2ssm import A2SSM
from a2mamba.layers.channel_affine import ChannelAffine
from a2mamba.layers.channel_norm import ChannelNorm
from a2mamba.layers.checkpointing import checkpoint_block
from a2mamba.layers.chunking import may_chunk, over_images
from a2mamba.layers.depthwise import DepthwiseConv, GeluDepthwise, ResidualDepthwise
from a2mamba.layers.ffn import ConvFFN
from a2mamba.layers.gated_projection import gated_projection
from a2mamba.layers.global_attention import GlobalAttention, resize_pair_bias
from a2mamba.layers.heap import keep_memory
from a2mamba.layers.lass import LASS
from a2mamba.layers.mass import MASS
from a2mamba.layers.output_norms import OutputNorms
from a2mamba.layers.pointwise import PointwiseConv
from a2mamba.layers.rope import rope_frequencies, rope_table
from a2mamba.layers.ss2d import SS2D

__all__ = [
    "A2SSM",
    "LASS",
    "MASS",
    "SS2D",
    "ChannelAffine",
    "ChannelNorm",
    "ConvFFN",
    "DepthwiseConv",
    "GeluDepthwise",
    "GlobalAttention",
    "OutputNorms",
    "PointwiseConv",
    "ResidualDepthwise",
    "checkpoint_block",
    "gated_projection",
    "keep_memory",
    "may_chunk",
    "over_images",
    "resize_pair_bias",
    "rope_frequencies",
    "rope_table",
]
