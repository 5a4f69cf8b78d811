"""Small sets in COCO's format, sound ones, for tests to damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.helpers import write_image

HEIGHT, WIDTH = 40, 60
CATEGORY_IDS = (3, 7, 90)


def rectangle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    """Uncompressed run lengths of a filled rectangle in an image of HEIGHT x WIDTH."""
    counts = [x * HEIGHT + y]
    for _ in range(w - 1):
        counts += [h, HEIGHT - h]
    counts += [h, HEIGHT * WIDTH - sum(counts) - h]
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def entry(identity: int, image_id: int, category_id: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """An annotation whose mask fills its box."""
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(value) for value in box],
        "area": float(box[2] * box[3]),
        "segmentation": rectangle(*box),
        "iscrowd": 0,
    }


def content(first_image: int = 1) -> dict[str, Any]:
    """Three images, of which the second is empty; five objects of three categories whose ids have gaps."""
    images = [
        {"id": first_image + place, "file_name": f"{first_image + place:06d}.png", "height": HEIGHT, "width": WIDTH}
        for place in range(3)
    ]
    a, c = first_image, first_image + 2
    return {
        "images": images,
        "annotations": [
            entry(11, c, 90, (5, 6, 20, 10)),
            entry(12, a, 3, (0, 0, 30, 40)),
            entry(13, a, 7, (40, 10, 12, 9)),
            entry(14, c, 7, (30, 20, 30, 20)),
            entry(15, a, 90, (2, 3, 4, 5)),
        ],
        "categories": [{"id": identity, "name": f"class {identity}"} for identity in reversed(CATEGORY_IDS)],
    }


def write_coco(root: Path, split: str, data: dict[str, Any], *, seed: int = 0) -> Path:
    """Write the images, of noise and of their stated sizes, and the annotation file; returns the latter."""
    for place, image in enumerate(data["images"]):
        write_image(root / split / image["file_name"], seed=seed + place, size=(image["height"], image["width"]))
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data))
    return file


def changed(root: Path, change: Any, split: str = "train2017") -> Path:
    """Rewrite an annotation file; returns its path."""
    file = root / "annotations" / f"instances_{split}.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return file
