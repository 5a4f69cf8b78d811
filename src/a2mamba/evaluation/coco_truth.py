"""The truth of a COCO annotation file, checked, as faster-coco-eval takes it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_INSTALL = 'COCO evaluation needs faster-coco-eval; install it with: pip install "a2mamba[coco]"'
# The library walks along every edge of a polygon: a coordinate like 1e12 would keep it busy for hours.
_FARTHEST = 1e5


class CocoTruth:
    """The objects of an annotation file, as plain dicts in the form that the library reads."""

    def __init__(self, annotations: Path | str | Mapping[str, Any], *, masks: bool) -> None:
        self.name = "the annotations" if isinstance(annotations, Mapping) else str(annotations)
        content = annotations if isinstance(annotations, Mapping) else _load(Path(annotations))
        for key in ("images", "annotations", "categories"):
            if not isinstance(content.get(key), list):
                raise self._error(f"there is no list {key!r}; expected COCO's format")
        self.categories: dict[int, str] = {}
        for entry in content["categories"]:
            self.categories[self._identity(entry, self.categories, "category")] = str(entry.get("name", entry["id"]))
        self.categories = dict(sorted(self.categories.items()))
        self.sizes: dict[int, tuple[int, int]] = {}
        for entry in content["images"]:
            identity = self._identity(entry, self.sizes, "image")
            height, width = entry.get("height"), entry.get("width")
            if type(height) is not int or type(width) is not int or min(height, width) < 1:
                raise self._error(f"image {identity} has height {height!r} and width {width!r}; expected whole pixels")
            self.sizes[identity] = (height, width)
        self.objects: dict[int, list[dict[str, Any]]] = {}
        seen: dict[int, None] = {}
        for entry in content["annotations"]:
            identity = self._identity(entry, seen, "annotation")
            seen[identity] = None
            # New ids from 1: to the library, and to pycocotools, an object of id 0 is never found.
            self._add(identity, len(seen), entry, masks)

    def _add(self, identity: int, number: int, entry: Mapping[str, Any], masks: bool) -> None:
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        if image_id not in self.sizes:
            raise self._error(f"annotation {identity} is of image {image_id!r}, which is not listed")
        if category_id not in self.categories:
            raise self._error(f"annotation {identity} is of category {category_id!r}, which is not listed")
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)) or min(box[2:]) < 0:
            raise self._error(
                f"annotation {identity} has the box {box!r}; expected four finite numbers, w and h not < 0"
            )
        area = entry.get("area", box[2] * box[3])
        if not _is_finite(area):
            raise self._error(f"annotation {identity} has the area {area!r}; expected a finite number")
        kept = {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": area,
            "iscrowd": int(bool(entry.get("iscrowd", 0))),
        }
        if masks:
            segmentation = entry.get("segmentation")
            if not segmentation:
                raise self._error(f"annotation {identity} has no segmentation; evaluate boxes alone (iou_types='bbox')")
            kept["segmentation"] = self._mask(identity, segmentation, self.sizes[image_id])
        self.objects.setdefault(image_id, []).append(kept)

    def _mask(self, identity: int, segmentation: Any, size: tuple[int, int]) -> Any:
        """The segmentation, without polygons that are none.

        The library's evaluation trusts its input: run lengths of another total keep it busy for ever.
        """
        if isinstance(segmentation, Mapping):
            counts = segmentation.get("counts")
            if segmentation.get("size") != list(size):
                raise self._error(
                    f"annotation {identity} has a mask of size {segmentation.get('size')}, and its image {list(size)}"
                )
            if not isinstance(counts, str) and not (
                isinstance(counts, list)
                and all(type(count) is int and count >= 0 for count in counts)
                and sum(counts) == size[0] * size[1]
            ):
                raise self._error(f"annotation {identity} has run lengths that do not add up to its image's pixels")
            if isinstance(counts, str):
                try:
                    coco_library().mask.decode(dict(segmentation))
                except (ValueError, RuntimeError) as error:
                    raise self._error(f"annotation {identity} has a damaged mask: {error}") from None
            return segmentation
        if isinstance(segmentation, list) and all(isinstance(ring, list) for ring in segmentation):
            # Two points bound no area, and the library takes four numbers for a box.
            rings = [ring for ring in segmentation if len(ring) >= 6 and len(ring) % 2 == 0]
            if rings and all(_is_finite(value) and abs(value) <= _FARTHEST for ring in rings for value in ring):
                return rings
        raise self._error(
            f"annotation {identity} has a segmentation that is neither run lengths nor polygons of three points or "
            f"more with finite coordinates near the image"
        )

    def selected(self, image_ids: Iterable[int]) -> dict[str, Any]:
        """The data set of these images for the library, which changes the objects: a copy."""
        chosen = sorted(image_ids)
        return {
            "images": [
                {"id": image_id, "height": self.sizes[image_id][0], "width": self.sizes[image_id][1]}
                for image_id in chosen
            ],
            "annotations": [dict(entry) for image_id in chosen for entry in self.objects.get(image_id, [])],
            "categories": [{"id": identity, "name": name} for identity, name in self.categories.items()],
        }

    def count(self, image_ids: Iterable[int]) -> dict[int, int]:
        """Objects of each category that occurs in these images, crowds left out."""
        counts: dict[int, int] = {}
        for image_id in image_ids:
            for entry in self.objects.get(image_id, []):
                if not entry["iscrowd"]:
                    counts[entry["category_id"]] = counts.get(entry["category_id"], 0) + 1
        return counts

    def _identity(self, entry: Any, seen: Mapping[int, Any], what: str) -> int:
        identity = entry.get("id") if isinstance(entry, Mapping) else None
        if type(identity) is not int:
            raise self._error(f"one {what} has the id {identity!r}; expected a whole number")
        if identity in seen:
            raise self._error(f"{what} id {identity} occurs twice; correct the file")
        return identity

    def _error(self, text: str) -> ValueError:
        return ValueError(f"{self.name}: {text}")


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"annotation file {path} cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError):  # text that is no JSON, or bytes that are no text
        raise ValueError(f"annotation file {path} is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"annotation file {path} holds {type(content).__name__}; expected an object with images, ...")
    return content


def coco_library() -> Any:
    """Return faster_coco_eval; ImportError says what to install."""
    try:
        import faster_coco_eval
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    return faster_coco_eval


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
