"""Fig. 5: effective receptive fields of A2Mamba-T beside ConvNeXt-T and Swin-T."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from a2mamba.data import decode_image
from a2mamba.data.classification.datasets.imagenet import IMAGENET
from a2mamba.explain import (
    Drawing,
    draw_receptive_fields,
    effective_receptive_field,
    last_map,
    side_holding,
    timm_features,
)
from a2mamba.explain.drawing import SHARES
from a2mamba.tasks import TASKS

NETWORKS = {"A2Mamba-T": "a2mamba_tiny", "ConvNeXt-T": "convnext_tiny", "Swin-T": "swin_tiny_patch4_window7_224"}
"""Name in the paper -> in this package or in timm."""

_SIDE = 224
_CROPS = 4  # of each photograph


@dataclass(frozen=True)
class Fig5:
    """The figure's contents."""

    fields: dict[str, Tensor]
    """network -> float64 (H, W), see ``effective_receptive_field``"""
    images: str
    """what they were averaged over, in words"""
    pretrained: bool
    """whether the networks have released weights; otherwise theirs are random"""

    @property
    def weights(self) -> str:
        """The networks' weights in words."""
        return "released weights" if self.pretrained else "random weights"

    def sides(self) -> dict[str, dict[str, int]]:
        """Return network -> share of the field -> side of the square in the middle that holds it, in pixels."""
        return {
            name: {f"{share:g}": side_holding(field, share) for share in SHARES} for name, field in self.fields.items()
        }

    def drawing(self) -> Drawing:
        """Return the fields side by side."""
        return draw_receptive_fields(self.fields, f"{self.images}, {self.weights}")


def fig_5(
    files: Sequence[Path] = (),
    *,
    pretrained: bool = False,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> Fig5:
    """Compute effective receptive fields at 224 x 224.

    Args:
        files: images, seen as evaluation sees them; none: crops of scikit-learn's two photographs.
        pretrained: take released weights, which are downloaded once; otherwise all are random, which shows what the
            designs do before they have learned anything.
        device: where to compute.
        progress: called with the name of every network.

    Raises:
        ImportError: no files, and scikit-learn is not installed.
        UndecodableImageError: a file cannot be read.
        WeightsUnavailableError, OSError: weights cannot be downloaded.
    """
    task = TASKS["classification"]
    ours = NETWORKS["A2Mamba-T"]
    run: Any = task.run_of_network(ours)
    run = replace(run, model=replace(run.model, pretrained=pretrained))
    transform = task.transform(run)
    photos = [decode_image(file) for file in files] if files else list(_crops())
    images = [transform(photo).to(device) for photo in photos]
    fields = {}
    for name, network in NETWORKS.items():
        progress(f"receptive field of {name}")
        if network == ours:
            model = task.build_model(run, [str(i) for i in range(IMAGENET.classes)]).eval()
            features = last_map(model.to(device))
        else:
            model = timm_features(
                network, (_SIDE, _SIDE), mean=run.data.mean, std=run.data.std, pretrained=pretrained, seed=run.seed
            )
            features = model.to(device)
        fields[name] = effective_receptive_field(features, images)
    words = f"{len(files)} images" if files else f"{len(images)} crops of the two photographs in scikit-learn"
    return Fig5(fields, words, pretrained)


def _crops() -> Iterator[Image.Image]:
    """Yield square crops of the photographs that scikit-learn brings along, the same each time."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError(
            'without --images, Fig. 5 takes the photographs of scikit-learn: pip install "a2mamba[demo]"'
        ) from error
    random = np.random.default_rng(0)
    for photo in load_sample_images().images:
        side = min(photo.shape[:2]) * 3 // 4
        for _ in range(_CROPS):
            top, left = (int(random.integers(0, length - side + 1)) for length in photo.shape[:2])
            yield Image.fromarray(photo[top : top + side, left : left + side])
