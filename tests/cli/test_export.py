"""`a2mamba export`, and the script of docs/export.md on its file where PyTorch cannot be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import a2mamba
from a2mamba.cli.export import SUFFIXES
from a2mamba.export import FORMATS
from a2mamba.tasks import ClassificationPrediction
from support import need_onnx

from .helpers import Result, Trained, in_process

DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"
CLASSES = ["cat", "dog", "bird"]


class Written(NamedTuple):
    folder: Path
    checkpoint: Path
    result: Result


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A classifier as an ONNX file that takes pixels; tests only read it."""
    need_onnx()
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    checkpoint = folder / "weights.pth"
    torch.save(a2mamba.create_model("a2mamba_test", num_classes=3).state_dict(), checkpoint)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    words: list[str | Path] = [
        "--classes",
        folder / "classes.txt",
        "--size",
        "64",
        "96",
        "--images",
        folder / "image.png",
    ]
    out = folder / "out" / "net.onnx"
    result = in_process("export", checkpoint, "--name", "a2mamba_test", *words, "--pixels", "--out", out, "--json")
    return Written(folder, checkpoint, result)


def test_the_file_is_described(written: Written) -> None:
    assert written.result.status == 0, written.result
    about = written.result.json
    assert about == json.loads((written.folder / "out" / "net.json").read_text())
    assert sorted(file.name for file in (written.folder / "out").iterdir()) == ["net.json", "net.onnx"]
    assert about["input"] == {"name": "images", "dtype": "uint8", "shape": ["batch", 64, 96, 3], "normalized": False}
    assert about["classes"] == CLASSES
    assert about["size"] == [64, 96]
    assert about["model"] == "a2mamba_test"
    assert about["best"] is None
    assert about["task"] == "classification"
    assert 0 < about["difference"] <= about["tolerance"] == 1e-4
    assert about["images_compared"] == 1 + 3 + 1
    assert about["milliseconds"]["file"] > 0
    assert about["bytes"] == (written.folder / "out" / "net.onnx").stat().st_size


def test_the_graph_has_standard_operators_alone(written: Written) -> None:
    import onnx

    model = onnx.load(written.folder / "out" / "net.onnx")
    onnx.checker.check_model(model)
    assert [each.domain for each in model.opset_import] == [""]
    assert not model.functions
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in model.graph.node}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path(a2mamba.__file__).parent).encode() not in (written.folder / "out" / "net.onnx").read_bytes()
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph.node)
    assert softmaxes == 2 * 5 + 1, "a map that is applied again is computed once: two a block, and stage 4's"


BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "torchvision", "a2mamba"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Refuse())
"""


def test_the_script_serves_it_without_pytorch(written: Written, tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    command = [
        sys.executable,
        "-c",
        BLOCK + script,
        str(written.folder / "out" / "net.onnx"),
        str(tmp_path / "image.npy"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    name, value = done.stdout.split()
    about = json.loads((written.folder / "out" / "net.json").read_text())
    model = a2mamba.create_model("a2mamba_test", num_classes=3).eval()
    a2mamba.load_checkpoint(model, written.checkpoint)
    normalized = (torch.tensor(image) / 255 - torch.tensor(about["mean"])) / torch.tensor(about["std"])
    with torch.inference_mode():
        logits = model(normalized.permute(2, 0, 1)[None])[0]
    assert name == CLASSES[int(logits.argmax())]
    assert float(value) == pytest.approx(float(logits.max()), rel=1e-4)


def test_the_best_metric_of_a_run_is_said(trained: Trained, tmp_path: Path) -> None:
    result = in_process("export", trained.best, "--out", tmp_path / "x.pt2", "--json")
    assert result.status == 0, result
    about = result.json
    assert about["best"]["metric"] == "ema_top1"
    assert 0 <= about["best"]["value"] <= 100
    assert about["size"] == [32, 32]
    assert about["classes"] == [f"digit_{i}" for i in range(10)]


def test_mistakes_are_one_line(written: Written, tmp_path: Path) -> None:
    in_process("export").refused("one of the arguments CHECKPOINT --checkpoint is required")
    in_process("export", tmp_path / "no.pt").refused("no.pt")
    words = ("export", "--checkpoint", written.checkpoint, "--name", "a2mamba_test", "--out")
    in_process(*words, tmp_path / "x.zip").refused("x.zip: no format is known by this suffix")
    in_process(*words, tmp_path / "x.pt2", "--output", "class_map").refused("has 'logits' or 'features'")
    torch.save(a2mamba.create_detector("mask_rcnn_a2mamba_test", num_classes=2).state_dict(), tmp_path / "d.pth")
    detector = ("export", tmp_path / "d.pth", "--name", "mask_rcnn_a2mamba_test", "--out", tmp_path / "x.onnx")
    in_process(*detector, "--size", "64", "90").refused("a detector takes multiples of 32")
    assert [file.name for file in tmp_path.iterdir()] == ["d.pth"]


def test_suffixes_are_those_of_the_formats() -> None:
    assert {name: each.suffix for name, each in FORMATS.items()} | {"web": ""} == SUFFIXES, "web is a folder"


def test_the_file_predicts_as_the_network(written: Written) -> None:
    photo = np.random.default_rng(2).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    (found,) = a2mamba.load(written.folder / "out" / "net.onnx").predict(photo)
    network = a2mamba.load(written.checkpoint, name="a2mamba_test", device="cpu")
    images = torch.nn.functional.interpolate(
        network.transform(Image.fromarray(photo))[None], (64, 96), mode="bilinear", antialias=True
    )
    with torch.inference_mode():
        expected = network.model(images)[0].softmax(0)
    assert isinstance(found, ClassificationPrediction)
    assert found.classes == CLASSES
    assert torch.allclose(found.probabilities, expected, atol=1e-3)


def test_a_missing_package_is_named(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("a2mamba.export.format.find_spec", lambda name: None)
    words = ("export", written.checkpoint, "--name", "a2mamba_test", "--size", "32", "32", "--out", tmp_path / "x.onnx")
    in_process(*words).refused('pip install "a2mamba[export]"')


def test_released_weights_are_asked_for_by_their_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Asked:
        report = "nothing was loaded"

        def export(self, out: Path, **_: object) -> None:
            asked.append(out.name)
            raise ValueError("nothing is exported here")

    def load(source: str, *, name: None, pretrained: str | None, classes: None, device: str) -> Asked:
        asked.append((source, pretrained))
        return Asked()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("a2mamba.predictor.load", load)
    for words in (
        ("segman_small", "--pretrained", "cityscapes"),
        ("segman_small", "--pretrained", "cityscapes", "page.onnx"),
        ("segman_small", "cityscapes", "--pretrained", "--out", "net.onnx"),
        ("a2mamba_tiny", "--pretrained"),
    ):
        in_process("export", *words).refused("nothing is exported here")
    small = ("segman_small", "cityscapes")
    assert asked == [
        *(small, "segman_small_cityscapes.onnx"),
        *(small, "page.onnx"),
        *(small, "net.onnx"),
        *(("a2mamba_tiny", None), "a2mamba_tiny.onnx"),
    ]
    in_process("export", "best.pt", "--pretrained").refused("the name of a network with released weights, not best.pt")
