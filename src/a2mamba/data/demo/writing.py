"""Writing the whole of the demo data, or none of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a2mamba.data.demo.digits import demo_digits, split_digits
from a2mamba.data.demo.layouts import Counter, Progress, write_ade, write_coco, write_imagenet
from a2mamba.data.demo.scenes import ADE, COCO, draw_scenes

_README = "README.txt"
_PARTS = ("imagenet", "ADEChallengeData2016", "coco", _README)


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
    splits = dict(zip(("train", "val"), split_digits(demo_digits(), seed), strict=True))

    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        work.chmod(0o755)  # mkdtemp's 0700 would stay with the data
        total = sum(len(digits.labels) for digits in splits.values())
        total += segmentation_scenes + train_scenes + 2 * val_scenes
        report = Counter(total, progress)
        names = ("train", "val")
        ade = {
            name: draw_scenes(splits[name], count, scene_size, entropy=(seed, ADE, i))
            for i, (name, count) in enumerate(zip(names, (segmentation_scenes, val_scenes), strict=True))
        }
        coco = {
            name: draw_scenes(splits[name], count, scene_size, entropy=(seed, COCO, i))
            for i, (name, count) in enumerate(zip(names, (train_scenes, val_scenes), strict=True))
        }
        summary = DemoSummary(
            root=str(root),
            imagenet={name: write_imagenet(work / "imagenet" / name, splits[name], report) for name in names},
            ade20k={
                "training": write_ade(work / "ADEChallengeData2016", "training", ade["train"], report),
                "validation": write_ade(work / "ADEChallengeData2016", "validation", ade["val"], report),
            },
            coco={
                "train2017": write_coco(work / "coco", "train2017", coco["train"], 1, report),
                "val2017": write_coco(work / "coco", "val2017", coco["val"], 1 + train_scenes, report),
            },
        )
        (work / _README).write_text(_README_TEXT, encoding="utf-8", newline="\n")
        _move(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return summary


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


_README_TEXT = """Demo data of a2mamba, written by `a2mamba data demo`.

The digits are those of scikit-learn's load_digits: the test part of "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0.

imagenet/               one digit an image, 32 x 32, in ImageNet's layout
ADEChallengeData2016/   scenes; class maps hold 0 unlabeled, 1 background, 2 + d digit d
coco/                   scenes; category d + 1 is digit d
"""
