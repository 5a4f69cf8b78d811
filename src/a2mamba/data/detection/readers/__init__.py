"""Annotation formats, one file each; all are read into `DetectionAnnotations`."""

from __future__ import annotations

from pathlib import Path

from a2mamba.data.detection.readers.coco import COCO
from a2mamba.data.detection.readers.cvat import CVAT
from a2mamba.data.detection.readers.labelme import LABELME
from a2mamba.data.detection.readers.source import DetectionSource, Reader
from a2mamba.data.detection.readers.voc import VOC
from a2mamba.data.detection.readers.yolo import YOLO

READERS: dict[str, Reader] = {reader.name: reader for reader in (COCO, CVAT, YOLO, VOC, LABELME)}
"""By name, in the order in which a folder is tried."""


def find_detection(root: Path | str) -> DetectionSource | None:
    """Images with objects in a folder, in the first format of `READERS` that it has; None where it has none."""
    for reader in READERS.values():
        source = reader.find(Path(root))
        if source is not None:
            return source
    return None
