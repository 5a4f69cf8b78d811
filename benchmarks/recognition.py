"""How long it takes to recognize a large folder: class folders with many generated images.

    python benchmarks/recognition.py --images 100000 [--classes 100] [--check] [--dir DIR]

All images are hard links to a few small files: recognizing looks at names, checking (`--check`) decodes every one.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from a2mamba.data import check_dataset, recognize

DIFFERENT = 64


def write(root: Path, images: int, classes: int) -> None:
    """Class folders of a training and a validation split, a tenth of the images in the latter."""
    sources = []
    for number in range(DIFFERENT):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        sources.append(root / f".source{number}.jpg")
        Image.fromarray(pixels).save(sources[-1])
    for number in range(images):
        split = "val" if number % 10 == 0 else "train"
        folder = root / split / f"class_{(number // 10) % classes:04d}"
        if number < 10 * classes * 2:
            folder.mkdir(parents=True, exist_ok=True)
        # Each split has sources of its own, so that none lies in both.
        half = DIFFERENT // 2
        os.link(sources[number % half + (half if split == "val" else 0)], folder / f"{number:07d}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="decode all images, too")
    parser.add_argument("--dir", type=Path, help="where to make the folder (default: the system's)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as place:
        root = Path(place)
        write(root, arguments.images, arguments.classes)
        start = time.perf_counter()
        found = recognize(root)
        print(f"recognized in {time.perf_counter() - start:.2f} s: {found.sentence()}")
        if arguments.check:
            start = time.perf_counter()
            report = check_dataset(root)
            seconds = time.perf_counter() - start
            print(f"checked in {seconds:.1f} s, {arguments.images / seconds:.0f} images/s; {report.problems}")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
