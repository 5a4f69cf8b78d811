"""Grad-CAM (arXiv:1610.02391): which part of an image speaks for a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from a2mamba.detection import Detector
from a2mamba.explain.network import as_batch, pyramid_of
from a2mamba.segmentation import Segmenter


class ClassScore(NamedTuple):
    """What Grad-CAM differentiates."""

    score: Tensor
    """scalar"""
    class_index: int
    """of the class, from 0"""


class GradCAM(NamedTuple):
    """Which pixels speak for a class."""

    heat: Tensor
    """float32 (H, W), at least 0: the weighted sum of the stage's channels, without its negative part, bilinear on the
    image"""
    class_index: int
    """of the class, from 0"""


def grad_cam(
    model: nn.Module,
    image: Tensor,
    *,
    class_index: int | None = None,
    stage: int = 3,
    score: Callable[[nn.Module, Tensor, int | None], ClassScore] | None = None,
) -> GradCAM:
    """Return Grad-CAM of a class: channels of a stage's map, weighted by the mean gradient of the class's score.

    Of a detector every position is weighted by its own gradient: HiResCAM.

    Args:
        model: a classifier, segmenter or detector in eval mode whose backbone is ours.
        image: (C, H, W) or (1, C, H, W), normalized as the backbone takes it; ``Predictor.view`` makes it.
        class_index: of the class, from 0; None: the one that the network sees, see ``class_score``.
        stage: whose map is weighted, from 0.
        score: what is differentiated: (model, batch (1, C, H, W), class_index) to a score; None: ``class_score``.

    Raises:
        ValueError: another shape, a network in training mode, a stage or class that it does not have, or a detector
            that finds nothing of the class.
    """
    pyramid, batch = pyramid_of(model), as_batch(model, image)
    stages = pyramid.stage_list()
    if not 0 <= stage < len(stages):
        raise ValueError(f"stage={stage}: the backbone has stages 0 to {len(stages) - 1}")
    kept: list[Tensor] = []
    hook = stages[stage].register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        # The map needs a gradient, and so has what depends on it, whether parameters do or not.
        with torch.inference_mode(False), torch.enable_grad():
            found = (score or class_score)(model, batch.clone().requires_grad_(), class_index)
            (gradient,) = torch.autograd.grad(found.score, kept[0])
    finally:
        hook.remove()
    # An object is seen at its place: the mean over a detector's map would be about other places (arXiv:2011.08891).
    weights = gradient.float() if isinstance(model, Detector) else gradient.float().mean((2, 3), keepdim=True)
    heat = (weights * kept[0].detach().float()).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, batch.shape[2:], mode="bilinear", align_corners=False)
    return GradCAM(heat[0, 0].cpu(), found.class_index)


def class_score(model: nn.Module, batch: Tensor, class_index: int | None) -> ClassScore:
    """Return how much a network sees of a class.

    A classifier: the logit; by default of the most probable class. A segmenter: the sum of the class's logits over the
    pixels that it has; by default of the class with most pixels. A detector: the sum of the scores of its objects; by
    default the best object alone.

    Args:
        model: one of these, with gradients.
        batch: (1, C, H, W), normalized.
        class_index: of the class, from 0, or None.

    Raises:
        ValueError: a class that the network does not have or, in a segmenter and a detector, does not see here.
    """
    if isinstance(model, Detector):
        return _score_of_objects(model, batch, class_index)
    logits = model(batch)
    if class_index is not None and not 0 <= class_index < logits.shape[1]:
        raise ValueError(f"class {class_index}: the network has classes 0 to {logits.shape[1] - 1}")
    if isinstance(model, Segmenter):
        seen = logits.argmax(1)
        class_index = int(seen.flatten().mode().values) if class_index is None else class_index
        mask = seen == class_index
        if not mask.any():
            raise ValueError(f"no pixel of this image is of class {class_index} to the network; choose another class")
        return ClassScore(logits[:, class_index][mask].sum(), class_index)
    class_index = int(logits[0].argmax()) if class_index is None else class_index
    return ClassScore(logits[0, class_index], class_index)


def _score_of_objects(model: Detector, batch: Tensor, class_index: int | None) -> ClassScore:
    if class_index is not None and not 0 <= class_index < model.num_classes:
        raise ValueError(f"class {class_index}: the detector has classes 0 to {model.num_classes - 1}")
    images = ImageList(batch, [(batch.shape[2], batch.shape[3])])
    levels = model.levels(batch)
    proposals, _ = model.rpn(levels, images)
    (found,) = model.roi_heads.detect(levels[:-1], proposals, images.image_sizes)
    labels, scores = found["labels"], found["scores"]
    chosen = slice(0, 1) if class_index is None else labels == class_index + 1
    if not len(scores[chosen]):
        raise ValueError("the detector finds no object" + ("" if class_index is None else f" of class {class_index}"))
    return ClassScore(scores[chosen].sum(), int(labels[chosen][0]) - 1)
