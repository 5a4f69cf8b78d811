"""Time Mask R-CNN on A2Mamba-T against torchvision's on ResNet-50, and each part of ours against torchvision's.

    python benchmarks/detection.py                              # 800 x 1280, the paper's tables' size
    python benchmarks/detection.py --size 128 160 --rounds 2    # a quick look
    python benchmarks/detection.py --only parts --json -

Everything is timed in one run and in turns: a round times each thing once, so that a machine that slows down slows all
of them down. Figures are medians over the rounds. Weights are random, but the classifiers are biased so that every
proposal is an object of the first class: both detectors then have their 100 detections, with masks, to work on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.ops import MultiScaleRoIAlign, box_iou

from a2mamba.analysis.environment import environment
from a2mamba.detection import Detector, DetectorConfig, create_detector, paste_masks
from a2mamba.detection.boxes import match
from a2mamba.detection.detector import backbone_maps
from a2mamba.detection.heads import pool_boxes
from a2mamba.detection.masks import mask_targets

CLASSES = 80
STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Row:
    """Median seconds of ours and of torchvision's, in the same rounds."""

    name: str
    ours: float
    torchvision: float

    @property
    def ratio(self) -> float:
        return self.ours / self.torchvision


Pair = tuple[Callable[[], Any], Callable[[], Any]]


def compare(pairs: dict[str, Pair], rounds: int) -> list[Row]:
    """Time pairs of functions (ours, torchvision's), in turns."""
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
    for number in range(rounds + 1):
        for name, functions in pairs.items():
            for which, function in enumerate(functions):
                start = time.perf_counter()
                function()
                if number:  # the first round warms up
                    seconds[name][which].append(time.perf_counter() - start)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return [Row(name, statistics.median(ours), statistics.median(theirs)) for name, (ours, theirs) in seconds.items()]


def detectors(config: DetectorConfig | None = None) -> tuple[Detector, MaskRCNN]:
    """Return both detectors in evaluation mode; every proposal is an object of the first class to them."""
    torch.manual_seed(0)
    ours = create_detector("mask_rcnn_a2mamba_tiny", num_classes=CLASSES, config=config)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    with torch.no_grad():
        ours.roi_heads.stage_list()[0].box_head.class_logits.bias[0] = 10
        theirs.roi_heads.box_predictor.cls_score.bias[1] = 10
    return ours.eval(), theirs.eval()


def whole(size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Time an image through both detectors, and through their backbones alone."""
    ours, theirs = detectors()
    image = torch.rand(3, *size)
    # Sides that the detectors leave as they are, so that the backbones get the same batch in both comparisons.
    for transform in (ours.preprocess, theirs.transform):
        transform.min_size, transform.max_size = (min(size),), max(size)
    ours.preprocess.config = replace(ours.config, min_size=min(size), max_size=max(size))
    batch = ours.preprocess([image])[0].tensors
    found = {"ours": len(ours([image])[0]["boxes"]), "torchvision": len(theirs([image])[0]["boxes"])}
    rows = compare(
        {
            "whole image": (lambda: ours([image]), lambda: theirs([image])),
            "backbone": (lambda: backbone_maps(ours.backbone, batch), lambda: theirs.backbone.body(batch)),
        },
        rounds,
    )
    image_row, backbone_row = rows
    return {
        "rows": rows,
        "detections": found,
        "backbone_share": {
            "ours": backbone_row.ours / image_row.ours,
            "torchvision": backbone_row.torchvision / image_row.torchvision,
        },
    }


def objects(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return random boxes of all sizes in an image."""
    height, width = size
    side = torch.rand(count, 2, generator=generator).square() * torch.tensor([width - 8.0, height - 8.0]) + 4
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - side)
    return torch.cat((corner, corner + side), dim=1)


def part_pairs(size: tuple[int, int], *, same: bool) -> dict[str, Pair]:
    """Return each part with the one of torchvision that it replaces, on the same input.

    Args:
        size: of the image.
        same: both with torchvision's numbers; False: ours with the protocol's, which ask for more work in RoIAlign.
    """
    config = DetectorConfig.torchvision_defaults() if same else DetectorConfig.mask_rcnn()
    ours, theirs = detectors(config)
    generator = torch.Generator().manual_seed(0)
    channels, height, width = config.fpn_width, *(-(-side // 32) * 32 for side in size)
    levels = [torch.randn(1, channels, -(-height // s), -(-width // s), generator=generator) for s in (*STRIDES, 64)]
    named = dict(zip(("0", "1", "2", "3", "pool"), levels, strict=True))
    images = ImageList(torch.zeros(1, 3, height, width), [size])
    proposals = [objects(1000, size, generator)]
    final = [proposals[0][:100]]
    truth = objects(20, size, generator)
    masks = torch.randint(0, 2, (20, *size), dtype=torch.uint8, generator=generator)
    assigned = torch.randint(0, 20, (128,), generator=generator)
    anchors = torch.cat(ours.rpn.anchors(levels, images.tensors.shape[-2:]))
    probabilities = torch.rand(100, 1, 28, 28, generator=generator)

    stage, heads = ours.roi_heads.stage_list()[0], theirs.roi_heads
    mask_head = stage.mask_head
    assert mask_head is not None
    pooled, mask_features = torch.randn(1000, channels, 7, 7), torch.randn(100, channels, 14, 14)
    logits, deltas = stage.box_head(pooled)
    their_logits, their_deltas = heads.box_predictor(heads.box_head(pooled))
    maps = [torch.randn(1, c, *x.shape[-2:]) for c, x in zip((256, 512, 1024, 2048), levels, strict=False)]
    fpn = type(ours.fpn)([256, 512, 1024, 2048], channels, init=config.fpn_init)
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    target: list[dict[str, Tensor]] = [{"boxes": truth}]
    rpn = theirs.rpn

    def pooling(size_: int, boxes: list[Tensor]) -> Pair:
        pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], size_, max(0, config.roi.sampling_ratio))
        return (
            lambda: pool_boxes(
                levels[:4],
                boxes,
                STRIDES,
                size=size_,
                sampling_ratio=config.roi.sampling_ratio,
                aligned=config.roi.aligned,
            ),
            lambda: pooler(named, boxes, [size]),
        )

    def our_selection() -> Any:
        decoded = stage.coder.decode_boxes(deltas, proposals[0])
        return ours.roi_heads._select(logits.softmax(1)[:, :-1], decoded, size)

    def their_rpn_losses() -> Any:
        model = rpn.train()
        found = model(images, named, target)
        rpn.eval()
        return found

    def our_rpn_losses() -> Any:
        model = ours.rpn.train()
        found = model(levels, images, target)
        ours.rpn.eval()
        return found

    return {
        "feature pyramid": (
            lambda: fpn.levels(maps),
            lambda: theirs.backbone.fpn(dict(zip("0123", maps, strict=True))),
        ),
        "proposals": (lambda: ours.rpn(levels, images), lambda: rpn(images, named)),
        "proposals and their losses": (our_rpn_losses, their_rpn_losses),
        "matching anchors": (
            lambda: match(truth, anchors, positive_iou=0.7, negative_iou=0.3, low_quality_iou=0.3),
            lambda: matcher(box_iou(truth, anchors)),
        ),
        "box features": pooling(7, proposals),
        "box head": (lambda: stage.box_head(pooled), lambda: heads.box_predictor(heads.box_head(pooled))),
        "selecting detections": (
            our_selection,
            lambda: heads.postprocess_detections(their_logits, their_deltas, proposals, [size]),
        ),
        "mask features": pooling(14, final),
        "mask head": (
            lambda: mask_head(mask_features),
            lambda: heads.mask_predictor(heads.mask_head(mask_features)),
        ),
        "mask targets": (
            lambda: mask_targets(
                masks,
                proposals[0][:128],
                assigned,
                28,
                aligned=config.roi.mask_target_aligned,
                threshold=config.roi.mask_target_threshold,
            ),
            lambda: project_masks_on_boxes(masks, proposals[0][:128], assigned, 28),
        ),
        # Ours always on the image grid: torchvision's own way would be torchvision's own function.
        "pasting masks": (
            lambda: paste_masks(probabilities, final[0], size),
            lambda: paste_masks_in_image(probabilities, final[0], size),
        ),
    }


def table(title: str, rows: list[Row]) -> str:
    lines = [f"{title:<30}{'ours, ms':>12}{'torchvision, ms':>18}{'ratio':>8}"]
    lines += [f"{r.name:<30}{1e3 * r.ours:>12.1f}{1e3 * r.torchvision:>18.1f}{r.ratio:>8.2f}" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1280), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of PyTorch; its own choice by default")
    parser.add_argument("--only", choices=("whole", "parts"))
    parser.add_argument("--json", metavar="FILE", help="write the figures there, - for standard output")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size = (arguments.size[0], arguments.size[1])
    report: dict[str, Any] = {"size": size, "rounds": arguments.rounds, "environment": environment("cpu")}
    tables = []
    with torch.inference_mode():
        if arguments.only != "parts":
            found = whole(size, arguments.rounds)
            shares = found["backbone_share"]
            tables.append(table("image", found["rows"]))
            tables.append(
                f"share of the backbone: ours {shares['ours']:.0%}, torchvision {shares['torchvision']:.0%}; "
                f"detections: {found['detections']}"
            )
            report["whole"] = found | {"rows": [asdict(row) | {"ratio": row.ratio} for row in found["rows"]]}
        if arguments.only != "whole":
            for title, same in (("same numbers", True), ("the protocol's numbers", False)):
                rows = compare(part_pairs(size, same=same), arguments.rounds)
                tables.append(table(title, rows))
                report[title] = [asdict(row) | {"ratio": row.ratio} for row in rows]
    print("\n\n".join(tables), file=sys.stderr if arguments.json == "-" else sys.stdout)
    if arguments.json == "-":
        print(json.dumps(report))
    elif arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
