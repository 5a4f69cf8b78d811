"""How long it takes to recognize a large folder: class folders, YOLO's text files or COCO's JSON, generated.

    python benchmarks/recognition.py --images 100000 [--layout yolo] [--classes 100] [--check] [--dir DIR]

All images are hard links to a few small files: recognizing looks at names, checking (`--check`) decodes every one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from a2mamba.data import check_dataset, recognize

DIFFERENT = 64
OBJECTS = 10  # on each image


def write_sources(root: Path) -> list[Path]:
    """A few small files that all images are links to."""
    sources = []
    for number in range(DIFFERENT):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        sources.append(root / f".source{number}.jpg")
        Image.fromarray(pixels).save(sources[-1])
    return sources


def boxes(number: int, classes: int) -> list[tuple[int, float, float, float, float]]:
    """Objects of an image: class, and x y w h in shares of it."""
    draw = np.random.default_rng(number)
    labels, places, sizes = draw.integers(0, classes, OBJECTS), draw.random((OBJECTS, 2)) / 2, draw.random((OBJECTS, 2))
    return [(int(k), x, y, 0.1 + w / 3, 0.1 + h / 3) for k, (x, y), (w, h) in zip(labels, places, sizes, strict=True)]


def write_yolo(root: Path, images: int, classes: int) -> None:
    """Ultralytics' arrangement, a tenth of the images in the validation split."""
    sources = write_sources(root)
    for number in range(images):
        split = "val" if number % 10 == 0 else "train"
        for kind in ("images", "labels") if number < 10 else ():
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        os.link(sources[number % DIFFERENT], root / "images" / split / f"{number:07d}.jpg")
        lines = [f"{k} {x + w / 2:.6f} {y + h / 2:.6f} {w:.6f} {h:.6f}\n" for k, x, y, w, h in boxes(number, classes)]
        (root / "labels" / split / f"{number:07d}.txt").write_text("".join(lines))
    names = [f"class_{number}" for number in range(classes)]
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")


def write_coco(root: Path, images: int, classes: int) -> None:
    """annotations/instances_{train,val}.json and a folder of images for each."""
    sources = write_sources(root)
    categories = [{"id": number + 1, "name": f"class_{number}"} for number in range(classes)]
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / split).mkdir()
        entries: list[dict[str, Any]] = []
        listed: list[dict[str, Any]] = []
        for number in range(images):
            if (number % 10 == 0) != (split == "val"):
                continue
            os.link(sources[number % DIFFERENT], root / split / f"{number:07d}.jpg")
            listed.append({"id": number, "file_name": f"{number:07d}.jpg", "height": 64, "width": 64})
            for k, *shares in boxes(number, classes):
                box = [round(64 * share, 2) for share in shares]
                entries.append({"id": len(entries), "image_id": number, "category_id": k + 1, "bbox": box})
        content = {"images": listed, "annotations": entries, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def write_class_folders(root: Path, images: int, classes: int) -> None:
    """Class folders of a training and a validation split, a tenth of the images in the latter."""
    sources = write_sources(root)
    for number in range(images):
        split = "val" if number % 10 == 0 else "train"
        folder = root / split / f"class_{(number // 10) % classes:04d}"
        if number < 10 * classes * 2:
            folder.mkdir(parents=True, exist_ok=True)
        # Each split has sources of its own, so that none lies in both.
        half = DIFFERENT // 2
        os.link(sources[number % half + (half if split == "val" else 0)], folder / f"{number:07d}.jpg")


WRITERS = {"class_folders": write_class_folders, "yolo": write_yolo, "coco": write_coco}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--layout", choices=WRITERS, default="class_folders")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="decode all images, too")
    parser.add_argument("--dir", type=Path, help="where to make the folder (default: the system's)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as place:
        root = Path(place)
        WRITERS[arguments.layout](root, arguments.images, arguments.classes)
        start, started = time.perf_counter(), time.process_time()
        found = recognize(root)
        used = time.process_time() - started
        print(f"recognized in {time.perf_counter() - start:.2f} s, {used:.2f} s of a core: {found.sentence()}")
        if arguments.check:
            start = time.perf_counter()
            report = check_dataset(root)
            seconds = time.perf_counter() - start
            print(f"checked in {seconds:.1f} s, {arguments.images / seconds:.0f} images/s; {report.problems}")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
