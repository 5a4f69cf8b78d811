"""A segmentation network: a backbone that declares its maps, a decoder, and what training and testing ask of both.

Shapes: images (B, 3, H, W); maps of strides 4, 8, 16, 32; logits (B, classes, H / s, W / s), s the decoder's stride.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from timm.models._features import FeatureInfo
from torch import Tensor, nn

from a2mamba.backbone import CheckpointError, Layout, Pyramid
from a2mamba.layers import OutputNorms
from a2mamba.segmentation.conv import Classifier, resize

STRIDES = (4, 8, 16, 32)

NORMS_BEFORE_BRANCHES = re.compile(r"^stages\.\d+\.blocks\.\d+\.(?:norm[12]|mixer\.norm)\.")
"""The norms of our backbones that a rule for names with "norm" in them meets in the original code.

Its other norms are numbered there and escape the rule, so they are decayed: those of the stem, of the downsampling, of
the gate, of the SSM's convolution, and the one inside the projection.
"""
UNDECAYED_NAMES = ("norm", "absolute_pos_embed", "relative_position_bias_table")
"""The same rule for backbones of timm, as it is written in the configurations of Swin's segmentation code."""


class Segmenter(nn.Module):
    """Backbone and decoder, with an auxiliary head in training where the system has one.

    Args:
        backbone: a feature extractor with timm's contract (``features_only=True``): it returns a list of maps and
            declares channels, strides and layout; it must offer strides 4, 8, 16 and 32.
        decoder: makes the decoder from the channels of those four maps.
        auxiliary: makes the auxiliary head, likewise; None for a system without one.
        output_norms: normalize the channels of each map before it reaches them.

    Raises:
        ValueError: if the backbone does not offer those strides.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: Callable[[tuple[int, ...]], nn.Module],
        auxiliary: Callable[[tuple[int, ...]], nn.Module] | None = None,
        *,
        output_norms: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_indices, channels = _pyramid_of(backbone)
        self.output_norms = OutputNorms(channels) if output_norms else None
        self.decoder = decoder(channels)
        self.auxiliary = None if auxiliary is None else auxiliary(channels)

    def forward(
        self, images: Tensor, *, native_resolution: bool = False, all_heads: bool = False
    ) -> Tensor | dict[str, Tensor]:
        """Return class logits.

        Args:
            images: (B, 3, H, W), normalized.
            native_resolution: stop at each head's own stride instead of resizing to H x W. The loss resizes to the
                labels anyway.
            all_heads: return a dictionary of what training has a loss for: "decode" and, where there is an auxiliary
                head, "auxiliary". It is an option of ``forward`` because DistributedDataParallel only sees that.

        Returns:
            (B, classes, H, W) in the dtype of the decoder's output; or the dictionary of those.
        """
        features = self.features(images)
        logits: dict[str, Tensor] = {"decode": self.decoder(features)}
        if all_heads and self.auxiliary is not None:
            logits["auxiliary"] = self.auxiliary(features)
        if not native_resolution:
            logits = {head: resize(x, (images.shape[2], images.shape[3])) for head, x in logits.items()}
        return logits if all_heads else logits["decode"]

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the backbone's maps of strides 4, 8, 16, 32, NCHW, normalized where there are norms."""
        maps: Sequence[Tensor] = self.backbone(images)
        channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
        chosen = [maps[i].permute(0, 3, 1, 2) if channels_last else maps[i] for i in self.feature_indices]
        return chosen if self.output_norms is None else self.output_norms(chosen)

    def fold(self) -> None:
        """Drop the auxiliary head, for inference."""
        self.auxiliary = None

    def heads(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield (name, module) of the decoder and of the auxiliary head."""
        yield "decoder", self.decoder
        if self.auxiliary is not None:
            yield "auxiliary", self.auxiliary

    def start_from_shares(self, shares: Sequence[float]) -> None:
        """Let the classifiers of all heads begin with what is known of the data: each class's share of the pixels.

        Args:
            shares: one number a class, 0 to 1.

        Raises:
            ValueError: for another number of classes.
        """
        for _, head in self.heads():
            classifier = head.classifier
            assert isinstance(classifier, Classifier)
            if len(shares) != classifier.conv.out_channels:
                raise ValueError(f"{len(shares)} shares for {classifier.conv.out_channels} classes")
            classifier.start_from(torch.tensor(shares, device=classifier.conv.weight.device))

    def parameter_sets(self) -> dict[str, set[str]]:
        """Return the sets of parameter names that the papers' optimizers treat apart.

        The original code finds them by substrings of its own names; these are the parameters that it finds in effect.

        Returns:
            "decoder": the decoder and the auxiliary head. SegFormer's protocol trains both with ten times the learning
                rate, and decays all of them, norms included.
            "norm_no_decay": the backbone's norms before its branches, inside its mixers and behind its maps, exempt
                from weight decay in Swin's and in SegFormer's protocol. All other norms, and all biases, are decayed.
        """
        decoder = {f"{head}.{name}" for head, module in self.heads() for name, _ in module.named_parameters()}
        pyramid = _pyramid_inside(self.backbone)
        if pyramid is not None:
            prefix, network = pyramid
            exempt = {f"backbone.{prefix}{n}" for n, _ in network.named_parameters() if NORMS_BEFORE_BRANCHES.match(n)}
        else:
            names = (name for name, _ in self.backbone.named_parameters())
            exempt = {f"backbone.{name}" for name in names if any(part in name for part in UNDECAYED_NAMES)}
        exempt |= {name for name, _ in self.named_parameters() if name.startswith("output_norms.")}
        return {"decoder": decoder, "norm_no_decay": exempt}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward, as far as the backbone can."""
        pyramid = _pyramid_inside(self.backbone)
        network: Any = self.backbone if pyramid is None else pyramid[1]  # timm's networks share no class that has it
        network.set_grad_checkpointing(enable)

    def released_layout(self) -> Layout:
        """Return how this network's tensors are called in released files; see :func:`a2mamba.to_released`.

        Raises:
            CheckpointError: if no files of such a network were released.
        """
        pyramid = _pyramid_inside(self.backbone)
        describe: Any = getattr(self.decoder, "released_names", None)
        if pyramid is None or describe is None:
            raise CheckpointError(f"networks with a {type(self.decoder).__name__} have no released layout")
        prefix, network = pyramid
        body = Layout.of_backbone(network).inside(f"backbone.{prefix}", "backbone.")
        return body | Layout(describe(), {}).inside("decoder.", "decode_head.")


def _pyramid_of(backbone: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the indices and channels of a backbone's maps of strides 4, 8, 16, 32."""
    info = getattr(backbone, "feature_info", None)
    if not isinstance(info, FeatureInfo):
        raise ValueError(
            f"{type(backbone).__name__} does not declare its maps; make the backbone with features_only=True"
        )
    reductions = [int(r) for r in cast(Sequence[int], info.reduction())]
    missing = [stride for stride in STRIDES if stride not in reductions]
    if missing:
        raise ValueError(f"the backbone offers maps of strides {reductions}; strides {missing} are missing")
    indices = tuple(reductions.index(stride) for stride in STRIDES)
    channels = cast(Sequence[int], info.channels())
    return indices, tuple(int(channels[i]) for i in indices)


def _pyramid_inside(backbone: nn.Module) -> tuple[str, Pyramid] | None:
    """Return the (name prefix, network) of one of our backbones inside its feature extractor, None for timm's."""
    for name, module in backbone.named_modules():
        if isinstance(module, Pyramid):
            return f"{name}." if name else "", module
    return None
