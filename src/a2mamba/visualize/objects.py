"""Images of objects: boxes, masks and labels on a photograph, and a gallery of truth beside prediction."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from a2mamba.data.detection.dataset import CocoDataset
from a2mamba.visualize.text import Lettering, lettering

_INK = (28, 32, 38)
_MARGIN, _LINE = 8, 20
_GOLDEN = 0.618033988749895
_LINES_IN_A_SIDE, _LETTERS_IN_A_SIDE, _SMALLEST_LETTERS = 320, 60, 12


class _Area(NamedTuple):
    """Where a label is, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: _Area) -> float:
        """Return the area of both."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


class GalleryCase(NamedTuple):
    """An image to show: COCO's id, and a line of text above it."""

    image_id: int
    caption: str


def object_color(label: int) -> tuple[int, int, int]:
    """A strong color for a label from 1 on; neighboring labels get hues that are far apart."""
    red, green, blue = colorsys.hsv_to_rgb((label * _GOLDEN) % 1, 0.85, 0.95 if label % 2 else 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_objects(
    image: Image.Image,
    objects: Mapping[str, Tensor],
    *,
    names: Sequence[str],
    min_score: float = 0.0,
    scale: float = 1.0,
    opacity: float = 0.45,
) -> Image.Image:
    """Boxes, masks and labels on an image; small objects are drawn over large ones, lines and letters fit the size.

    Args:
        image: any mode.
        objects: torchvision's detection contract, a target or a prediction, on any device: `boxes` (N, 4) x0 y0 x1 y1
            in pixels of the image, `labels` (N,) from 1, and where they are known `scores` (N,) and `masks` (N, H, W)
            or (N, 1, H, W), of which 0.5 and more count as inside.
        names: the name of label k at position k - 1.
        min_score: objects of lower scores are left out.
        scale: of the result, relative to the image.
        opacity: of the masks, 0 to 1.

    Returns:
        Mode "RGB".

    Raises:
        ValueError: a label without a name, or masks of another size than the image.
    """
    boxes = objects["boxes"].detach().float().cpu()
    labels = objects["labels"].detach().cpu()
    scores = objects["scores"].detach().float().cpu() if "scores" in objects else None
    if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= len(names):
        wrong = labels[(labels < 1) | (labels > len(names))][0]
        raise ValueError(f"label {int(wrong)} has no name; there are {len(names)}, for the labels from 1")
    keep = torch.arange(len(labels)) if scores is None else (scores >= min_score).nonzero()[:, 0]
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    order = keep[sizes[keep].argsort(descending=True, stable=True)].tolist()

    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    canvas = image.convert("RGB").resize(size, method)
    if "masks" in objects:
        canvas = _with_masks(canvas, image, objects["masks"], labels, order, opacity)
    draw = ImageDraw.Draw(canvas)
    line = _line_width(canvas)
    for place in order:
        color = object_color(int(labels[place]))
        x0, y0, x1, y1 = (boxes[place] * scale).tolist()
        # Pillow refuses boxes that end before they begin, as a damaged prediction's may.
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=color, width=line)
    letters = max(_SMALLEST_LETTERS, round(max(size) / _LETTERS_IN_A_SIDE))
    tags: list[_Area] = []
    for place in order:
        score = "" if scores is None else f" {float(scores[place]):.2f}"
        text = lettering(names[int(labels[place]) - 1] + score, letters).cut_to(size[0] - letters)
        area = _tag_area(text, letters, boxes[place] * scale, size, tags)
        _draw_tag(draw, text, area, object_color(int(labels[place])))
        tags.append(area)
    return canvas


def detection_gallery(
    dataset: CocoDataset,
    cases: Sequence[GalleryCase],
    predict: Callable[[int], Mapping[str, Tensor]],
    *,
    min_score: float = 0.5,
    columns: int = 2,
    panel: tuple[int, int] = (240, 320),
) -> Image.Image:
    """Some images with their truth on the left and the prediction on the right, each pair under its caption.

    Args:
        dataset: has the images and the truth, untransformed.
        cases: what to show, in this order.
        predict: COCO's image id -> the prediction, see `draw_objects`.
        min_score: predictions of lower scores are left out.
        columns: pairs beside each other.
        panel: height and width that each image is fitted into, in pixels.

    Returns:
        Mode "RGB".

    Raises:
        ValueError: no cases, or an image that the data set does not have.
    """
    if not cases or columns < 1:
        raise ValueError(f"{len(cases)} cases in {columns} columns: expected at least one of each")
    from torchvision.transforms.functional import to_pil_image

    names = [category.name for category in dataset.categories]
    height, width = panel
    columns = min(columns, len(cases))
    pair = (2 * width + _MARGIN, _LINE + height)
    rows = -(-len(cases) // columns)
    top = _MARGIN + _LINE
    canvas = Image.new(
        "RGB", (_MARGIN + columns * (pair[0] + 2 * _MARGIN), top + rows * (pair[1] + 2 * _MARGIN)), "white"
    )
    draw = ImageDraw.Draw(canvas)
    head = lettering(f"left: truth; right: prediction, scores of {min_score:g} and more", 13)
    draw.text((_MARGIN, _MARGIN), head.text, _INK, font=head.font)
    for number, case in enumerate(cases):
        sample = dataset[dataset.index_of(case.image_id)]
        image = to_pil_image(sample.image)
        left = _MARGIN + number % columns * (pair[0] + 2 * _MARGIN)
        above = top + number // columns * (pair[1] + 2 * _MARGIN)
        caption = lettering(case.caption, 13)
        draw.text((left, above), caption.text, _INK, font=caption.font)
        scale = min(height / image.height, width / image.width)
        for place, objects in enumerate((sample.target, predict(case.image_id))):
            drawn = draw_objects(image, objects, names=names, min_score=min_score, scale=scale)
            canvas.paste(drawn, (left + place * (width + _MARGIN), above + _LINE))
    return canvas


def _with_masks(
    canvas: Image.Image, image: Image.Image, masks: Tensor, labels: Tensor, order: Sequence[int], opacity: float
) -> Image.Image:
    """Each mask in its color, with a firm outline so that neighbors of one class stay apart."""
    masks = masks[:, 0] if masks.ndim == 4 else masks
    if tuple(masks.shape[1:]) != (image.height, image.width):
        raise ValueError(
            f"masks are {masks.shape[2]} x {masks.shape[1]} pixels, the image {image.width} x {image.height}; "
            f"both must be equal"
        )
    pixels = np.asarray(canvas).astype(np.float32)
    line = _line_width(canvas)
    for place in order:
        mask = masks[place].detach().cpu()
        solid = (mask >= 0.5) if mask.is_floating_point() else mask != 0
        fitted = Image.fromarray(solid.numpy().astype(np.uint8) * 255).resize(canvas.size, Image.Resampling.BILINEAR)
        fitted = fitted.point(lambda value: 255 * (value >= 128))
        bounds = fitted.getbbox()
        if bounds is None:
            continue
        left, top, right, bottom = bounds
        window = pixels[top:bottom, left:right]
        inside = np.asarray(fitted.crop(bounds)) > 0
        color = np.array(object_color(int(labels[place])), dtype=np.float32)
        window[inside] += opacity * (color - window[inside])
        window[inside & ~_eroded(inside, line)] = color
    return Image.fromarray(np.round(pixels).astype(np.uint8))


def _eroded(inside: np.ndarray, steps: int) -> np.ndarray:
    """Return the pixels of a mask that have so many others of it on each side."""
    for _ in range(steps):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside


def _line_width(canvas: Image.Image) -> int:
    return max(1, round(max(canvas.size) / _LINES_IN_A_SIDE))


def _tag_area(text: Lettering, letters: int, box: Tensor, size: tuple[int, int], others: Sequence[_Area]) -> _Area:
    """Return where a label goes: above its box, else inside, else below, always in the image; where it covers the
    least of the other labels."""
    x0, y0, x1, y1 = box.tolist()
    width, height = text.width + letters / 3, 1.25 * letters
    tops = (*([y0 - height] if y0 >= height else []), y0, y1, y1 - height)

    def area(left: float, top: float) -> _Area:
        left = min(max(0.0, left), max(0.0, size[0] - width))
        top = min(max(0.0, top), max(0.0, size[1] - height))
        return _Area(left, top, left + width, top + height)

    return min((area(x, y) for y in tops for x in (x0, x1 - width)), key=lambda a: sum(map(a.shared, others)))


def _draw_tag(draw: ImageDraw.ImageDraw, text: Lettering, area: _Area, color: tuple[int, int, int]) -> None:
    draw.rectangle(area, fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    place = ((area.left + area.right) / 2, (area.top + area.bottom) / 2)
    draw.text(place, text.text, fill=_INK if bright else (255, 255, 255), font=text.font, anchor="mm")
