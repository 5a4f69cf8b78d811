"""Scenes of the embedded data, written in each layout that people bring."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np

from a2mamba.data import read_annotations

_PARITY = ("even", "odd")


class Thing(NamedTuple):
    """An object: its class and its outline [x0, y0, x1, y1, ...] in pixels."""

    name: str
    ring: list[float]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0 y0 x1 y1."""
        x, y = self.ring[::2], self.ring[1::2]
        return min(x), min(y), max(x), max(y)


class Scene(NamedTuple):
    """An image and its objects."""

    file: Path
    height: int
    width: int
    things: list[Thing]


Scenes = dict[str, list[Scene]]


def demo_scenes(demo: Path, *, most: int = 1000) -> Scenes:
    """The scenes of digits by split, "train" and "val"; each outline is the hull of its mask's rows."""
    scenes: Scenes = {}
    for split in ("train", "val"):
        found = read_annotations(demo / "coco" / "annotations" / f"instances_{split}2017.json")
        scenes[split] = []
        for image, name in enumerate(found.file_names[:most]):
            things = [
                Thing(found.categories[found.labels[row] - 1].name, outline(found.mask(row)))
                for row in found.objects(image).tolist()
            ]
            height, width = found.image_sizes[image].tolist()
            scenes[split].append(Scene(demo / "coco" / f"{split}2017" / name, height, width, things))
    return scenes


def odd_and_even(scenes: Scenes) -> Scenes:
    """The same scenes with two classes, which a few images show, and without those that show nothing."""
    return {
        split: [
            scene._replace(things=[thing._replace(name=_PARITY[int(thing.name[-1]) % 2]) for thing in scene.things])
            for scene in some
            if scene.things
        ]
        for split, some in scenes.items()
    }


def outline(mask: np.ndarray) -> list[float]:
    """Down the right ends of a mask's rows and up the left ones."""
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask.argmax(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    ring: list[float] = []
    for row in range(rows[0], rows[-1] + 1):
        ring += [last[row], row, last[row], row + 1]
    for row in range(rows[-1], rows[0] - 1, -1):
        ring += [first[row], row + 1, first[row], row]
    return [float(value) for value in ring]


def coco_content(scenes: list[Scene], *, boxes_only: bool = False) -> dict[str, Any]:
    """COCO's JSON of one split."""
    names = sorted({thing.name for scene in scenes for thing in scene.things})
    images: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes, start=1):
        images.append({"id": number, "file_name": scene.file.name, "height": scene.height, "width": scene.width})
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box
            entry: dict[str, Any] = {
                "id": len(entries) + 1,
                "image_id": number,
                "category_id": names.index(thing.name) + 1,
            }
            entry |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            entry["segmentation"] = [] if boxes_only else [thing.ring]
            entries.append(entry)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": entries, "categories": categories}


def _copy(scenes: list[Scene], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        shutil.copy(scene.file, folder)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _coco(root: Path, scenes: Scenes) -> None:
    for split, some in scenes.items():
        _copy(some, root / "images" / split)
        _write(root / "annotations" / f"instances_{split}.json", json.dumps(coco_content(some)))


def _coco_by_split(root: Path, scenes: Scenes) -> None:
    for split, some in scenes.items():
        _copy(some, root / split)
        _write(root / "annotations" / f"instances_{split}.json", json.dumps(coco_content(some)))


def _coco_in_one(root: Path, scenes: Scenes) -> None:
    """One file for all, the images in folders that it does not name; boxes alone."""
    for split, some in scenes.items():
        _copy(some, root / "images" / split)
    content = coco_content([scene for some in scenes.values() for scene in some], boxes_only=True)
    _write(root / "annotations.json", json.dumps(content))


def _roboflow(root: Path, scenes: Scenes) -> None:
    for split, some in zip(("train", "valid"), scenes.values(), strict=True):
        _copy(some, root / split)
        _write(root / split / "_annotations.coco.json", json.dumps(coco_content(some, boxes_only=True)))


def yolo_lines(scene: Scene, names: list[str], *, polygons: bool) -> str:
    """The text file of one image."""
    lines = []
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        box = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        sides = (scene.width, scene.height)
        numbers = [value / sides[place % 2] for place, value in enumerate(thing.ring if polygons else box)]
        lines.append(" ".join([str(names.index(thing.name)), *(f"{number:.6f}" for number in numbers)]))
    return "\n".join(lines) + "\n"


def all_names(scenes: Scenes) -> list[str]:
    """Every class of all splits."""
    return sorted({thing.name for some in scenes.values() for scene in some for thing in scene.things})


def _labels(folder: Path, some: list[Scene], names: list[str], *, polygons: bool) -> None:
    for scene in some:
        _write(folder / f"{scene.file.stem}.txt", yolo_lines(scene, names, polygons=polygons))


def _ultralytics(root: Path, scenes: Scenes, *, polygons: bool = True) -> None:
    names = all_names(scenes)
    for split, some in scenes.items():
        _copy(some, root / "images" / split)
        _labels(root / "labels" / split, some, names, polygons=polygons)
    listed = "\n".join(f"  {number}: '{name}'" for number, name in enumerate(names))
    _write(root / "data.yaml", f"path: ../datasets/digits\ntrain: images/train\nval: images/val\nnames:\n{listed}\n")


def _yolo_lists(root: Path, scenes: Scenes) -> None:
    """Two folders to train on, and a text file of the images to evaluate on."""
    names = all_names(scenes)
    half = len(scenes["train"]) // 2
    parts = {"a": scenes["train"][:half], "b": scenes["train"][half:], "c": scenes["val"]}
    for name, some in parts.items():
        _copy(some, root / name / "images")
        _labels(root / name / "labels", some, names, polygons=True)
    _write(root / "val.txt", "".join(f"./c/images/{scene.file.name}\n" for scene in scenes["val"]))
    _write(root / "data.yaml", f"train:\n- a/images\n- b/images\nval: val.txt\nnames: {names}\n")


def _yolo_roboflow(root: Path, scenes: Scenes, *, polygons: bool = False) -> None:
    names = all_names(scenes)
    for split, some in zip(("train", "valid"), scenes.values(), strict=True):
        _copy(some, root / split / "images")
        _labels(root / split / "labels", some, names, polygons=polygons)
    text = f"train: ../train/images\nval: ../valid/images\n\nnc: {len(names)}\nnames: {names}\n"
    _write(root / "data.yaml", text)


def _darknet(root: Path, scenes: Scenes) -> None:
    names = all_names(scenes)
    for some in scenes.values():
        _copy(some, root)
        _labels(root, some, names, polygons=False)
    _write(root / "classes.txt", "".join(f"{name}\n" for name in names))


def voc_xml(scene: Scene) -> str:
    """The XML file of one image."""
    objects = ""
    for thing in scene.things:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), thing.box, strict=True)
        box = "".join(f"<{name}>{value:.0f}</{name}>" for name, value in corners)
        objects += f"<object><name>{thing.name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
    size = f"<size><width>{scene.width}</width><height>{scene.height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{scene.file.name}</filename>{size}{objects}</annotation>"


def _voc(root: Path, scenes: Scenes) -> None:
    for split, some in scenes.items():
        _copy(some, root / "JPEGImages")
        for scene in some:
            _write(root / "Annotations" / f"{scene.file.stem}.xml", voc_xml(scene))
        _write(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{scene.file.stem}\n" for scene in some))


def _voc_roboflow(root: Path, scenes: Scenes) -> None:
    for split, some in zip(("train", "valid"), scenes.values(), strict=True):
        _copy(some, root / split)
        for scene in some:
            _write(root / split / f"{scene.file.stem}.xml", voc_xml(scene))


def _voc_flat(root: Path, scenes: Scenes) -> None:
    for some in scenes.values():
        _copy(some, root / "images")
        for scene in some:
            _write(root / "annotations" / f"{scene.file.stem}.xml", voc_xml(scene))


def labelme_content(scene: Scene) -> dict[str, Any]:
    """The JSON of one image."""
    shapes = [
        {
            "label": thing.name,
            "points": np.array(thing.ring).reshape(-1, 2).tolist(),
            "shape_type": "polygon",
            "group_id": None,
        }
        for thing in scene.things
    ]
    sizes = {"imageHeight": scene.height, "imageWidth": scene.width}
    return {"version": "5.5.0", "shapes": shapes, "imagePath": scene.file.name, "imageData": None, **sizes}


def _labelme(root: Path, scenes: Scenes) -> None:
    for split, some in scenes.items():
        _copy(some, root / split)
        for scene in some:
            _write(root / split / f"{scene.file.stem}.json", json.dumps(labelme_content(scene)))


def _labelme_flat(root: Path, scenes: Scenes) -> None:
    for some in scenes.values():
        _copy(some, root / "images")
        for scene in some:
            _write(root / "annotations" / f"{scene.file.stem}.json", json.dumps(labelme_content(scene)))


def cvat_xml(scenes: list[Scene], subsets: list[str] | None = None) -> str:
    """The XML of one export; subsets: that of each image."""
    names = sorted({thing.name for scene in scenes for thing in scene.things})
    labels = "".join(f"<label><name>{name}</name></label>" for name in names)
    images = ""
    for number, scene in enumerate(scenes):
        subset = "" if subsets is None else f" subset={quoteattr(subsets[number])}"
        size = f"width='{scene.width}' height='{scene.height}'"
        images += f"<image id='{number}' name={quoteattr(scene.file.name)}{subset} {size}>"
        for thing in scene.things:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in np.array(thing.ring).reshape(-1, 2))
            images += f"<polygon label={quoteattr(thing.name)} occluded='0' points='{points}' z_order='0'></polygon>"
        images += "</image>"
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    return f"<?xml version='1.0' encoding='utf-8'?><annotations><version>1.1</version>{meta}{images}</annotations>"


def _cvat(root: Path, scenes: Scenes) -> None:
    for split, some in scenes.items():
        _copy(some, root / split / "images")
        _write(root / split / "annotations.xml", cvat_xml(some))


def _cvat_flat(root: Path, scenes: Scenes) -> None:
    everything = [scene for some in scenes.values() for scene in some]
    _copy(everything, root / "images")
    _write(root / "annotations.xml", cvat_xml(everything))


def _cvat_subsets(root: Path, scenes: Scenes) -> None:
    """One export of a project, whose tasks have subsets."""
    everything = [scene for some in scenes.values() for scene in some]
    subsets = [name for name, some in zip(("Train", "Validation"), scenes.values(), strict=True) for _ in some]
    for scene, subset in zip(everything, subsets, strict=True):
        _copy([scene], root / "images" / subset)
    _write(root / "annotations.xml", cvat_xml(everything, subsets))


class Written(NamedTuple):
    """How a layout is written, what recognizes it, whether it carries masks, and whether a part has to be held out."""

    write: Callable[[Path, Scenes], None]
    reader: str
    masks: bool
    one_split: bool = False


LAYOUTS = {
    "coco": Written(_coco, "coco", True),
    "coco_by_split": Written(_coco_by_split, "coco", True),
    "coco_in_one": Written(_coco_in_one, "coco", False, one_split=True),
    "coco_roboflow": Written(_roboflow, "coco", False),
    "yolo_ultralytics": Written(_ultralytics, "yolo", True),
    "yolo_ultralytics_boxes": Written(partial(_ultralytics, polygons=False), "yolo", False),
    "yolo_lists": Written(_yolo_lists, "yolo", True),
    "yolo_roboflow": Written(_yolo_roboflow, "yolo", False),
    "yolo_roboflow_polygons": Written(partial(_yolo_roboflow, polygons=True), "yolo", True),
    "darknet": Written(_darknet, "yolo", False, one_split=True),
    "voc": Written(_voc, "voc", False),
    "voc_roboflow": Written(_voc_roboflow, "voc", False),
    "voc_flat": Written(_voc_flat, "voc", False, one_split=True),
    "labelme": Written(_labelme, "labelme", True),
    "labelme_flat": Written(_labelme_flat, "labelme", True, one_split=True),
    "cvat": Written(_cvat, "cvat", True),
    "cvat_flat": Written(_cvat_flat, "cvat", True, one_split=True),
    "cvat_subsets": Written(_cvat_subsets, "cvat", True),
}
