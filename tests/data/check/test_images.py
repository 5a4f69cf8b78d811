"""Images that lie in two splits: as the same bytes, or as the same scene in another size, format or quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from a2mamba.data import check, check_dataset
from a2mamba.data.check.images import Seen, difference_hash, inspect_image

from ..folders import class_folders
from ..helpers import write_image


def scene(seed: int) -> Image.Image:
    """Something smooth, as photos are: noise would not survive another size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))


def seen(*places: tuple[str, Path]) -> Seen:
    found = Seen()
    for split, file in places:
        found.add(split, str(file), inspect_image(str(file)))
    return found


@pytest.mark.parametrize("change", ["size", "quality", "format", "brightness"])
def test_near_duplicates_are_found(change: str, tmp_path: Path) -> None:
    original, other = tmp_path / "a.png", tmp_path / f"b.{'jpg' if change in ('quality', 'format') else 'png'}"
    scene(0).save(original)
    changed = {
        "size": lambda: scene(0).resize((96, 72)),
        "quality": lambda: scene(0),
        "format": lambda: scene(0),
        "brightness": lambda: scene(0).point(lambda value: min(255, value + 2)),
    }[change]()
    changed.save(other, quality=60)  # without effect on PNG
    found = seen(("train", original), ("val", other))
    assert found.near_duplicates() == [(str(original), str(other))]
    assert found.duplicates() == []
    assert seen(("train", original), ("train", other)).near_duplicates() == []


def test_different_images_are_none(tmp_path: Path) -> None:
    places = []
    for number in range(60):
        scene(number).save(tmp_path / f"{number}.png")
        places.append(("val" if number % 3 == 0 else "train", tmp_path / f"{number}.png"))
    assert seen(*places).near_duplicates() == []


def test_flat_images_of_different_shades_are_none(tmp_path: Path) -> None:
    """Their hashes are equal, and say nothing."""
    places = []
    for shade in range(0, 250, 10):
        Image.new("L", (20, 20), shade).save(tmp_path / f"{shade}.png")
        places.append(("val" if shade % 20 else "train", tmp_path / f"{shade}.png"))
    assert len({difference_hash(Image.open(file)) for _, file in places}) == 1
    assert seen(*places).near_duplicates() == []


def test_what_was_not_compared_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, "train", "val")
    for number in range(6):  # alike, by their hashes
        Image.new("L", (20, 20), 40 * number).save(tmp_path / ("val" if number % 2 else "train") / f"dog/f{number}.png")
    assert check_dataset(tmp_path).notes[1:] == []
    with monkeypatch.context() as patched:
        patched.setattr(check.images, "_MOST_CANDIDATES", 5)
        said = check_dataset(tmp_path).notes[1]
        assert said.startswith(
            "near-duplicates were looked for among 5 pairs of images that look alike; there are more"
        )
    monkeypatch.setattr(check.images, "_LARGEST_GROUP", 1)
    for number in range(4):
        pixels = np.zeros((8, 9), dtype=np.uint8)
        pixels[0, number] = 200
        Image.fromarray(pixels).save(tmp_path / "train" / "dog" / f"g{number}.png")
    said = check_dataset(tmp_path).notes[-1]
    assert said.endswith("were not compared with each other for near-duplicates: flat images, as a rule")


def test_the_checker_reports_both_kinds(tmp_path: Path) -> None:
    class_folders(tmp_path, "train", "val")
    scene(1).save(tmp_path / "train" / "cat" / "scene.png")
    scene(1).save(tmp_path / "val" / "cat" / "again.png")
    scene(2).save(tmp_path / "train" / "dog" / "other.png")
    scene(2).save(tmp_path / "val" / "dog" / "small.jpg", quality=70)
    identical, near = check_dataset(tmp_path).problems
    assert identical.startswith("1 images lie in more than one split")
    assert near.startswith("1 images look like one of another split (near-duplicates): ")
    assert str(tmp_path / "val" / "dog" / "small.jpg") in near


def test_what_fits_only_after_turning_is_named(tmp_path: Path) -> None:
    """A photo that its camera stored sideways, with a mask of the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        image = write_image(tmp_path / "images" / "train" / f"{number}.jpg", seed=number, size=(20, 30))
        mask = tmp_path / "masks" / "train" / f"{number}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        if number == 2:
            Image.open(image).save(image, exif=exif)
        Image.fromarray((np.arange(600).reshape(20, 30) % 2).astype(np.uint8)).save(mask)
    (problem,) = check_dataset(tmp_path).problems
    assert "1 label files that do not fit" in problem
    assert "EXIF orientation" in problem
