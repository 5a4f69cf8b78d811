"""A look at the images that a run is evaluated on, before it begins: a damaged one would end its first epoch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from a2mamba.data.check.images import inspect_all, inspect_image
from a2mamba.data.check.report import Progress
from a2mamba.data.check.segmentation import inspect_pair
from a2mamba.data.classification.config import ClassificationData
from a2mamba.data.classification.loaders import eval_dataset
from a2mamba.data.detection.config import DetectionData
from a2mamba.data.detection.dataset import CocoDataset
from a2mamba.data.detection.loaders import read_detection_split
from a2mamba.data.images import UndecodableImageError
from a2mamba.data.names import some
from a2mamba.data.recognized import Recognized
from a2mamba.data.segmentation.config import SegmentationData
from a2mamba.data.segmentation.loaders import eval_segmentation_dataset
from a2mamba.data.segmentation.source import find_convention

MOST_IMAGES = 2000
"""Images that are decoded; of more, as many are chosen at even distances."""

T = TypeVar("T")


def check_validation(found: Recognized, progress: Progress | None = None) -> None:
    """Decode the images, and read the labels, that a folder would be evaluated on.

    Raises:
        ValueError: there are none, or some cannot be read or do not fit; one line names them. `check_dataset` has them
            all among its problems.
    """
    faults: list[str] = []
    count = 0
    if found.task == "classification":
        images = eval_dataset(found.place(ClassificationData(root=str(found.root))))
        files = [images.path(index) for index in _spread(range(len(images)))]
        count = len(files)
        faults = _undecodable(files, progress)
    elif found.task == "segmentation":
        data = found.place(SegmentationData(root=str(found.root)))
        pairs = _spread(eval_segmentation_dataset(data).pairs)
        count = len(pairs)
        inspect = partial(inspect_pair, label_map=find_convention(data).label_map)
        for result in inspect_all(inspect, pairs, "evaluation", progress):
            if result.undecodable is not None:
                faults.append(f"{result.undecodable[0]} ({result.undecodable[1]})")
            elif result.unfit is not None:
                faults.append(result.unfit)
    else:
        objects = read_detection_split(found.place(DetectionData(root=str(found.root))), "val", masks=False)
        if not objects.used.any():
            raise ValueError(f"{objects.file} has no object to evaluate on; choose another split, or label some images")
        assert objects.folder is not None
        samples = CocoDataset(objects.folder, objects)
        indices = _spread(range(len(samples)))
        count = len(indices)
        for error in inspect_all(partial(_unfit, samples), indices, "evaluation", progress):
            if error is not None:
                faults.append(f"{error.path} ({error.reason})")
    if faults:
        raise ValueError(
            f"{len(faults)} of {count} images to evaluate on cannot be used: {some(faults, 3)}; replace or remove them"
        )


def _undecodable(files: list[str], progress: Progress | None) -> list[str]:
    facts = zip(files, inspect_all(inspect_image, files, "evaluation", progress), strict=True)
    return [f"{file} ({fact.reason})" for file, fact in facts if fact.reason is not None]


def _unfit(dataset: CocoDataset, index: int) -> UndecodableImageError | None:
    """Why an image cannot be decoded, or does not fit its objects."""
    try:
        dataset[index]
    except UndecodableImageError as error:
        return error
    return None


def _spread(items: Sequence[T]) -> list[T]:
    return list(items[:: max(1, -(-len(items) // MOST_IMAGES))])
