"""Images to try a page with, made of what scikit-learn brings: no file of ours, no download."""

from __future__ import annotations

from pathlib import Path

from a2mamba.data import demo_photos, demo_samples
from a2mamba.visualize import write_png


def write_examples(folder: Path) -> list[Path]:
    """Write two photographs, two digits and two scenes of digits into a folder; return the files.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    images = {**demo_photos(), **demo_samples()}
    files = []
    for name, image in images.items():
        file = folder / f"{name}.png"
        write_png(image, file)
        files.append(file)
    return files
