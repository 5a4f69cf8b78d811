"""Images of predictions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from a2mamba.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from a2mamba.data import BatchLoader, SegmentationImage
    from a2mamba.evaluation import CocoMetric
    from a2mamba.recipes.detection import DetectionRun
    from a2mamba.recipes.segmentation import SegmentationRun

GRID_ROWS = 8
"""Images in a grid of segmentation results, and cases in a gallery of detections."""

SIDE = 256
PANEL = 300
MARGIN = 14
ROW = 40
INK, PALE, ACCENT = (28, 32, 38), (226, 230, 235), (38, 110, 190)


def annotate(prediction: dict[str, Any], target: Path) -> None:
    """Write a PNG with the image on the left and a bar for each of its likeliest classes on the right.

    Args:
        prediction: {"image": file, "top": [{"class": name, "probability": 0 to 1}, ...]}.
        target: file to write; its folder is made.
    """
    with Image.open(prediction["image"]) as file:
        image = file.convert("RGB")
    scale = min(SIDE / image.width, SIDE / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)

    top = prediction["top"]
    height = max(SIDE, ROW * len(top)) + 2 * MARGIN
    canvas = Image.new("RGB", (SIDE + PANEL + 3 * MARGIN, height), "white")
    canvas.paste(image, (MARGIN + (SIDE - size[0]) // 2, (height - size[1]) // 2))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=15)
    left = SIDE + 2 * MARGIN
    y = (height - ROW * len(top)) // 2
    for place, entry in enumerate(top):
        share = entry["probability"]
        draw.text((left, y), _fitted(entry["class"], font, PANEL - 70), fill=INK, font=font)
        percent = f"{100 * share:.1f} %"
        draw.text((left + PANEL - font.getlength(percent), y), percent, fill=INK, font=font)
        bar = (left, y + 22, left + PANEL, y + 30)
        draw.rectangle(bar, fill=PALE)
        if share > 0.002:
            draw.rectangle((*bar[:2], left + PANEL * share, bar[3]), fill=ACCENT if place == 0 else (130, 150, 175))
        y += ROW
    write_png(canvas, target)


def write_png(image: Image.Image, target: Path) -> None:
    """Write a PNG completely or not at all; its folder is made."""
    replace_file(target, partial(image.save, format="PNG"))


def write_segmentation_grid(
    model: nn.Module,
    config: SegmentationRun,
    loader: BatchLoader[SegmentationImage],
    classes: Sequence[str],
    folder: Path,
    *,
    device: str,
) -> Path:
    """Write segmentation.png: image, truth and prediction of images from all over the evaluation split.

    Returns:
        the file.
    """
    from torchvision.transforms.functional import to_pil_image

    from a2mamba.data import segmentation_palette
    from a2mamba.segmentation.inference import predict
    from a2mamba.visualize import class_legend, class_map_image, image_grid, overlay

    palette = segmentation_palette(config.data.layout, len(classes))
    chosen = range(0, len(loader), max(1, len(loader) // GRID_ROWS))[:GRID_ROWS]
    rows, maps = [], []
    for number, sample in enumerate(loader):
        if number not in chosen:
            continue
        prediction = predict(
            model, sample.image, mode=config.test, mean=config.data.mean, std=config.data.std, device=device
        )
        image = to_pil_image(sample.image)
        rows.append([image, class_map_image(sample.target, palette), class_map_image(prediction, palette)])
        rows[-1].append(overlay(image, prediction, palette))
        maps += [sample.target, prediction]
    grid = image_grid(
        rows, headings=("image", "truth", "prediction", "overlay"), legend=class_legend(maps, classes, palette)
    )
    write_png(grid, folder / "segmentation.png")
    return folder / "segmentation.png"


def write_object_images(config: DetectionRun, metric: CocoMetric, folder: Path) -> Path:
    """Write worst.png, typical.png (truth beside prediction) and the precision-recall plots of an evaluation.

    Returns:
        the folder.
    """
    from a2mamba.data import CocoDataset, read_annotations
    from a2mamba.visualize import GalleryCase, detection_gallery, precision_recall_plot

    images, file = config.data.val_paths()
    dataset = CocoDataset(images, read_annotations(file, masks=config.data.masks))
    ranked = metric.agreement()
    middle = max(0, len(ranked) // 2 - GRID_ROWS // 2)
    for name, cases in (("worst", ranked[:GRID_ROWS]), ("typical", ranked[middle : middle + GRID_ROWS])):
        shown = [
            GalleryCase(case.image_id, f"{case.found} found, {case.missed} missed, {case.false_positives} of nothing")
            for case in cases
        ]
        write_png(detection_gallery(dataset, shown, metric.detections), folder / f"{name}.png")
    for kind in metric.iou_types:
        precision_recall_plot(metric, folder / f"precision-recall-{kind}.png", iou_type=kind)
    return folder


def _fitted(text: str, font: Any, width: int) -> str:
    """Return the text, cut with an ellipsis where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
