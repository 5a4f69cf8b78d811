"""Cityscapes: 19 classes that are evaluated, of 34 ids in the label files."""

from __future__ import annotations

from a2mamba.data.segmentation.datasets.spec import Protocol, SegmentationDataset, colors, names
from a2mamba.data.segmentation.files import SegmentationLayout
from a2mamba.data.segmentation.labels import LabelMap

CITYSCAPES_CLASSES = names("""
road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider,
car, truck, bus, train, motorcycle, bicycle
""")
"""The 19 classes that are evaluated, in the order of their train ids."""

CITYSCAPES_PALETTE = colors("""
804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046 003c64
005064 0000e6 770b20
""")
"""19 colors in general use."""

_CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Ids of the evaluated classes, in the order of their train ids; the other ids, 0 to 33, are ignored."""
_IDS = 34


def cityscapes_labels(num_classes: int = 19) -> LabelMap:
    """Cityscapes' labelIds files: 19 of the ids 0 to 33 are classes, in the order of their train ids."""
    ignored = tuple(i for i in range(_IDS) if i not in _CLASS_IDS)
    return LabelMap("Cityscapes", _CLASS_IDS[:num_classes], ignored)


CITYSCAPES = SegmentationDataset(
    name="cityscapes",
    folder="data/cityscapes",
    layout=SegmentationLayout(
        "leftImg8bit/{split}",
        "gtFine/{split}",
        "train",
        "val",
        image_ending="_leftImg8bit",
        label_ending="_gtFine_labelIds",
        converted_ending="_gtFine_labelTrainIds",
    ),
    label_map=cityscapes_labels,
    classes=CITYSCAPES_CLASSES,
    marker=None,
    palette=CITYSCAPES_PALETTE,
    images=(2_975, 500),
    protocol=Protocol(crop=1024, resize=(2048, 1024), batch=8, interval=4000, test_mode="cityscapes"),
)
