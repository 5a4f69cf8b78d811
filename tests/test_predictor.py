"""`a2mamba.load(file).predict(images)`, for every kind of file, image and task."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import a2mamba
from a2mamba.data import load_image, write_demo
from a2mamba.engine import Hook, Trainer
from a2mamba.predictor import Predictions, Predictor, UnreadableImagesError, find_images, load, sources
from a2mamba.predictor.loading import class_names
from a2mamba.recipes import RECIPES, read_checkpoint, train
from a2mamba.tasks import (
    TASKS,
    ClassificationPrediction,
    ClassificationRun,
    DetectionPrediction,
    SegmentationPrediction,
    task_of,
    task_of_network,
)
from a2mamba.tasks.classification import class_scores

RECIPE = {"classification": "digits", "segmentation": "scenes", "detection": "objects"}
SPLIT = {"classification": "imagenet", "segmentation": "ADEChallengeData2016", "detection": "coco"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data, a few scenes of it."""
    root = tmp_path_factory.mktemp("predictor") / "demo"
    write_demo(root, segmentation_scenes=8, train_scenes=16, val_scenes=2)
    return root


class Stop(Hook):
    """Ends a run after its first step: what was learnt does not matter here."""

    def after_step(self, trainer: Trainer) -> None:
        trainer.request_stop("enough")


@pytest.fixture(scope="module")
def files(demo: Path) -> dict[str, Path]:
    """A training checkpoint of each task."""
    found = {}
    for task, name in RECIPE.items():
        run: Any = RECIPES[name]()
        run = task_of(run).debug(run)
        run = replace(run, data=replace(run.data, root=str(demo / SPLIT[task])))
        train(run, demo / f"run-{task}", recipe=name, device="cpu", quiet=True, hooks=[Stop()])
        found[task] = demo / f"run-{task}" / "checkpoints" / "last.pt"
    return found


@pytest.fixture(scope="module")
def photos(demo: Path) -> list[Path]:
    """Three photographs of different sizes."""
    source = sorted((demo / "coco" / "val2017").iterdir())[0]
    folder = demo / "photos" / "below"
    folder.mkdir(parents=True)
    paths = [folder.parent / "a.png", folder.parent / "b.jpg", folder / "a.png"]
    for path, size in zip(paths, ((160, 128), (100, 140), (64, 64)), strict=True):
        with Image.open(source) as image:
            image.convert("RGB").resize(size).save(path)
    (folder / "notes.txt").write_text("no image")
    return paths


every_task = pytest.mark.parametrize("task", RECIPE)


@every_task
def test_one_line_from_file_to_files(task: str, files: dict[str, Path], photos: list[Path], tmp_path: Path) -> None:
    predictor = a2mamba.load(files[task])
    assert isinstance(predictor, Predictor)
    assert predictor.task == task
    assert not predictor.model.training
    stored = read_checkpoint(files[task]).trained
    assert stored is not None
    assert predictor.classes == stored.classes
    assert (len(predictor.palette) == len(predictor.classes)) is (task != "classification")
    predictions = predictor.predict(photos)
    kinds = {
        "classification": ClassificationPrediction,
        "segmentation": SegmentationPrediction,
        "detection": DetectionPrediction,
    }
    assert [type(prediction) for prediction in predictions] == [kinds[task]] * 3
    index = predictions.save(tmp_path / "out")
    content = json.loads(index.read_text())
    assert content["model"] == predictor.run.model.name
    assert content["weights"].startswith("loaded")
    assert [entry["image"] for entry in content["predictions"]] == [str(photo) for photo in photos]
    drawings = {name for entry in content["predictions"] for key, name in entry.items() if str(name).endswith(".png")}
    drawings -= {str(photo) for photo in photos}
    assert drawings == {path.name for path in (tmp_path / "out").glob("*.png")}
    assert len(drawings) == 3 * len(predictions[0].suffixes), "equal stems stay apart"
    without_files = [{k: v for k, v in e.items() if k not in predictions[0].suffixes} for e in content["predictions"]]
    assert json.loads(json.dumps(predictions.to_dict()["predictions"])) == without_files
    for each in (predictions[0], predictions):
        assert (each._repr_png_() or b"").startswith(b"\x89PNG")


@every_task
def test_every_form_of_an_image_is_the_same_image(task: str, files: dict[str, Path], photos: list[Path]) -> None:
    predictor = load(files[task], min_score=0.0) if task == "detection" else load(files[task])
    with Image.open(photos[0]) as opened:
        image = opened.convert("RGB")
    forms: list[Any] = [photos[0], str(photos[0]), image, np.asarray(image), pil_to_tensor(image)]
    found = [predictor.predict(form).to_dict()["predictions"] for form in forms]
    assert [len(entries) for entries in found] == [1] * 5
    contents = [{key: value for key, value in entries[0].items() if key != "image"} for entries in found]
    assert all(content == contents[0] for content in contents)
    assert [entry["image"] for entry in predictor.predict(forms[2:]).to_dict()["predictions"]] == [
        "image-0",
        "image-1",
        "image-2",
    ]
    batch = np.stack([np.asarray(image)] * 2)
    assert len(predictor.predict(batch)) == 2


def test_what_a_machine_left_in_a_folder_is_no_image(photos: list[Path], tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", "__MACOSX/a.png", "more/b.png", ".cache/b.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photos[0].read_bytes())
    assert find_images(tmp_path) == [tmp_path / "a.png", tmp_path / "more" / "b.png"]


def test_folders_and_globs(files: dict[str, Path], photos: list[Path]) -> None:
    root = photos[0].parent
    assert find_images(root) == [photos[0], photos[1], photos[2]]
    assert find_images(f"{root}/**/a.*") == [photos[0], photos[2]]
    predictor = load(files["classification"])
    names = [each.source.name for each in predictor.predict([root, photos[1], f"{root}/*.jpg"])]
    assert names == [str(path) for path in (*photos, photos[1], photos[1])]
    for nothing, text in ((f"{root}/*.gif", "no file matches"), (root.parent / "run-detection", "has no images")):
        with pytest.raises(ValueError, match=text):
            predictor.predict(nothing)
    with pytest.raises(ValueError, match="no images to look at"):
        predictor.predict([])


def test_probabilities_are_those_of_evaluation(files: dict[str, Path], demo: Path) -> None:
    """One image at a time, or all in a batch: the model's own softmax of the evaluation transform."""
    images = sorted((demo / "imagenet" / "val" / "digit_3").iterdir())[:5]
    predictor = load(files["classification"], top=2)
    assert isinstance(predictor.run, ClassificationRun)
    expected = class_scores(predictor.model, torch.stack([load_image(path, predictor.run.data) for path in images]))
    for size in (1, 2, 5, 99):
        found = predictor.predict(images, batch_size=size)
        probabilities = torch.stack(
            [each.probabilities for each in found if isinstance(each, ClassificationPrediction)]
        )
        assert torch.allclose(probabilities, expected, atol=1e-6)
        assert all(len(entry["top"]) == 2 for entry in found.to_dict()["predictions"])


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_larger_batch_changes_nothing(task: str, files: dict[str, Path], photos: list[Path]) -> None:
    predictor = load(files[task], min_score=0.0) if task == "detection" else load(files[task])
    several = [*photos, photos[1]]
    alone, together = (predictor.predict(several, batch_size=size).to_dict() for size in (1, 4))
    assert alone == together


def test_masks_are_those_of_the_detector(files: dict[str, Path], photos: list[Path]) -> None:
    predictor = load(files["detection"], min_score=0.0)
    (found,) = predictor.predict(photos[0])
    assert isinstance(found, DetectionPrediction)
    with torch.no_grad():
        (expected,) = predictor.model([predictor.transform(found.source.image)])
    assert len(found.labels) > 0
    assert torch.equal(found.boxes, expected["boxes"])
    assert found.masks is not None
    assert torch.equal(found.masks, expected["masks"][:, 0] >= 0.5)
    assert load(files["detection"], min_score=1.0).predict(photos[0]).to_dict()["predictions"][0]["objects"] == []


def test_images_are_let_go_of_after_their_batch(
    files: dict[str, Path], photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many images: at most a batch of them is there, and predictions that are kept do not hold theirs."""
    alive: list[weakref.ref[Image.Image]] = []
    decode = sources.decode_image

    def watched(path: Path, **options: Any) -> Image.Image:
        image = decode(path, **options)
        alive.append(weakref.ref(image))
        return image

    monkeypatch.setattr(sources, "decode_image", watched)
    predictor = load(files["classification"])
    kept, most = [], 0
    for prediction in predictor.stream(photos * 4, batch_size=3):
        kept.append(prediction)
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(kept) == len(alive) == 12
    assert most == 3
    assert not any(reference() for reference in alive)
    assert kept[0].drawing().width > 500, "the pixels are read again where they are needed"


def test_an_image_that_cannot_be_read_costs_no_other(
    files: dict[str, Path], photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    several: list[str | Path] = [photos[0], tmp_path / "text.png", photos[1], tmp_path / "absent.png", photos[2]]
    predictor = load(files["classification"])
    with pytest.raises(
        UnreadableImagesError, match=r"2 of 5 images cannot be decoded: .*text\.png.*absent\.png"
    ) as error:
        predictor.predict(several, batch_size=2)
    assert error.value.predictions is not None
    assert [each.source.number for each in error.value.predictions] == [0, 2, 4]
    assert len(error.value.failures) == 2
    stream = predictor.stream(several[:2])
    assert next(stream).source.name == str(photos[0]), "results come before the error"
    with pytest.raises(UnreadableImagesError, match=r"cannot decode image .*text\.png"):
        next(stream)


# ------------------------------------------------------------------------------------------------------------- sources


def test_weights_alone_need_a_name(tmp_path: Path, photos: list[Path]) -> None:
    makers: dict[str, Any] = {
        "a2mamba_test": partial(a2mamba.create_model, "a2mamba_test", num_classes=3),
        "segman_v2_test": partial(a2mamba.create_segmenter, "segman_v2_test", num_classes=3),
        "mask_rcnn_a2mamba_test": partial(a2mamba.create_detector, "mask_rcnn_a2mamba_test", num_classes=3),
    }
    assert {task_of_network(name).name for name in makers} == set(TASKS)
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n\n", encoding="utf-8")
    for name, make in makers.items():
        path = tmp_path / f"{name}.pth"
        torch.save(make().state_dict(), path)
        with pytest.raises(ValueError, match=r"does not say which network it holds"):
            load(path)
        assert load(path, name=name).classes == ["class 0", "class 1", "class 2"]
        named = load(path, name=name, classes=tmp_path / "names.txt")
        assert named.classes == ["cat", "dog", "owl"]
        assert isinstance(named.predict(photos[0]), Predictions)
        with pytest.raises(ValueError, match="classes= names 2 classes, the model has 3"):
            load(path, name=name, classes=["cat", "dog"])


def test_released_layouts_are_counted_too(tmp_path: Path) -> None:
    for name, model in (
        ("a2mamba_test", a2mamba.create_model("a2mamba_test", num_classes=7)),
        ("segman_tiny", a2mamba.create_segmenter("segman_tiny", num_classes=7)),
    ):
        torch.save(a2mamba.to_released(model), tmp_path / "released.pth")
        predictor = load(tmp_path / "released.pth", name=name)
        assert len(predictor.classes) == 7
        assert "released layout" in predictor.report


def test_what_cannot_be_loaded_says_why(files: dict[str, Path], demo: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder; give a checkpoint file"):
        load(demo)
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match="holds a2mamba_test, not a2mamba_nano"):
        load(files["classification"], name="a2mamba_nano")
    assert load(files["classification"], name="a2mamba_test").task == "classification"
    with pytest.raises(ValueError, match="no weights of segman_v2_nano are known to be released"):
        load("segman_v2_nano")
    torch.save(a2mamba.create_model("a2mamba_test", num_classes=0).state_dict(), tmp_path / "headless.pth")
    with pytest.raises(ValueError, match="has no classifier"):
        load(tmp_path / "headless.pth", name="a2mamba_test")


def test_options_of_another_task_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="option top is for classification; this is segmentation"):
        load(files["segmentation"], top=3)
    with pytest.raises(ValueError, match="option min_score is for detection"):
        load(files["classification"], min_score=0.5)
    with pytest.raises(ValueError, match="option test_mode is for segmentation"):
        load(files["detection"], test_mode="image")
    with pytest.raises(ValueError, match="unknown test mode"):
        load(files["segmentation"], test_mode="imge").predict(Image.new("RGB", (32, 32)))


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3)), torch.rand(3, 8, 8), np.zeros((0, 8, 3), np.uint8), Image.new("F", (8, 8))]
)
def test_pixels_of_another_kind_are_refused(image: Any, files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"expected (uint8|8 bits)"):
        load(files["classification"]).predict(image)


def test_the_file_is_read_once(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []
    original = torch.load

    def counted(*arguments: Any, **options: Any) -> Any:
        reads.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "load", counted)
    load(files["classification"])
    assert len(reads) == 1


def test_class_names_as_any_editor_saves_them(tmp_path: Path) -> None:
    """A byte order mark is no part of the first name; what is checked is the reader that `data` has."""
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog \r\n\r\n")
    assert class_names(tmp_path / "names.txt", ["class 0", "class 1"]) == ["cat", "dog"]
