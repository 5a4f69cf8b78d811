"""Writing label files that hold class indices beside those of Cityscapes and COCO-Stuff.

Loading converts the original files just as well; converted ones save that work, and other programs expect them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from a2mamba.data.segmentation.datasets import SEGMENTATION_DATASETS
from a2mamba.data.segmentation.labels import LabelMap
from a2mamba.data.walk import files_below
from a2mamba.files import replace_file

Progress = Callable[[int, int, str], None]

_BLOCK = 64


@dataclass(frozen=True)
class ConversionSummary:
    """What `convert_labels` did: files written, and files that were there already."""

    root: str
    layout: str
    written: int
    kept: int

    def summary(self) -> str:
        """One line for a person."""
        return f"{self.root}: {self.written} label files written, {self.kept} were there already"

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain types, for JSON."""
        return asdict(self)


def convert_labels(
    root: Path | str, layout: str, *, overwrite: bool = False, progress: Progress | None = None
) -> ConversionSummary:
    """Write *_labelTrainIds.png, with class indices and 255, beside every label file of all splits.

    Each file appears under its name when it is complete; an interrupted call can be repeated and goes on where it was.

    Args:
        root: the data set's folder.
        layout: "cityscapes" or "coco_stuff".
        overwrite: write files that are there already once more.
        progress: called with (files done, files in all, folder) now and then.

    Raises:
        ValueError: another layout, no label files, or one of them holds something else than the data set's labels.
    """
    known = [name for name, dataset in SEGMENTATION_DATASETS.items() if dataset.layout.converted_ending is not None]
    if layout not in known:
        raise ValueError(f"layout {layout!r} needs no conversion: expected one of {', '.join(known)}")
    dataset = SEGMENTATION_DATASETS[layout]
    shape = dataset.layout
    folder = Path(root) / Path(shape.labels).parent  # above the splits
    if not folder.is_dir():
        raise ValueError(f"data folder {folder} does not exist; check the path and the layout")
    assert shape.converted_ending is not None
    jobs: list[tuple[Path, Path]] = []
    for name in files_below(folder, (".png",)):
        stem = name.removesuffix(Path(name).suffix)
        if stem.endswith(shape.label_ending) and not stem.endswith(shape.converted_ending):
            target = stem.removesuffix(shape.label_ending) + shape.converted_ending + ".png"
            jobs.append((folder / name, folder / target))
    if not jobs:
        raise ValueError(f"{folder} holds no label files (*{shape.label_ending}.png); check the path and the layout")
    due = jobs if overwrite else [job for job in jobs if not job[1].exists()]
    convert = partial(_convert, label_map=dataset.label_map(len(dataset.classes)))
    # Reading, looking up and compressing release the interpreter's lock. Blocks keep an interruption prompt.
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(due), _BLOCK):
            block = due[start : start + _BLOCK]
            list(pool.map(convert, block))
            if progress is not None:
                progress(start + len(block), len(due), str(folder))
    return ConversionSummary(str(root), layout, len(due), len(jobs) - len(due))


def _convert(job: tuple[Path, Path], label_map: LabelMap) -> None:
    source, target = job
    image = Image.fromarray(label_map.read(source))
    replace_file(target, partial(image.save, format="PNG"))
