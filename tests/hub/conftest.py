"""Saved folders of small networks of all three tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from a2mamba import Predictor
from a2mamba.tasks import TASKS, PredictionOptions

from .server import Hub, serving

NETWORKS = {
    "classification": "a2mamba_test",
    "segmentation": "segman_v2_test",
    "detection": "mask_rcnn_a2mamba_test",
}
CLASSES = ["cat", "a `dog` | *bird*", "fish"]


def made(task: str, *, image_size: int = 64) -> Predictor:
    """A network as training leaves it, with places of this machine in its run."""
    torch.manual_seed(0)
    own = TASKS[task]
    run = own.run_of_network(NETWORKS[task])
    place = "train_annotations" if task == "detection" else "train_split"
    data = replace(run.data, root="/home/someone/secret", **{place: "/home/someone/other"})
    if task == "classification":
        data = replace(data, image_size=image_size, in_chans=1, mean=(0.4,), std=(0.3,), crop_pct=0.8)
    run = replace(run, data=data)
    model = own.build_model(run, CLASSES).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    best = {"metric": "ema_top1", "value": 91.234, "epoch": 7}
    return Predictor(
        model,
        run,
        CLASSES,
        device="cpu",
        report="",
        precision="float32",
        options=PredictionOptions(),
        best=best,
        recipe="folder",
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without a repository."""
    with serving() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        for module in ("constants", "file_download"):  # older versions keep it in both
            name = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
            monkeypatch.setattr(name, template, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.address)
        yield server
