"""Weights of torchvision's Mask R-CNN in our names and our order of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_RULES = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.", "fpn."),
    (r"rpn\.", "rpn."),
    (r"roi_heads\.box_head\.fc6\.", "roi_heads.stages.0.box_head.fcs.0."),
    (r"roi_heads\.box_head\.fc7\.", "roi_heads.stages.0.box_head.fcs.1."),
    (r"roi_heads\.box_predictor\.cls_score\.", "roi_heads.stages.0.box_head.class_logits."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "roi_heads.stages.0.box_head.box_deltas."),
    (r"roi_heads\.mask_head\.(\d+)\.0\.", r"roi_heads.stages.0.mask_head.convs.\1."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.stages.0.mask_head.deconv."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.stages.0.mask_head.logits."),
)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a torchvision ``MaskRCNN`` in the names of a :class:`~a2mamba.detection.Detector`.

    torchvision's background is class 0, ours the last one: the classifier's first row becomes its last. Its
    background's deltas and mask, which nothing uses, are left out. The backbone's names lose "body." and stay.

    Raises:
        ValueError: for a name that no Mask R-CNN of torchvision has.
    """
    out = {}
    for name, tensor in state.items():
        rule = next((rule for rule in _RULES if re.match(rule[0], name)), None)
        if rule is None:
            raise ValueError(f"{name}: not a name of torchvision's MaskRCNN")
        if ".cls_score." in name:
            tensor = torch.cat((tensor[1:], tensor[:1]))
        elif ".bbox_pred." in name and name.startswith("roi_heads"):
            tensor = tensor[4:]
        elif ".mask_fcn_logits." in name:
            tensor = tensor[1:]
        out[re.sub(*rule, name, count=1)] = tensor
    return out
