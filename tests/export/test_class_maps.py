"""Class maps of exported files against the network's, on photographs, after a short training.

Random weights would put near-ties everywhere, which trained ones have at edges alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

import a2mamba
from a2mamba.data.demo import demo_photos
from a2mamba.export import FORMATS, export_model
from a2mamba.export.comparison import PIXELS_THAT_DIFFER
from a2mamba.segmentation import Segmenter
from support import need_onnx

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 6


def photographs(side: int) -> list[np.ndarray]:
    pytest.importorskip("sklearn")
    return [np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC)) for photo in demo_photos().values()]


def normalized(photos: list[np.ndarray]) -> Tensor:
    pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def shades(images: Tensor) -> Tensor:
    """Return what is learned, (B, H, W): how bright the surroundings of a pixel are, in as many levels as classes."""
    bright = gaussian_blur(images.mean(1, keepdim=True), [9, 9])[:, 0]
    return torch.bucketize(bright, torch.quantile(bright, torch.linspace(0, 1, CLASSES + 1)[1:-1]))


def trained(name: str, steps: int, side: int) -> Segmenter:
    torch.manual_seed(0)
    model = a2mamba.create_segmenter(name, num_classes=CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = normalized(photographs(side))
    classes = shades(images)
    for _ in range(steps):
        outputs = model(images)
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        loss = F.cross_entropy(logits, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(8):  # the statistics of batch norm, which so few steps left far behind the weights
            model(images)
    return model.eval()


def check(name: str, side: int, steps: int, folder: Path) -> None:
    need_onnx()
    model, photos = trained(name, steps, min(side, 128)), photographs(side)
    path = folder / "x.onnx"
    export_model(model, path, size=(side, side), mean=MEAN, std=STD, output="class_map", images=photos)
    images = normalized(photos)
    with torch.inference_mode():
        expected = model(images).argmax(1)
    (found,) = FORMATS["onnx"].load(path, 1)(images.numpy())
    differ = [np.count_nonzero(a != b) for a, b in zip(found, expected.numpy(), strict=True)]
    right = (expected == shades(images)).double().mean().item()
    print(f"{name} at {side}: {differ} of {side * side} pixels differ; {right:.0%} of the pixels are right")
    assert len(expected.unique()) >= CLASSES - 1
    assert right > 1.5 / CLASSES, "it has learned too little to say anything"
    assert max(differ) <= PIXELS_THAT_DIFFER * side * side


def test_class_maps_of_a_small_network(tmp_path: Path) -> None:
    check("segman_v2_test", 64, 20, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segman_tiny", "segman_v2_nano", "upernet_a2mamba_nano"])
def test_class_maps_at_512(name: str, tmp_path: Path) -> None:
    check(name, 512, 30, tmp_path)
