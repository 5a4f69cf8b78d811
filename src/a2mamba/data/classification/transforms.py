"""What happens to an image on its way to the model, by timm's factory; `mixing` has what follows on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from a2mamba.data.classification.config import ClassificationData
from a2mamba.data.images import decode_image, image_mode


def train_transform(data: ClassificationData) -> Callable[[Image.Image], Tensor]:
    """Random crop, flip, augmentation: an image -> uint8 (C, image_size, image_size). `mixing` has what follows.

    Raises:
        ValueError: an auto_augment string that timm does not understand.
    """
    from timm.data import create_transform

    try:
        _refuse_ignored_sections(data.auto_augment)
        transform = create_transform(
            data.image_size,
            is_training=True,
            scale=data.scale,
            ratio=data.ratio,
            hflip=data.hflip,
            auto_augment=data.auto_augment,
            color_jitter=data.color_jitter,
            interpolation=data.train_interpolation,
            mean=data.mean,  # the color of what geometric operations uncover
            normalize=False,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"auto_augment={data.auto_augment!r}: timm does not understand it; "
            f"expected a string like 'rand-m9-mstd0.5-inc1' or None"
        ) from error
    for operation in _augment_operations(transform):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return transform


def eval_transform(data: ClassificationData) -> Callable[[Image.Image], Tensor]:
    """Resize, center crop, normalization: an image of any size -> float32 (C, image_size, image_size)."""
    from timm.data import create_transform

    return create_transform(
        data.image_size,
        is_training=False,
        crop_pct=data.crop_pct,
        crop_mode=data.crop_mode,
        interpolation=data.interpolation,
        mean=data.mean,
        std=data.std,
    )


def load_image(path: Path | str, data: ClassificationData) -> Tensor:
    """One image as evaluation would see it: float32 (C, image_size, image_size).

    Raises:
        UndecodableImageError: missing, damaged, or not an image.
    """
    return eval_transform(data)(decode_image(Path(path), mode=image_mode(data.in_chans)))


def _refuse_ignored_sections(auto_augment: str | None) -> None:
    """ValueError for a section without a number, which timm passes over in silence; "t..." names a set."""
    _, *sections = (auto_augment or "").split("-")
    for section in sections:
        if not any(character.isdigit() for character in section) and not section.startswith("t"):
            raise ValueError(f"{section!r} has no value")


def _augment_operations(transform: Any) -> Iterable[Any]:
    """Every AugmentOp of a composed transform: RandAugment holds a list of them, AutoAugment a list of lists."""
    for step in transform.transforms:
        yield from getattr(step, "ops", ())
        for policy in getattr(step, "policy", ()):
            yield from policy


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """Posterize that allows 0 bits, a black image.

    timm's "increasing" form asks for 0 bits at magnitude 10, which the noise of the default policy reaches for about
    one image in a thousand. Pillow drew it black up to version 12; newer ones raise ValueError.
    """
    from PIL import ImageOps

    if bits_to_keep >= 8:
        return image
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits_to_keep)
