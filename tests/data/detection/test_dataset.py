from __future__ import annotations

import dataclasses
import gc
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from a2mamba.data import (
    Category,
    CocoDataset,
    DetectionBatch,
    DetectionData,
    UnfitSampleError,
    detection_categories,
    eval_detection_loader,
    read_annotations,
    train_detection_loader,
)
from a2mamba.data.detection.transforms import DetectionView, crop, flip, original_view
from a2mamba.engine.tree import move_to
from data.helpers import error_line, write_image

from .coco_helpers import HEIGHT, WIDTH, changed, content, entry, rectangle, write_coco

SMALL: dict[str, Any] = {
    "min_sizes": (96, 128),
    "max_size": 240,
    "crop_resize_sizes": (100,),
    "crop_size": (60, 90),
    "workers": 0,
}


def data_of(root: Path, **change: Any) -> DetectionData:
    return DetectionData(root=str(root), **{**SMALL, "batch_size": 2, **change})


def dataset_of(root: Path, split: str = "train2017", *, masks: bool = True, **change: Any) -> CocoDataset:
    file = root / "annotations" / f"instances_{split}.json"
    return CocoDataset(root / split, read_annotations(file, masks=masks), **change)


def test_target_of_a_sample(coco: Path) -> None:
    dataset = dataset_of(coco)
    assert len(dataset) == 3
    assert dataset.categories == (Category(3, "class 3"), Category(7, "class 7"), Category(90, "class 90"))
    assert dataset.annotations.category_ids == [3, 7, 90]
    image, target, path = dataset[0]
    assert image.dtype == torch.uint8
    assert image.shape == (3, HEIGHT, WIDTH)
    assert int(image.max()) > 230
    assert path == str(coco / "train2017" / "000001.png") == dataset.path(0)
    assert target["image_id"] == 1
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[0, 0, 30, 40], [40, 10, 52, 19], [2, 3, 6, 8]]
    assert target["labels"].dtype == torch.int64
    assert target["labels"].tolist() == [1, 2, 3], "ids 3, 7, 90 in increasing order"
    assert target["masks"].dtype == torch.uint8
    assert target["masks"].shape == (3, HEIGHT, WIDTH)
    for mask, (x0, y0, x1, y1) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
        assert int(mask.sum()) == (x1 - x0) * (y1 - y0)
        assert bool(mask[y0:y1, x0:x1].all())


def test_empty_image_keeps_the_shapes(coco: Path) -> None:
    target = dataset_of(coco)[1].target
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].shape == (0, HEIGHT, WIDTH)
    assert target["masks"].dtype == torch.uint8


def test_demo_scenes(demo: Path) -> None:
    file = demo / "coco" / "annotations" / "instances_train2017.json"
    raw = json.loads(file.read_text())
    dataset = dataset_of(demo / "coco")
    assert len(dataset) == len(raw["images"]) == 24
    assert not dataset.annotations.skipped
    found = 0
    for sample in (dataset[index] for index in range(len(dataset))):
        entries = [entry for entry in raw["annotations"] if entry["image_id"] == sample.target["image_id"]]
        assert sample.target["labels"].tolist() == [entry["category_id"] for entry in entries]
        assert sample.target["masks"].sum(dim=(1, 2)).tolist() == [entry["area"] for entry in entries]
        for mask, (x0, y0, x1, y1) in zip(sample.target["masks"], sample.target["boxes"].int().tolist(), strict=True):
            rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
            assert [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] == [x0, y0, x1, y1]
            found += 1
    assert found == len(raw["annotations"]) > 30


def test_masks_follow_the_view(coco: Path) -> None:
    def view(image: Tensor, boxes: Tensor) -> DetectionView:
        return crop(flip(original_view(image, boxes)), top=5, left=10, height=30, width=44)

    plain, moved = dataset_of(coco)[0], dataset_of(coco, transform=view)[0]
    assert torch.equal(moved.image, plain.image.flip(-1)[:, 5:35, 10:54])
    assert moved.target["labels"].tolist() == [1, 2], "the third object lies outside of the crop"
    assert torch.equal(moved.target["masks"], plain.target["masks"][:2].flip(-1)[:, 5:35, 10:54])
    assert moved.target["boxes"].tolist() == [[20, 0, 44, 30], [0, 5, 10, 14]]

    def right_part(image: Tensor, boxes: Tensor) -> DetectionView:
        return crop(original_view(image, boxes), top=0, left=35, height=40, width=25)

    part = dataset_of(coco, transform=right_part)[0].target
    assert part["labels"].tolist() == [2], "the second of three objects is left"
    assert torch.equal(part["masks"], plain.target["masks"][1:2, :, 35:])


def test_without_masks_nothing_is_drawn_or_needed(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop_masks(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            del annotation["segmentation"]

    for name in ("faster_coco_eval", "faster_coco_eval.core", "pycocotools"):
        monkeypatch.setitem(sys.modules, name, None)
    changed(coco, drop_masks)
    assert set(dataset_of(coco, masks=False)[0].target) == {"boxes", "labels", "image_id"}
    loader = train_detection_loader(data_of(coco, masks=False), seed=0)
    assert "masks" not in next(iter(loader)).targets[0]


def test_polygons_without_a_library_are_refused_at_once(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(coco, lambda data: data["annotations"][0].update(segmentation=[[5, 6, 25, 6, 25, 16, 5, 16]]))
    assert int(dataset_of(coco)[2].target["masks"][0].sum()) == 200
    for name in ("faster_coco_eval", "faster_coco_eval.core", "pycocotools"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install \"a2mamba\[coco\]\""):
        dataset_of(coco)
    assert len(dataset_of(coco, masks=False)) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iscrowd": 1}, "crowd"),
        ({"ignore": True}, "marked to be ignored"),
        ({"bbox": [20.0, 5.0, -10.0, 8.0]}, "negative"),
        ({"bbox": [20.0, 5.0, 10.0, -8.0]}, "negative"),
        ({"bbox": [60.0, 5.0, 10.0, 8.0]}, "outside"),
        ({"bbox": [-10.0, 5.0, 10.0, 8.0]}, "outside"),
        ({"bbox": [5.0, 40.0, 10.0, 8.0]}, "outside"),
        ({"bbox": [5.0, 5.0, 10.0, 0.0]}, "without area"),
        ({"bbox": [5.0, 5.0, 0.9, 9.0]}, "one pixel"),
        ({"bbox": [5.0, 5.0, 9.0, 0.9]}, "one pixel"),
        ({"area": 0}, "area of 0"),
        ({"area": -3.0}, "area of 0"),
    ],
)
def test_skipped_objects_are_counted(coco: Path, change: dict[str, Any], reason: str) -> None:
    file = changed(coco, lambda data: data["annotations"][2].update(change))
    annotations = read_annotations(file)
    assert [ids for text, ids in annotations.skipped.items() if reason in text] == [[13]]
    assert 13 not in annotations.annotation_ids[annotations.used]
    sample = dataset_of(coco)[0]
    assert sample.target["labels"].tolist() == [1, 3], "the objects around it stay"
    assert int(sample.target["masks"][1].sum()) == 20, "and keep their masks"


def test_smallest_object_that_counts_and_clipping(coco: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"][2]["bbox"] = [5.0, 5.0, 1.0, 1.0]
        data["annotations"][1]["bbox"] = [-4.0, -3.0, 100.0, 20.0]
        del data["annotations"][1]["area"], data["annotations"][1]["iscrowd"]

    changed(coco, change)
    assert dataset_of(coco)[0].target["boxes"].tolist() == [[0, 0, 60, 17], [5, 5, 6, 6], [2, 3, 6, 8]]


def _twice(data: dict[str, Any]) -> None:
    data["annotations"][3]["id"] = 11


def _nan(data: dict[str, Any]) -> None:
    data["annotations"][2]["bbox"][1] = float("nan")


def _image_twice(data: dict[str, Any]) -> None:
    data["images"][1]["id"] = 1


def _category_twice(data: dict[str, Any]) -> None:
    data["categories"][1]["id"] = 3


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (_twice, ["annotation id 11 occurs twice"]),
        (_image_twice, ["image id 1 occurs twice"]),
        (_category_twice, ["category id 3 occurs twice"]),
        (_nan, ["annotation 13", "box [40.0, nan, 12.0, 9.0]", "finite"]),
        (lambda data: data["annotations"][2].update(bbox=[1, 2, 3]), ["annotation 13", "[1, 2, 3]"]),
        (lambda data: data["annotations"][2].update(bbox=[1, 2, 3, "4"]), ["annotation 13"]),
        (lambda data: data["annotations"][2].pop("bbox"), ["annotation 13", "box None"]),
        (lambda data: data["annotations"][2].update(area=float("inf")), ["annotation 13", "area inf"]),
        (lambda data: data["annotations"][2].pop("segmentation"), ["annotation 13", "no segmentation", "masks=False"]),
        (lambda data: data["annotations"][2].update(segmentation=[]), ["annotation 13", "no segmentation"]),
        (
            lambda data: data["annotations"][2].update(segmentation={"size": [9, 9], "counts": [81]}),
            ["annotation 13", "[9, 9]", f"[{HEIGHT}, {WIDTH}]"],
        ),
        (lambda data: data["annotations"][2].update(image_id=77), ["annotation 13", "image 77", "not listed"]),
        (lambda data: data["annotations"][2].pop("image_id"), ["annotation 13", "image None"]),
        (lambda data: data["annotations"][2].update(category_id=4), ["annotation 13", "category 4", "not listed"]),
        (lambda data: data["annotations"][2].update(id="a13"), ["annotation number 2", "'a13'"]),
        (lambda data: data["annotations"].append(7), ["annotation number 5 is int"]),
        (lambda data: data["images"][1].pop("file_name"), ["image 2", "file_name None"]),
        (lambda data: data["images"][1].update(width=0), ["image 2", "width 0"]),
        (lambda data: data["images"][1].pop("height"), ["image 2", "height None"]),
        (lambda data: data.pop("annotations"), ["no 'annotations'", "images, categories"]),
        (lambda data: data.update(images={}), ["'images' is dict"]),
        (lambda data: data.update(images=[]), ["lists no images"]),
        (lambda data: data.update(categories=[]), ["lists no categories"]),
    ],
)
def test_errors_name_file_and_place(coco: Path, change: Any, parts: list[str]) -> None:
    file = changed(coco, change)
    error_line(lambda: read_annotations(file), str(file), *parts)
    error_line(lambda: train_detection_loader(data_of(coco), seed=0), str(file), *parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "a list (of predictions?)"),
        (b"3", "holds int"),
        (b"{}", "no 'images'"),
    ],
)
def test_files_that_are_no_annotations(coco: Path, text: bytes, part: str) -> None:
    file = coco / "annotations" / "instances_val2017.json"
    file.write_bytes(text)
    assert gc.isenabled()
    error_line(lambda: eval_detection_loader(data_of(coco)), str(file), part)
    error_line(lambda: detection_categories(file), str(file), part)
    assert gc.isenabled(), "it is switched off while JSON is read, and on again after errors, too"


def test_missing_files_and_folders(coco: Path) -> None:
    (coco / "train2017" / "000002.png").unlink()
    error_line(lambda: dataset_of(coco), "1 of 3 images", "000002.png", str(coco / "train2017"))
    error_line(lambda: train_detection_loader(data_of(coco, train_images="none"), seed=0), str(coco / "none"))
    error_line(
        lambda: train_detection_loader(data_of(coco, train_annotations="none.json"), seed=0), str(coco / "none.json")
    )


def test_images_in_folders_of_folders(coco: Path) -> None:
    (coco / "train2017" / "deep").mkdir()
    (coco / "train2017" / "000002.png").rename(coco / "train2017" / "deep" / "2.png")
    changed(coco, lambda data: data["images"][1].update(file_name="deep/2.png"))
    assert len(dataset_of(coco)[1].target["boxes"]) == 0
    changed(coco, lambda data: data["images"][1].update(file_name="deeper/2.png"))
    error_line(lambda: dataset_of(coco), "deeper/2.png")


@pytest.mark.parametrize("workers", [0, 1])
def test_image_of_another_size_is_one_line_through_the_loader(coco: Path, workers: int) -> None:
    write_image(coco / "val2017" / "000102.png", size=(WIDTH, HEIGHT))
    loader = eval_detection_loader(data_of(coco, workers=workers))
    with pytest.raises(UnfitSampleError) as caught:
        list(loader)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(coco / "val2017" / "000102.png"), "40 pixels wide and 60 high", "60 and 40", "image 102"):
        assert part in message


def test_damaged_mask_is_one_line_when_it_is_drawn(coco: Path) -> None:
    bad = {"size": [HEIGHT, WIDTH], "counts": "54"}
    file = changed(coco, lambda data: data["annotations"][2].update(segmentation=bad))
    dataset = dataset_of(coco)
    assert len(dataset[2].target["masks"]) == 2
    error_line(lambda: dataset[0], "000001.png", str(file), "annotation 13", "add up")


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnfitSampleError("a.jpg", "does not fit")))
    assert (type(error), str(error), error.path, error.reason) == (
        UnfitSampleError,
        "a.jpg: does not fit",
        "a.jpg",
        "does not fit",
    )


def test_empty_and_tiny_images_are_left_out_of_training(coco: Path) -> None:
    assert dataset_of(coco, drop_empty=True).images.tolist() == [0, 2]
    assert dataset_of(coco, min_image_side=HEIGHT).images.tolist() == [0, 1, 2]
    error_line(lambda: dataset_of(coco, min_image_side=HEIGHT + 1), "41 pixels")
    loader = train_detection_loader(data_of(coco), seed=0)
    assert {target["image_id"] for batch in loader for target in batch.targets} == {1, 3}
    kept = train_detection_loader(data_of(coco, drop_empty=False, batch_size=3), seed=0)
    assert {target["image_id"] for batch in kept for target in batch.targets} == {1, 2, 3}
    error_line(lambda: train_detection_loader(data_of(coco, batch_size=3), seed=0), "batch_size=3", "the 2 training")


def test_crowds_alone_make_a_image_empty(coco: Path) -> None:
    def crowds(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation["iscrowd"] = int(annotation["image_id"] == 1)

    changed(coco, crowds)
    assert dataset_of(coco, drop_empty=True).images.tolist() == [2]
    assert dataset_of(coco)[0].target["boxes"].shape == (0, 4)
    changed(coco, lambda data: [annotation.update(iscrowd=1) for annotation in data["annotations"]])
    error_line(lambda: dataset_of(coco, drop_empty=True), "no image with objects", "5 crowd")


def test_evaluation_visits_all_images_once_in_original_size(demo: Path) -> None:
    data = DetectionData(root=str(demo / "coco"), workers=0, eval_batch_size=5)
    seen = []
    for rank in range(2):
        for batch in eval_detection_loader(data, rank=rank, world_size=2):
            assert isinstance(batch, DetectionBatch)
            assert all(image.shape == (3, 128, 160) for image in batch.images)
            assert all(set(target) == {"boxes", "labels", "image_id"} for target in batch.targets)
            seen += [target["image_id"] for target in batch.targets]
    assert sorted(seen) == list(range(25, 37))


def test_evaluation_uses_the_labels_of_training(coco: Path) -> None:
    categories = detection_categories(coco / "annotations" / "instances_train2017.json")
    assert [category.id for category in categories] == [3, 7, 90]
    loader = eval_detection_loader(data_of(coco), categories=categories)
    assert next(iter(loader)).targets[0]["labels"].tolist() == [1, 2, 3]
    changed(coco, lambda data: data["categories"].append({"id": 5, "name": "new"}), "val2017")
    assert next(iter(eval_detection_loader(data_of(coco)))).targets[0]["labels"].tolist() == [1, 3, 4]
    error_line(
        lambda: eval_detection_loader(data_of(coco), categories=categories),
        "categories new are not those of training",
        "class 3, class 7, class 90",
    )


def _signature(batch: DetectionBatch) -> list[Any]:
    return [
        (float(image.double().sum()), target["image_id"], target["boxes"].tolist(), int(target["masks"].sum()))
        for image, target in zip(batch.images, batch.targets, strict=True)
    ]


def test_training_is_a_function_of_seed_and_epoch(demo: Path) -> None:
    data = DetectionData(root=str(demo / "coco"), **{**SMALL, "batch_size": 4})

    def epoch(seed: int, number: int, *, workers: int = 0, skip: int = 0) -> list[Any]:
        loader = train_detection_loader(dataclasses.replace(data, workers=workers), seed=seed)
        loader.set_epoch(number)
        loader.skip(skip)
        return [_signature(batch) for batch in loader]

    torch.manual_seed(1)
    whole = epoch(3, 1)
    torch.manual_seed(2)
    assert epoch(3, 1, workers=1) == whole, "workers change nothing"
    assert epoch(3, 1, skip=8) == whole[2:], "resuming inside an epoch"
    assert len({str(epoch(seed, number)[0]) for seed in (3, 4) for number in (1, 2)}) == 4


def test_steps_are_the_same_for_any_number_of_processes_and_passes(demo: Path) -> None:
    data = DetectionData(root=str(demo / "coco"), **{**SMALL, "batch_size": 4})

    def steps(world_size: int, micro_batch: int | None) -> list[list[Any]]:
        loaders = [
            train_detection_loader(data, seed=0, rank=rank, world_size=world_size, micro_batch=micro_batch)
            for rank in range(world_size)
        ]
        assert all(loader.batch_size == micro_batch or micro_batch is None for loader in loaders)
        flat = [[sample for batch in loader for sample in _signature(batch)] for loader in loaders]
        share = 4 // world_size
        return [
            sorted(sample for one in flat for sample in one[at : at + share]) for at in range(0, len(flat[0]), share)
        ]

    alone = steps(1, None)
    assert steps(2, None) == steps(2, 1) == steps(4, None) == steps(1, 2) == alone
    error_line(lambda: train_detection_loader(data, seed=0, micro_batch=3), "micro_batch=3", "4 images")


def test_batches_hold_one_shape_group(tmp_path: Path) -> None:
    data = content()
    # Square images go with the high ones.
    data["images"] = [
        {"id": number, "file_name": f"{number}.png", "height": height, "width": 50}
        for number, height in enumerate([40, 60, 45, 70, 41, 80, 42, 50, 43, 49])
    ]
    data["annotations"] = []
    write_coco(tmp_path, "train2017", data)
    for epoch in range(3):
        loader = train_detection_loader(data_of(tmp_path, drop_empty=False, crop_probability=0.0), seed=0)
        loader.set_epoch(epoch)
        wide = [[image.shape[2] > image.shape[1] for image in batch.images] for batch in loader]
        assert sorted(map(tuple, wide)) == [(False, False)] * 2 + [(True, True)] * 3
    mixed = []
    loader = train_detection_loader(
        data_of(tmp_path, drop_empty=False, crop_probability=0.0, group_by_aspect=False), seed=0
    )
    for epoch in range(6):
        loader.set_epoch(epoch)
        mixed += [len({image.shape[2] > image.shape[1] for image in batch.images}) for batch in loader]
    assert 2 in mixed
    assert len(mixed) == 6 * 5


def test_index_of_an_image(coco: Path) -> None:
    dataset = dataset_of(coco, drop_empty=True)
    assert dataset.index_of(3) == 1
    error_line(lambda: dataset.index_of(2), "image 2", "2 images")
    assert dataset.is_wide.tolist() == [True, True]


def test_batches_move_to_a_device(coco: Path) -> None:
    batch = next(iter(train_detection_loader(data_of(coco), seed=0)))
    moved = move_to(batch, torch.device("meta"))
    assert isinstance(moved, DetectionBatch)
    assert {image.device.type for image in moved.images} == {"meta"}
    for target in moved.targets:
        assert {target[name].device.type for name in ("boxes", "labels", "masks")} == {"meta"}
        assert isinstance(target["image_id"], int)
    assert moved.paths == batch.paths


def test_everything_is_kept_in_arrays(coco: Path) -> None:
    """No object a annotation: their reference counts would copy the memory to every loader process."""
    annotations = dataset_of(coco).annotations
    for field in dataclasses.fields(annotations):
        value = getattr(annotations, field.name)
        if field.name not in ("file", "folder", "categories", "file_names", "segmentations", "skipped", "repaired"):
            assert isinstance(value, np.ndarray)
            assert value.dtype != object
    assert len(pickle.dumps(annotations)) < 20_000


def test_many_annotations_take_little_memory(tmp_path: Path) -> None:
    data = content()
    data["annotations"] = [entry(number, 1 + number % 3, 3, (0, 0, 9, 9)) for number in range(3000)]
    for annotation in data["annotations"]:
        annotation["segmentation"] = [[0.5, 0.5, 9.25, 0.5, 9.25, 9.75, 0.5, 9.75]]
    file = write_coco(tmp_path, "train2017", data)
    annotations = read_annotations(file)
    assert np.diff(annotations.first).tolist() == [1000, 1000, 1000]
    assert len(pickle.dumps(annotations)) < 250 * 3000
    assert rectangle(0, 0, 9, 9)["size"] == [HEIGHT, WIDTH]
    assert int(annotations.mask(2999).sum()) > 60


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"max_size": 0}, "max_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"min_image_side": -1}, "min_image_side=-1"),
        ({"hflip": 1.5}, "hflip=1.5"),
        ({"crop_probability": -0.1}, "crop_probability=-0.1"),
        ({"min_sizes": ()}, "min_sizes=()"),
        ({"min_sizes": (0, 4)}, "min_sizes=(0, 4)"),
        ({"min_sizes": (1334,)}, "exceeds max_size"),
        ({"crop_resize_sizes": (2000,)}, "exceeds max_size"),
        ({"crop_size": (600, 384)}, "crop_size=(600, 384)"),
        ({"crop_size": (0, 384)}, "crop_size=(0, 384)"),
    ],
)
def test_bad_settings(change: dict[str, Any], part: str) -> None:
    error_line(lambda: DetectionData(root="x", **change), part)


def test_defaults_are_the_protocol() -> None:
    data = DetectionData(root="x")
    assert data.min_sizes == tuple(range(480, 801, 32))
    assert (data.max_size, data.crop_resize_sizes, data.crop_size) == (1333, (400, 500, 600), (384, 600))
    assert (data.hflip, data.crop_probability, data.min_image_side, data.batch_size) == (0.5, 0.5, 32, 16)
    assert data.train_paths() == (Path("x/train2017"), Path("x/annotations/instances_train2017.json"))
    assert data.val_paths() == (Path("x/val2017"), Path("x/annotations/instances_val2017.json"))
