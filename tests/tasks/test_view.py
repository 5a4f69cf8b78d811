"""What a network sees of an image, beside what it is given when it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from a2mamba.predictor import Predictor
from a2mamba.tasks import PredictionOptions, task_of_network


def predictor_of(name: str) -> Predictor:
    task = task_of_network(name)
    run, classes = task.run_of_network(name), ["a", "b", "c"]
    model = task.build_model(run, classes).eval()
    return Predictor(model, run, classes, device="cpu", report="", precision="float32", options=PredictionOptions())


def photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", ["a2mamba_test", "segman_v2_test", "mask_rcnn_a2mamba_test"])
def test_a_view_is_what_the_backbone_is_given(name: str) -> None:
    predictor = predictor_of(name)
    backbone: Any = getattr(predictor.model, "backbone", predictor.model)
    seen: list[Tensor] = []

    def see(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    # A detector asks its backbone for maps by a method; its first module is called all the same.
    module = next(m for m in backbone.modules() if type(m).__name__ == "Stem")
    module.register_forward_pre_hook(see)
    image = photo(150, 100)
    predictor.predict(image)
    view = predictor.view(image)
    assert torch.equal(view.batch, seen[0])
    assert (view.image.height, view.image.width) == view.batch.shape[2:]
    assert view.image.mode == "RGB"


def test_the_image_for_people_has_the_pixels_of_the_photo() -> None:
    predictor = predictor_of("segman_v2_test")  # by its protocol, 512 on the short side: nothing is resized
    image = photo(544, 512)
    view = predictor.view(image)
    assert np.abs(np.asarray(view.image).astype(int) - np.asarray(image)).max() <= 1


def test_one_image_is_looked_at(tmp_path: Path) -> None:
    for number in range(2):
        photo(8, 8).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match="2 images: expected one"):
        predictor_of("a2mamba_test").view(tmp_path)
