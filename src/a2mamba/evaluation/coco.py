"""COCO's box and mask average precision, with faster-coco-eval behind it."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from a2mamba.data.detection.annotations import Category, DetectionAnnotations
from a2mamba.data.detection.readers.coco import read_annotations
from a2mamba.evaluation.agreement import ImageAgreement, image_agreement
from a2mamba.evaluation.coco_detections import Detections, checked_detections
from a2mamba.evaluation.coco_library import coco_library
from a2mamba.evaluation.coco_truth import CocoTruth
from a2mamba.files import replace_text

_log = logging.getLogger("a2mamba.evaluation")

IouType = Literal["bbox", "segm"]

_PREFIXES: dict[str, str] = {"bbox": "box", "segm": "mask"}
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_AREAS = ("all", "small", "medium", "large")


class ClassPrecision(NamedTuple):
    """Average precision of one category in percent; None where the evaluated images hold no such object."""

    category_id: int
    name: str
    objects: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None


class _Curves(NamedTuple):
    """precision: (IoU thresholds, recalls, categories, areas), recall: (IoU thresholds, categories, areas); or -1."""

    precision: np.ndarray
    recall: np.ndarray


class CocoMetric:
    """Average precision of boxes and masks by COCO's rules: 100 detections an image, IoU 0.50 to 0.95, crowds ignored.

    The images that were given to `update` are evaluated, and no others. Labels are 1 to N in the order of the
    annotations' categories: increasing ids, or the order of the categories that they were matched with.

    Args:
        annotations: what a reader returned, with masks where those are evaluated; or an instances_*.json, or its
            content, which is read by `read_annotations`.
        iou_types: "bbox" for boxes, "segm" for masks, or both.
        categories: those that the model was trained with, for a file or its content: matched by name.

    Raises:
        ValueError: an unknown or no iou type; a file that is missing, not JSON or not in COCO's format, an id that
            occurs twice, a box that is negative or not finite, a missing mask; the message names the place.
        ImportError: faster-coco-eval is not installed.
    """

    def __init__(
        self,
        annotations: DetectionAnnotations | Path | str | Mapping[str, Any],
        *,
        iou_types: Sequence[IouType] = ("bbox", "segm"),
        categories: Sequence[Category] | None = None,
    ) -> None:
        if not iou_types or not set(iou_types) <= set(_PREFIXES) or len(set(iou_types)) != len(iou_types):
            raise ValueError(f"iou_types={tuple(iou_types)}: expected 'bbox', 'segm' or both")
        coco_library()
        self.iou_types = tuple(iou_types)
        if not isinstance(annotations, DetectionAnnotations):
            annotations = read_annotations(annotations, masks="segm" in iou_types, categories=categories)
        self._truth = CocoTruth(annotations, masks="segm" in iou_types)
        self._detections: dict[int, Detections] = {}
        self._curves: dict[str, _Curves] | None = None

    def emptied(self) -> CocoMetric:
        """A metric of the same truth, which is not read again, without detections."""
        fresh = copy.copy(self)
        fresh._detections, fresh._curves = {}, None
        return fresh

    @property
    def category_ids(self) -> list[int]:
        """The category id of label k at position k - 1."""
        return list(self._truth.categories)

    @property
    def image_ids(self) -> list[int]:
        """The images that were evaluated so far, in increasing order."""
        return sorted(self._detections)

    def update(self, image_ids: Sequence[int] | Tensor, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Add the detections of some images.

        Args:
            image_ids: of the images, each for the first time.
            outputs: one dict an image: `boxes` (N, 4) x0 y0 x1 y1 in pixels of the original image, `labels` (N,) from
                1 to the number of categories, `scores` (N,), and for "segm" `masks` (N, H, W) or (N, 1, H, W) in the
                original size, bool or probabilities, of which 0.5 and more count as inside. Tensors of any device.

        Raises:
            ValueError: an image that is unknown or was given before, or outputs of wrong shapes, labels out of range or
                values that are not finite; nothing of this call is kept then.
        """
        ids = [int(image_id) for image_id in image_ids]
        if len(ids) != len(outputs):
            raise ValueError(f"{len(ids)} image ids and {len(outputs)} outputs: expected as many")
        added: dict[int, Detections] = {}
        for image_id, output in zip(ids, outputs, strict=True):
            if image_id not in self._truth.sizes:
                raise ValueError(f"image {image_id} is not in {self._truth.name}")
            if image_id in added or image_id in self._detections:
                raise ValueError(f"image {image_id} was evaluated already; each image counts once")
            size = self._truth.sizes[image_id] if "segm" in self.iou_types else None
            added[image_id] = checked_detections(image_id, output, len(self._truth.categories), size)
        self._detections.update(added)
        self._curves = None

    def results(self) -> Iterator[tuple[str, float]]:
        """("box_ap", percent), then box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large and box_ar (recall of
        100 detections an image); for masks the same with "mask_". A size without objects is left out. Where no
        evaluated image has an object that counts, precision is not defined: a log message says so, and "box_ap" (and
        "mask_ap") alone are there, as NaN.

        Raises:
            ValueError: before the first image.
        """
        if self._detections and not self._truth.count(self._detections):
            _log.warning("none of the %d evaluated images has an object: AP is not defined", len(self._detections))
            yield from ((f"{_PREFIXES[kind]}_ap", math.nan) for kind in self.iou_types)
            return
        for iou_type, curves in self._evaluated().items():
            prefix = _PREFIXES[iou_type]
            for name, value in _precisions(curves.precision).items():
                if value is not None:
                    yield f"{prefix}_{name}", value
            average_recall = _mean(curves.recall[:, :, 0])
            assert average_recall is not None, "there are objects, or _evaluated had raised"
            yield f"{prefix}_ar", average_recall

    def per_class(self, iou_type: IouType = "bbox") -> list[ClassPrecision]:
        """Average precision of each category, in the order of labels.

        Raises:
            ValueError: as `results`, or this iou type is not measured.
        """
        curves = self._curves_of(iou_type)
        counts = self._truth.count(self._detections)
        ids = sorted(self.category_ids)  # the order of the library
        return [
            ClassPrecision(
                category_id,
                name,
                counts.get(category_id, 0),
                *_precisions(curves.precision[:, :, ids.index(category_id), None]).values(),
            )
            for category_id, name in self._truth.categories.items()
        ]

    def table(self, iou_type: IouType = "bbox") -> str:
        """`per_class` as lines of text, the worst category first; those without objects are left out.

        Raises:
            ValueError: as `per_class`.
        """
        rows = [row for row in self.per_class(iou_type) if row.ap is not None]
        rows.sort(key=lambda row: (row.ap, row.category_id))
        width = max([len("category"), *(len(row.name) for row in rows)])
        columns = ("AP", "AP50", "AP75", "small", "medium", "large")
        lines = [f"{'category':<{width}} {'objects':>8}" + "".join(f"{column:>8}" for column in columns)]
        for row in rows:
            values = "".join(f"{'-' if value is None else f'{value:.1f}':>8}" for value in row[3:])
            lines.append(f"{row.name:<{width}} {row.objects:>8}{values}")
        return "\n".join(lines)

    def precision_recall(
        self, iou_type: IouType = "bbox", *, iou: float = 0.5, category_id: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Precision at 101 values of recall, both 0 to 1, float64 (101,).

        Args:
            iou_type: boxes or masks.
            iou: one of 0.50, 0.55, ..., 0.95.
            category_id: of one category; None for the mean over those that have objects.

        Returns:
            recall, precision.

        Raises:
            ValueError: as `per_class`, another IoU, or a category that is unknown or without objects.
        """
        curves = self._curves_of(iou_type)
        places = np.flatnonzero(np.isclose(_THRESHOLDS, iou))
        if not places.size:
            raise ValueError(f"iou={iou}: expected one of 0.50, 0.55, ..., 0.95")
        precision = curves.precision[places[0], :, :, 0]
        if category_id is not None:
            if category_id not in self._truth.categories:
                raise ValueError(f"category {category_id} is not in {self._truth.name}")
            place = sorted(self.category_ids).index(category_id)
            precision = precision[:, place : place + 1]
        present = (precision > -1).all(axis=0)
        if not present.any():
            raise ValueError(f"category {category_id} has no objects in the evaluated images")
        return np.linspace(0, 1, precision.shape[0]), precision[:, present].mean(axis=1)

    def agreement(self, *, score: float = 0.5, iou: float = 0.5) -> list[ImageAgreement]:
        """How each image's boxes agree with the truth, the worst image first.

        Detections of `score` or more, best first, each take the object of their class that they overlap most, by `iou`
        or more. Those that lie in a crowd count neither way.

        Args:
            score: lowest score of a detection that counts.
            iou: lowest overlap of a hit.
        """
        ids = self.category_ids
        found = [
            image_agreement(image_id, kept, self._truth.objects(image_id, masks=False), ids, score=score, iou=iou)
            for image_id, kept in self._detections.items()
        ]
        return sorted(found, key=lambda image: (image.f1, -image.missed - image.false_positives, image.image_id))

    def detections(self, image_id: int) -> dict[str, Tensor]:
        """What `update` was given for an image, on the CPU: boxes (N, 4), labels, scores, and masks uint8 (N, H, W).

        Raises:
            ValueError: the image was not evaluated.
        """
        if image_id not in self._detections:
            raise ValueError(f"image {image_id} was not evaluated")
        size = self._truth.sizes[image_id] if "segm" in self.iou_types else None
        return self._detections[image_id].tensors(size)

    def write_results(self, path: Path | str) -> list[Path]:
        """Write the detections in COCO's result format, with the original category ids.

        One file for each iou type: `<stem>.bbox.json` with boxes x y w h, `<stem>.segm.json` with masks. The second
        has no boxes: evaluators would take small, medium and large from them instead of from the masks.

        Args:
            path: decides folder and stem; an extension .json is dropped.

        Returns:
            the files.
        """
        path = Path(path)
        written = []
        for iou_type in self.iou_types:
            target = path.with_name(f"{path.name.removesuffix('.json')}.{iou_type}.json")
            replace_text(target, json.dumps(self._result_list(iou_type)))
            written.append(target)
        return written

    def state(self) -> dict[str, Any]:
        """The detections as plain numbers, strings and lists."""
        return {
            "iou_types": list(self.iou_types),
            "category_ids": self.category_ids,
            "images": [
                {
                    "id": image_id,
                    "boxes": kept.boxes.tolist(),
                    "labels": kept.labels.tolist(),
                    "scores": kept.scores.tolist(),
                    "masks": list(kept.masks),
                }
                for image_id, kept in self._detections.items()
            ],
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add another process's `state()`.

        Raises:
            ValueError: it has other iou types or categories, or images that are here already or not in the truth.
        """
        for name, ours in (("iou_types", list(self.iou_types)), ("category_ids", self.category_ids)):
            if list(state[name]) != ours:
                raise ValueError(f"cannot merge {name}={state[name]} into {name}={ours}")
        ids = [image["id"] for image in state["images"]]
        twice = sorted(set(ids) & set(self._detections))
        if twice or len(set(ids)) != len(ids):
            raise ValueError(f"cannot merge: image {(twice or ids)[0]} was evaluated already; each image counts once")
        unknown = sorted(set(ids) - set(self._truth.sizes))
        if unknown:
            raise ValueError(f"cannot merge: image {unknown[0]} is not in {self._truth.name}")
        for image in state["images"]:
            self._detections[image["id"]] = Detections(
                np.array(image["boxes"], dtype=np.float64).reshape(-1, 4),
                np.array(image["labels"], dtype=np.int64),
                np.array(image["scores"], dtype=np.float64),
                list(image["masks"]),
            )
        self._curves = None

    def _result_list(self, iou_type: str) -> list[dict[str, Any]]:
        ids, entries = self.category_ids, []
        for image_id in self.image_ids:
            kept = self._detections[image_id]
            for place, (label, score) in enumerate(zip(kept.labels.tolist(), kept.scores.tolist(), strict=True)):
                entry = {"image_id": image_id, "category_id": ids[label - 1], "score": score}
                if iou_type == "bbox":
                    entry["bbox"] = kept.boxes[place].tolist()
                else:
                    size = list(self._truth.sizes[image_id])
                    entry["segmentation"] = {"size": size, "counts": kept.masks[place]}
                entries.append(entry)
        return entries

    def _curves_of(self, iou_type: str) -> _Curves:
        if iou_type not in self.iou_types:
            raise ValueError(f"iou_type={iou_type!r}: this metric measures {', '.join(self.iou_types)}")
        return self._evaluated()[iou_type]

    def _evaluated(self) -> dict[str, _Curves]:
        if not self._detections:
            raise ValueError("no images were evaluated")
        if not self._truth.count(self._detections):
            raise ValueError(f"none of the {len(self._detections)} evaluated images has an object to find")
        if self._curves is None:
            self._curves = {iou_type: self._evaluate(iou_type) for iou_type in self.iou_types}
        return self._curves

    def _evaluate(self, iou_type: str) -> _Curves:
        library = coco_library()
        truth = library.COCO(print_function=_silent)
        truth.dataset = self._truth.selected(self._detections, masks=iou_type == "segm")
        truth.createIndex()
        results = self._result_list(iou_type)
        if results:
            found = truth.loadRes(results)
        else:  # older versions of the library look at the first result
            found = library.COCO(print_function=_silent)
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluator = library.COCOeval_faster(truth, found, iou_type, print_function=_silent)
        evaluator.params.maxDets = [1, 10, 100]
        evaluator.evaluate()
        evaluator.accumulate()
        return _Curves(evaluator.eval["precision"][..., -1], evaluator.eval["recall"][..., -1])


def _precisions(precision: np.ndarray) -> dict[str, float | None]:
    """From (thresholds, recalls, categories, areas): the field's six averages, in percent."""
    return {
        "ap": _mean(precision[..., 0]),
        "ap50": _mean(precision[:1, ..., 0]),
        "ap75": _mean(precision[5:6, ..., 0]),
        **{f"ap_{area}": _mean(precision[..., place]) for place, area in enumerate(_AREAS) if place},
    }


def _mean(values: np.ndarray) -> float | None:
    """In percent, over the values that are defined; -1 stands for those that are not."""
    defined = values[values > -1]
    return 100 * float(defined.mean()) if defined.size else None


def _silent(*_: object) -> None:
    """Take the place of print in the library."""
