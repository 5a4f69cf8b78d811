"""Detectors as files: as many detections as there are, none, one or many, in each image of a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import a2mamba
from a2mamba.detection import Detector, DetectorConfig
from a2mamba.export import FORMATS, export_model
from a2mamba.export.detections import Padded, detection_names, own_detections, tensor_detections
from a2mamba.export.matching import detections_difference
from support import need_onnx

SIZE = (64, 96)
KINDS = {"mask_rcnn": DetectorConfig.mask_rcnn(), "cascade": DetectorConfig.cascade_mask_rcnn()}


class Convolutions(nn.Module):
    """A backbone that is quickly exported: four maps of random features."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(8 if i else 3, 8, 3 if i else 7, stride=2 if i else 4, padding=1 if i else 3) for i in range(4)
        )
        self.feature_info = [{"num_chs": 8, "reduction": 4 * 2**i} for i in range(4)]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x).relu() * 2
            maps.append(x)
        return maps


def told_apart(detector: Detector) -> Detector:
    """Random heads whose scores differ by far more than rounding."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name.startswith(("rpn", "roi_heads")) and parameter.dim() > 1:
                gain = 4.0 if name.endswith("class_logits.weight") else 0.3 if "bbox" in name or "deltas" in name else 1
                parameter.normal_(std=gain / parameter[0].numel() ** 0.5, generator=generator)
    return detector.eval()


def make(config: DetectorConfig, *, score_threshold: float = 0.05) -> Detector:
    torch.manual_seed(0)
    config = config.narrowed(fpn_width=8, box_fc_width=32)
    config = replace(
        config,
        roi=replace(config.roi, mask_convs=1, score_threshold=score_threshold),
        rpn=replace(config.rpn, post_nms_test=80),
    )
    return told_apart(Detector(Convolutions(), num_classes=3, config=config))


def batch(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).standard_normal((count, 3, *SIZE)).astype(np.float32))


def arrays(detector: Detector, found: Padded) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in zip(detection_names(detector), found.outputs(), strict=True)}


@pytest.mark.parametrize(
    "config",
    [
        *KINDS.values(),
        DetectorConfig.torchvision_defaults(),
        replace(DetectorConfig.mask_rcnn(), masks=False),
    ],
    ids=["mask_rcnn", "cascade", "torchvision", "boxes"],
)
def test_the_tensor_form_is_what_the_detector_finds(config: DetectorConfig) -> None:
    detector, images = make(config), batch(2)
    with torch.inference_mode():
        own, tensors = (form(detector, images) for form in (own_detections, tensor_detections))
    assert (own.count > 3).all()
    assert (own.masks is None) == (not config.masks)
    assert detections_difference(
        arrays(detector, tensors), arrays(detector, own), least_score=0.05, tolerance=0
    ) == pytest.approx(0, abs=1e-6)
    for found, expected in zip(tensors.outputs(), own.outputs(), strict=True):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype


def test_no_detection_one_and_many_in_onnx_runtime(tmp_path: Path) -> None:
    need_onnx()
    images = batch(3) * torch.tensor([0.1, 0.5, 3.0])[:, None, None, None]
    with torch.inference_mode():
        scores = own_detections(make(KINDS["mask_rcnn"]), images).scores
    best, second = scores[1, :2].tolist()
    detector = make(KINDS["mask_rcnn"], score_threshold=(best + second) / 2)
    exported = export_model(detector, tmp_path / "x.onnx", size=SIZE, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert exported.description["outputs"] == ["boxes", "labels", "scores", "masks", "count"]
    operators = set(exported.description["operators"])
    assert {"NonMaxSuppression", "RoiAlign"} <= operators
    assert not {"Loop", "If", "Scan"} & operators
    run = FORMATS["onnx"].load(tmp_path / "x.onnx", 1)
    for some in (images, images[:1], images[2:]):
        found = dict(zip(exported.description["outputs"], run(some.numpy()), strict=True))
        with torch.inference_mode():
            expected = arrays(detector, own_detections(detector, some))
        assert (
            detections_difference(found, expected, least_score=detector.config.roi.score_threshold, tolerance=1e-5)
            <= 1e-5
        )
        counts = found["count"].tolist()
        assert counts == expected["count"].tolist()
        for i, count in enumerate(counts):
            assert not any(found[name][i, count:].any() for name in ("boxes", "labels", "scores", "masks"))
        if len(some) == 3:
            assert counts[:2] == [0, 1]
            assert counts[2] > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn_a2mamba_nano", "cascade_mask_rcnn_a2mamba_test"])
def test_detectors_of_ours(name: str, tmp_path: Path) -> None:
    need_onnx()
    torch.manual_seed(0)
    detector = told_apart(a2mamba.create_detector(name, num_classes=3))
    size = (320, 320) if "nano" in name else (64, 64)
    exported = export_model(detector, tmp_path / "x.onnx", size=size, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert exported.comparison.difference <= 1e-4


def test_sizes_that_would_be_padded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"size=\(64, 90\): a detector takes multiples of 32"):
        export_model(make(KINDS["mask_rcnn"]), tmp_path / "x.onnx", size=(64, 90), mean=(0.5,) * 3, std=(0.2,) * 3)


def detections(*each: tuple[float, int, float]) -> dict[str, np.ndarray]:
    """One image with room for three: (x, label, score) of each."""
    padded = [*each, *[(0.0, 0, 0.0)] * (3 - len(each))]
    x = np.array([one[0] for one in padded], np.float32)
    return {
        "boxes": np.stack([x, x, x + 10, x + 10], -1)[None] * (x > 0)[None, :, None],
        "labels": np.array([[one[1] for one in padded]]),
        "scores": np.array([[one[2] for one in padded]], np.float32),
        "count": np.array([len(each)]),
    }


def difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    return detections_difference(found, expected, least_score=0.05, tolerance=1e-3)


def test_which_differences_of_detections_count() -> None:
    a, b, c = (20.0, 1, 0.9), (50.0, 2, 0.9), (40.0, 1, 0.0505)
    assert difference(detections(a, b), detections(b, a)) == 0, "equal scores have no order"
    assert difference(detections(a), detections((20.1, 1, 0.9))) == pytest.approx(0.1 / 30.1, rel=1e-4)
    assert difference(detections(a), detections((20.0, 1, 0.895))) == pytest.approx(0.005)
    assert difference(detections(a), detections((25.0, 1, 0.9))) == np.inf, "another place"
    assert difference(detections(a), detections((20.0, 2, 0.9))) == np.inf, "another class"
    assert difference(detections(a), detections(a, b)) == np.inf, "one is missing"
    assert difference(detections(a, b), detections(a)) == np.inf, "one too many"
    assert difference(detections(a), detections(a, c)) == 0, "that one is on the threshold"
    full = [(10.0 * i, 1, 0.9 - 0.1 * i) for i in range(1, 3)]
    assert difference(detections(*full, (70.0, 1, 0.6)), detections(*full, (30.0, 1, 0.6))) == 0, "the last place"
    assert difference(detections(*full, (70.0, 1, 0.6)), detections(*full, (30.0, 1, 0.65))) == np.inf
    assert difference(detections((20.0, 1, 0.8), b), detections(b, (20.0, 1, 0.8))) == pytest.approx(0.1), "order"
    assert difference(detections(), detections()) == 0
