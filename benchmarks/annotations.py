"""Time and memory of recognizing, reading and checking a large set of annotations, generated here.

    python benchmarks/annotations.py --layout coco --images 100000 --objects 10

Each step runs in a process of its own, whose peak memory is its own; some 700 MB of it are PyTorch. Images are noise of
48 x 64 pixels: what is measured is the annotations and, in the last step, decoding small images.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
CLASSES = 80
STEPS = ("recognize", "read", "read without masks", "check")


def generate(root: Path, layout: str, images: int, objects: int) -> None:
    """Write images and annotations of one training split."""
    draw = np.random.default_rng(0)
    folder = root / "images" / "train"
    folder.mkdir(parents=True)
    for number in range(images):
        pixels = draw.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg")
    x, y = draw.uniform(0, WIDTH - 20, (2, images, objects))
    w, h = draw.uniform(4, 20, (2, images, objects))
    labels = draw.integers(0, CLASSES, (images, objects))
    write = {"coco": _write_coco, "yolo": _write_yolo}[layout]
    rings = np.stack((x, y, x + w, y, x + w, y + h, x + w / 2, y + h * 0.9, x, y + h), axis=2)
    write(root, rings, labels)


def _write_coco(root: Path, rings: np.ndarray, labels: np.ndarray) -> None:
    file = root / "annotations" / "instances_train.json"
    file.parent.mkdir()
    images, objects, _ = rings.shape
    with file.open("w") as out:
        listed = [{"id": n + 1, "file_name": f"{n:06d}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(images)]
        categories = [{"id": n + 1, "name": f"class {n}"} for n in range(CLASSES)]
        out.write(f'{{"images": {json.dumps(listed)}, "categories": {json.dumps(categories)}, "annotations": [')
        for image in range(images):
            for place in range(objects):
                ring = np.round(rings[image, place], 2).tolist()
                x, y, w, h = ring[0], ring[1], ring[2] - ring[0], ring[9] - ring[1]
                entry = {
                    "id": image * objects + place + 1,
                    "image_id": image + 1,
                    "category_id": int(labels[image, place]) + 1,
                    "bbox": [x, y, round(w, 2), round(h, 2)],
                    "area": round(w * h, 2),
                    "iscrowd": 0,
                    "segmentation": [ring],
                }
                out.write((", " if image or place else "") + json.dumps(entry))
        out.write("]}")


def _write_yolo(root: Path, rings: np.ndarray, labels: np.ndarray) -> None:
    folder = root / "labels" / "train"
    folder.mkdir(parents=True)
    relative = rings / np.tile((WIDTH, HEIGHT), rings.shape[2] // 2)
    for image in range(len(rings)):
        lines = [
            " ".join([str(label), *(f"{value:.5f}" for value in ring)])
            for label, ring in zip(labels[image].tolist(), relative[image].tolist(), strict=True)
        ]
        (folder / f"{image:06d}.txt").write_text("\n".join(lines) + "\n")
    names = "\n".join(f"  {number}: class {number}" for number in range(CLASSES))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/train\nnames:\n{names}\n")


def run(step: str, root: Path) -> str:
    """One step; returns what it found."""
    from a2mamba.data import DetectionData, check_dataset, read_detection_split, recognize

    if step == "check":
        report = check_dataset(root)
        return f"{len(report.problems)} problems"
    found = recognize(root)
    if step == "recognize":
        return found.sentence()
    annotations = read_detection_split(found.place(DetectionData(root="")), "train", masks=step == "read")
    return f"{len(annotations.image_ids):,} images, {len(annotations.boxes):,} objects"


def measure(step: str, root: Path) -> None:
    """Print time and memory of a step in this process, without importing."""
    import a2mamba.data  # noqa: F401 - what it takes is measured apart

    started, cpu = time.perf_counter(), time.process_time()
    text = run(step, root)
    wall, used = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {step} | {wall:.1f} | {used:.1f} | {peak:,.0f} | {text} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layout", choices=("coco", "yolo"), default="coco")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--objects", type=int, default=10, help="in each image")
    parser.add_argument("--steps", nargs="*", default=STEPS, choices=STEPS)
    parser.add_argument("--root", type=Path, help="a set that was generated before")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step is not None:
        measure(arguments.step, arguments.root)
        return

    def steps(root: Path) -> None:
        print("| step | seconds | CPU seconds | peak MB | found |\n|---|--:|--:|--:|---|", flush=True)
        for step in arguments.steps:
            command = [sys.executable, __file__, "--step", step, "--root", str(root)]
            subprocess.run(command, check=True)

    _with_root(arguments, steps)


def _with_root(arguments: argparse.Namespace, use: Callable[[Path], None]) -> None:
    if arguments.root is not None:
        use(arguments.root)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        generate(root, arguments.layout, arguments.images, arguments.objects)
        use(root)


if __name__ == "__main__":
    main()
