from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from a2mamba.data import CocoDataset, read_annotations
from a2mamba.visualize import GalleryCase, detection_gallery, draw_objects
from a2mamba.visualize.objects import _Area, _tag_area, object_color
from a2mamba.visualize.text import lettering
from data.detection.coco_helpers import content, write_coco
from data.helpers import error_line

NAMES = ["cat", "dog", "owl"]


def objects(*, masks: bool = False, scores: bool = False) -> dict[str, Tensor]:
    found = {
        "boxes": torch.tensor([[60.0, 60.0, 90.0, 90.0], [10.0, 20.0, 50.0, 80.0]]),
        "labels": torch.tensor([2, 1]),
    }
    if masks:
        found["masks"] = torch.zeros(2, 1, 100, 120)
        found["masks"][0, 0, 60:90, 60:90] = 0.5
        found["masks"][1, 0, 20:80, 10:50] = 1.0
        found["masks"][1, 0, :, 51:] = 0.49
    if scores:
        found["scores"] = torch.tensor([0.4, 0.9])
    return found


def gray() -> Image.Image:
    return Image.new("RGB", (120, 100), (128, 128, 128))


def test_outlines_are_where_the_boxes_are() -> None:
    drawn = np.asarray(draw_objects(gray(), objects(), names=NAMES)).astype(int)
    assert drawn.shape == (100, 120, 3)
    assert drawn[60, 10].tolist() == list(object_color(1))
    assert drawn[75, 60].tolist() == list(object_color(2))
    assert drawn[75, 90].tolist() == list(object_color(2))
    assert drawn[70, 30].tolist() == [128] * 3, "nothing inside"
    assert drawn[10, 100].tolist() == [128] * 3


def test_masks_tint_their_pixels_alone() -> None:
    plain = np.asarray(draw_objects(gray(), objects(), names=NAMES)).astype(int)
    drawn = np.asarray(draw_objects(gray(), objects(masks=True), names=NAMES, opacity=0.5)).astype(int)
    tinted = drawn[70, 30]
    assert np.abs(tinted - (np.array(object_color(1)) + 128) / 2).max() <= 1
    assert np.abs(drawn[75, 75] - (np.array(object_color(2)) + 128) / 2).max() <= 1, "0.5 is inside"
    assert np.array_equal(drawn[:, 95:], plain[:, 95:]), "0.49 is not"


def test_scores_select_and_scale_enlarges() -> None:
    drawn = np.asarray(draw_objects(gray(), objects(scores=True), names=NAMES, min_score=0.5, scale=2)).astype(int)
    assert drawn.shape == (200, 240, 3)
    assert drawn[120, 20].tolist() == list(object_color(1))
    assert drawn[150, 120].tolist() == [128] * 3, "the second object has a low score"
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert np.asarray(draw_objects(gray(), empty, names=NAMES)).min() == 128


def test_boxes_out_of_order_and_outside_do_not_fail() -> None:
    odd = {
        "boxes": torch.tensor([[50.0, 50.0, 20.0, 30.0], [-30.0, -30.0, 300.0, 300.0], [118.0, 98.0, 119.0, 99.0]]),
        "labels": torch.tensor([1, 2, 3]),
    }
    assert draw_objects(gray(), odd, names=NAMES).size == (120, 100)


def test_labels_do_not_cover_each_other() -> None:
    boxes = [[20.0 + 4 * i, 40.0 + 2 * i, 200.0, 150.0 + 8 * i] for i in range(4)]
    areas: list[_Area] = []
    for box in boxes:
        areas.append(_tag_area(lettering("owl 0.87", 12), 12, torch.tensor(box), (240, 200), areas))
    assert areas[0].bottom == 40, "above its box where nothing is in the way"
    for i, area in enumerate(areas):
        assert 0 <= area.left < area.right <= 240
        assert 0 <= area.top < area.bottom <= 200
        assert not any(area.shared(other) for other in areas[:i])


def test_lines_and_letters_fit_the_size() -> None:
    def measure(scale: int) -> tuple[int, int]:
        found = {"boxes": torch.tensor([[20.0, 30.0, 110.0, 90.0]]), "labels": torch.tensor([1])}
        drawn = np.asarray(draw_objects(gray(), found, names=NAMES, scale=scale))
        colored = (drawn == object_color(1)).all(axis=2)
        box_line = colored[60 * scale, : 60 * scale].sum()
        tag = colored[: 30 * scale, 20 * scale : 24 * scale].any(axis=1).sum()
        return int(box_line), int(tag)

    assert measure(1) == (1, 15)
    assert measure(20) == (8, 50)


def test_outlines_of_masks_are_as_wide_as_lines_and_stay_inside() -> None:
    found = objects(masks=True)
    plain = np.asarray(gray().resize((1200, 1000)))
    drawn = np.asarray(draw_objects(gray(), {**found, "boxes": torch.zeros(2, 4)}, names=NAMES, scale=10))
    row = (drawn[750] == object_color(2)).all(axis=1)
    assert row[597:607].sum() == 4
    assert np.array_equal(drawn[750, 520:598], plain[750, 520:598])
    assert row[610:880].sum() == 0


def test_bad_images() -> None:
    error_line(lambda: draw_objects(gray(), objects(), names=["cat"]), "label 2", "1")
    wrong = {**objects(), "masks": torch.zeros(2, 10, 10)}
    error_line(lambda: draw_objects(gray(), wrong, names=NAMES), "10 x 10", "120 x 100")


def test_colors_differ() -> None:
    colors = [object_color(label) for label in range(1, 81)]
    assert len(set(colors)) == 80
    assert max(abs(a - b) for a, b in zip(colors[0], colors[1], strict=True)) > 60


def test_gallery_has_truth_on_the_left_and_prediction_on_the_right(tmp_path: Path) -> None:
    file = write_coco(tmp_path, "train2017", content())
    dataset = CocoDataset(tmp_path / "train2017", read_annotations(file))
    asked: list[int] = []

    def predict(image_id: int) -> Mapping[str, Tensor]:
        asked.append(image_id)
        return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}

    cases = [GalleryCase(3, "image 3: missed 2"), GalleryCase(1, "image 1"), GalleryCase(2, "image 2")]
    gallery = detection_gallery(dataset, cases, predict, panel=(80, 120), columns=2)
    assert asked == [3, 1, 2]
    assert gallery.size == (8 + 2 * (248 + 16), 28 + 2 * (100 + 16))
    pixels = np.asarray(gallery).astype(int)
    truth, prediction = pixels[48 : 48 + 80, 8:128], pixels[48 : 48 + 80, 136:256]
    sample = dataset[2]
    for pixels_shown, shown in ((truth, sample.target), (prediction, predict(3))):
        drawn = draw_objects(to_pil_image(sample.image), shown, names=["3", "7", "90"], scale=2)
        same = (pixels_shown == np.asarray(drawn)).all(axis=2)
        assert same.mean() > 0.75, "all but the tags, whose names differ"
    assert np.abs(truth - prediction).max() > 60
    empty = pixels[48 + 116 : 48 + 196, 8:128], pixels[48 + 116 : 48 + 196, 136:256]
    assert np.array_equal(*empty)
    assert (pixels[30:46, 8:128] < 100).any(), "captions"
    error_line(lambda: detection_gallery(dataset, [], predict), "0 cases")
    with pytest.raises(ValueError, match="image 77"):
        detection_gallery(dataset, [GalleryCase(77, "")], predict)
