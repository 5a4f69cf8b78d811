"""Real data on a fresh machine: scikit-learn's handwritten digits, written in the layouts of the large data sets.

    root/imagenet/{train,val}/digit_<d>/*.png              single digits, 32 x 32, gray
    root/ADEChallengeData2016/{images,annotations}/...     scenes of digits, and their class maps
    root/coco/{train2017,val2017}, coco/annotations/...    scenes of digits, and their instances

A scene is made of several digits in their own colors, sizes and angles, some behind others, on an uneven ground with
strokes that belong to no digit. About a fifth of the scenes hold no digit at all. Every image of a digit belongs to
either training or validation, in all three sets alike.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Progress = Callable[[int, int, str], None]

ADE_UNLABELLED, ADE_BACKGROUND, ADE_FIRST_DIGIT = 0, 1, 2
"""Values of the class maps: 0 unlabeled, 1 background, 2 + d for digit d, as ADE20K numbers its classes from 1."""

ADE_CLASSES = ("background", *(f"digit_{digit}" for digit in range(10)))
"""Names of the classes of the maps, from value 1 on."""

_README = "README.txt"
_PARTS = ("imagenet", "ADEChallengeData2016", "coco", _README)
_INSTALL = 'the demo data needs scikit-learn; install it with: pip install "a2mamba[demo]"'
_DIGIT_SIZE = 32
_EMPTY_SHARE = 0.2
_MIN_VISIBLE = 0.75
# From the first opacity on a pixel belongs to its digit. Between the two it is an edge, neither digit nor plain
# background, and stays unlabeled in class maps.
_INK, _TRACE = 0.5, 0.15
_MIN_CONTRAST = 80
_SPLIT, _ADE, _COCO = 0, 1, 2  # random streams


@dataclass(frozen=True)
class DemoSummary:
    """What `write_demo` wrote: the folder, and the number of images of each set and split."""

    root: str
    imagenet: dict[str, int]
    ade20k: dict[str, int]
    coco: dict[str, int]

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"demo data in {self.root}"]
        for name, counts in (("imagenet", self.imagenet), ("ADEChallengeData2016", self.ade20k), ("coco", self.coco)):
            lines.append(f"  {name}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain types, for JSON."""
        return asdict(self)


class _Digits(NamedTuple):
    """ink: uint8 (N, 8, 8), 0 paper to 255 ink; labels: (N,), 0 to 9."""

    ink: np.ndarray
    labels: np.ndarray


class _Instance(NamedTuple):
    """A digit of a scene; mask: bool (H, W), where it is visible."""

    label: int
    mask: np.ndarray


class _Scene(NamedTuple):
    """image: RGB; classes: uint8 (H, W) class map in ADE20K's numbering; instances: from back to front."""

    image: Image.Image
    classes: np.ndarray
    instances: list[_Instance]


def write_demo(
    root: Path | str,
    *,
    seed: int = 0,
    segmentation_scenes: int = 4000,
    train_scenes: int = 400,
    val_scenes: int = 50,
    scene_size: tuple[int, int] = (128, 160),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DemoSummary:
    """Write the demo data; the same seed and sizes give the same bytes.

    Everything is written beside `root` first and moved there when complete: an interrupted call leaves `root` alone.

    Args:
        root: folder to create; it may exist if it is empty.
        seed: of the split and of all scenes; not negative.
        segmentation_scenes: training scenes in the ADE20K set; more than in the other, for boxes teach more than maps.
        train_scenes: training scenes in the COCO set.
        val_scenes: validation scenes, of each.
        scene_size: height and width of a scene in pixels, at least 64.
        overwrite: replace demo data that `root` holds already; a folder that holds anything else is refused even so.
        progress: called with (files done, files in all, what is being written).

    Raises:
        ValueError: `root` is not empty or is a file, or a size is out of range.
        ImportError: scikit-learn is not installed.
    """
    if min(segmentation_scenes, train_scenes, val_scenes) < 1:
        raise ValueError(
            f"segmentation_scenes={segmentation_scenes}, train_scenes={train_scenes}, val_scenes={val_scenes}: "
            "expected 1 or more of each"
        )
    if min(scene_size) < 64:
        raise ValueError(f"scene_size={scene_size}: expected height and width of 64 pixels or more")
    if seed < 0:
        raise ValueError(f"seed={seed}: expected 0 or more")
    target = Path(root).resolve()
    _check_target(target, overwrite)
    splits = dict(zip(("train", "val"), _split_digits(_load_digits(), seed), strict=True))

    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        work.chmod(0o755)  # mkdtemp's 0700 would stay with the data
        total = sum(len(digits.labels) for digits in splits.values())
        total += segmentation_scenes + train_scenes + 2 * val_scenes
        report = _Counter(total, progress)
        names = ("train", "val")
        ade = {
            name: _scenes(splits[name], count, scene_size, entropy=(seed, _ADE, i))
            for i, (name, count) in enumerate(zip(names, (segmentation_scenes, val_scenes), strict=True))
        }
        coco = {
            name: _scenes(splits[name], count, scene_size, entropy=(seed, _COCO, i))
            for i, (name, count) in enumerate(zip(names, (train_scenes, val_scenes), strict=True))
        }
        summary = DemoSummary(
            root=str(root),
            imagenet={name: _write_imagenet(work / "imagenet" / name, splits[name], report) for name in names},
            ade20k={
                "training": _write_ade(work / "ADEChallengeData2016", "training", ade["train"], report),
                "validation": _write_ade(work / "ADEChallengeData2016", "validation", ade["val"], report),
            },
            coco={
                "train2017": _write_coco(work / "coco", "train2017", coco["train"], 1, report),
                "val2017": _write_coco(work / "coco", "val2017", coco["val"], 1 + train_scenes, report),
            },
        )
        (work / _README).write_text(_README_TEXT, encoding="utf-8", newline="\n")
        _move(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return summary


def demo_photos() -> dict[str, Image.Image]:
    """The two photographs that come with scikit-learn, RGB, 640 x 427: a Chinese temple and a flower.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    photos = load_sample_images()
    return {
        Path(name).stem: Image.fromarray(pixels) for name, pixels in zip(photos.filenames, photos.images, strict=True)
    }


def demo_samples() -> dict[str, Image.Image]:
    """Two held-out digits, gray, 32 x 32, and two held-out scenes, RGB, 160 x 128: some of what `write_demo` writes.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    _, held_out = _split_digits(_load_digits(), seed=0)
    digits = [_digit_image(held_out.ink[number]) for number in (0, len(held_out.labels) // 2)]
    # The first scenes of the validation split; some of them are empty.
    drawn = _scenes(held_out, 10, (128, 160), entropy=(0, _ADE, 1))
    scenes = [scene.image for scene in drawn if len(scene.instances) > 2][:2]
    return {
        f"{name} {number}": image
        for name, images in (("digit", digits), ("scene", scenes))
        for number, image in enumerate(images, start=1)
    }


class _Counter:
    """Counts files and passes the count on."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, what: str) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, what)


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file; choose a folder for the demo data")
    found = sorted(entry.name for entry in target.iterdir())
    foreign = [name for name in found if name not in _PARTS]
    names = ", ".join((foreign or found)[:5])
    if foreign:
        raise ValueError(
            f"{target} is not empty and holds more than demo data ({names}); choose an empty or new folder"
        )
    if found and not overwrite:
        raise ValueError(
            f"{target} holds demo data already ({names}); use overwrite=True to replace it, or choose another folder"
        )


def _move(work: Path, target: Path) -> None:
    """Put the finished folder in its place; what was there goes only after that."""
    old = work.with_name(work.name + ".old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(work, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _load_digits() -> _Digits:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    bunch = load_digits()
    ink = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # the values are 0 to 16
    return _Digits(ink, bunch.target.astype(np.int64))


def _split_digits(digits: _Digits, seed: int) -> tuple[_Digits, _Digits]:
    """Training digits and the held-out fifth, each class in the same proportion."""
    generator = np.random.default_rng((seed, _SPLIT))
    train, val = [], []
    for label in range(10):
        members = generator.permutation(np.flatnonzero(digits.labels == label))
        held_out = round(len(members) / 5)
        val.append(np.sort(members[:held_out]))
        train.append(np.sort(members[held_out:]))
    first, second = np.concatenate(train), np.concatenate(val)
    return _Digits(digits.ink[first], digits.labels[first]), _Digits(digits.ink[second], digits.labels[second])


def _write_imagenet(folder: Path, digits: _Digits, report: _Counter) -> int:
    for label in range(10):
        (folder / f"digit_{label}").mkdir(parents=True)
    for number, (ink, label) in enumerate(zip(digits.ink, digits.labels.tolist(), strict=True)):
        _digit_image(ink).save(folder / f"digit_{label}" / f"{number:04d}.png")
        report("imagenet")
    return len(digits.labels)


def _digit_image(ink: np.ndarray) -> Image.Image:
    return Image.fromarray(ink).resize((_DIGIT_SIZE, _DIGIT_SIZE), Image.Resampling.BICUBIC)


def _write_ade(folder: Path, split: str, scenes: Iterator[_Scene], report: _Counter) -> int:
    images, annotations = folder / "images" / split, folder / "annotations" / split
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(ADE_CLASSES) + "\n", encoding="utf-8")
    prefix = "ADE_train" if split == "training" else "ADE_val"
    number = 0
    for number, scene in enumerate(scenes, start=1):
        stem = f"{prefix}_{number:08d}"
        scene.image.save(images / f"{stem}.jpg", quality=92)
        Image.fromarray(scene.classes).save(annotations / f"{stem}.png")
        report("ADEChallengeData2016")
    return number


def _write_coco(folder: Path, split: str, scenes: Iterator[_Scene], first_id: int, report: _Counter) -> int:
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=first_id):
        file_name = f"{image_id:012d}.jpg"
        scene.image.save(folder / split / file_name, quality=92)
        width, height = scene.image.size
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for number, instance in enumerate(scene.instances, start=1):
            annotations.append(
                {
                    "id": image_id * 100 + number,
                    "image_id": image_id,
                    "category_id": instance.label + 1,
                    "bbox": _box(instance.mask),
                    "area": int(instance.mask.sum()),
                    "segmentation": {"size": [height, width], "counts": _run_lengths(instance.mask)},
                    "iscrowd": 0,
                }
            )
        report("coco")
    content = {
        "info": {"description": "a2mamba demo scenes of handwritten digits", "version": "1.0"},
        "licenses": [],
        "categories": [{"id": digit + 1, "name": f"digit_{digit}", "supercategory": "digit"} for digit in range(10)],
        "images": images,
        "annotations": annotations,
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return len(images)


def _box(mask: np.ndarray) -> list[int]:
    """COCO's box of a mask with at least one pixel: left, top, width, height."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE: lengths of runs of 0 and 1 in turn, down the columns, beginning with 0."""
    pixels = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    return np.diff([0, *edges, pixels.size]).tolist()


def _scenes(digits: _Digits, count: int, size: tuple[int, int], *, entropy: tuple[int, ...]) -> Iterator[_Scene]:
    """Scenes that depend on nothing but the digits, the size and the entropy."""
    generator = np.random.default_rng(entropy)
    empty = set(generator.permutation(count)[: round(_EMPTY_SHARE * count)].tolist())
    for number in range(count):
        yield _scene(digits, size, generator, with_digits=number not in empty)


def _scene(digits: _Digits, size: tuple[int, int], generator: np.random.Generator, *, with_digits: bool) -> _Scene:
    ground = _ground(size, generator)
    # Half of all scenes are cluttered, so that strokes say nothing about whether there are digits.
    strokes = int(generator.integers(5, 11)) if generator.random() < 0.5 else int(generator.integers(0, 3))
    pixels = np.asarray(_draw_strokes(ground, strokes, generator), dtype=np.float64)

    classes = np.full(size, ADE_BACKGROUND, dtype=np.uint8)
    owner = np.full(size, -1)  # index of the digit that is visible at a pixel
    labels: list[int] = []
    areas: list[int] = []
    colors: list[np.ndarray] = []
    wanted = int(generator.integers(1, 7)) if with_digits else 0
    for _ in range(wanted * 5):  # some places are refused
        if len(labels) == wanted:
            break
        choice = int(generator.integers(len(digits.labels)))
        opacity, area = _place(digits.ink[choice], size, generator)
        covered = opacity >= _INK
        visible = np.array([np.count_nonzero((owner == i) & ~covered) for i in range(len(areas))])
        if np.count_nonzero(covered) < _MIN_VISIBLE * area or np.any(visible < _MIN_VISIBLE * np.array(areas)):
            continue
        color = _contrasting(pixels[covered].mean(axis=0), colors, generator)
        pixels += opacity[..., None] * (color - pixels)
        classes[opacity >= _TRACE] = ADE_UNLABELLED
        classes[covered] = ADE_FIRST_DIGIT + digits.labels[choice]
        owner[covered] = len(labels)
        labels.append(int(digits.labels[choice]))
        areas.append(area)
        colors.append(color)
    pixels += generator.normal(0.0, 4.0, pixels.shape)  # grain over everything, ink included
    image = Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
    return _Scene(image, classes, [_Instance(label, owner == i) for i, label in enumerate(labels)])


def _ground(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """A surface whose color changes slowly from place to place."""
    height, width = size
    patches = generator.uniform(20, 235, 3) + generator.normal(0.0, 18.0, (4, 5, 3))
    coarse = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def _draw_strokes(ground: Image.Image, count: int, generator: np.random.Generator) -> Image.Image:
    """Lines, arcs and dots that belong to no digit; thinner than a digit's strokes."""
    draw = ImageDraw.Draw(ground)
    width, height = ground.size
    for _ in range(count):
        color = tuple(generator.integers(0, 256, 3).tolist())
        x, y = generator.uniform(0, width), generator.uniform(0, height)
        reach, thickness = generator.uniform(12, 60), int(generator.integers(1, 4))
        kind = generator.integers(3)
        if kind == 0:
            angle = generator.uniform(0, 2 * np.pi)
            draw.line((x, y, x + reach * np.cos(angle), y + reach * np.sin(angle)), fill=color, width=thickness)
        elif kind == 1:
            start = generator.uniform(0, 360)
            box = (x, y, x + reach, y + reach * generator.uniform(0.4, 1.0))
            draw.arc(box, start, start + generator.uniform(40, 160), fill=color, width=thickness)
        else:
            radius = generator.uniform(1, 5)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return ground.filter(ImageFilter.GaussianBlur(0.6))


def _place(ink: np.ndarray, size: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """A digit, scaled and turned, somewhere in a scene: opacity float64 (H, W), and its whole area in pixels."""
    height, width = size
    extent = int(generator.integers(36, 65))
    angle = generator.uniform(-25, 25)  # little enough that a 6 is no 9
    # A margin of paper keeps the strokes that touch the border of the 8 x 8 image in one piece.
    image = Image.fromarray(np.pad(ink, 2)).resize((extent * 12 // 8,) * 2, Image.Resampling.BICUBIC)
    turned = np.asarray(image.rotate(angle, Image.Resampling.BICUBIC), dtype=np.float64) / 255
    rows, columns = np.flatnonzero((turned > 0.2).any(axis=1)), np.flatnonzero((turned > 0.2).any(axis=0))
    digit = turned[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # The upscaled image is blurred: steeper edges give a line of ink instead.
    digit = np.clip((digit - 0.25) / 0.45, 0, 1)
    digit = digit * digit * (3 - 2 * digit)

    high, wide = digit.shape
    top = int(generator.integers(-high // 6, max(height - high + high // 6, 0) + 1))
    left = int(generator.integers(-wide // 6, max(width - wide + wide // 6, 0) + 1))
    opacity = np.zeros(size)
    inside = digit[max(-top, 0) : height - top, max(-left, 0) : width - left]
    top, left = max(top, 0), max(left, 0)
    opacity[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return opacity, int(np.count_nonzero(digit >= _INK))


def _contrasting(ground: np.ndarray, others: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """A color that stands out in brightness from the ground, and differs from the digits that are there."""
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        color = generator.uniform(0, 255, 3)
        if abs((color - ground) @ weights) < _MIN_CONTRAST:
            continue
        if all(np.abs(color - other).max() > 40 for other in others):
            return color


_README_TEXT = """Demo data of a2mamba, written by `a2mamba data demo`.

The digits are those of scikit-learn's load_digits: the test part of "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0.

imagenet/               one digit an image, 32 x 32, in ImageNet's layout
ADEChallengeData2016/   scenes; class maps hold 0 unlabeled, 1 background, 2 + d digit d
coco/                   scenes; category d + 1 is digit d
"""
