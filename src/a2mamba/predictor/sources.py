"""What can be asked about: files, folders, globs, images, arrays of pixels; each is decoded when it is needed."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from a2mamba.data import IMAGE_EXTENSIONS, decode_image
from a2mamba.data.images import upright
from a2mamba.data.walk import images_below
from a2mamba.tasks import SourceImage

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file, folder or glob; an image; uint8 (H, W, C) or (H, W); uint8 (C, H, W)"""


def find_images(word: str | Path) -> list[Path]:
    """Return the image files that a word means: a file, the images in a folder and below, or a glob.

    Raises:
        ValueError: a folder without images, or a glob that nothing matches.
    """
    path = Path(word)
    if path.is_dir():
        files = sorted(path / name for name in images_below(path))
        if not files:
            raise ValueError(f"folder {path} has no images; expected files that end in {', '.join(IMAGE_EXTENSIONS)}")
        return files
    if not path.exists() and glob.has_magic(str(word)):
        files = [Path(file) for file in sorted(glob.glob(str(word), recursive=True)) if Path(file).is_file()]
        if not files:
            raise ValueError(f"no file matches {word}")
        return files
    return [path]


def image_sources(images: ImageLike | Iterable[ImageLike], *, mode: str, max_pixels: int) -> Iterator[SourceImage]:
    """Yield single images of whatever was given, in Pillow's mode; files of more pixels are refused when read."""
    for number, image in enumerate(_each(images)):
        if isinstance(image, Path):
            yield SourceImage(str(image), number, partial(decode_image, image, mode=mode, max_pixels=max_pixels))
        else:
            yield SourceImage(f"image-{number}", number, partial(_converted, image, mode))


def _each(images: ImageLike | Iterable[ImageLike]) -> Iterator[Path | Image.Image | np.ndarray | Tensor]:
    """Single images of whatever was given."""
    if isinstance(images, str | Path):
        yield from find_images(images)
    elif isinstance(images, Image.Image) or (isinstance(images, np.ndarray | Tensor) and images.ndim <= 3):
        yield images
    else:
        for image in images:
            yield from _each(image)


def _converted(image: Image.Image | np.ndarray | Tensor, mode: str) -> Image.Image:
    if not isinstance(image, Image.Image):
        if image.dtype not in (np.uint8, torch.uint8) or image.ndim not in (2, 3) or 0 in image.shape:
            raise ValueError(
                f"an image of {image.dtype} {tuple(image.shape)}: expected uint8, arrays (height, width, channels), "
                f"tensors (channels, height, width)"
            )
        pixels = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
        values = np.asarray(pixels)
        image = Image.fromarray(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values)
    if image.mode[0] in "IF":
        raise ValueError(f"an image of mode {image.mode}: expected 8 bits a channel; convert it")
    return upright(image).convert(mode)
