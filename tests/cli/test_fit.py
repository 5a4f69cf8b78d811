"""`a2mamba fit DIR`: what it recognizes, what it chooses, and that it trains."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from a2mamba.detection import detector_config
from a2mamba.recipes import ClassificationRun
from a2mamba.recipes.fit import Wishes, choose_run, fitting_length
from data.folders import SEGMENTATION, class_folders
from data.helpers import write_image

from .helpers import content, in_process
from .test_every_layout import WORDS


def write(folder: Path, names: tuple[str, ...], count: int, size: tuple[int, int] = (40, 40)) -> None:
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (label * 40, i % 256, 9)).save(folder / name / f"{i}.png")


def test_dry_run_says_what_was_chosen_and_why(digits: Path, workplace: Path) -> None:
    result = in_process("fit", digits, "--model", "a2mamba_test", "--scratch", "--dry-run", "--json", "--device", "cpu")
    assert result.status == 0, result
    assert result.json["recipe"] == "finetune"
    assert result.json["samples"] == 240
    data, model = result.json["config"]["data"], result.json["config"]["model"]
    assert (data["root"], data["train_split"], data["val_split"], data["holdout"]) == (str(digits), "train", "val", 0.0)
    assert (data["image_size"], data["batch_size"]) == (32, 8)
    assert model == model | {"name": "a2mamba_test", "pretrained": False, "checkpoint": None}
    for part in ("recipe finetune", "class folders in train/: 240 train, 60 val images, 10 classes", "random weights"):
        assert part in result.err, part
    assert content(workplace) == {}


def test_it_trains_on_a_plain_folder_of_classes(digits: Path, tmp_path: Path) -> None:
    """No splits: a fifth of each class is held out."""
    shutil.copytree(digits / "train", tmp_path / "photos")
    words = ("--model", "a2mamba_test", "--scratch", "--device", "cpu", "--out", tmp_path / "run", "--json")
    result = in_process("fit", tmp_path / "photos", *words, "--epochs", "2", "data.batch_size=32")
    assert result.status == 0, result
    assert "240 images, 20% of them held out for evaluation" in result.err
    assert result.json["last"]["epoch"] == 2
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["recipe"] == "finetune"
    assert run["config"]["data"]["holdout"] == 0.2
    found = in_process("eval", "finetune", "--checkpoint", tmp_path / "run" / "checkpoints" / "last.pt", "--json").json
    assert found["images"] == 50  # 5 of 24 in each of ten classes
    assert found["top1"] == result.json["last"]["ema_top1"]


@pytest.mark.parametrize(
    ("count", "batch", "epochs"), [(4, 4, 100), (100, 4, 100), (400, 16, 100), (3000, 128, 100), (200_000, 128, 10)]
)
def test_batch_and_epochs_fit_the_number_of_images(count: int, batch: int, epochs: int) -> None:
    assert fitting_length(count) == (batch, epochs)


def chosen(root: Path, wishes: Wishes | None = None, *, device: str = "cpu") -> ClassificationRun:
    run = choose_run(root, wishes, device=device).run
    assert isinstance(run, ClassificationRun)
    return run


def test_too_few_images(tmp_path: Path) -> None:
    write(tmp_path / "train", ("a", "b"), 2)
    in_process("fit", tmp_path, "--scratch").refused("3 training images are too few")
    assert "for fit, 3 training images are too few" in in_process("data", "check", tmp_path).out


def test_nothing_can_be_learned_from_one_class(tmp_path: Path) -> None:
    write(tmp_path / "train", ("a",), 9)
    in_process("fit", tmp_path, "--scratch").refused("nothing can be learned", "1 class (a)")


def test_what_the_choice_depends_on(tmp_path: Path) -> None:
    write(tmp_path / "training", ("a", "b"), 10, size=(300, 260))
    write(tmp_path / "test", ("a", "b"), 2)
    on_cpu, on_gpu = chosen(tmp_path), chosen(tmp_path, device="cuda")
    assert (on_cpu.model.name, on_gpu.model.name) == ("a2mamba_nano", "a2mamba_tiny")
    assert on_cpu.model.pretrained
    data = on_cpu.data
    assert (data.train_split, data.val_split, data.image_size, data.crop_pct) == ("training", "test", 224, 0.9)
    given = chosen(tmp_path, Wishes(checkpoint=Path("w.pth"))).model
    assert (given.checkpoint, given.pretrained) == (Path("w.pth"), False)
    scratch = chosen(tmp_path, Wishes(scratch=True))
    assert scratch.optimizer.lr > on_cpu.optimizer.lr
    # The average reaches over a twentieth of 100 epochs of 5 steps.
    assert on_cpu.ema_decay == pytest.approx(1 - 1 / 25)


@pytest.mark.parametrize(("side", "expected"), [(8, 32), (40, 32), (100, 96), (223, 192), (500, 224)])
def test_the_size_of_the_images(side: int, expected: int, tmp_path: Path) -> None:
    write(tmp_path, ("a", "b"), 4, size=(side, side + 5))
    assert chosen(tmp_path).data.image_size == expected


def test_folders_that_are_not_recognized(digits: Path, tmp_path: Path) -> None:
    in_process("fit", tmp_path / "absent").refused("absent", "does not exist")
    in_process("fit", digits, "--epochs", "0").refused("--epochs 0")
    in_process("fit", digits, "--scratch", "--checkpoint", "x.pth").refused("exclude each other")
    in_process("fit", digits, "--model", "a2mamba_tinny", "--dry-run").refused("did you mean 'a2mamba_tiny'")


@pytest.mark.parametrize(
    ("folder", "recipe"),
    [("ADEChallengeData2016", "segman_v2_nano_ade20k"), ("coco", "mask_rcnn_nano_1x")],
)
def test_scenes_are_recognized(demo_data: Path, folder: str, recipe: str) -> None:
    """The demo's images are 160 x 128: crops and short sides follow them, and nothing is written by --dry-run."""
    result = in_process("fit", demo_data / folder, "--scratch", "--dry-run", "--json", "--epochs", "2")
    assert result.status == 0, result
    shown = result.json
    assert shown["recipe"] == recipe
    data = shown["config"]["data"]
    if folder == "coco":
        assert (data["min_sizes"], data["train_images"], data["val_images"]) == ([128], "train2017", "val2017")
        assert shown["config"]["schedule"]["epochs"] == 2
    else:
        assert (data["crop_size"], data["resize"], data["layout"]) == ([128, 128], [512, 128], "ade20k")
    assert not shown["config"]["model"]["pretrained_backbone"]
    assert shown["seconds_per_step"] > 0
    assert {group["name"] for group in shown["groups"]} >= {"decay", "no_decay"}


def test_ones_own_maps_are_recognized(demo_data: Path, tmp_path: Path) -> None:
    for split, ours in (("training", "train"), ("validation", "val")):
        shutil.copytree(demo_data / "ADEChallengeData2016" / "images" / split, tmp_path / "images" / ours)
        shutil.copytree(demo_data / "ADEChallengeData2016" / "annotations" / split, tmp_path / "masks" / ours)
    choice = choose_run(tmp_path, Wishes(scratch=True, model="segman_v2_tiny"), device="cpu")
    assert choice.recipe == "segman_v2_tiny_ade20k"
    assert choice.run.data.layout == "folder"
    assert choice.run.model.name == "segman_v2_tiny"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("a2mamba_tiny", "segman_v2_tiny"),
        ("segman_encoder_small", "segman_small"),
        ("segman_v2_base", "segman_v2_base"),
        ("segman_large", "segman_large"),
        ("upernet_a2mamba_nano", "upernet_a2mamba_nano"),
    ],
)
def test_any_segmentation_network_can_be_chosen(model: str, expected: str, tmp_path: Path) -> None:
    SEGMENTATION["images/masks"](tmp_path)
    choice = choose_run(tmp_path, Wishes(scratch=True, model=model), device="cpu")
    assert choice.run.model.name == expected
    assert (choice.run.data.layout, choice.run.data.train_split) == ("folder", "train")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("a2mamba_tiny", "mask_rcnn_a2mamba_tiny"),
        ("mask_rcnn_a2mamba_small", "mask_rcnn_a2mamba_small"),
        ("cascade_mask_rcnn_a2mamba_nano", "cascade_mask_rcnn_a2mamba_nano"),
    ],
)
def test_any_detector_can_be_chosen(model: str, expected: str, demo_data: Path) -> None:
    run = choose_run(demo_data / "coco", Wishes(scratch=True, model=model), device="cpu").run
    assert run.model.name == expected
    assert type(run.detector) is type(detector_config(expected))


def test_networks_of_another_task_and_typos_are_one_line(demo_data: Path, digits: Path) -> None:
    coco = demo_data / "coco"
    in_process("fit", coco, "--model", "segman_v2_tiny").refused("segman_v2_tiny is not for detection")
    in_process("fit", coco, "--model", "mask_rcnn_a2mamba_tinny").refused("did you mean 'mask_rcnn_a2mamba_tiny'")
    in_process("fit", coco, "--model", "segman_encoder_tiny").refused("not for detection")
    in_process("fit", digits, "--model", "segman_v2_tiny").refused("not for classification")


def test_a_folder_that_is_none_is_explained_in_lines(tmp_path: Path) -> None:
    (tmp_path / "my data").mkdir()
    for command in (("fit",), ("data", "check")):
        result = in_process(*command, tmp_path / "my data")
        assert (result.status, result.out) == (2, "")
        first, *others = result.err.splitlines()
        assert first == f"a2mamba {' '.join(command)}: {tmp_path / 'my data'} is no data set that is known here"
        assert 1 <= len(others) <= 4
        assert f"'{tmp_path / 'my data'}'" in result.err, "a path with a blank is quoted in a command"


def test_a_layout_can_be_given(digits: Path) -> None:
    in_process("fit", digits, "--layout", "clas_folders").refused("did you mean 'class_folders'?")
    assert in_process("data", "check", digits, "--layout", "class_folders").status == 0
    assert in_process("data", "check", digits, "--layout", "csv").status == 2


def test_a_damaged_validation_image_costs_no_epoch(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "d")
    damaged = next((tmp_path / "d" / "val" / "digit_3").iterdir())
    damaged.write_bytes(b"")
    result = in_process("fit", tmp_path / "d", "--scratch", "--model", "a2mamba_test", "--out", tmp_path / "run")
    assert result.status == 2
    assert f"1 of 60 images to evaluate on cannot be used: {damaged} (the file is empty)" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_a_damaged_training_image_is_named_wherever_one_looks(
    task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On the console, in the summary and in the epoch's row: the run goes on with its neighbor."""
    root, out = tmp_path / "d", tmp_path / "run"
    if task == "classification":
        class_folders(root, "train", "val")
        damaged = root / "train" / "cat" / "3.png"
    elif task == "segmentation":
        SEGMENTATION["images/masks"](root)
        damaged = root / "images" / "train" / "3.jpg"
    else:
        pytest.importorskip("faster_coco_eval")
        yolo(root)
        damaged = root / "images" / "train" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:99])
    words = [word.replace("schedule.iterations=2", "schedule.iterations=4") for word in WORDS[task]]  # see every image
    words = [word.replace("schedule.interval=2", "schedule.interval=4") for word in words]
    quiet = ("--scratch", "--device", "cpu", "--quiet", "--json", "data.workers=0", "max_undecodable=0.5")
    result = in_process("fit", root, *words, "data.batch_size=2", *quiet, "--out", out)
    assert result.status == 0, result
    assert "training images cannot be decoded and were replaced; new in this epoch: " in caplog.text
    assert f"{damaged} (" in caplog.text
    assert result.json["last"]["undecodable_images"] == 1
    assert str(damaged) in (out / "summary.html").read_text(encoding="utf-8")
    assert list(json.loads((out / "quarantine.json").read_text())["quarantined"]) == [str(damaged)]


def yolo(root: Path) -> None:
    """Images of noise with a box each, of two classes."""
    for split, count in (("train", 8), ("val", 2)):
        for number in range(count):
            write_image(root / "images" / split / f"{number}.png", seed=100 * count + number, size=(64, 64))
            text = root / "labels" / split / f"{number}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"{number % 2} 0.5 0.5 0.5 0.4\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", "train", "val")
    quiet = ("--device", "cpu", "--quiet", "--json", "data.workers=0", "--out", tmp_path / "run")
    words = ("fit", tmp_path / "photos", "--scratch", "--model", "a2mamba_test", *quiet)
    result = in_process(*words, "--epochs", "9", "patience=2")
    assert result.status == 0, result
    last, best = result.json["last"]["epoch"], result.json["best"]["epoch"]
    assert last == best + 2 < 9
    assert f"ended after {last:.0f} of 9 epochs: " in result.err
    assert f"that of epoch {best}, in 2 epochs (patience 2)" in result.err


def test_a_longer_run_begins_with_the_best_checkpoint(tmp_path: Path) -> None:
    class_folders(tmp_path / "my photos", "train", "val")
    quiet = ("--device", "cpu", "--quiet", "data.workers=0")
    folders = (tmp_path / "my photos", "--out", tmp_path / "run")
    words = ("fit", *folders, "--scratch", "--model", "a2mamba_test", *quiet)
    assert in_process(*words, "--epochs", "1").status == 0
    result = in_process(*words, "--epochs", "3", "--resume")
    result.refused("is a run of 1 epochs", "a schedule of 3")
    command = result.err[result.err.index("a2mamba fit '") :]
    recipe, *arguments = shlex.split(command)
    assert (recipe, arguments[0]) == ("a2mamba", "fit")
    longer = in_process(*arguments, *quiet)
    assert longer.status == 0, longer
    assert "begins with" in longer.err
    assert "a2mamba_test: the network of" in longer.err


@pytest.mark.parametrize("names", [("ant", "bee"), ("dog", "zebra")])
def test_a_run_does_not_go_on_with_other_classes(names: tuple[str, str], tmp_path: Path) -> None:
    """Of the same number, so that its weights fit: a data set of the same folder's name, or renamed classes."""
    class_folders(tmp_path / "photos", "train", "val")
    quiet = ("--device", "cpu", "--quiet", "data.workers=0", "--out", tmp_path / "run")
    words = ("fit", tmp_path / "photos", "--scratch", "--model", "a2mamba_test", "--epochs", "2", *quiet)
    assert in_process(*words, "--max-minutes", "0.00001").status == 75
    for split in ("train", "val"):
        for before, after in zip(("dog", "cat"), reversed(names), strict=True):
            (tmp_path / "photos" / split / before).rename(tmp_path / "photos" / split / after)
    result = in_process(*words, "--resume")
    assert result.status == 2, result
    line = result.err.splitlines()[-1]
    assert "is of a run with other classes than the data has now: missing cat" in line
    assert all(part in line for part in (f"unexpected {min({*names} - {'dog'})}", "--out FOLDER"))


def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path) -> None:
    """It assumes the numbers of a published set where there is no data, not where the data is wrong."""
    yolo(tmp_path)
    next((tmp_path / "labels" / "train").iterdir()).write_text("7 0.5 0.5 0.2 0.2\n")
    for more in ((), ("--dry-run",)):
        result = in_process("fit", tmp_path, "--scratch", "--device", "cpu", "--out", tmp_path / "run", *more)
        assert result.status == 2
        assert "is of class 7, and the names are those of classes 0 to 1" in result.err.splitlines()[-1]
