"""Generated COCO sets and perturbed truths, and what pycocotools makes of them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STATISTICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def generated_set(seed: int) -> dict[str, Any]:
    """A few images with polygons, run lengths of both kinds and crowds; ids with gaps, sizes from tiny to large."""
    from faster_coco_eval.core import mask

    draw = np.random.default_rng(seed)
    categories = sorted(draw.choice(np.arange(1, 40), size=int(draw.integers(1, 5)), replace=False).tolist())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in draw.choice(np.arange(1, 1000), size=int(draw.integers(2, 7)), replace=False).tolist():
        height, width = int(draw.integers(120, 260)), int(draw.integers(120, 260))
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width})
        for _ in range(int(draw.integers(0, 9))):
            w, h = np.exp(draw.uniform(np.log(4), np.log(200), 2))
            w, h = min(w, width - 1.0), min(h, height - 1.0)
            x, y = draw.uniform(0, width - w), draw.uniform(0, height - h)
            angles = np.sort(draw.uniform(0, 2 * np.pi, 12))
            ring = np.stack((x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))), axis=1)
            crowd = draw.random() < 0.15
            segmentation: Any = [np.round(ring, 2).ravel().tolist()]
            runs = mask.merge(mask.frPyObjects(segmentation, height, width))
            kind = draw.integers(3)
            if crowd or kind == 1:
                drawn = np.concatenate(([0], mask.decode(runs).ravel(order="F"), [0])).astype(int)
                edges = np.flatnonzero(np.diff(drawn)).tolist()
                segmentation = {"size": [height, width], "counts": np.diff([0, *edges, height * width]).tolist()}
            elif kind == 2:
                segmentation = {"size": [height, width], "counts": runs["counts"].decode()}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(draw.choice(categories)),
                    "bbox": [float(value) for value in np.round((x, y, w, h), 2)],
                    "area": float(mask.area(runs)),
                    "segmentation": segmentation,
                    "iscrowd": int(crowd),
                }
            )
    named = [{"id": identity, "name": f"class {identity}"} for identity in categories]
    return {"images": images, "annotations": annotations, "categories": named}


def perturbed(content: dict[str, Any], seed: int, *, noise: float = 0.08) -> dict[int, dict[str, Tensor]]:
    """Detections: most objects once or twice, moved and resized a little, some of another class, some of nothing."""
    from faster_coco_eval.core import mask

    draw = np.random.default_rng((seed, 1))
    number = len(content["categories"])
    labels_of = {entry["id"]: place for place, entry in enumerate(content["categories"], start=1)}
    found: dict[int, dict[str, Tensor]] = {}
    for image in content["images"]:
        height, width = image["height"], image["width"]
        boxes, labels, masks = [], [], []
        for entry in content["annotations"]:
            if entry["image_id"] != image["id"]:
                continue
            segmentation = entry["segmentation"]
            runs = mask.frPyObjects(segmentation, height, width) if not _is_string(segmentation) else segmentation
            drawn = mask.decode(mask.merge(runs) if isinstance(runs, list) else runs)
            for _ in range(int(draw.choice([0, 1, 1, 1, 2]))):
                x, y, w, h = np.array(entry["bbox"]) + draw.normal(0, noise, 4) * np.array(entry["bbox"][2:] * 2)
                boxes.append((x, y, x + abs(w), y + abs(h)))
                labels.append(
                    labels_of[entry["category_id"]] if draw.random() < 0.9 else int(draw.integers(number)) + 1
                )
                shift = np.round(draw.normal(0, 1 + 10 * noise, 2)).astype(int)
                masks.append(np.roll(drawn, shift, axis=(0, 1)))
        for _ in range(int(draw.integers(0, 4))):
            x, y, w, h = draw.uniform(0, 60, 4)
            boxes.append((x, y, x + w, y + h))
            labels.append(int(draw.integers(number)) + 1)
            drawn = np.zeros((height, width), dtype=np.uint8)
            drawn[int(y) : int(y + h), int(x) : int(x + w)] = 1
            masks.append(drawn)
        # Few different scores: ties must be broken as the reference breaks them.
        scores = np.round(draw.uniform(0.05, 1, len(boxes)), 1)
        found[image["id"]] = {
            "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(scores, dtype=torch.float64),
            "masks": torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, height, width)),
        }
    return found


def pycocotools_statistics(content: dict[str, Any], results: Path, iou_type: str) -> dict[str, float]:
    """Six precisions (fractions, -1 where undefined) and the recall of 100 detections, of a result file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy({"info": {}, **content})
        truth.createIndex()
        found = json.loads(results.read_text())
        evaluator = COCOeval(truth, truth.loadRes(found), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    statistics: list[float] = evaluator.stats.tolist()
    return {**dict(zip(STATISTICS, statistics, strict=False)), "ar": statistics[8]}


def _is_string(segmentation: Any) -> bool:
    return isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)
