"""Exported files in the place of their networks: the same predictions, by the same calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import a2mamba
from a2mamba.detection import Detector, detector_config
from a2mamba.export.detections import detection_names, own_detections
from a2mamba.export.opened import Sidecar, _Detector, _Segmenter
from a2mamba.predictor import Predictor
from a2mamba.segmentation import TEST_MODES
from a2mamba.tasks import (
    ClassificationPrediction,
    DetectionPrediction,
    PredictionOptions,
    SegmentationPrediction,
    task_of_network,
)
from support import need_onnx


def predictor_of(name: str, classes: Sequence[str], model: nn.Module, **changes: object) -> Predictor:
    task = task_of_network(name)
    run = task.run_of_network(name)
    data = {key: value for key, value in changes.items() if hasattr(run.data, key)}
    run = replace(run, data=replace(run.data, **data), **{k: v for k, v in changes.items() if k not in data})
    options = PredictionOptions(top=None, min_score=0.05 if task.name == "detection" else None, test_mode=None)
    return Predictor(model.eval(), run, classes, device="cpu", report="", precision="float32", options=options)


@pytest.fixture(scope="module")
def classifier() -> Predictor:
    torch.manual_seed(0)
    model = a2mamba.create_model("a2mamba_test", num_classes=3)
    return predictor_of("a2mamba_test", ["cat", "dog", "bird"], model, image_size=64)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.slow
def test_a_classifier_predicts_from_its_file(classifier: Predictor, tmp_path: Path) -> None:
    need_onnx()
    classifier.export(tmp_path / "x.onnx", pixels=True)
    opened = a2mamba.load(tmp_path / "x.onnx")
    assert opened.task == "classification"
    assert opened.classes == classifier.classes
    photos = [image(50, 70), image(90, 64, 1), image(64, 64, 2)]
    for found, expected in zip(opened.predict(photos), classifier.predict(photos), strict=True):
        assert isinstance(found, ClassificationPrediction)
        assert isinstance(expected, ClassificationPrediction)
        assert torch.allclose(found.probabilities, expected.probabilities, atol=1e-4)
        assert found.to_dict()["top"][0]["class"] == expected.to_dict()["top"][0]["class"]
    assert opened.predict(photos).save(tmp_path / "out").exists()
    with pytest.raises(ValueError, match="is no classifier, feature extractor, segmenter or detector"):
        opened.export(tmp_path / "again.onnx")
    with pytest.raises(ValueError, match="is an exported file: it says its name itself, and runs on the CPU"):
        a2mamba.load(tmp_path / "x.onnx", name="a2mamba_test")
    (tmp_path / "x.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"x.onnx cannot be run: "):
        a2mamba.load(tmp_path / "x.onnx")


def about(tmp_path: Path, predictor: Predictor, **changes: object) -> Path:
    """A sidecar as `export` writes it, beside a file that is not there."""
    from a2mamba.recipes import describe

    content = {
        "format": "onnx",
        "outputs": ["logits"],
        "size": [64, 96],
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "classes": predictor.classes,
        "input": {"normalized": True},
        "run": json.loads(describe(predictor.run, "", predictor.classes)),
        "best": None,
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_what_is_refused_before_a_file_is_read(classifier: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x.json, which `a2mamba export` writes beside it, is missing"):
        a2mamba.load(tmp_path / "x.onnx")
    about(tmp_path, classifier, outputs=["features_0"])
    with pytest.raises(ValueError, match="returns features_0, of which no predictions are made"):
        a2mamba.load(tmp_path / "x.onnx")
    about(tmp_path, classifier, format="pt2")
    with pytest.raises(ValueError, match="can run code that is in it"):
        a2mamba.load(tmp_path / "x.pt2")
    with pytest.raises(ValueError, match=r"is damaged, or does not belong to x.onnx"):
        a2mamba.load(tmp_path / "x.onnx")
    about(tmp_path, classifier, size=[64])
    with pytest.raises(ValueError, match="is damaged"):
        a2mamba.load(tmp_path / "x.onnx")
    about(tmp_path, classifier, mean="gray")
    with pytest.raises(ValueError, match="is damaged: ValueError"):
        a2mamba.load(tmp_path / "x.onnx")
    content = json.loads(about(tmp_path, classifier).read_text())
    del content["run"]
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not say how images are prepared"):
        a2mamba.load(tmp_path / "x.onnx")


def class_map(predictor: Predictor, photo: np.ndarray) -> Tensor:
    (prediction,) = predictor.predict(photo)
    assert isinstance(prediction, SegmentationPrediction)
    return prediction.class_map


def sidecar(task: str, outputs: list[str], *, pixels: bool, size: tuple[int, int], classes: int) -> Sidecar:
    names = [str(i) for i in range(classes)]
    return Sidecar("onnx", outputs, size, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], names, pixels, {}, None)


@pytest.mark.parametrize("output", ["logits", "class_map"])
def test_a_segmenter_predicts_the_same(output: str) -> None:
    torch.manual_seed(0)
    model = a2mamba.create_segmenter("segman_v2_test", num_classes=4).eval()
    predictor = predictor_of("segman_v2_test", list("abcd"), model, test=TEST_MODES["image"])

    def run(images: np.ndarray) -> list[np.ndarray]:
        logits = model(torch.from_numpy(images))
        return [(logits if output == "logits" else logits.argmax(1)).numpy()]

    opened = _Segmenter(run, sidecar("segmentation", [output], pixels=False, size=(64, 96), classes=4))
    found = predictor_of("segman_v2_test", list("abcd"), opened, test=TEST_MODES["image"])
    photo = image(64, 96)
    maps = [class_map(each, photo) for each in (found, predictor)]
    assert len(maps[1].unique()) > 1
    assert (maps[0] != maps[1]).float().mean() < 1e-3
    assert class_map(found, image(50, 30)).shape == (50, 30), "images of other sizes are resized"


@pytest.mark.parametrize("pixels", [False, True])
def test_a_detector_predicts_the_same(pixels: bool) -> None:
    torch.manual_seed(0)
    name = "mask_rcnn_a2mamba_test"
    config = replace(detector_config(name), min_size=64, max_size=96)
    model = a2mamba.create_detector(name, num_classes=3, config=config).eval()
    predictor = predictor_of(name, list("abc"), model, detector=config)
    opened = _detector_file(model, pixels=pixels)
    found = predictor_of(name, list("abc"), opened, detector=config)
    photo = image(64, 96)
    a, b = (each.predict(photo)[0] for each in (found, predictor))
    assert isinstance(a, DetectionPrediction)
    assert isinstance(b, DetectionPrediction)
    assert a.masks is not None
    assert b.masks is not None
    assert len(b.scores) > 3
    assert torch.allclose(a.scores, b.scores, atol=1e-4)
    assert torch.allclose(a.boxes, b.boxes, atol=1e-2)
    assert torch.equal(a.labels, b.labels)
    assert torch.equal(a.masks, b.masks)


def test_boxes_come_back_to_an_image_of_another_shape() -> None:
    def run(images: np.ndarray) -> list[np.ndarray]:
        assert images.shape == (1, 3, 64, 96)
        assert np.abs(images[:, :, :, 32:]).max() == 0, "what is left over has the mean color"
        boxes = np.array([[[8.0, 16.0, 40.0, 64.0], [0, 0, 0, 0]]], np.float32)
        return [boxes, np.array([[2, 0]]), np.array([[0.9, 0.0]], np.float32), np.array([1])]

    about = sidecar("detection", ["boxes", "labels", "scores", "count"], pixels=False, size=(64, 96), classes=3)
    (found,) = _Detector(run, about)([torch.rand(3, 128, 64)], paste=False)
    # The image became 64 x 32: boxes are cut there, and twice as large in the image.
    assert found["boxes"].tolist() == [[16.0, 32.0, 64.0, 128.0]]
    assert found["labels"].tolist() == [2]


def _detector_file(model: Detector, *, pixels: bool) -> nn.Module:
    def run(images: np.ndarray) -> list[np.ndarray]:
        values = torch.from_numpy(images)
        if pixels:
            assert values.dtype == torch.uint8
            mean, std = (torch.tensor(x)[:, None, None] for x in (model.config.image_mean, model.config.image_std))
            values = (values.permute(0, 3, 1, 2).float() / 255 - mean) / std
        return [each.numpy() for each in own_detections(model, values).outputs()]

    return _Detector(run, sidecar("detection", detection_names(model), pixels=pixels, size=(64, 96), classes=3))
