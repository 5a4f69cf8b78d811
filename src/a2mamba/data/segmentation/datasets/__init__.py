"""The published segmentation data sets, one file each, and the table of them."""

from __future__ import annotations

from a2mamba.data.segmentation.datasets.ade20k import ADE20K
from a2mamba.data.segmentation.datasets.cityscapes import CITYSCAPES
from a2mamba.data.segmentation.datasets.coco_stuff import COCO_STUFF
from a2mamba.data.segmentation.datasets.pascal_voc import PASCAL_VOC
from a2mamba.data.segmentation.datasets.spec import SegmentationDataset

SEGMENTATION_DATASETS: dict[str, SegmentationDataset] = {
    dataset.name: dataset for dataset in (ADE20K, CITYSCAPES, COCO_STUFF, PASCAL_VOC)
}
"""By name: what `SegmentationData.layout` can be, beside "folder"."""


def register_dataset(dataset: SegmentationDataset) -> None:
    """Add a data set to the table, for one that is described outside of this package.

    Raises:
        ValueError: the name is taken, by another one or by "folder".
    """
    if dataset.name == "folder" or SEGMENTATION_DATASETS.get(dataset.name, dataset) != dataset:
        raise ValueError(f"a segmentation data set {dataset.name!r} exists already; choose another name")
    SEGMENTATION_DATASETS[dataset.name] = dataset
