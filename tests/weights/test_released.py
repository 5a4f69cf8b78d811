"""Released weights as users meet them: the table, and networks with a file that looks as the authors' do."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import a2mamba
from a2mamba.backbone import CheckpointError, read_file
from a2mamba.catalog import FACTS, RELEASED
from a2mamba.cli.main import main
from a2mamba.data import SEGMENTATION_DATASETS, cityscapes_labels
from a2mamba.segmentation import TEST_MODES, Segmenter, list_segmenters
from a2mamba.tasks import SegmentationPrediction, SegmentationRun, task_of_network
from a2mamba.weights import REMARKS, WEIGHTS, DriveFile, HubFile, find_weights
from cli.helpers import in_process
from support import released_segmenter

from .server import Server


def test_the_table_agrees_with_networks_and_data() -> None:
    assert len(WEIGHTS) == 17
    assert len({(each.name, each.dataset) for each in WEIGHTS}) == len({each.source for each in WEIGHTS}) == 17
    for each in WEIGHTS:
        if each.task == "classification":
            assert isinstance(each.source, HubFile)
            assert FACTS[each.name].weights == RELEASED
            continue
        assert isinstance(each.source, DriveFile)
        assert each.name in list_segmenters()
        assert each.classes == len(SEGMENTATION_DATASETS[each.dataset].classes)
        assert each.test_mode is None or each.test_mode in TEST_MODES
    assert {name for name, facts in FACTS.items() if facts.weights == RELEASED} == {e.name for e in WEIGHTS[:5]}


def test_wishes_that_cannot_be_met_are_explained() -> None:
    with pytest.raises(
        ValueError, match="released for ade20k, cityscapes, coco_stuff; say which, as pretrained='ade20k'"
    ):
        find_weights("segman_tiny")
    with pytest.raises(ValueError, match="for 'cityscape'; did you mean 'cityscapes'"):
        find_weights("segman_tiny", "cityscape")
    with pytest.raises(
        ValueError, match=r"no weights of segman_v2_nano are known to be released; give a file of weights$"
    ):
        find_weights("segman_v2_nano")
    with pytest.raises(ValueError, match="in a folder, not files that can be named: https://drive"):
        find_weights("segman_encoder_tiny")
    with pytest.raises(ValueError, match="num_classes is missing"):
        a2mamba.create_segmenter("segman_tiny")
    with pytest.raises(ValueError, match="num_classes=3: the weights for cityscapes have 19 classes; leave"):
        a2mamba.create_segmenter("segman_tiny", num_classes=3, pretrained="cityscapes")
    with pytest.raises(ValueError, match="exclude each other"):
        a2mamba.create_segmenter("segman_tiny", pretrained="cityscapes", checkpoint="a.pth")
    with pytest.raises(ValueError, match="holds the backbone too"):
        a2mamba.create_segmenter("segman_tiny", pretrained="cityscapes", pretrained_backbone=True)
    with pytest.raises(ValueError, match=r"pretrained='ade20k' is for the name of a network, and photo.pt is none"):
        a2mamba.load("photo.pt", pretrained="ade20k")


def mmseg_checkpoint(model: Segmenter) -> dict[str, Any]:
    """A checkpoint as mmsegmentation writes them: the released layout, a record, the optimizer, numbers of NumPy."""
    meta = {
        "mmseg_version": "0.30.0",
        "epoch": 3,
        "CLASSES": ("road", "sidewalk"),
        "PALETTE": [[128, 64, 128], [244, 35, 232]],
        "hook_msgs": {"best_score": np.float64(0.832), "best_ckpt": "best.pth", "scores": np.arange(3.0)},
    }
    return {"meta": meta, "state_dict": a2mamba.to_released(model), "optimizer": {"state": {}, "param_groups": []}}


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.fixture
def segman(server: Server) -> Segmenter:
    """A network whose weights the server has as the released ones of SegMAN-T on Cityscapes."""
    torch.manual_seed(0)
    model = a2mamba.create_segmenter("segman_tiny", num_classes=19).eval()
    released = mmseg_checkpoint(model)
    assert {name: list(x.shape) for name, x in released["state_dict"].items() if "decode_head" not in name} == {
        name: shape for name, shape in released_segmenter("segman_tiny").items() if "decode_head" not in name
    }
    server.content = saved(released)
    return model


def same_weights(first: Segmenter, second: Segmenter) -> bool:
    own, other = first.state_dict(), second.state_dict()
    return own.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in own.items())


def photo(folder: Path) -> Path:
    path = folder / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 72, 3), dtype=np.uint8)).save(path)
    return path


def test_networks_with_released_weights(segman: Segmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert same_weights(a2mamba.create_segmenter("segman_tiny", pretrained="cityscapes"), segman)
    capsys.readouterr()
    predictor = a2mamba.load("segman_tiny", pretrained="cityscapes", device="cpu", test_mode="image")
    assert isinstance(predictor.model, Segmenter)
    assert same_weights(predictor.model, segman), "its bias is that of the file, not one resized to the crop's"
    dataset = SEGMENTATION_DATASETS["cityscapes"]
    assert predictor.classes == list(dataset.classes)
    assert tuple(predictor.palette) == dataset.palette
    assert isinstance(predictor.run, SegmentationRun)
    assert predictor.run.test == TEST_MODES["cityscapes"]
    assert "released for cityscapes, Apache-2.0" in predictor.report

    words = ("segman_tiny", "--pretrained", "cityscapes", photo(tmp_path), "--test-mode", "image")
    result = in_process("predict", *words, "--out", tmp_path / "out", "--device", "cpu", "--json")
    assert result.status == 0, result
    assert "Apache-2.0" in result.err
    found = Image.open(tmp_path / "out" / result.json["predictions"][0]["map"])
    expected = predictor.predict(photo(tmp_path))[0]
    assert isinstance(expected, SegmentationPrediction)
    assert torch.equal(torch.from_numpy(np.array(found)), expected.class_map)


def test_released_weights_on_the_page(segman: Segmenter) -> None:
    pytest.importorskip("gradio")
    from a2mamba.serve.networks import load_networks

    said: list[str] = []
    words = ["segman_tiny", "cityscapes", "segman_tiny", "cityscapes"]
    networks = load_networks(words, pretrained=True, device="cpu", say=said.append)
    assert [offered.label for offered in networks] == ["segman_tiny", "segman_tiny (cityscapes)"]
    assert isinstance(networks[0].predictor.model, Segmenter)
    assert same_weights(networks[0].predictor.model, segman)
    assert all("released for cityscapes, Apache-2.0" in line for line in said)
    with pytest.raises(ValueError, match="released for ade20k, cityscapes, coco_stuff; say which"):
        load_networks(words[:1], device="cpu")


def test_evaluation_of_released_weights(segman: Segmenter, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        predictor = a2mamba.load("segman_tiny", pretrained="cityscapes", test_mode="image", device="cpu")
        prediction = predictor.predict(noise)[0]
        assert isinstance(prediction, SegmentationPrediction)
        counts = prediction.class_map.flatten().bincount(minlength=19)
    label = cityscapes_labels().class_values[int(counts.argmax())]  # everything is what the network sees most of
    for folder, ending, pixels in (
        ("leftImg8bit", "leftImg8bit", noise),
        ("gtFine", "gtFine_labelIds", np.full((64, 64), label, np.uint8)),
    ):
        for split in ("train", "val"):
            path = tmp_path / folder / split / "aachen" / f"aachen_000000_{ending}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
    words = ("segman_tiny_cityscapes", "--pretrained", "cityscapes", f"data.root={tmp_path}", "data.workers=0")
    result = in_process("eval", *words, "--test-mode", "image", "--device", "cpu", "--json")
    assert result.status == 0, result
    assert result.json["images"] == 1
    assert result.json["checkpoint"].endswith("segman_tiny_cityscapes.pth")
    assert 0 < result.json["pixel_accuracy"] == pytest.approx(100 * int(counts.max()) / 64**2)


def test_a_file_of_another_network_is_refused(segman: Segmenter) -> None:
    with pytest.raises(CheckpointError, match="does not fit this model"):
        a2mamba.create_segmenter("segman_small", pretrained="cityscapes")


def test_large_is_tested_on_cityscapes_as_the_authors_did() -> None:
    run, classes = task_of_network("segman_large").run_of_released(find_weights("segman_large", "cityscapes"))
    assert run.test == TEST_MODES["cityscapes_whole"]
    assert len(classes) == 19


def test_classes_of_imagenet_have_names() -> None:
    _, classes = task_of_network("a2mamba_nano").run_of_released(find_weights("a2mamba_nano"))
    assert len(classes) == 1000
    assert (classes[0], classes[207]) == ("tench, Tinca tinca", "golden retriever")


class HistoryBuffer:
    """What mmengine keeps its log in."""

    def __init__(self) -> None:
        self.values = np.arange(4.0)
        self.mean = self.values.mean


def test_records_of_other_libraries_are_read_without_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mmengine.logging.history_buffer"
    for parent in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setattr(sys.modules[name], "HistoryBuffer", HistoryBuffer, raising=False)
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    numbers = {"f": np.float32(1.5), "i": np.int64(3), "b": np.bool_(True), "a": np.eye(2), "h": HistoryBuffer()}
    torch.save({"state_dict": {"w": torch.ones(2)}, "message_hub": numbers}, tmp_path / "a.pth")
    for parent in ("mmengine", "mmengine.logging", name):
        monkeypatch.delitem(sys.modules, parent)
    content = read_file(tmp_path / "a.pth")
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))
    hub = content["message_hub"]
    assert (hub["f"], hub["i"], hub["b"]) == (1.5, 3, True)
    assert np.array_equal(hub["a"], np.eye(2))
    assert type(hub["h"]).__module__.startswith("a2mamba."), "not the library's own"
    assert hub["h"].mean is None, "nothing is called"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 0
    table = capsys.readouterr()
    assert table.out.count("Apache-2.0") == 12
    assert table.out.count("no license stated") == 5
    assert all(remark in table.err for remark in REMARKS.values())
    found = in_process("weights", "--json").json
    assert found["remarks"] == list(REMARKS.values())
    row = {"name": "segman_small", "dataset": "cityscapes", "value": 83.2, "license": "Apache-2.0", "classes": 19}
    assert [each for each in found["weights"] if row.items() <= each.items()]
    assert len(found["weights"]) == 17


def test_evaluation_needs_a_recipe() -> None:
    in_process("eval", "--pretrained", "cityscapes").refused("--pretrained needs the RECIPE")
    in_process("eval", "segman_v2_nano_ade20k", "--pretrained", "ade20k").refused("no weights of segman_v2_nano")
