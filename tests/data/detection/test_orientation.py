"""Photographs that are stored sideways or upside down."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from a2mamba.data import (
    CocoDataset,
    DetectionData,
    UnfitSampleError,
    check_dataset,
    eval_detection_loader,
    read_annotations,
    read_detection_split,
)
from a2mamba.evaluation import CocoMetric

pytest.importorskip("faster_coco_eval")

HEIGHT, WIDTH = 48, 80
BOX = (10, 5, 26, 25)  # x0 y0 x1 y1 in the upright image


def write(root: Path, orientation: int, *, stored: bool, polygon: bool = True) -> Path:
    """One photograph with a bright object; boxes and sizes of the image as it is shown, or as it is stored."""
    shown = np.full((HEIGHT, WIDTH, 3), 30, dtype=np.uint8)
    x0, y0, x1, y1 = BOX
    shown[y0:y1, x0:x1] = 250
    mask = Image.fromarray((shown[..., 0] > 128).astype(np.uint8) * 255)
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # the inverse turn, in Pillow's numbers
    image = Image.fromarray(shown)
    if back is not None:
        image, turned = (each.transpose(Image.Transpose(back)) for each in (image, mask))
    else:
        turned = mask
    exif = image.getexif()
    exif[0x0112] = orientation
    (root / "val").mkdir(parents=True, exist_ok=True)
    image.save(root / "val" / "1.jpg", quality=98, exif=exif.tobytes())
    with Image.open(root / "val" / "1.jpg") as saved:
        upright = np.asarray(ImageOps.exif_transpose(saved).convert("L"))
    assert upright.shape == (HEIGHT, WIDTH)
    assert upright[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].min() > 200, "the file is what the test means"
    pixels = np.asarray(turned if stored else mask) > 0
    ys, xs = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    x, y, w, h = (int(v) for v in (xs[0], ys[0], len(xs), len(ys)))
    ring = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": pixels.shape[0], "width": pixels.shape[1]}],
        "annotations": [{**annotation, "segmentation": ring}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    file = root / "annotations" / "instances_val.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


# From 2 to 4 the stored size is that of the upright image: it is taken as annotated upright, as tools show it.
@pytest.mark.parametrize(("orientation", "stored"), [*product(range(1, 9), [False]), *product([1, 5, 6, 7, 8], [True])])
def test_objects_lie_on_the_upright_image(tmp_path: Path, orientation: int, stored: bool) -> None:
    file = write(tmp_path, orientation, stored=stored)
    sample = CocoDataset(tmp_path / "val", read_annotations(file))[0]
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    assert sample.target["boxes"].tolist() == [list(BOX)]
    x0, y0, x1, y1 = BOX
    assert int(sample.target["masks"].sum()) == (x1 - x0) * (y1 - y0)
    assert bool(sample.target["masks"][0, y0:y1, x0:x1].all())
    assert int(sample.image[:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].min()) > 200


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_evaluation_compares_upright(tmp_path: Path, orientation: int, stored: bool) -> None:
    write(tmp_path, orientation, stored=stored)
    data = DetectionData(
        root=str(tmp_path), val_images="val", val_annotations="annotations/instances_val.json", workers=0
    )
    truth = read_detection_split(data, "val")
    (batch,) = eval_detection_loader(data, annotations=truth)
    assert batch.images[0].shape == (3, HEIGHT, WIDTH)
    metric = CocoMetric(truth)
    x0, y0, x1, y1 = BOX
    masks = torch.zeros(1, HEIGHT, WIDTH)
    masks[0, y0:y1, x0:x1] = 1
    found = {"boxes": torch.tensor([BOX]).float(), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    metric.update([1], [{**found, "masks": masks}])
    results = dict(metric.results())
    assert results["box_ap"] == results["mask_ap"] == pytest.approx(100)


def test_the_checker_says_what_turns(tmp_path: Path) -> None:
    write(tmp_path, 6, stored=False)
    assert check_dataset(tmp_path).problems == []
    write(tmp_path, 6, stored=True)
    (problem,) = check_dataset(tmp_path).problems
    assert "1 images are shown turned (EXIF orientation) and annotated as they are stored" in problem


def test_sizes_that_fit_neither_way_are_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, 1, stored=False)
    content = json.loads(file.read_text())
    content["images"][0] |= {"height": WIDTH, "width": HEIGHT}
    file.write_text(json.dumps(content))
    with pytest.raises(UnfitSampleError, match=r"1\.jpg: is 80 pixels wide and 48 high"):
        CocoDataset(tmp_path / "val", read_annotations(file))[0]
