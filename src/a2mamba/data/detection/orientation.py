"""Boxes and masks of photographs that are stored sideways.

A phone stores what its sensor sees and says by EXIF's orientation how viewers should turn it. Images are decoded
upright. Most tools annotate what they show, some what is stored: where only the latter fits, objects turn with the
image. Orientations 2 to 4 and square images keep their size; they are taken as annotated upright.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from a2mamba.data.detection.annotations import DetectionAnnotations
from a2mamba.data.detection.masks import mask_library
from a2mamba.data.detection.readers.image_files import read_headers


def turn_corners(corners: np.ndarray, orientation: int, height: int, width: int) -> np.ndarray:
    """Boxes of the stored image -> boxes of the upright one.

    Args:
        corners: (N, 4), x0 y0 x1 y1 in pixels.
        orientation: EXIF's; 5 to 8 exchange height and width.
        height: of the stored image.
        width: of the stored image.
    """
    x0, y0, x1, y1 = corners.T
    left, right = width - x1, width - x0
    above, below = height - y1, height - y0
    turned = {5: (y0, x0, y1, x1), 6: (above, x0, below, x1), 7: (above, left, below, right), 8: (y0, left, y1, right)}
    return np.stack(turned[orientation], axis=1) if orientation in turned else corners


def turn_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """A mask (height, width) of the stored image -> the same of the upright one."""
    if orientation not in (5, 6, 7, 8):
        return mask
    turned = {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask.T, 2), 8: np.rot90(mask)}
    return np.ascontiguousarray(turned[orientation])


def upright(annotations: DetectionAnnotations) -> DetectionAnnotations:
    """The annotations of images that are decoded upright; every image's header is read.

    Evaluation compares with them; training turns each image's objects when it is loaded instead.
    """
    assert annotations.folder is not None, "the images are needed"
    headers = read_headers([annotations.folder / name for name in annotations.file_names])
    sideways = [
        (image, header)
        for image, (header, size) in enumerate(zip(headers, annotations.image_sizes.tolist(), strict=True))
        if header is not None and tuple(size) == (header.height, header.width) != header.upright
    ]
    if not sideways:
        return annotations
    boxes, sizes = annotations.boxes.copy(), annotations.image_sizes.copy()
    masks, rows_of_masks = annotations.segmentations, annotations.segmentation_rows.copy()
    for image, header in sideways:
        rows = annotations.rows(image)
        corners = np.concatenate((boxes[rows, :2], boxes[rows, :2] + boxes[rows, 2:]), axis=1)
        corners = turn_corners(corners, header.orientation, header.height, header.width)
        boxes[rows] = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
        sizes[image] = height, width = header.upright
        for row in range(rows.start, rows.stop):
            if masks is not None and rows_of_masks[row] >= 0:
                turned = turn_mask(annotations.mask(row), header.orientation)
                runs = mask_library().encode(np.asfortranarray(turned))
                segmentation = {"size": [height, width], "counts": runs["counts"].decode("ascii")}
                masks.append(segmentation, height=height, width=width)
                rows_of_masks[row] = len(masks) - 1
    return replace(annotations, boxes=boxes, image_sizes=sizes, segmentation_rows=rows_of_masks)
