from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from a2mamba.data import read_annotations
from a2mamba.evaluation import CocoMetric
from a2mamba.visualize import precision_recall_plot
from data.helpers import error_line

from .coco_cases import generated_set, perturbed, pycocotools_statistics

pytest.importorskip("faster_coco_eval")

KINDS = (("bbox", "box"), ("segm", "mask"))


def objects_in(content: dict[str, Any]) -> int:
    return sum(not entry["iscrowd"] for entry in content["annotations"])


def evaluated(content: dict[str, Any], found: dict[int, dict[str, Tensor]], **change: Any) -> CocoMetric:
    metric = CocoMetric(content, **change)
    metric.update(list(found), list(found.values()))
    return metric


@pytest.fixture
def content() -> dict[str, Any]:
    return generated_set(4)


@pytest.fixture
def metric(content: dict[str, Any]) -> CocoMetric:
    return evaluated(content, perturbed(content, 4))


def square(x: int, y: int, side: int) -> list[list[float]]:
    return [[float(v) for v in (x, y, x + side, y, x + side, y + side, x, y + side)]]


def hand_made() -> dict[str, Any]:
    """One image, 100 x 100: two objects of category 5, one of 9, one crowd of 9."""
    places = [(5, 0, 0, 40, 0), (5, 50, 0, 40, 0), (9, 0, 50, 40, 0), (9, 50, 50, 50, 1)]
    return {
        "images": [{"id": 8, "file_name": "8.jpg", "height": 100, "width": 100}],
        "categories": [{"id": 9, "name": "nine"}, {"id": 5, "name": "five"}],
        "annotations": [
            {
                "id": number,
                "image_id": 8,
                "category_id": category,
                "bbox": [float(x), float(y), float(side), float(side)],
                "area": float(side * side),
                "segmentation": square(x, y, side),
                "iscrowd": crowd,
            }
            for number, (category, x, y, side, crowd) in enumerate(places)
        ],
    }


def output(*rows: tuple[float, float, float, float, int, float]) -> dict[str, Tensor]:
    """Rows of x0 y0 x1 y1 label score; masks fill the boxes."""
    masks = torch.zeros(len(rows), 100, 100)
    for mask, (x0, y0, x1, y1, _, _) in zip(masks, rows, strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = 1
    table = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5], "masks": masks}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools with numpy 2
def test_equals_pycocotools_on_fifty_sets(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    compared, undefined, crowds = 0, 0, 0
    for seed in range(55):
        content = generated_set(seed)
        if not objects_in(content):
            continue
        crowds += len(content["annotations"]) - objects_in(content)
        metric = evaluated(content, perturbed(content, seed))
        results = dict(metric.results())
        files = metric.write_results(tmp_path / "results.json")
        for file, (kind, prefix) in zip(files, KINDS, strict=True):
            for name, value in pycocotools_statistics(content, file, kind).items():
                if value == -1:
                    assert f"{prefix}_{name}" not in results
                    undefined += 1
                else:
                    assert results[f"{prefix}_{name}"] / 100 == pytest.approx(value, abs=1e-6), (seed, kind, name)
                    compared += 1
    assert compared > 50 * 10
    assert crowds > 50
    assert undefined > 10, "sets without large objects are among them"


def test_names_and_range(metric: CocoMetric) -> None:
    names = [name for name, _ in metric.results()]
    wanted = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar"]
    assert names == [f"{prefix}_{name}" for _, prefix in KINDS for name in wanted]
    values = dict(metric.results())
    assert 5 < values["box_ap"] < values["box_ap50"] < 100
    assert 5 < values["mask_ap"] < 100


def test_by_hand() -> None:
    """Category 5: one of two found. Category 9: its object found; a detection inside the crowd does not count."""
    metric = CocoMetric(hand_made())
    assert metric.category_ids == [5, 9]
    metric.update(
        torch.tensor([8]),
        [
            output(
                (0, 0, 40, 40, 1, 0.9),  # found
                (50, 0, 90, 40, 2, 0.8),  # of the wrong class: a false positive of 9, above its hit
                (0, 50, 40, 90, 2, 0.7),  # found
                (60, 60, 80, 80, 2, 0.95),  # in the crowd
            )
        ],
    )
    results = dict(metric.results())
    five = 51 / 101  # precision 1 up to a recall of 0.5, 0 beyond: 51 of 101 points
    nine = 0.5  # the false positive comes first
    for _, prefix in KINDS:
        for name in ("ap", "ap50", "ap75"):
            assert results[f"{prefix}_{name}"] == pytest.approx(100 * (five + nine) / 2)
        assert results[f"{prefix}_ar"] == pytest.approx(100 * (0.5 + 1) / 2)
        assert f"{prefix}_ap_small" not in results
        assert results[f"{prefix}_ap_medium"] == pytest.approx(results[f"{prefix}_ap"])
    rows = metric.per_class("segm")
    assert [(row.category_id, row.name, row.objects) for row in rows] == [(5, "five", 2), (9, "nine", 1)]
    assert [row.ap for row in rows] == [pytest.approx(100 * five), pytest.approx(100 * nine)]
    assert rows[0].ap_small is None
    recall, precision = metric.precision_recall(category_id=5)
    assert recall.tolist() == pytest.approx(np.linspace(0, 1, 101).tolist())
    assert precision.tolist() == pytest.approx([1.0] * 51 + [0.0] * 50)
    assert metric.precision_recall(iou=0.95)[1][0] == pytest.approx(0.75)
    (image,) = metric.agreement()
    assert image == (8, 2, 1, 1), "the wrong class is a false positive and a miss; the crowd counts neither way"
    assert image.f1 == pytest.approx(4 / 6)
    assert metric.agreement(score=0.75)[0] == (8, 1, 2, 1)
    lines = metric.table().splitlines()
    assert [line.split()[0] for line in lines] == ["category", "nine", "five"], "the worst first"
    assert "-" in lines[1]


def test_an_object_of_id_0_can_be_found() -> None:
    """pycocotools takes it for unmatched."""
    truth = hand_made()
    assert truth["annotations"][0]["id"] == 0
    metric = CocoMetric(truth)
    metric.update([8], [output((0, 0, 40, 40, 1, 0.9), (50, 0, 90, 40, 1, 0.8), (0, 50, 40, 90, 2, 0.7))])
    assert dict(metric.results())["box_ap"] == pytest.approx(100)


def test_mask_areas_are_those_of_the_masks() -> None:
    """A thin mask in a large box is a small object: results with boxes would make it a large one."""
    truth = hand_made()
    truth["annotations"] = truth["annotations"][:1]
    strip = [[0.0, 0.0, 40.0, 0.0, 40.0, 20.0, 0.0, 20.0]]
    truth["annotations"][0].update(segmentation=strip, area=800.0)
    found = output((0, 0, 40, 40, 1, 0.9))
    found["masks"][0, 20:] = 0
    metric = CocoMetric(truth)
    metric.update([8], [found])
    results = dict(metric.results())
    assert results["mask_ap_small"] == pytest.approx(100)
    assert "mask_ap_medium" not in results
    entries = json.loads(json.dumps(metric._result_list("segm")))
    assert set(entries[0]) == {"image_id", "category_id", "score", "segmentation"}


def test_probabilities_are_cut_at_one_half() -> None:
    found = output((0, 0, 40, 40, 1, 0.9))
    metrics = []
    for low, high in ((0.49, 0.5), (0.0, 1.0)):
        masks = torch.where(found["masks"] > 0, high, low)[:, None]
        metric = CocoMetric(hand_made())
        metric.update([8], [{**found, "masks": masks}])
        metrics.append(metric)
    assert metrics[0].state() == metrics[1].state()
    whole = CocoMetric(hand_made())
    whole.update([8], [{**found, "masks": found["masks"].bool()}])
    assert whole.state() == metrics[0].state()
    kept = metrics[0].detections(8)
    assert torch.equal(kept["masks"], found["masks"].to(torch.uint8))
    assert torch.equal(kept["boxes"], found["boxes"])
    assert torch.equal(kept["labels"], found["labels"])
    assert kept["scores"].tolist() == pytest.approx([0.9])


def test_written_results_have_original_ids(tmp_path: Path) -> None:
    metric = CocoMetric(hand_made())
    metric.update([8], [output((10, 20, 40, 60, 2, 0.5))])
    files = metric.write_results(tmp_path / "deep" / "run.json")
    assert [file.name for file in files] == ["run.bbox.json", "run.segm.json"]
    (box,), (mask,) = (json.loads(file.read_text()) for file in files)
    assert box == {"image_id": 8, "category_id": 9, "score": 0.5, "bbox": [10, 20, 30, 40]}
    assert (mask["image_id"], mask["category_id"]) == (8, 9)
    from faster_coco_eval.core import mask as library

    assert library.area(mask["segmentation"]) == 30 * 40
    assert library.toBbox(mask["segmentation"]).tolist() == [10, 20, 30, 40]
    assert [entry.name for entry in (tmp_path / "deep").iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("parts", [2, 4])
def test_merged_parts_equal_the_whole(content: dict[str, Any], metric: CocoMetric, parts: int) -> None:
    found = perturbed(content, 4)
    ids = list(found)
    together = CocoMetric(content)
    for part in range(parts):
        one = CocoMetric(content)
        one.update(ids[part::parts], [found[image_id] for image_id in ids[part::parts]])
        together.merge(json.loads(json.dumps(one.state())))
    assert together.image_ids == metric.image_ids == sorted(ids)
    assert dict(together.results()) == dict(metric.results())
    assert together.agreement() == metric.agreement()
    with pytest.raises(ValueError, match="evaluated already"):
        together.merge(metric.state())
    with pytest.raises(ValueError, match="cannot merge iou_types"):
        CocoMetric(content, iou_types=("bbox",)).merge(metric.state())
    other = CocoMetric(hand_made())
    with pytest.raises(ValueError, match="cannot merge category_ids"):
        other.merge(metric.state())
    alien = other.state()
    alien["images"] = [{"id": 4711, "boxes": [], "labels": [], "scores": [], "masks": []}]
    with pytest.raises(ValueError, match="4711"):
        other.merge(alien)


def test_results_follow_every_update(content: dict[str, Any]) -> None:
    found = perturbed(content, 4)
    metric = CocoMetric(content)
    with pytest.raises(ValueError, match="no images"):
        list(metric.results())
    ids = list(found)
    metric.update(ids[:-1], [found[image_id] for image_id in ids[:-1]])
    before = dict(metric.results())
    metric.update(ids[-1:], [found[ids[-1]]])
    after = dict(metric.results())
    assert before != after
    assert after == dict(metric.results())


def test_only_given_images_count(content: dict[str, Any]) -> None:
    found = perturbed(content, 4)
    chosen = list(found)[:2]
    part = copy.deepcopy(content)
    part["images"] = [image for image in part["images"] if image["id"] in chosen]
    part["annotations"] = [entry for entry in part["annotations"] if entry["image_id"] in chosen]
    whole_file = CocoMetric(content)
    whole_file.update(chosen, [found[image_id] for image_id in chosen])
    assert dict(whole_file.results()) == dict(evaluated(part, {i: found[i] for i in chosen}).results())


def test_no_detections_are_zero_and_no_objects_are_no_number(caplog: pytest.LogCaptureFixture) -> None:
    metric = CocoMetric(hand_made())
    metric.update([8], [output()])
    results = dict(metric.results())
    assert results["box_ap"] == results["mask_ap"] == results["box_ar"] == 0
    assert metric.agreement()[0] == (8, 0, 3, 0)
    assert metric.detections(8)["masks"].shape == (0, 100, 100)
    empty = hand_made()
    empty["annotations"] = empty["annotations"][3:]
    only_crowd = CocoMetric(empty)
    only_crowd.update([8], [output()])
    with caplog.at_level("WARNING"):
        values = dict(only_crowd.results())
    assert set(values) == {"box_ap", "mask_ap"}
    assert all(math.isnan(value) for value in values.values())
    assert "none of the 1 evaluated images has an object" in caplog.text
    with pytest.raises(ValueError, match="none of the 1 evaluated images"):
        only_crowd.per_class()
    assert only_crowd.agreement()[0].f1 == 1


def test_boxes_alone_need_no_masks(content: dict[str, Any], metric: CocoMetric) -> None:
    found = {
        image_id: {name: value for name, value in one.items() if name != "masks"}
        for image_id, one in perturbed(content, 4).items()
    }
    bare = copy.deepcopy(content)
    for entry in bare["annotations"]:
        del entry["segmentation"]
    boxes = evaluated(bare, found, iou_types=("bbox",))
    assert dict(boxes.results()) == {name: value for name, value in metric.results() if name.startswith("box")}
    with pytest.raises(ValueError, match="'segm'"):
        boxes.per_class("segm")
    assert "masks" not in boxes.detections(next(iter(found)))
    with pytest.raises(ValueError, match="has no masks"):
        CocoMetric(content).update(list(found), list(found.values()))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], content: dict[str, Any]) -> None:
    dict(evaluated(content, perturbed(content, 4)).results())
    assert capfd.readouterr() == ("", "")


def test_file_and_mapping_are_alike(tmp_path: Path, content: dict[str, Any], metric: CocoMetric) -> None:
    before = copy.deepcopy(content)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    found = perturbed(content, 4)
    from_file = CocoMetric(file)
    from_file.update(list(found), list(found.values()))
    assert dict(from_file.results()) == dict(metric.results())
    assert content == before, "the caller's annotations are left alone"


def _change(name: str, **values: Any) -> Any:
    return lambda truth: truth[name][1 if name == "annotations" else 0].update(values)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda truth: truth.pop("images"), "has no 'images'"),
        (_change("images", height=None), "image 8"),
        (lambda truth: truth["images"].append(dict(truth["images"][0])), "image id 8 occurs twice"),
        (lambda truth: truth["categories"].append({"id": 5}), "category id 5 occurs twice"),
        (_change("annotations", id=2), "annotation id 2 occurs twice"),
        (_change("annotations", id="x"), "'x'"),
        (_change("annotations", image_id=9), "annotation 1 is of image 9"),
        (_change("annotations", category_id=6), "annotation 1 is of category 6"),
        (_change("annotations", bbox=[0, 0, float("nan"), 1]), "annotation 1 has the box"),
        (_change("annotations", bbox=[10, 0, -5, 1]), "annotation 1 has the box"),
        (_change("annotations", bbox=None), "annotation 1 has the box None"),
        (_change("annotations", area=float("nan")), "annotation 1 has the area"),
        (_change("annotations", segmentation=None), "annotation 1: it has no segmentation"),
        (
            _change("annotations", segmentation={"size": [1, 1], "counts": [1]}),
            "its mask has size [1, 1]",
        ),
        (
            _change("annotations", segmentation={"size": [100, 100], "counts": [1]}),
            "its run lengths do not add up",
        ),
        (
            _change("annotations", segmentation={"size": [100, 100], "counts": 7}),
            "its run lengths are neither",
        ),
        (
            _change("annotations", segmentation={"size": [100, 100], "counts": "54"}),
            "its run lengths do not add",
        ),
        (
            _change("annotations", segmentation={"size": [100, 100], "counts": "oo"}),
            "its run lengths are no",
        ),
        (_change("annotations", segmentation=[[1, 2, 3, 4, 5, "6"]]), "annotation 1: its polygon holds"),
        (_change("annotations", segmentation="RLE"), "annotation 1: its segmentation is neither"),
    ],
)
def test_bad_annotations(change: Any, part: str) -> None:
    truth = hand_made()
    change(truth)
    error_line(lambda: CocoMetric(truth), part)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_bad_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "instances.json"
    file.write_text(text)
    for path in (file, tmp_path / "none.json"):
        with pytest.raises(ValueError, match=str(path)):
            CocoMetric(path)


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"a2mamba\[coco\]"):
        CocoMetric(hand_made())


@pytest.mark.parametrize("types", [(), ("box",), ("bbox", "bbox")])
def test_bad_iou_types(types: Any) -> None:
    with pytest.raises(ValueError, match="iou_types"):
        CocoMetric(hand_made(), iou_types=types)


def _without(name: str) -> dict[str, Tensor]:
    found = output((0, 0, 40, 40, 1, 0.9))
    del found[name]
    return found


@pytest.mark.parametrize(
    ("ids", "found", "part"),
    [
        ([9], output(), "image 9 is not in"),
        ([8, 8], output(), "2 image ids"),
        ([8], _without("scores"), "no scores"),
        ([8], {**output((0, 0, 4, 4, 1, 0.5)), "boxes": torch.zeros(1, 5)}, "(1, 5)"),
        ([8], {**output((0, 0, 4, 4, 1, 0.5)), "scores": torch.zeros(2)}, "(2,)"),
        ([8], {**output((0, 0, 4, 4, 1, 0.5)), "labels": torch.zeros(1)}, "float32"),
        ([8], output((0, 0, 4, 4, 0, 0.5)), "label 0"),
        ([8], output((0, 0, 4, 4, 3, 0.5)), "label 3; expected 1 to 2"),
        ([8], output((0, 0, 4, 4, 1, float("nan"))), "not finite"),
        ([8], {**output((0, 0, 4, 4, 1, 0.5)), "boxes": torch.full((1, 4), float("inf"))}, "not finite"),
        ([8], output((4, 0, 0, 4, 1, 0.5)), "x1 < x0"),
        ([8], {**output((0, 0, 4, 4, 1, 0.5)), "masks": torch.zeros(1, 50, 50)}, "(1, 50, 50)"),
        ([8], {**output((0, 0, 4, 4, 1, 0.5)), "masks": torch.zeros(2, 100, 100)}, "(2, 100, 100)"),
    ],
)
def test_bad_outputs_leave_nothing_behind(ids: list[int], found: dict[str, Tensor], part: str) -> None:
    metric = CocoMetric(hand_made())
    error_line(lambda: metric.update(ids, [found]), part)
    assert metric.image_ids == []


def test_each_image_counts_once() -> None:
    metric = CocoMetric(hand_made())
    with pytest.raises(ValueError, match="evaluated already"):
        metric.update([8, 8], [output(), output()])
    metric.update([8], [output()])
    with pytest.raises(ValueError, match="evaluated already"):
        metric.update([8], [output()])
    with pytest.raises(ValueError, match="image 9 was not"):
        metric.detections(9)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"iou": 0.52}, "iou=0.52"),
        ({"category_id": 6}, "category 6"),
        ({"category_id": 9}, "category 9 has no objects"),
    ],
)
def test_bad_curves(arguments: dict[str, Any], part: str) -> None:
    truth = hand_made()
    truth["annotations"] = truth["annotations"][:2]
    metric = CocoMetric(truth)
    metric.update([8], [output((0, 0, 40, 40, 1, 0.9))])
    with pytest.raises(ValueError, match=part):
        metric.precision_recall(**arguments)
    assert metric.per_class()[1].ap is None
    assert len(metric.table().splitlines()) == 2


def test_worst_images_come_first(content: dict[str, Any], metric: CocoMetric) -> None:
    images = metric.agreement(score=0.3)
    assert [image.f1 for image in images] == sorted(image.f1 for image in images)
    assert images[0].f1 < images[-1].f1
    assert sum(image.found + image.missed for image in images) == objects_in(content)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_plot_of_the_curves(tmp_path: Path, metric: CocoMetric, kind: Any) -> None:
    pytest.importorskip("matplotlib")
    precision_recall_plot(metric, tmp_path / "deep" / "curves.png", iou_type=kind)
    with Image.open(tmp_path / "deep" / "curves.png") as image:
        assert image.width > 600
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    strong = pixels[pixels.max(axis=1).astype(int) - pixels.min(axis=1) > 60]
    assert len({tuple(color) for color in strong.tolist()}) >= 6, "a curve for each threshold"
    with pytest.raises(ValueError, match="measures"):
        precision_recall_plot(CocoMetric(hand_made(), iou_types=("bbox",)), tmp_path / "x.png", iou_type="segm")


def _swapped() -> dict[str, Any]:
    """The same objects and names under other ids, in another order and case."""
    truth = hand_made()
    truth["categories"] = [{"id": 3, "name": "Five"}, {"id": 1, "name": "NINE "}]
    for entry in truth["annotations"]:
        entry["category_id"] = {5: 3, 9: 1}[entry["category_id"]]
    return truth


PERFECT = output((0, 0, 40, 40, 1, 0.9), (50, 0, 90, 40, 1, 0.8), (0, 50, 40, 90, 2, 0.7))
"""Of a model that was trained with the labels of `hand_made`: 1 is five, 2 is nine."""


def test_categories_of_other_ids_are_matched_by_name() -> None:
    trained = read_annotations(hand_made(), masks=False).categories
    assert [category.name for category in trained] == ["five", "nine"]
    metric = CocoMetric(_swapped(), categories=trained)
    metric.update([8], [PERFECT])
    assert dict(metric.results())["box_ap"] == pytest.approx(100)
    assert metric.category_ids == [3, 1], "results are written with the ids of the evaluation file"
    assert [(row.category_id, row.name, row.ap) for row in metric.per_class()] == [
        (3, "five", pytest.approx(100)),
        (1, "nine", pytest.approx(100)),
    ]
    assert metric.precision_recall(category_id=3)[1].tolist() == pytest.approx([1.0] * 101)
    assert metric.agreement()[0] == (8, 3, 0, 0)


def test_the_training_file_beside_an_evaluation_file_gives_the_labels(tmp_path: Path) -> None:
    for train, val in (
        ("annotations/instances_train.json", "annotations/instances_val.json"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json"),
    ):
        for name, content in ((train, hand_made()), (val, _swapped())):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(json.dumps(content))
        metric = CocoMetric(tmp_path / val)
        metric.update([8], [PERFECT])
        assert dict(metric.results())["box_ap"] == pytest.approx(100)
        other = hand_made()
        other["categories"][0]["name"] = "ten"
        (tmp_path / train).write_text(json.dumps(other))
        assert CocoMetric(tmp_path / val).category_ids == [1, 3], "other names: the file's own order"


def test_categories_that_cannot_be_matched_are_refused() -> None:
    trained = read_annotations(hand_made(), masks=False).categories
    truth = _swapped()
    truth["categories"][0]["name"] = "six"
    with pytest.raises(ValueError, match="categories six are not those of training, five, nine"):
        CocoMetric(truth, categories=trained)
    truth["categories"][0]["name"] = "nine"
    with pytest.raises(ValueError, match="categories nine are not those of training"):
        CocoMetric(truth, categories=trained)
    lacking = _swapped()
    lacking["categories"] = lacking["categories"][:1]
    lacking["annotations"] = lacking["annotations"][:2]
    metric = CocoMetric(lacking, categories=trained)
    metric.update([8], [PERFECT])
    assert metric.per_class()[0].ap is None or metric.per_class()[1].ap is None, "one class has no objects"
    assert dict(metric.results())["box_ap"] == pytest.approx(100), "the mean over those that have"


def test_polygons_that_are_none_are_left_out() -> None:
    truth = hand_made()
    truth["annotations"][0]["segmentation"].append([1, 2, 3, 4])
    truth["annotations"][1]["segmentation"] = [[1, 2, 3, 4, 5, 1e12]]
    metric = CocoMetric(truth)
    metric.update([8], [output((0, 0, 40, 40, 1, 0.9), (0, 50, 40, 90, 2, 0.7))])
    results = dict(metric.results())
    assert results["box_ap"] == results["mask_ap"] == pytest.approx(100)
    assert [row.objects for row in metric.per_class()] == [1, 1]
