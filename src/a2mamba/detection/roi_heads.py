"""The second half of a detector: what is in each proposal, where exactly, and its mask; in one stage or a cascade."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import batched_nms, clip_boxes_to_image, generalized_box_iou_loss, remove_small_boxes

from a2mamba.detection.boxes import BoxCoder, match
from a2mamba.detection.config import RoIConfig, Stds
from a2mamba.detection.heads import BoxHead, MaskHead, pool_boxes
from a2mamba.detection.masks import mask_targets

Targets = Sequence[dict[str, Tensor]]
Pool = Callable[[Sequence[Tensor], int], Tensor]


@dataclass(frozen=True)
class Samples:
    """The proposals that a stage learns from, one list element an image."""

    boxes: list[Tensor]
    """(N_i, 4) float32"""
    labels: list[Tensor]
    """(N_i,) int64, the background last"""
    objects: list[Tensor]
    """(N_i,) int64, the object of a positive box; 0 elsewhere"""
    injected: list[Tensor]
    """(N_i,) bool, boxes that are an object's own"""


class RoIStage(nn.Module):
    """A box head, a mask head where masks are wanted, and how the stage reads deltas.

    Args:
        channels: of the feature levels.
        num_classes: K, without the background.
        config: numbers.
        iou_threshold: a proposal with at least this IoU is positive.
        stds: units of the deltas.
        weight: of the stage's losses.
        masks: whether there is a mask head.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        config: RoIConfig,
        iou_threshold: float,
        stds: Stds,
        weight: float,
        *,
        masks: bool,
    ) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold
        self.weight = weight
        self.coder = BoxCoder(stds, clamp_both_sides=config.clamp_both_sides)
        self.box_head = BoxHead(channels, num_classes, config)
        self.mask_head = MaskHead(channels, num_classes, config) if masks else None


class RoIHeads(nn.Module):
    """One stage for Mask R-CNN, three for Cascade Mask R-CNN.

    In a cascade, a stage's boxes, moved by its deltas, are the next stage's proposals. In evaluation the class logits
    and the mask probabilities are the mean over the stages, and the boxes are the last stage's.

    Inside, classes are 0 to K - 1 and the background is K; targets and detections have labels 1 to K.

    Args:
        channels: of the feature levels.
        num_classes: K.
        strides: of the levels in pixels, finest first.
        config: numbers.
        masks: whether the stages have mask heads.
    """

    def __init__(
        self, channels: int, num_classes: int, strides: Sequence[int], config: RoIConfig, *, masks: bool = True
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.config = config
        self.sampler = BalancedPositiveNegativeSampler(config.batch_per_image, config.positive_fraction)
        self.stages = nn.ModuleList(
            RoIStage(channels, num_classes, config, iou, stds, weight, masks=masks)
            for iou, stds, weight in zip(config.iou_thresholds, config.delta_stds, config.stage_weights, strict=True)
        )

    def stage_list(self) -> list[RoIStage]:
        """Return the stages."""
        return [stage for stage in self.stages if isinstance(stage, RoIStage)]

    def mask_heads(self) -> list[MaskHead]:
        """Return the mask heads of the stages; none where boxes alone are found."""
        return [stage.mask_head for stage in self.stage_list() if stage.mask_head is not None]

    def losses(
        self,
        levels: Sequence[Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Return what the stages have to learn.

        Args:
            levels: (B, channels, H_i, W_i), finest first.
            proposals: (P_i, 4) of each image, in pixels of the batch.
            image_sizes: (height, width) of each image in the batch.
            targets: of each image: boxes (N, 4) float, labels (N,) int64 from 1, and for mask heads masks
                (N, height, width).

        Returns:
            "loss_classifier", "loss_box_reg" and, of mask heads, "loss_mask", float32 scalars with their weights;
            the stages of a cascade append "_stage1" and so on.
        """
        pool = self._pooling(levels)
        losses = {}
        for i, stage in enumerate(self.stage_list()):
            samples = self.sample(stage, proposals, targets)
            logits, deltas = stage.box_head(pool(samples.boxes, self.config.box_pool_size))
            classification, box = self._box_losses(stage, logits, deltas, samples, targets)
            suffix = f"_stage{i + 1}" if self.config.stages > 1 else ""
            losses[f"loss_classifier{suffix}"] = stage.weight * classification
            losses[f"loss_box_reg{suffix}"] = stage.weight * self.config.box_loss_weight * box
            if stage.mask_head is not None:
                losses[f"loss_mask{suffix}"] = stage.weight * self._mask_loss(stage, pool, samples, targets)
            if i + 1 < self.config.stages:
                labels = torch.cat(samples.labels) if self.config.refine_with == "assigned" else None
                refined = self.refine(stage, samples.boxes, logits, deltas, image_sizes, labels)
                proposals = [box[~own] for box, own in zip(refined, samples.injected, strict=True)]
        return losses

    def detect(
        self, levels: Sequence[Tensor], proposals: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Return what is in the images.

        Args:
            levels, proposals, image_sizes: as in :meth:`losses`.

        Returns:
            For each image, best first: boxes (D, 4) in pixels of the batch, labels (D,) int64 from 1, scores (D,),
            and, of mask heads, masks (D, 1, S, S), probabilities in the cells of the boxes.
        """
        pool = self._pooling(levels)
        counts = [len(box) for box in proposals]
        scores, decoded = self.score(pool, proposals, image_sizes)
        detections = [
            self._select(*image) for image in zip(scores.split(counts), decoded.split(counts), image_sizes, strict=True)
        ]
        if not self.mask_heads():
            return detections
        found = [detection["boxes"] for detection in detections]
        masks = self.mask_probabilities(pool, found, torch.cat([d["labels"] for d in detections]) - 1)
        for detection, mask in zip(detections, masks.split([len(box) for box in found]), strict=True):
            detection["masks"] = mask
        return detections

    def score(
        self, pool: Pool, proposals: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Return the probabilities (P, K) of the classes of all proposals, and the boxes (P, K, 4) that these make.

        Args:
            pool: (boxes of each image, cells) -> features (P, channels, cells, cells).
            proposals, image_sizes: as in :meth:`losses`.
        """
        boxes = list(proposals)
        total = torch.zeros((), device=boxes[0].device)
        for i, stage in enumerate(self.stage_list()):
            logits, deltas = stage.box_head(pool(boxes, self.config.box_pool_size))
            total = total + logits.float()
            if i + 1 < self.config.stages:
                boxes = self.refine(stage, boxes, logits, deltas, image_sizes)
        scores = (total / self.config.stages).softmax(dim=1)[:, :-1]
        return scores, stage.coder.decode_boxes(deltas, torch.cat(boxes))

    @torch.no_grad()
    def sample(self, stage: RoIStage, proposals: Sequence[Tensor], targets: Targets) -> Samples:
        """Choose the proposals that a stage learns from, and what.

        Args:
            stage: whose IoU threshold counts.
            proposals: (P_i, 4) of each image.
            targets: boxes and labels of each image.
        """
        samples = Samples([], [], [], [])
        for boxes, target in zip(proposals, targets, strict=True):
            objects = target["boxes"].to(boxes)
            injected = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
            if self.config.add_ground_truth:
                boxes = torch.cat((boxes, objects))
                injected = F.pad(injected, (0, len(objects)), value=True)
            matches = match(
                objects,
                boxes,
                positive_iou=stage.iou_threshold,
                negative_iou=stage.iou_threshold,
                low_quality_iou=stage.iou_threshold if self.config.low_quality_matches else None,
            )
            positive, negative = self.sampler([(matches >= 0).to(torch.int64)])
            chosen = (positive[0] | negative[0]).nonzero().squeeze(1)
            matches = matches[chosen]
            classes = F.pad(target["labels"] - 1, (0, 1), value=self.num_classes)
            # A match of -1, background, reads the last of them.
            samples.labels.append(classes[matches])
            samples.boxes.append(boxes[chosen])
            samples.objects.append(matches.clamp(min=0))
            samples.injected.append(injected[chosen])
        return samples

    @torch.no_grad()
    def refine(
        self,
        stage: RoIStage,
        boxes: Sequence[Tensor],
        logits: Tensor,
        deltas: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        labels: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the boxes (N_i, 4) of each image, moved by the deltas of one class and clipped to the image.

        Args:
            stage: whose deltas they are.
            boxes: (N_i, 4) of each image.
            logits: (N, K + 1) of all boxes.
            deltas: (N, K, 4) of all boxes.
            image_sizes: (height, width) of each image.
            labels: (N,) classes to go by; where it is the background, and without labels, the class is the best
                foreground class of the logits.
        """
        best = logits[:, :-1].argmax(dim=1)
        classes = best if labels is None else torch.where(labels == self.num_classes, best, labels)
        rows = torch.arange(classes.shape[0], device=classes.device)
        moved = stage.coder.decode_boxes(deltas[rows, classes][:, None], torch.cat(list(boxes)))[:, 0]
        split = moved.split([box.shape[0] for box in boxes])
        return [clip_boxes_to_image(box, size) for box, size in zip(split, image_sizes, strict=True)]

    def _pooling(self, levels: Sequence[Tensor]) -> Pool:
        """Return a function (boxes of each image, cells) -> features (N, channels, cells, cells)."""
        dtype = levels[0].dtype
        # RoIAlign reads contiguous maps, and positions need float32: convert once, not for each call.
        converted = [level.float().contiguous() for level in levels]

        def pool(boxes: Sequence[Tensor], size: int) -> Tensor:
            pooled = pool_boxes(
                converted,
                boxes,
                self.strides,
                size=size,
                sampling_ratio=self.config.sampling_ratio,
                aligned=self.config.aligned,
            )
            return pooled.to(dtype)

        return pool

    def _box_losses(
        self, stage: RoIStage, logits: Tensor, deltas: Tensor, samples: Samples, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        labels, boxes = torch.cat(samples.labels), torch.cat(samples.boxes)
        count = max(1, len(labels))
        classification = F.cross_entropy(logits.float(), labels, reduction="sum") / count
        positive = (labels < self.num_classes).nonzero().squeeze(1)
        wanted = torch.cat(
            [
                target["boxes"][objects[label < self.num_classes]].float()
                for target, objects, label in zip(targets, samples.objects, samples.labels, strict=True)
            ]
        )
        predicted = deltas[positive, labels[positive]].float()
        if self.config.box_loss == "giou":
            decoded = stage.coder.decode_boxes(predicted[:, None], boxes[positive])[:, 0]
            box = generalized_box_iou_loss(decoded, wanted, reduction="sum")
        else:
            encoded = stage.coder.encode_boxes(wanted, boxes[positive])
            box = F.smooth_l1_loss(predicted, encoded, beta=self.config.smooth_l1_beta, reduction="sum")
        return classification, box / count

    def _mask_loss(self, stage: RoIStage, pool: Pool, samples: Samples, targets: Targets) -> Tensor:
        positive = [label < self.num_classes for label in samples.labels]
        boxes = [box[mask] for box, mask in zip(samples.boxes, positive, strict=True)]
        labels = torch.cat([label[mask] for label, mask in zip(samples.labels, positive, strict=True)])
        assert stage.mask_head is not None
        logits = stage.mask_head(pool(boxes, self.config.mask_pool_size))
        wanted = torch.cat(
            [
                mask_targets(
                    target["masks"],
                    box,
                    objects[mask],
                    logits.shape[-1],
                    aligned=self.config.mask_target_aligned,
                    threshold=self.config.mask_target_threshold,
                )
                for target, box, objects, mask in zip(targets, boxes, samples.objects, positive, strict=True)
            ]
        )
        rows = torch.arange(len(labels), device=labels.device)
        chosen = logits[rows, labels].float()
        # Without a positive box this is 0, and yet every parameter of the head takes part: DDP waits for all of them.
        return F.binary_cross_entropy_with_logits(chosen, wanted, reduction="sum") / max(1, wanted.numel())

    def _select(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """Suppress and rank one image's detections: scores (N, K), boxes (N, K, 4)."""
        boxes = clip_boxes_to_image(boxes, image_size)
        which, label = (scores > self.config.score_threshold).nonzero(as_tuple=True)
        boxes, scores = boxes[which, label], scores[which, label]
        if self.config.min_box_size > 0:
            large = remove_small_boxes(boxes, self.config.min_box_size)
            boxes, scores, label = boxes[large], scores[large], label[large]
        keep = batched_nms(boxes, scores, label, self.config.nms_iou)[: self.config.detections_per_image]
        return {"boxes": boxes[keep], "labels": label[keep] + 1, "scores": scores[keep]}

    def mask_probabilities(self, pool: Pool, boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return (D, 1, S, S), the mean over the stages, for D boxes of all images and their classes (D,)."""
        features = pool(boxes, self.config.mask_pool_size)
        rows = torch.arange(labels.shape[0], device=labels.device)
        maps = [head(features)[rows, labels].float().sigmoid() for head in self.mask_heads()]
        return torch.stack(maps).mean(dim=0)[:, None]
