"""The four-stage pyramid that A2Mamba and SegMAN's encoder share; only their token mixers differ.

Shapes: B batch, C channels of a stage, H x W its map. Input (B, 3, S, S'); stage i (from 0) has stride
4 * 2 ** i, every stride-2 convolution rounding up.

    stem -> stage 0 -> (downsample, stage 1) -> (downsample, stage 2) -> (downsample, stage 3) -> head

The file reads downwards: stem, downsampling, stage, head, model; a stage's blocks are in `block.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead, SelectAdaptivePool2d
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.backbone.block import Block
from a2mamba.backbone.init import init_all, init_plain
from a2mamba.backbone.options import ClassifierOptions
from a2mamba.backbone.variant import Variant
from a2mamba.layers import (
    ChannelAffine,
    PointwiseConv,
    checkpoint_block,
    keep_memory,
    may_chunk,
    over_images,
    rope_table,
)

STAGES = 4

MAX_CHUNK_ELEMENTS = 3 * 2**19
"""Numbers of a stage's map that its blocks compute at a time, where a batch may be split."""


def half_size(size: int) -> int:
    """Return the size after a 3 x 3 convolution of stride 2 and padding 1."""
    return (size + 1) // 2


def final_size(size: int) -> int:
    """Return the side of the last stage's map for an image side: stride 32, rounded up at every step."""
    for _ in range(STAGES + 1):
        size = half_size(size)
    return size


class Stem(nn.Module):
    """Four 3 x 3 convolutions, strides 2, 1, 2, 1, each with BatchNorm, the first three with GELU: in_chans -> C / 4.

    The result has channels-last memory, and the rest of the network keeps it: the attention then reads its heads and
    the scan its tokens without a copy, and on CPUs the convolutions are fastest so.
    """

    conv_norms = tuple((f"conv{i}", f"norm{i}") for i in (1, 2, 3, 4))

    def __init__(
        self, in_chans: int, channels: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        half = channels // 2

        def conv(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False, device=device, dtype=dtype)

        self.conv1, self.norm1 = conv(in_chans, half, 2), nn.BatchNorm2d(half, device=device, dtype=dtype)
        self.conv2, self.norm2 = conv(half, half, 1), nn.BatchNorm2d(half, device=device, dtype=dtype)
        self.conv3, self.norm3 = conv(half, channels, 2), nn.BatchNorm2d(channels, device=device, dtype=dtype)
        self.conv4, self.norm4 = conv(channels, channels, 1), nn.BatchNorm2d(channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, S, S') -> (B, C, ceil(S / 4), ceil(S' / 4))."""
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.gelu(self.norm1(self.conv1(x)))
        x = F.gelu(self.norm2(self.conv2(x)))
        x = F.gelu(self.norm3(self.conv3(x)))
        return self.norm4(self.conv4(x))


class Downsample(nn.Module):
    """A 3 x 3 convolution of stride 2 with BatchNorm, between stages."""

    conv_norms = (("conv", "norm"),)

    def __init__(
        self, inputs: int, outputs: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(outputs, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / 2), ceil(W / 2))."""
        return self.norm(self.conv(x))


class Stage(nn.Module):
    """Blocks at one resolution, after the downsampling that leads to it.

    ``checkpointed_blocks``: that many first blocks recompute their activations in the backward.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block], head_dim: int) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.head_dim = head_dim
        self.checkpointed_blocks = 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H', W')."""
        x = self.downsample(x)
        # Under autocast, what all blocks add to keeps the dtype of the weights.
        first = self.blocks[0]
        assert isinstance(first, Block)
        x = x.to(torch.promote_types(x.dtype, first.norm1.weight.dtype))
        dtype = torch.promote_types(x.dtype, torch.float32)
        rope = rope_table(x.shape[2], x.shape[3], self.head_dim, x.device, dtype)
        if may_chunk(self, x, x.shape[1], MAX_CHUNK_ELEMENTS):
            return over_images(lambda chunk: self._blocks(chunk, rope), x, MAX_CHUNK_ELEMENTS // x.shape[1:].numel())
        return self._blocks(x, rope)

    def _blocks(self, x: Tensor, rope: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            if i < self.checkpointed_blocks and torch.is_grad_enabled():
                x = checkpoint_block(block, x, rope)
            else:
                x = block(x, rope)
        return x


class Head(nn.Module):
    """conv1x1 -> BatchNorm -> SiLU -> global pool -> linear classifier (docs/network.md, section 2).

    Args:
        channels: of the last stage.
        hidden: width of the features.
        num_classes: 0 leaves the classifier out; the output is then the pooled features.
        global_pool: a timm pooling type, or "" to keep the map.
        drop_rate: dropout before the classifier.
        device, dtype: of the parameters.
    """

    conv_norms = (("conv", "norm"),)

    def __init__(
        self,
        channels: int,
        hidden: int,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv = PointwiseConv(channels, hidden, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(hidden, device=device, dtype=dtype)
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool)
        self.drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Identity()
        self.reset(num_classes, global_pool, device=device, dtype=dtype)

    def reset(
        self,
        num_classes: int,
        global_pool: str | None,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Replace the classifier, and the pooling where ``global_pool`` is not None; both are in the head's mode."""
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool).train(self.training)
        width = self.conv.out_channels * self.global_pool.feat_mult()
        fc = nn.Linear(width, num_classes, device=device, dtype=dtype) if num_classes > 0 else nn.Identity()
        self.fc = fc.apply(init_plain).train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, classes); features (B, 1024) with ``pre_logits``; maps where nothing is pooled."""
        x = self.global_pool(F.silu(self.norm(self.conv(x))))
        pooled = not self.global_pool.is_identity()
        x = self.drop(x.flatten(1) if pooled else x)
        if pre_logits or isinstance(self.fc, nn.Identity):
            return x
        return self.fc(x) if pooled else self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _take(stages: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """Return which stages are meant, and the last of them, as timm reads indices."""
    return feature_take_indices(stages, indices if indices is None or isinstance(indices, int) else list(indices))


class Pyramid(nn.Module):
    """A four-stage backbone with a classifier, in timm's conventions.

    Args:
        variant: mixer and sizes.
        options: what else can be chosen.

    Raises:
        ValueError: if sizes do not fit together.
    """

    def __init__(self, variant: Variant, options: ClassifierOptions | None = None) -> None:
        super().__init__()
        options = options or ClassifierOptions()
        channels, heads = variant.channels, variant.heads
        device = None if options.device is None else torch.device(options.device)
        dtype = options.dtype
        last = STAGES - 1
        drop_paths = torch.linspace(0, options.drop_path_rate, sum(variant.depths), device="cpu")
        image = options.image_size

        self.variant = variant
        self.num_classes = options.num_classes
        self.in_chans = options.in_chans
        self.channels = tuple(channels)
        self.num_features = channels[last]
        self.feature_info = [
            {"num_chs": channels[i], "reduction": 4 * 2**i, "module": f"stages.{i}"} for i in range(STAGES)
        ]
        self.stem = Stem(options.in_chans, channels[0], device=device, dtype=dtype)
        stages: list[Stage] = []
        for i, rates in enumerate(drop_paths.split(list(variant.depths))):
            tokens = final_size(image[0]) * final_size(image[1]) if i == last else None
            blocks = [
                Block(
                    channels[i],
                    variant.mixer(channels[i], heads[i], variant.kernel_sizes[i], tokens, device=device, dtype=dtype),
                    int(variant.mlp_ratios[i] * channels[i]),
                    drop_path=float(rate),
                    scaling=variant.scaling[i],
                    scale_init=variant.scale_init[i],
                    device=device,
                    dtype=dtype,
                )
                for rate in rates
            ]
            downsample = Downsample(channels[i - 1], channels[i], device=device, dtype=dtype) if i else nn.Identity()
            stages.append(Stage(downsample, blocks, channels[i] // heads[i]))
        self.stages = nn.Sequential(*stages)
        self.drop_rate = options.drop_rate
        self.head: Head | ClassifierHead | None = Head(
            channels[last],
            variant.head_hidden_size,
            options.num_classes,
            options.global_pool,
            options.drop_rate,
            device=device,
            dtype=dtype,
        )
        self.init_weights()

    @property
    def head_hidden_size(self) -> int:
        """Width of the features that the classifier sees; of the last map where the head was pruned."""
        if self.head is None:
            return self.num_features
        width = self.head.conv.out_channels if isinstance(self.head, Head) else self.num_features
        return width * self.head.global_pool.feat_mult()

    def stage_list(self) -> list[Stage]:
        """Return the stages; after pruning there are fewer than four."""
        return [stage for stage in self.stages if isinstance(stage, Stage)]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set all initial values (docs/network.md, section 9)."""
        init_all(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, S, S') -> the last stage's map (B, C, ceil(S / 32), ceil(S' / 32))."""
        self._begin(x)
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last stage's map -> (B, classes), or the classifier's input (B, 1024) with ``pre_logits``."""
        return x if self.head is None else self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, S, S'), any S, S' >= 1 -> logits (B, classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return (the last map computed, the list of maps of chosen stages): timm's contract.

        Args:
            x: (B, in_chans, S, S').
            indices: the last n stages if an integer, these if a sequence, all if None.
            norm: part of timm's contract; the stages end without a norm, so nothing changes.
            stop_early: do not compute stages after the last one asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the list alone.

        Raises:
            ValueError: for another ``output_fmt``.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        self._begin(x)
        take, last = _take(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                intermediates.append(x if output_fmt == "NCHW" else x.permute(0, 2, 3, 1))
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last of ``indices`` and, if asked, the head; return the indices kept.

        ``prune_norm`` is part of timm's contract; there is no norm to prune.
        """
        take, last = _take(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        training = self.stages.training
        self.stages = self.stages[: last + 1]
        self.stages.training = training  # without its parts, which keep their own
        if prune_head or shortened:
            self.head = None
            self.num_classes = 0
            self.num_features = self.channels[last]
        return take

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier, an Identity where there is none."""
        return nn.Identity() if self.head is None else self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one (none for 0), and the pooling where ``global_pool`` is given.

        Where the head was pruned, ``global_pool`` makes a new one, of pooling and a classifier alone.

        Raises:
            ValueError: if the head was pruned and a classifier is asked for without ``global_pool``.
        """
        parameter = next(self.parameters())
        if isinstance(self.head, Head):
            self.head.reset(num_classes, global_pool, device=parameter.device, dtype=parameter.dtype)
        elif global_pool:
            head = ClassifierHead(self.num_features, num_classes, global_pool, self.drop_rate)
            head.fc.apply(init_plain)
            self.head = head.to(device=parameter.device, dtype=parameter.dtype).train(self.training)
        elif num_classes:
            raise ValueError("this model's head was pruned; give the pooling of the new one, as global_pool='avg'")
        else:
            self.head = None
        self.num_classes = num_classes

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth, for layer-wise learning rates."""
        if coarse:
            return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}
        return {
            "stem": r"^stem",
            "blocks": [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^head\.(?:conv|norm)", (99999,)),
            ],
        }

    @torch.jit.ignore
    def no_weight_decay(self, original: bool = False) -> set[str]:
        """Return the names of parameters that weight decay should leave alone, beside vectors and biases.

        Args:
            original: False: A_log and D of every scan, as the authors mark them (docs/network.md, section 10). True:
                what their optimizer really spared, which does not read those marks: every released tensor of at most
                one axis. A_log, position biases and the weights of residual scales have more, and are decayed. Build
                parameter groups from this set alone then, without a rule for vectors.
        """
        names = {name for name, _ in self.named_parameters()}
        if not original:
            return {name for name in names if name.rsplit(".", 1)[-1] in ("A_log", "D")}
        scales = {f"{path}.weight" for path, module in self.named_modules() if isinstance(module, ChannelAffine)}
        decayed = scales | {name for name in names if name.endswith(".A_log")}
        return {name for name in names - decayed if self.get_parameter(name).dim() < 2 or name.endswith(".D")}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True, blocks: Sequence[int] | None = None) -> None:
        """Recompute activations in the backward.

        Args:
            enable: switch on or off.
            blocks: only the first n blocks of each stage, one number a stage; None for all.
        """
        for i, stage in enumerate(self.stage_list()):
            count = len(stage.blocks) if blocks is None else blocks[i]
            stage.checkpointed_blocks = count if enable else 0

    def _begin(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_chans or x.shape[2] < 1 or x.shape[3] < 1:
            raise ValueError(
                f"expected images (B, {self.in_chans}, H, W) with H and W at least 1, got {tuple(x.shape)}"
            )
        keep_memory(x)
