"""Networks as files: what they return, what is refused, and that nothing is left of a file that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import a2mamba
from a2mamba.backbone import Pyramid
from a2mamba.export import FORMATS, Exported, ExportError, OutputName, export_model
from a2mamba.export.comparison import compare
from support import need_onnx

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def export(
    model: nn.Module, path: Path, output: OutputName | None = None, size: tuple[int, int] = (64, 64)
) -> Exported:
    return export_model(model, path, size=size, mean=MEAN, std=STD, output=output)


@pytest.fixture(scope="module")
def classifier() -> Pyramid:
    torch.manual_seed(0)
    return a2mamba.create_model("a2mamba_test", num_classes=5).eval()


def test_a_segmenter_to_class_maps(tmp_path: Path) -> None:
    need_onnx()
    torch.manual_seed(0)
    model = a2mamba.create_segmenter("segman_v2_test", num_classes=4).eval()
    exported = export(model, tmp_path / "x.onnx", "class_map", (64, 96))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.json", "x.onnx"]
    assert exported.description == json.loads(exported.sidecar.read_text())
    assert exported.comparison.difference <= 1e-4
    images = torch.randn(2, 3, 64, 96)
    (found,) = FORMATS["onnx"].load(exported.path, 1)(images.numpy())
    assert found.shape == (2, 64, 96)
    assert len(np.unique(found)) > 1
    with torch.inference_mode():
        assert np.mean(found != model(images).argmax(1).numpy()) <= 1e-3


def test_features_to_a_program(classifier: Pyramid, tmp_path: Path) -> None:
    exported = export(classifier, tmp_path / "x.pt2", "features")
    assert exported.description["outputs"] == [f"features_{i}" for i in range(4)]
    values = [node.meta.get("val") for node in torch.export.load(exported.path).graph.nodes]
    ranks = [value.dim() for value in values if isinstance(value, torch.Tensor)]
    assert max(ranks) <= 5, "Core ML has no tensors of more axes"
    images = torch.randn(1, 3, 64, 64)
    found = FORMATS["pt2"].load(exported.path, 1)(images.numpy())
    with torch.inference_mode():
        expected = classifier.forward_intermediates(images, intermediates_only=True)
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-4 * b.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a2mamba_nano", "a2mamba_tiny"])
def test_networks_of_full_size(name: str, tmp_path: Path) -> None:
    need_onnx()
    exported = export(a2mamba.create_model(name).eval(), tmp_path / "x.onnx", size=(224, 224))
    weights = 4 * sum(p.numel() for p in a2mamba.create_model(name, device="meta").parameters())
    assert exported.description["bytes"] < weights + 50e6
    assert exported.description["nodes"] < 6000


@pytest.mark.slow
def test_openvino(classifier: Pyramid, tmp_path: Path) -> None:
    need_onnx()
    pytest.importorskip("openvino")
    exported = export(classifier, tmp_path / "x.xml")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.bin", "x.json", "x.xml"]
    assert exported.comparison.difference <= 1e-4


def test_a_file_that_differs_is_not_kept(classifier: Pyramid, tmp_path: Path) -> None:
    before = tmp_path / "x.pt2"
    before.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"differs from the network by .*, more than 0; it was not kept"):
        export_model(classifier, before, size=(32, 32), mean=MEAN, std=STD, tolerance=0.0)
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt2"]
    assert before.read_bytes() == b"before"


def test_differences_are_relative_to_the_output() -> None:
    batch, large = np.zeros((1, 1)), np.array([[100.0, 1.0]], np.float32)
    assert compare(lambda x: [large + 1], lambda x: [large], [batch]) == pytest.approx(0.01)
    maps = np.arange(10)
    assert compare(lambda x: [np.where(maps > 8, 0, maps)], lambda x: [maps], [batch]) == pytest.approx(0.1)
    with pytest.raises(ExportError, match="not finite"):
        compare(lambda x: [large * np.nan], lambda x: [large], [batch])
    with pytest.raises(ExportError, match="the file returns"):
        compare(lambda x: [large[0]], lambda x: [large], [batch])


def test_refusals(classifier: Pyramid, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x.bin: no format is known by this suffix; expected one of onnx \(.onnx\)"):
        export(classifier, tmp_path / "x.bin")
    with pytest.raises(ValueError, match="a file of format pt2 must end in"):
        export_model(classifier, tmp_path / "x.onnx", size=(64, 64), mean=MEAN, std=STD, format="pt2")
    with pytest.raises(ValueError, match="output 'class_map': a A2Mamba has 'logits' or 'features'"):
        export(classifier, tmp_path / "x.pt2", "class_map")
    detector = a2mamba.create_detector("mask_rcnn_a2mamba_test", num_classes=2).eval()
    with pytest.raises(ValueError, match="output 'logits': a Detector has 'detections'"):
        export(detector, tmp_path / "x.pt2", "logits")
    with pytest.raises(ValueError, match="training mode"):
        export(a2mamba.create_model("a2mamba_test"), tmp_path / "x.pt2")
    with pytest.raises(ValueError, match="float32 on the cpu"):
        export(a2mamba.create_model("a2mamba_test").half().eval(), tmp_path / "x.pt2")
    assert list(tmp_path.iterdir()) == []
