"""Images with their objects, one sample at a time.

Targets follow torchvision's detection contract: labels begin at 1 and 0 is the background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data.detection.annotations import Category, DetectionAnnotations
from a2mamba.data.detection.orientation import turn_corners, turn_mask
from a2mamba.data.detection.readers.image_files import missing_files, read_header
from a2mamba.data.detection.transforms import DetectionView, original_view
from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.data.names import some


class UnfitSampleError(UndecodableImageError):
    """An image and its annotations that do not fit together.

    Args:
        path: the image file.
        reason: one line saying what is wrong.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.args = (f"{path}: {reason}",)


class DetectionSample(NamedTuple):
    """One image: image uint8 (3, H, W); its target, see `CocoDataset`; and the file it came from."""

    image: Tensor
    target: dict[str, Any]
    path: str


class DetectionBatch(NamedTuple):
    """Images of different sizes, uint8 (3, H, W), their targets and their files."""

    images: list[Tensor]
    targets: list[dict[str, Any]]
    paths: list[str]


class CocoDataset(Dataset[DetectionSample]):
    """Images and their objects, of any annotation format.

    A target holds, for N objects, `boxes` float32 (N, 4) x0 y0 x1 y1 in pixels of the image, `labels` int64 (N,) from
    1 on, `image_id` (an int, COCO's) and, with masks, `masks` uint8 (N, H, W) of 0 and 1. Crowds and objects that the
    protocol skips are not in it; `annotations.skipped` lists them.

    Images are decoded upright, by their EXIF orientation. Where the annotations fit only the image as it is stored,
    boxes and masks turn with it.

    Args:
        folder: of the images.
        annotations: what a reader returned; with masks or without.
        transform: a uint8 image (3, H, W) and boxes -> `DetectionView`; None leaves both as they are.
        drop_empty: leave out images without objects.
        min_image_side: leave out images with a side of fewer pixels.

    Raises:
        ValueError: the folder or an image file is missing, or no image is left.
        ImportError: there are masks, and no library that draws them.
    """

    def __init__(
        self,
        folder: Path | str,
        annotations: DetectionAnnotations,
        *,
        transform: Callable[[Tensor, Tensor], DetectionView] | None = None,
        drop_empty: bool = False,
        min_image_side: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.annotations = annotations
        self.transform = transform or original_view
        _require_files(self.folder, annotations)
        if annotations.segmentations is not None:
            annotations.segmentations.require_library()
        keep = annotations.image_sizes.min(axis=1) >= min_image_side
        if drop_empty:
            keep &= annotations.used_objects > 0
        self.images = np.flatnonzero(keep)
        """positions in `annotations` of the images that are left, int64"""
        if not self.images.size:
            skipped = ", ".join(f"{len(ids)} {reason}" for reason, ids in annotations.skipped.items()) or "none"
            raise ValueError(
                f"{annotations.file} has no image with objects of {min_image_side} pixels or more on each side "
                f"(annotations left out: {skipped})"
                if drop_empty
                else f"{annotations.file} has no image of {min_image_side} pixels or more on each side"
            )

    @property
    def categories(self) -> tuple[Category, ...]:
        """The category of label k at position k - 1."""
        return self.annotations.categories

    @property
    def is_wide(self) -> np.ndarray:
        """Which images are wider than high, bool (len(self),), by the stated sizes."""
        height, width = self.annotations.image_sizes[self.images].T
        return width > height

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> str:
        """The file name of a sample."""
        return str(self.folder / self.annotations.file_names[self.images[index]])

    def index_of(self, image_id: int) -> int:
        """The index of the sample with COCO's image id.

        Raises:
            ValueError: there is none.
        """
        found = np.flatnonzero(self.annotations.image_ids[self.images] == image_id)
        if not found.size:
            raise ValueError(f"image {image_id} is not among the {len(self)} images of {self.annotations.file}")
        return int(found[0])

    def __getitem__(self, index: int) -> DetectionSample:
        """Decode and transform one image and its objects.

        Raises:
            UndecodableImageError: naming the file.
            UnfitSampleError: the image has another size than the annotation file says, or a mask is damaged.
        """
        from torchvision.transforms.functional import pil_to_tensor

        path, number = self.path(index), int(self.images[index])
        image = pil_to_tensor(decode_image(Path(path)))
        orientation = self._orientation(path, number, (image.shape[1], image.shape[2]))
        height, width = self.annotations.image_sizes[number].tolist()
        rows = self.annotations.objects(number)
        corners = turn_corners(self.annotations.corners(number), orientation, height, width)
        view = self.transform(image, torch.from_numpy(corners).float())
        target: dict[str, Any] = {
            "boxes": view.boxes,
            "labels": torch.from_numpy(self.annotations.labels[rows])[view.kept],
            "image_id": int(self.annotations.image_ids[number]),
        }
        if self.annotations.segmentations is not None:
            masks = torch.zeros((len(view.kept), *view.image.shape[1:]), dtype=torch.uint8)
            for place, row in enumerate(rows[view.kept.numpy()].tolist()):
                try:
                    mask = torch.from_numpy(turn_mask(self.annotations.mask(row), orientation))
                except ValueError as error:
                    raise UnfitSampleError(path, str(error)) from None
                masks[place] = mask[view.rows][:, view.columns]
            target["masks"] = masks
        return DetectionSample(view.image, target, path)

    def _orientation(self, path: str, number: int, size: tuple[int, int]) -> int:
        """How boxes and masks have to turn, as EXIF writes it: 1 where they fit the upright image.

        Raises:
            UnfitSampleError: they fit neither that nor the stored image.
        """
        height, width = self.annotations.image_sizes[number].tolist()
        if size == (height, width):
            return 1
        header = read_header(Path(path)) if size == (width, height) else None
        if header is not None and header.upright == size != (header.height, header.width):
            return header.orientation
        raise UnfitSampleError(
            path,
            f"is {size[1]} pixels wide and {size[0]} high, and {self.annotations.file} says {width} and {height} "
            f"(image {self.annotations.image_ids[number]}); correct one of them",
        )


def collate_detection(samples: Sequence[DetectionSample]) -> DetectionBatch:
    """Lists of what the samples hold: images of different sizes are not stacked."""
    images, targets, paths = zip(*samples, strict=True)
    return DetectionBatch(list(images), list(targets), list(paths))


def _require_files(folder: Path, annotations: DetectionAnnotations) -> None:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"image folder {folder} {what}; {annotations.file} names its images; check the path")
    missing = missing_files(folder, annotations.file_names)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(annotations.file_names)} images that {annotations.file} lists are not in "
            f"{folder}: {some(missing)}; add them or correct the path"
        )
