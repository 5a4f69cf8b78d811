"""Pascal VOC 2012: 20 classes and the background, in palette images; the lists of ImageSets say what is in a split."""

from __future__ import annotations

from a2mamba.data.segmentation.datasets.spec import Protocol, SegmentationDataset, colors, names
from a2mamba.data.segmentation.files import SegmentationLayout
from a2mamba.data.segmentation.labels import class_labels

PASCAL_VOC_CLASSES = names("""
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike,
person, pottedplant, sheep, sofa, train, tvmonitor
""")

PASCAL_VOC = SegmentationDataset(
    name="pascal_voc",
    folder="data/VOCdevkit/VOC2012",
    layout=SegmentationLayout(
        "JPEGImages", "SegmentationClass", "train", "val", lists="ImageSets/Segmentation/{split}.txt"
    ),
    label_map=class_labels,
    classes=PASCAL_VOC_CLASSES,
    marker="ImageSets/Main/aeroplane_train.txt",
    palette=colors("""
000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080 408080 c08080
004000 804000 00c000 80c000 004080
"""),
    images=(1_464, 1_449),
    protocol=Protocol(crop=512, resize=(2048, 512), batch=16, interval=8000, test_mode="ade20k"),
)
