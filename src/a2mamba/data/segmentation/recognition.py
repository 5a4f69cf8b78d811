"""Whether a folder holds images with a class for each pixel: a published data set's arrangement, or one's own."""

from __future__ import annotations

from pathlib import Path

from a2mamba.data.names import some
from a2mamba.data.recognized import Recognized
from a2mamba.data.segmentation.config import SegmentationData
from a2mamba.data.segmentation.datasets import SEGMENTATION_DATASETS
from a2mamba.data.segmentation.files import SegmentationLayout
from a2mamba.data.segmentation.folders import find_folders, half_splits
from a2mamba.data.segmentation.loaders import refuse_unlearnable
from a2mamba.data.segmentation.source import find_convention, scan_segmentation
from a2mamba.data.splits import HOLDOUT, trained_on
from a2mamba.data.walk import files_below


def recognize_published(root: Path, name: str) -> Recognized | None:
    """A published data set, or one in its arrangement."""
    layout = SEGMENTATION_DATASETS[name].layout
    there = [split for split in (layout.train_split, layout.val_split) if split and layout.has(root, split)]
    if not any(files_below(layout.folders(root, split)[1], layout.label_extensions) for split in there):
        return None  # the folders hold annotations of another kind
    return _recognized(root, name, f"the layout of {name}", layout)


def recognize_folder(root: Path) -> Recognized | None:
    """Images and masks of one's own."""
    layout = find_folders(root)
    if layout is None or not layout.folders(root, layout.train_split)[0].is_dir():
        return None
    images, labels = (path.replace("{split}", layout.train_split) for path in (layout.images, layout.labels))
    title = f"images with masks beside them (*{layout.label_ending})" if images == labels else f"{images} and {labels}"
    found = _recognized(root, "folder", title, layout)
    if layout.images == "JPEGImages" and any((root / "Annotations").glob("*.xml")):
        found.notes.append("the boxes in Annotations are not looked at; --layout voc reads them instead")
    return found


def _recognized(root: Path, name: str, title: str, layout: SegmentationLayout) -> Recognized:
    """Look into the label files.

    Raises:
        ValueError: nothing can be learned from them, or what they mean cannot be found out.
    """
    train = layout.train_split
    val = layout.val_split if layout.val_split is not None and layout.has(root, layout.val_split) else None
    holdout = 0.0 if val is not None else HOLDOUT
    images = _images(root, name, train) if layout.has(root, train) else set()
    data = SegmentationData(root=str(root), layout=name, train_split=train, val_split=val, holdout=holdout)
    convention = find_convention(data)
    refuse_unlearnable(root, convention)
    counts = {train: len(images)}
    if val is not None:
        held_out = _images(root, name, val)
        counts[val] = len(held_out)
    notes = [convention.note] if convention.note else []
    if val is not None and images & held_out:
        notes.append(trained_on(len(images & held_out), counts[val], val, train))
    notes += [f"only {folder} of its split exists" for folder in half_splits(root, layout)]
    if name == "ade20k" and not convention.note and convention.label_map.num_classes < 150:
        notes.append(f"as in ADE20K, label 0 is ignored and 1 is {convention.classes[0]!r}")
    if convention.seen is not None and len(convention.seen) < len(convention.classes):
        unseen = [label for index, label in enumerate(convention.classes) if index not in convention.seen]
        notes.append(f"{len(unseen)} classes were not seen in the training masks that were looked into: {some(unseen)}")
    return Recognized(
        task="segmentation",
        layout=name,
        title=title,
        root=root,
        counts=counts,
        classes=convention.classes,
        fields={"root": str(root), "layout": name, "train_split": train, "val_split": val, "holdout": holdout},
        holdout=holdout,
        notes=notes,
    )


def _images(root: Path, name: str, split: str) -> set[str]:
    """The images with label files in a split, where its folder really is.

    Raises:
        ValueError: there are both, and none of them fit by name.
    """
    files = scan_segmentation(root, name, split)
    if not files.pairs and files.images_alone and files.labels_alone:
        raise ValueError(
            f"no image in {files.images} has a mask of its name in {files.labels}: {some(files.images_alone, 2)}; "
            f"{some(files.labels_alone, 2)}; give both the same name, or end the mask's in _mask"
        )
    folder = str(files.images.resolve())
    return {folder + pair.image.removeprefix(str(files.images)) for pair in files.pairs}
