"""Segmentation and detection recipes: documents, round trips, rules for parameters, and their debug forms trained."""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba import recipes
from a2mamba.data import segmentation_classes, write_demo
from a2mamba.engine import Trainer
from a2mamba.recipes import RECIPES, detection, document, read_checkpoint, segmentation
from a2mamba.recipes.overrides import apply_overrides, from_json, to_json
from a2mamba.tasks import TASKS, Task

SEGMENTATION, DETECTION = segmentation.RECIPES, detection.RECIPES
every_recipe = pytest.mark.parametrize("name", [*SEGMENTATION, *DETECTION])


pytestmark = pytest.mark.usefixtures("one_thread")


def task_of(name: str) -> Task[Any, Any]:
    return TASKS["segmentation" if name in SEGMENTATION else "detection"]


def test_recipes_were_found() -> None:
    assert {"scenes", "scenes_upernet", "upernet_small_ade20k", "upernet_large_paper_ade20k"} <= SEGMENTATION.keys()
    sizes = {"v2": ("nano", "tiny", "small", "base", "large"), "": ("tiny", "small", "base", "large")}
    for version, names in sizes.items():
        for size in names:
            for dataset in ("ade20k", "cityscapes", "coco_stuff"):
                assert f"segman{'_' if version else ''}{version}_{size}_{dataset}" in SEGMENTATION
    for kind in ("mask_rcnn", "cascade_mask_rcnn"):
        assert {
            f"{kind}_{size}_{s}" for size in ("small", "base", "large_paper") for s in ("1x", "3x")
        } <= DETECTION.keys()
    assert RECIPES.keys() >= SEGMENTATION.keys() | DETECTION.keys()


@every_recipe
def test_a_recipe_is_a_document(name: str) -> None:
    text = document(RECIPES[name])
    title, *lines = text.splitlines()
    assert title.endswith(".")
    for label in ("Source", "Command", "Hardware and time", "Expected"):
        assert any(re.match(rf"{label}: \S", line) for line in lines), label
    commands = re.findall(r"a2mamba train (\S+)", text)
    assert commands
    assert set(commands) <= RECIPES.keys()
    assert text == inspect.getdoc(getattr(RECIPES[name], "func", RECIPES[name]))


@every_recipe
def test_the_resolved_run_survives_json(name: str) -> None:
    for run in (RECIPES[name](), task_of(name).debug(RECIPES[name]())):
        assert from_json(type(run), to_json(run)) == run
    assert RECIPES[name]() == RECIPES[name]()


# ---- what the protocols say


@pytest.mark.parametrize("size", ["nano", "base"])
def test_segformer_protocol(size: str) -> None:
    ade = RECIPES[f"segman_v2_{size}_ade20k"]()
    city = RECIPES[f"segman_v2_{size}_cityscapes"]()
    stuff = RECIPES[f"segman_v2_{size}_coco_stuff"]()
    for run, batch, crop in ((ade, 16, 512), (city, 8, 1024), (stuff, 16, 512)):
        assert (run.data.batch_size, run.data.crop_size) == (batch, (crop, crop))
        assert (run.optimizer.lr, run.optimizer.weight_decay, run.optimizer.clip_grad_norm) == (6e-5, 0.01, None)
        assert (run.schedule.iterations, run.schedule.warmup_iterations, run.schedule.power) == (160_000, 1500, 1.0)
        assert run.decoder_lr_scale == 10
        assert run.average == "all"
    assert (ade.data.resize, city.data.resize) == ((2048, 512), (2048, 1024))
    assert (ade.test.mode, ade.test.box, ade.test.align) == ("whole", (2048, 512), 32)
    assert (city.test.mode, city.test.crop, city.test.stride) == ("slide", 1024, 768)


def test_segman_of_its_published_configurations() -> None:
    assert RECIPES["segman_small_cityscapes"]().model.width == 152
    assert RECIPES["segman_small_ade20k"]().model.width is None
    assert RECIPES["segman_large_cityscapes"]().test.mode == "whole"
    assert RECIPES["segman_base_cityscapes"]().test.mode == "slide"


def test_swin_protocol() -> None:
    run = RECIPES["upernet_small_ade20k"]()
    assert (run.decoder_lr_scale, run.auxiliary_weight, run.test.align) == (1.0, 0.4, None)
    assert (run.optimizer.lr, run.optimizer.weight_decay, run.schedule.iterations) == (6e-5, 0.01, 160_000)


@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_mask_rcnn"])
def test_detection_protocol(kind: str) -> None:
    long, short = RECIPES[f"{kind}_small_3x"](), RECIPES[f"{kind}_small_1x"]()
    assert (long.schedule.epochs, long.schedule.milestones) == (36, (27, 33))
    assert (short.schedule.epochs, short.schedule.milestones) == (12, (8, 11))
    for run in (long, short):
        assert (run.optimizer.lr, run.optimizer.weight_decay, run.data.batch_size) == (1e-4, 0.05, 16)
        assert (run.schedule.warmup_iterations, run.schedule.warmup_factor) == (500, 1e-3)
    assert long.data.min_sizes == tuple(range(480, 801, 32))
    assert (short.data.min_sizes, short.data.crop_probability) == ((800,), 0.0)
    assert len(long.detector.roi.iou_thresholds) == (3 if kind.startswith("cascade") else 1)


def test_parameters_of_the_segformer_protocol() -> None:
    """Decoder: ten times the rate, all of it decayed; the norms before the backbone's branches are not decayed."""
    run = task_of("scenes").debug(RECIPES["segman_v2_nano_ade20k"]())
    model = task_of("scenes").build_model(run, ["a", "b"])
    groups = {group["name"]: group for group in task_of("scenes").build_optimizer(run, model).param_groups}
    assert set(groups) == {"decay", "no_decay", "decay_lr_x10"}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members = {key: {names[id(p)] for p in group["params"]} for key, group in groups.items()}
    assert all(name.startswith("decoder.") for name in members["decay_lr_x10"])
    assert len(members["decay_lr_x10"]) == len(list(model.decoder.parameters()))
    assert members["no_decay"]
    assert all(re.search(r"\.(norm1|norm2|mixer\.norm)\.", name) for name in members["no_decay"])
    assert groups["decay_lr_x10"]["lr_scale"] == 10
    assert groups["no_decay"]["weight_decay"] == 0
    assert groups["decay"]["weight_decay"] == groups["decay_lr_x10"]["weight_decay"] == 0.01


# ---- debug forms


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small sets in every layout: demo scenes, and the same scenes as Cityscapes and COCO-Stuff call them."""
    root = tmp_path_factory.mktemp("scenes")
    write_demo(root / "demo", segmentation_scenes=16, train_scenes=16, val_scenes=4)
    ade = root / "demo" / "ADEChallengeData2016"
    roots = {"ade20k": ade, "coco": root / "demo" / "coco"}
    for layout in ("cityscapes", "coco_stuff"):
        roots[layout] = root / layout
        for split, ours in (("training", "train"), ("validation", "val")):
            for number, image in enumerate(sorted((ade / "images" / split).iterdir())):
                classes = np.asarray(Image.open(ade / "annotations" / split / f"{image.stem}.png"))
                if layout == "cityscapes":
                    stem = f"bonn_000000_{number:06d}"
                    photo = root / layout / "leftImg8bit" / ours / "bonn" / f"{stem}_leftImg8bit.png"
                    label = root / layout / "gtFine" / ours / "bonn" / f"{stem}_gtFine_labelIds.png"
                    values = np.where(classes > 1, 22 + classes, np.where(classes == 1, 7, 0))  # road, person to bus
                else:
                    photo = root / layout / "images" / f"{ours}2017" / f"{number}.jpg"
                    label = root / layout / "annotations" / f"{ours}2017" / f"{number}.png"
                    values = np.where(classes == 0, 255, classes - 1)
                for file in (photo, label):
                    file.parent.mkdir(parents=True, exist_ok=True)
                Image.open(image).save(photo)
                Image.fromarray(values.astype(np.uint8)).save(label)
    return roots


def small(name: str, data: dict[str, Path]) -> Any:
    run = task_of(name).debug(RECIPES[name]())
    root = data["coco"] if name in DETECTION else data[run.data.layout]
    return replace(run, data=replace(run.data, root=str(root)))


def distinct() -> dict[str, list[str]]:
    """The first recipe of every debug form, and all that share it: sizes are one network in their debug forms."""
    forms: dict[str, list[str]] = {}
    for name in [*SEGMENTATION, *DETECTION]:
        text = json.dumps({"task": task_of(name).name, "run": to_json(task_of(name).debug(RECIPES[name]()))})
        forms.setdefault(text, []).append(name)
    return {names[0]: names for names in forms.values()}


FORMS = distinct()

COMBINATIONS = {
    **dict.fromkeys(("segman_tiny_cityscapes", "segman_large_cityscapes"), "segman_v2_nano_cityscapes"),
    "segman_tiny_coco_stuff": "segman_v2_nano_coco_stuff",
    "cascade_mask_rcnn_nano_1x": "mask_rcnn_nano_1x",
}
"""Slow: with a network that is trained on other data, too -> the form that has their data in the default suite."""


def test_every_debug_form_is_trained() -> None:
    assert sorted(name for names in FORMS.values() for name in names) == sorted([*SEGMENTATION, *DETECTION])
    assert len(FORMS) >= 12
    assert FORMS.keys() > COMBINATIONS.keys()
    assert {*FORMS} - {*COMBINATIONS} >= {*COMBINATIONS.values()}


Train = Callable[[str], tuple[Any, Trainer, Path]]


@pytest.fixture(scope="module")
def train(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Train:
    @functools.cache
    def train_once(name: str) -> tuple[Any, Trainer, Path]:
        run, folder = small(name, data), tmp_path_factory.mktemp(name)
        trainer = recipes.train(run, folder, recipe=name, device="cpu", quiet=True)
        return run, trainer, folder

    return train_once


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in COMBINATIONS else n for n in FORMS])
def test_a_debug_form_trains_and_evaluates(name: str, train: Train) -> None:
    run, trainer, folder = train(name)
    assert len(trainer.history) == run.schedule.total_epochs
    row = trainer.history[-1]
    assert math.isfinite(row["loss"])
    wanted = {"miou", "macc", "pixel_accuracy"} if name in SEGMENTATION else {"box_ap", "mask_ap", "box_ap50"}
    assert wanted <= row.keys()
    assert all(0 <= row[key] <= 100 for key in wanted)
    content, trained = read_checkpoint(folder / "checkpoints" / "last.pt")
    assert trained is not None
    assert (trained.run, trained.recipe) == (run, name)
    classes = trained.classes
    if name in SEGMENTATION:
        assert classes == segmentation_classes(run.data)
    else:
        assert classes == [f"digit_{digit}" for digit in range(10)]
    model, report = task_of(name).load_model(run, content, classes, name="last.pt", device="cpu")
    assert not model.training
    assert report.loaded == report.total > 100
    with pytest.raises(ValueError, match=r"last\.pt does not fit"):
        task_of(name).load_model(run, content, [*classes, "more"], name="last.pt", device="cpu")


@pytest.mark.parametrize("name", ["scenes", "objects"])
def test_a_stopped_run_goes_on_exactly(name: str, train: Train, data: dict[str, Path], tmp_path: Path) -> None:
    run, whole, _ = train(name)
    stopped = replace(run, keep_checkpoints=5)
    first = recipes.train(stopped, tmp_path, recipe=name, device="cpu", quiet=True)
    newest = sorted((tmp_path / "checkpoints").glob("checkpoint-*.pt"))
    assert len(newest) == 2
    newest[-1].unlink()
    for link in ("last.pt", "best.pt"):
        (tmp_path / "checkpoints" / link).unlink(missing_ok=True)
    again = recipes.train(stopped, tmp_path, recipe=name, resume="require", device="cpu", quiet=True)
    assert again.epoch == whole.epoch
    for key, value in first.task.model.state_dict().items():
        assert torch.equal(value, again.task.model.state_dict()[key]), key
    for key, value in whole.task.model.state_dict().items():
        assert torch.equal(value, again.task.model.state_dict()[key]), key


def test_classifiers_begin_with_the_shares_of_the_data(data: dict[str, Path]) -> None:
    """Drawn from the run's seed, whatever was drawn before; not where a whole network is given."""
    run = small("scenes", data)
    assert run.class_prior
    weights = []
    for other in (1, 2):
        torch.manual_seed(other)
        model = task_of("scenes").prepare(run, device="cpu").parts.model
        weights.append(model.decoder.classifier.conv.weight)
        shares = model.decoder.classifier.conv.bias.softmax(0)
        assert shares[0] > 0.7  # the ground
        assert shares[1:].max() < 0.1
    assert torch.equal(*weights)
    plain = task_of("scenes").prepare(replace(run, class_prior=False), device="cpu").parts.model
    assert torch.equal(plain.decoder.classifier.conv.bias, torch.zeros(11))


def test_a_classifier_gives_its_backbone(tmp_path: Path, data: dict[str, Path]) -> None:
    from safetensors.torch import save_file

    import a2mamba

    classifier = a2mamba.create_model("a2mamba_test", num_classes=7, img_size=32)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.25)
    save_file({key: value.clone() for key, value in classifier.state_dict().items()}, tmp_path / "c.safetensors")
    for name in ("scenes", "objects"):
        run = apply_overrides(small(name, data), [f"model.backbone_checkpoint={tmp_path / 'c.safetensors'}"])
        model = task_of(name).build_model(run, ["a", "b"])
        found = [value for key, value in model.state_dict().items() if key.startswith("backbone.") and "stem" in key]
        own = [value for key, value in classifier.state_dict().items() if "stem" in key]
        assert len(found) == len(own)
        assert all(torch.equal(a, b) for a, b in zip(found, own, strict=True))


@pytest.mark.parametrize(("name", "wrong"), [("scenes", "segman_v2_nan"), ("objects", "mask_rcnn_a2mamba_nan")])
def test_unknown_networks_are_refused(name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        apply_overrides(RECIPES[name](), [f"model.name={wrong}"])


def test_plain_folders_are_not_needed_for_names() -> None:
    scenes, objects = task_of("scenes"), task_of("objects")
    assert scenes.run_of_network("segman_tiny").test.align == 32
    assert scenes.run_of_network("upernet_a2mamba_tiny").test.align is None
    assert objects.run_of_network("cascade_mask_rcnn_a2mamba_tiny").detector.roi.stages == 3
    with pytest.raises(ValueError, match="unknown"):
        scenes.run_of_network("nothing")
