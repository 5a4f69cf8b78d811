"""The recipes' names with the first lines of their documents, for a list of them before any is made.

Imports nothing, as the catalog of models; a test compares them with the recipes themselves.
"""

from __future__ import annotations

_SIZES = ("nano", "tiny", "small", "base", "large")
_DATASETS = ("ade20k", "cityscapes", "coco_stuff")
_UPERNET = "Train UperNet on ADE20K by Swin's protocol."
_SEGMAN_V2 = "Train SegMAN-V2, the paper's segmentation network, by SegFormer's protocol."
_SEGMAN = "Train SegMAN, the predecessor, by SegFormer's protocol."
_OBJECTS = "Train a detector with narrow heads on the embedded scenes of digits: the demonstration."
_COCO = {
    "3x": "Train a detector on COCO 2017 for 36 epochs, at several scales: the paper's schedule.",
    "1x": "Train a detector on COCO 2017 for 12 epochs at one scale: the field's short schedule.",
}

RECIPES: dict[str, str] = {
    "digits": "Train on the embedded handwritten digits: the demonstration.",
    "digits_full": (
        "Train on the embedded digits with everything that the ImageNet recipes have: mixup, drop path, EMA and MESA."
    ),
    "finetune": "Go on from ImageNet weights on one's own images: root/train/<class>/*, root/val/<class>/*.",
    "folder": "Train a2mamba_nano from random weights on one's own images: root/train/<class>/*, root/val/<class>/*.",
    **{f"in1k_{size}": f"Train A2Mamba-{size[0].upper()} on ImageNet-1K at 224." for size in _SIZES[:-1]},
    "in1k_large": ("Train A2Mamba-L on ImageNet-1K at 224: a2mamba_large, or with `paper` the Large of Table I."),
    "in1k_384_base": "Fine-tune A2Mamba-B on ImageNet-1K at 384, from its weights at 224.",
    "in1k_384_large": (
        "Fine-tune A2Mamba-L on ImageNet-1K at 384: the released weights, or with `paper` the Large of Table I."
    ),
    "scenes": "Train SegMAN-V2-nano with a narrow decoder on the embedded scenes of digits: the demonstration.",
    "scenes_upernet": "Train UperNet with a narrow head on the embedded scenes of digits.",
    **{f"upernet_{size}_ade20k": _UPERNET for size in (*_SIZES, "large_paper")},
    **{f"segman_v2_{size}_{dataset}": _SEGMAN_V2 for size in _SIZES for dataset in _DATASETS},
    **{f"segman_{size}_{dataset}": _SEGMAN for size in _SIZES[1:] for dataset in _DATASETS},
    "objects": _OBJECTS,
    "objects_cascade": _OBJECTS,
    **{
        f"{kind}_{size}_{length}": line
        for kind in ("mask_rcnn", "cascade_mask_rcnn")
        for size in (*_SIZES, "large_paper")
        for length, line in _COCO.items()
    },
}
"""Name of a recipe -> what it is, in the order of ``a2mamba.recipes.RECIPES``."""
