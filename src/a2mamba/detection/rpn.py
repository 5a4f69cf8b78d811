"""The region proposal network: where objects may be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from a2mamba.detection.boxes import IGNORED, BoxCoder, anchor_grid, base_anchors, inside, match
from a2mamba.detection.config import RPNConfig

Targets = Sequence[dict[str, Tensor]]


class RegionProposals(nn.Module):
    """One 3 x 3 convolution and two 1 x 1 ones, shared by all levels: an objectness logit and four deltas an anchor.

    Args:
        width: channels of the levels.
        strides: of the levels in pixels, finest first.
        config: numbers.
        clamp_both_sides: how deltas are limited, see :class:`~a2mamba.detection.boxes.BoxCoder`.

    Raises:
        ValueError: if there is not one anchor size a level.
    """

    def __init__(self, width: int, strides: Sequence[int], config: RPNConfig, *, clamp_both_sides: bool) -> None:
        super().__init__()
        if len(config.anchor_sizes) != len(strides):
            raise ValueError(
                f"anchor_sizes={config.anchor_sizes}: expected {len(strides)}, one for each level of strides "
                f"{tuple(strides)}"
            )
        self.config = config
        self.strides = tuple(strides)
        self.head = RPNHead(width, len(config.aspect_ratios))
        self.coder = BoxCoder((1, 1, 1, 1), clamp_both_sides=clamp_both_sides)
        self.sampler = BalancedPositiveNegativeSampler(config.batch_per_image, config.positive_fraction)

    def forward(
        self, levels: Sequence[Tensor], images: ImageList, targets: Targets | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            levels: (B, width, H_i, W_i), finest first.
            images: the padded batch, and the sizes (height, width) of the images in it.
            targets: "boxes" (N, 4) float of each image, for the losses.

        Returns:
            proposals (P_i, 4) of each image, float32, best first, without gradient; and "loss_objectness" and
            "loss_rpn_box_reg", float32 scalars, if there are targets.
        """
        anchors, objectness, regression = self.predict(levels, images.tensors.shape[-2:])
        proposals = self._propose(
            self.candidates(objectness.detach(), regression.detach(), anchors), images.image_sizes
        )
        if targets is None:
            return proposals, {}
        return proposals, self._losses(objectness, regression, torch.cat(anchors), images.image_sizes, targets)

    def predict(self, levels: Sequence[Tensor], batch_size: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the anchors of each level, and of all levels objectness (B, N) and deltas (B, N, 4), float32.

        Args:
            levels: (B, width, H_i, W_i), finest first.
            batch_size: (height, width) of the padded batch.
        """
        logits, deltas = self.head(list(levels))
        objectness, regression = concat_box_prediction_layers(logits, deltas)
        batch = levels[0].shape[0]
        return (
            self.anchors(logits, batch_size),
            objectness.float().view(batch, -1),
            regression.float().view(batch, -1, 4),
        )

    def anchors(self, maps: Sequence[Tensor], batch_size: Sequence[int]) -> list[Tensor]:
        """Return the anchors of each level, (H_i * W_i * A, 4) float32.

        Args:
            maps: any tensors (..., H_i, W_i), one a level.
            batch_size: (height, width) of the padded batch, which strides are taken from if the config says so.
        """
        config = self.config
        return [
            anchor_grid(
                base_anchors(size, config.aspect_ratios, rounded=config.round_anchors),
                x.shape[-2:],
                (stride, stride)
                if config.anchor_strides == "fixed"
                else (batch_size[0] // x.shape[-2], batch_size[1] // x.shape[-1]),
                x.device,
            )
            for size, stride, x in zip(config.anchor_sizes, self.strides, maps, strict=True)
        ]

    @torch.no_grad()
    def candidates(
        self, objectness: Tensor, regression: Tensor, anchors: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return what goes into the suppression: of each level, probabilities (B, k), best first, and boxes (B, k, 4).

        Boxes may leave the image.

        Args:
            objectness, regression, anchors: as `predict` returns them.
        """
        most = self.config.pre_nms_train if self.training else self.config.pre_nms_test
        sizes = [level.shape[0] for level in anchors]
        found = []
        # Only what goes into the suppression is decoded: a hundredth of a large image's anchors.
        for level, logits, deltas in zip(
            anchors, objectness.split(sizes, dim=1), regression.split(sizes, dim=1), strict=True
        ):
            score, index = logits.topk(min(most, level.shape[0]), dim=1)
            chosen = deltas.gather(1, index[..., None].expand(-1, -1, 4))
            boxes = self.coder.decode_boxes(chosen.reshape(-1, 1, 4), level[index.flatten()]).view(*index.shape, 4)
            found.append((score.sigmoid(), boxes))
        return found

    @torch.no_grad()
    def _propose(
        self, candidates: Sequence[tuple[Tensor, Tensor]], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        config = self.config
        keep = config.post_nms_train if self.training else config.post_nms_test
        score, box = (torch.cat(parts, dim=1) for parts in zip(*candidates, strict=True))
        level = torch.cat([torch.full_like(s, i, dtype=torch.int64) for i, (s, _) in enumerate(candidates)], dim=1)
        found = []
        for s, b, v, size in zip(score, box, level, image_sizes, strict=True):
            b = clip_boxes_to_image(b, size)
            if config.min_box_size > 0:
                large = remove_small_boxes(b, config.min_box_size)
                s, b, v = s[large], b[large], v[large]
            if config.score_threshold > 0:
                s, b, v = (x[s >= config.score_threshold] for x in (s, b, v))
            found.append(b[batched_nms(b, s, v, config.nms_iou)[:keep]])
        return found

    def _losses(
        self,
        objectness: Tensor,
        regression: Tensor,
        anchors: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        targets: Targets,
    ) -> dict[str, Tensor]:
        matches = torch.stack(
            [self.match(anchors, target["boxes"], size) for target, size in zip(targets, image_sizes, strict=True)]
        )
        labels = torch.where(matches >= 0, 1.0, torch.where(matches == IGNORED, -1.0, 0.0))
        positive, negative = (torch.stack(masks).bool() for masks in self.sampler(list(labels)))
        sampled = positive | negative
        count = max(1, int(sampled.sum()))
        classification = F.binary_cross_entropy_with_logits(objectness[sampled], labels[sampled], reduction="sum")
        wanted = [
            self.coder.encode_boxes(target["boxes"][found[chosen]], anchors[chosen])
            for target, found, chosen in zip(targets, matches, positive, strict=True)
        ]
        box = F.smooth_l1_loss(
            regression[positive], torch.cat(wanted), beta=self.config.smooth_l1_beta, reduction="sum"
        )
        return {"loss_objectness": classification / count, "loss_rpn_box_reg": box / count}

    @torch.no_grad()
    def match(self, anchors: Tensor, objects: Tensor, image_size: Sequence[int]) -> Tensor:
        """Assign objects (M, 4) to anchors (N, 4): (N,) int64, as :func:`a2mamba.detection.boxes.match`.

        Anchors that leave the image further than the config tolerates are ignored, and take part in nothing.
        """
        config = self.config
        matches = torch.full((len(anchors),), IGNORED, dtype=torch.int64, device=anchors.device)
        usable = None if config.border_tolerance is None else inside(anchors, image_size, config.border_tolerance)
        found = match(
            objects,
            anchors if usable is None else anchors[usable],
            positive_iou=config.positive_iou,
            negative_iou=config.negative_iou,
            low_quality_iou=config.low_quality_iou,
            low_quality_overwrites=config.low_quality_overwrites,
        )
        if usable is None:
            return found
        matches[usable] = found
        return matches
