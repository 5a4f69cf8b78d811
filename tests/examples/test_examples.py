"""Every script of examples/ on a folder that was saved here, without a network."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba import Predictor
from a2mamba.tasks import TASKS, PredictionOptions

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = ["cat", "dog", "fish"]

SAID = {
    "timm_classifier.py": "dog: ",
    "transformers_classifier.py": "dog: ",
    "transformers_upernet.py": "logits (2, 5, 64, 96)",
    "transformers_rtdetr.py": "logits (1, 20, 5) boxes (1, 20, 4)",
    "transformers_mask2former.py": "classes (1, 10, 6) masks (1, 10, 16, 24)",
    "torchvision_faster_rcnn.py": "losses loss_classifier, loss_box_reg, loss_objectness, loss_rpn_box_reg",
    "smp_unet_fpn.py": "FPN (2, 5, 64, 96)",
}
"""Script -> what it prints, among other things."""
NEEDED = {"transformers": "transformers", "smp": "segmentation_models_pytorch"}
"""Beginning of a script's name -> the package that it needs."""
LOADED = ("transformers_upernet.py", "transformers_rtdetr.py", "transformers_mask2former.py", "smp_unet_fpn.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that finds dogs everywhere."""
    torch.manual_seed(0)
    task = TASKS["classification"]
    run = task.run_of_network("a2mamba_test")
    model = task.build_model(run, CLASSES).eval()
    model.head.fc.bias.data[1] = 2.0
    predictor = Predictor(
        model, run, CLASSES, device="cpu", report="", precision="float32", options=PredictionOptions()
    )
    return predictor.save_pretrained(tmp_path_factory.mktemp("examples") / "net")


@pytest.fixture(scope="module")
def photo(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    path = folder.parent / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == SAID.keys()


@pytest.mark.parametrize("script", SAID)
def test_examples(
    script: str, folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = next((package for start, package in NEEDED.items() if script.startswith(start)), None)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; it is in the extra integrations")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = [str(folder)] + ([str(photo)] if "classifier" in script else [])
    monkeypatch.setattr(sys, "argv", [script, *words])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the libraries among themselves
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    said = capfd.readouterr().out
    assert SAID[script] in said
    assert ("loaded 239 of 239 tensors" in said) == (script in LOADED)
    if script == "transformers_classifier.py":
        first, second = said.splitlines()
        assert first == second, "two ways to the same answer"
