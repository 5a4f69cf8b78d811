"""Saved folders: read again, by us and by others; what is in them, and what is refused."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config

import a2mamba
from a2mamba import Predictor
from a2mamba.backbone import CheckpointError, WeightsUnavailableError
from a2mamba.tasks import ClassificationRun
from cli.helpers import in_process

from .conftest import CLASSES, NETWORKS, made
from .server import Hub

TASKS = pytest.mark.parametrize("task", NETWORKS)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def outputs(predictor: Predictor) -> dict[str, Any]:
    return predictor.predict(IMAGE)[0].to_dict()


@TASKS
def test_a_saved_network_is_the_same(task: str, tmp_path: Path) -> None:
    saved = made(task)
    folder = saved.save_pretrained(tmp_path / "net")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    for again in (a2mamba.load(folder, device="cpu"), Predictor.from_pretrained(folder, device="cpu")):
        assert again.task == task
        assert again.classes == CLASSES
        assert (again.best, again.recipe) == (saved.best, "folder")
        assert outputs(again) == outputs(saved)
        state = saved.model.state_dict()
        assert all(torch.equal(x, state[name]) for name, x in again.model.state_dict().items())
    twice = a2mamba.load(folder, device="cpu").save_pretrained(tmp_path / "twice")
    assert (twice / "config.json").read_text() == (folder / "config.json").read_text()


@TASKS
def test_nothing_of_this_machine_is_in_it(task: str, tmp_path: Path) -> None:
    folder = made(task).save_pretrained(tmp_path / "net")
    for path in folder.iterdir():
        assert b"someone" not in path.read_bytes(), path


def test_the_card_says_what_was_trained_and_measured(tmp_path: Path) -> None:
    folder = made("classification").save_pretrained(tmp_path / "net", license="apache-2.0")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\npipeline_tag: image-classification\nlicense: apache-2.0\n")
    assert "| top1 of the averaged weights, held-out split | 91.23 % | 7 |" in card
    assert "| recipe | `folder` |" in card
    assert "| data.image_size | `64` |" in card
    assert "cat, a 'dog' / *bird*, fish" in card
    with pytest.raises(ValueError, match="license='Apache 2': expected an identifier"):
        made("classification").save_pretrained(tmp_path / "other", license="Apache 2")
    assert not (tmp_path / "other").exists()
    assert (
        "License of the weights: none stated." in (made("detection").save_pretrained(folder) / "README.md").read_text()
    )


def test_timm_makes_the_same_network(tmp_path: Path) -> None:
    saved = made("classification")
    folder = saved.save_pretrained(tmp_path / "net")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 1, 64, 64)
    assert torch.equal(model(images), saved.model(images))
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    gray = IMAGE.convert("L")
    assert torch.equal(transform(gray), saved.transform(gray))


def test_transformers_makes_the_same_network(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    saved = made("classification")
    folder = saved.save_pretrained(tmp_path / "net")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    images = torch.randn(2, 1, 64, 64)
    assert torch.equal(model(images).logits, saved.model(images))
    assert list(model.config.id2label.values()) == CLASSES
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    gray = IMAGE.convert("L")
    assert torch.equal(processor([gray], return_tensors="pt")["pixel_values"][0], saved.transform(gray))

    # And back again, with the same classes and with others.
    model.save_pretrained(tmp_path / "back")
    assert outputs(a2mamba.load(tmp_path / "back", device="cpu")) == outputs(saved)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers: the classifier begins anew
        fewer = transformers.AutoModelForImageClassification.from_pretrained(
            folder, num_labels=2, ignore_mismatched_sizes=True
        )
    fewer.save_pretrained(tmp_path / "fewer")
    again = a2mamba.load(tmp_path / "fewer", device="cpu")
    assert again.classes == ["class 0", "class 1"], "transformers does not store the names"
    assert torch.equal(again.model(images), fewer.eval()(images).logits)
    assert isinstance(again.run, ClassificationRun)
    assert again.run.data.mean == (0.4,)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    folder = made("classification").save_pretrained(tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())

    def refused(message: str, **changes: Any) -> None:
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message) as caught:
            a2mamba.load(folder, device="cpu")
        assert "\n" not in str(caught.value)

    own = config["a2mamba"]
    refused("describes no network of this package", a2mamba=None, architecture="resnet18")
    refused("format 'a2mamba-folder-9', expected", a2mamba=own | {"format": "a2mamba-folder-9"})
    refused("is of the task 'depth'", a2mamba=own | {"task": "depth"})
    refused("does not describe its run", a2mamba={"format": own["format"]})
    refused("expected metric, value and epoch", a2mamba=own | {"best": [1]})
    refused("does not describe a classifier", a2mamba=None, pretrained_cfg={"input_size": "large"})
    refused("does not fit", a2mamba=own | {"classes": ["a", "b"]}, label_names=["a", "b"], num_classes=2)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        a2mamba.load(folder, device="cpu")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        a2mamba.load(folder, device="cpu")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02c__builtin__\nexec\n")
    with pytest.raises(ValueError, match="is a folder"):
        a2mamba.load(folder, device="cpu")
    saved = made("classification")
    saved.model = a2mamba.fuse_for_inference(saved.model)
    with pytest.raises(ValueError, match="a fused network"):
        saved.save_pretrained(tmp_path / "fused")


def test_through_the_hub(hub: Hub, tmp_path: Path) -> None:
    saved = made("segmentation")
    address = saved.push_to_hub("someone/net", private=True, token="hf_" + "x" * 34)
    assert re.search(r"/someone/net/commit/0+$", address)
    assert "private" in json.dumps(hub.created)
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    hub.files["evil.py"] = b"raise SystemExit"
    for again in (a2mamba.load("hf-hub:someone/net", device="cpu"), Predictor.from_pretrained("someone/net")):
        assert outputs(again) == outputs(saved)
    assert set(hub.downloaded) == {"config.json", "model.safetensors"}
    with pytest.raises(WeightsUnavailableError, match="hf-hub:someone/else could not be downloaded"):
        a2mamba.load("hf-hub:someone/else")


def test_the_command(tmp_path: Path) -> None:
    folder = made("detection").save_pretrained(tmp_path / "net")
    result = in_process("hub", "save", folder, tmp_path / "copy", "--license", "mit", "--json")
    assert (result.status, result.json) == (0, {"saved": str(tmp_path / "copy")})
    assert "license: mit" in (tmp_path / "copy" / "README.md").read_text()
    assert outputs(a2mamba.load(tmp_path / "copy", device="cpu")) == outputs(made("detection"))
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    save_file(weights, tmp_path / "w.safetensors")
    save = ("hub", "save", tmp_path / "w.safetensors", tmp_path / "c")
    in_process(*save).refused("does not say which network it holds")
    assert in_process(*save, "--name", NETWORKS["detection"]).status == 0
