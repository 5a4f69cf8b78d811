"""A few images of the demo data, without writing it, and the photographs that come with its digits."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from a2mamba.data.demo.digits import demo_digits, digit_image, sklearn_datasets, split_digits
from a2mamba.data.demo.scenes import ADE, draw_scenes


def demo_photos() -> dict[str, Image.Image]:
    """The two photographs that come with scikit-learn, RGB, 640 x 427: a Chinese temple and a flower.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    photos = sklearn_datasets().load_sample_images()
    return {
        Path(name).stem: Image.fromarray(pixels) for name, pixels in zip(photos.filenames, photos.images, strict=True)
    }


def demo_samples() -> dict[str, Image.Image]:
    """Two held-out digits, gray, 32 x 32, and two held-out scenes, RGB, 160 x 128: some of what `write_demo` writes.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    _, held_out = split_digits(demo_digits(), seed=0)
    digits = [digit_image(held_out.ink[number]) for number in (0, len(held_out.labels) // 2)]
    # The first scenes of the validation split; some of them are empty.
    drawn = draw_scenes(held_out, 10, (128, 160), entropy=(0, ADE, 1))
    scenes = [scene.image for scene in drawn if len(scene.instances) > 2][:2]
    return {
        f"{name} {number}": image
        for name, images in (("digit", digits), ("scene", scenes))
        for number, image in enumerate(images, start=1)
    }
