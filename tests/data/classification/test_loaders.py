from __future__ import annotations

import math
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba.data import (
    ClassificationBatch,
    ClassificationData,
    UndecodableImageError,
    class_names,
    eval_loader,
    eval_transform,
    image_folder,
    load_image,
    train_loader,
    train_transform,
)

from ..helpers import error_line, write_image


def settings(root: Path, **changes: Any) -> ClassificationData:
    small: dict[str, Any] = {"image_size": 16, "batch_size": 2, "eval_batch_size": 4, "workers": 0}
    return ClassificationData(root=str(root), **{**small, **changes})


def test_folder_layout(tiny: Path) -> None:
    dataset = image_folder(tiny, "train")
    assert dataset.classes == class_names(tiny) == ["cat", "dog"]
    assert [dataset[i].target for i in range(len(dataset))] == [0] * 5 + [1] * 5
    sample = dataset[7]
    assert sample.path == dataset.path(7) == str(tiny / "train" / "dog" / "2.png")
    assert sample.image.dtype == torch.uint8
    expected = np.asarray(Image.open(sample.path)).transpose(2, 0, 1)
    assert np.array_equal(sample.image.numpy(), expected)


def test_classes_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("class_10", "class_9", "class_1", "b", "B"):
        write_image(tmp_path / "train" / name / "x.png")
    expected = ["B", "b", "class_1", "class_9", "class_10"]
    assert class_names(tmp_path) == expected
    dataset = image_folder(tmp_path, "train")
    assert [Path(dataset[i].path).parent.name for i in range(5)] == expected
    assert [dataset[i].target for i in range(5)] == list(range(5))


def test_root_may_hold_the_classes_itself(tiny: Path) -> None:
    data = settings(tiny / "val", train_split=None, val_split=None)
    assert len(image_folder(tiny / "val", None)) == 6
    assert sum(len(batch.targets) for batch in eval_loader(data)) == 6
    assert class_names(tiny / "val", None) == ["cat", "dog"]


def test_hidden_folders_are_no_classes(tiny: Path) -> None:
    write_image(tiny / "train" / ".ipynb_checkpoints" / "0.png")
    write_image(tiny / "train" / "cat" / ".ipynb_checkpoints" / "0.png")
    assert len(image_folder(tiny, "train")) == 10
    assert class_names(tiny) == ["cat", "dog"]


def test_missing_folders(tiny: Path) -> None:
    error_line(lambda: image_folder(tiny / "nowhere", "train"), str(tiny / "nowhere"), "does not exist", "<class>")
    error_line(lambda: image_folder(tiny, "test"), str(tiny / "test"), "does not exist", "train, val")
    error_line(lambda: image_folder(tiny / "train" / "cat" / "0.png", None), "0.png is a file")
    error_line(lambda: class_names(tiny, "test"), str(tiny / "test"))


def test_empty_folders(tiny: Path) -> None:
    (tiny / "none").mkdir()
    error_line(lambda: image_folder(tiny, "none"), str(tiny / "none"), "no class folders")
    error_line(lambda: class_names(tiny, "none"), str(tiny / "none"), "no class folders")
    (tiny / "train" / "bird").mkdir()
    message = error_line(lambda: image_folder(tiny, "train"), "class folders without images", "bird", "remove")
    assert "cat" not in message


def test_long_lists_are_cut(tiny: Path) -> None:
    for number in range(9):
        (tiny / "train" / f"empty_{number}").mkdir()
    error_line(lambda: image_folder(tiny, "train"), "empty_0, empty_1, empty_2, empty_3, empty_4 and 4 more")


def test_no_image_extension(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "a.svg").write_bytes(b"x")
    error_line(lambda: image_folder(tmp_path, "train"), "no class folder holds images", "cat", ".svg", ".jpg")


def test_images_outside_of_class_folders(tiny: Path) -> None:
    write_image(tiny / "train" / "loose.png")
    error_line(lambda: image_folder(tiny, "train"), "outside of class folders", "loose.png")
    (tiny / "train" / "loose.png").unlink()
    write_image(tiny / "train" / "cat" / "deep" / "nested.png")
    error_line(lambda: image_folder(tiny, "train"), "outside of class folders", "nested.png")


def test_other_classes_in_validation(tiny: Path) -> None:
    write_image(tiny / "val" / "fox" / "0.png")
    (tiny / "val" / "dog").rename(tiny / "val" / "wolf")
    error_line(lambda: eval_loader(settings(tiny)), "missing dog", "unexpected fox, wolf")
    error_line(lambda: eval_loader(settings(tiny), classes=["cat", "wolf"]), "unexpected fox")
    eval_loader(settings(tiny), classes=["cat", "fox", "wolf"])
    error_line(lambda: eval_loader(settings(tiny), classes=["fox", "cat", "wolf"]), "another order")


@pytest.mark.parametrize("workers", [0, 2])
def test_undecodable_image_is_named_in_one_line(workers: int, tiny: Path) -> None:
    bad = tiny / "val" / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:300])
    error_line(lambda: list(eval_loader(settings(tiny, workers=workers))), str(bad))
    with pytest.raises(UndecodableImageError) as caught:
        list(eval_loader(settings(tiny, workers=workers)))
    assert caught.value.path == str(bad)


def first_error(loader: Any) -> UndecodableImageError | None:
    try:
        list(loader)
    except UndecodableImageError as error:
        return error
    return None


def test_error_ends_the_workers_though_it_is_kept(tiny: Path) -> None:
    """The garbage collector would need ten seconds: torch's queues are closed before the workers are told to end."""
    (tiny / "val" / "dog" / "1.png").write_bytes(b"")
    loader = eval_loader(settings(tiny, workers=2))
    kept = first_error(loader)
    assert multiprocessing.active_children() == []
    assert kept is not None
    assert kept.path.endswith("1.png")
    del kept
    write_image(tiny / "val" / "dog" / "1.png")
    assert len(list(loader)) == 2  # and the loader goes on to work


def test_image_that_vanished_is_named(tiny: Path) -> None:
    loader = eval_loader(settings(tiny))
    (tiny / "val" / "dog" / "1.png").unlink()
    error_line(lambda: list(loader), str(tiny / "val" / "dog" / "1.png"), "No such file")


def test_batches(tiny: Path) -> None:
    data = settings(tiny)
    loaders = ((train_loader(data, seed=0), [2] * 5, torch.uint8), (eval_loader(data), [4, 2], torch.float32))
    for loader, sizes, dtype in loaders:
        batches = list(loader)
        assert len(loader) == len(sizes)
        assert [len(batch.targets) for batch in batches] == sizes
        for batch, size in zip(batches, sizes, strict=True):
            assert isinstance(batch, ClassificationBatch)
            assert batch.images.shape == (size, 3, 16, 16)
            assert batch.images.dtype == dtype
            assert batch.targets.dtype == torch.int64
            assert [Path(path).parent.name for path in batch.paths] == [
                ["cat", "dog"][target] for target in batch.targets.tolist()
            ]


def test_evaluation_visits_each_image_once_over_all_processes(tiny: Path) -> None:
    paths = [
        path
        for rank in range(4)
        for batch in eval_loader(settings(tiny), rank=rank, world_size=4)
        for path in batch.paths
    ]
    assert sorted(paths) == sorted(str(path) for path in (tiny / "val").rglob("*.png"))


def flat(loader: Any) -> list[tuple[str, bytes]]:
    return [
        (path, image.numpy().tobytes())
        for batch in loader
        for path, image in zip(batch.paths, batch.images, strict=True)
    ]


def test_augmentation_does_not_depend_on_workers(tiny: Path) -> None:
    epochs: list[list[list[tuple[str, bytes]]]] = []
    for workers in (0, 1, 2):
        loader = train_loader(settings(tiny, workers=workers, image_size=24), seed=3)
        runs = []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            runs.append(flat(loader))
        epochs.append(runs)
    assert epochs[0] == epochs[1] == epochs[2]
    first, second = (dict(run) for run in epochs[0])
    assert all(first[path] != second[path] for path in first)  # another epoch is another augmentation


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_epoch_is_the_tail(workers: int, tiny: Path) -> None:
    data = settings(tiny, workers=workers)
    loader = train_loader(data, seed=3)
    loader.set_epoch(4)
    whole = flat(loader)
    resumed = train_loader(data, seed=3)
    resumed.set_epoch(4)
    resumed.skip(6)
    assert len(resumed) == 2
    assert flat(resumed) == whole[6:]
    # And after leaving an iterator half way, as an interrupted epoch does.
    next(iter(loader))
    loader.set_epoch(4)
    assert flat(loader) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generator_alone(workers: int, tiny: Path) -> None:
    loader = train_loader(settings(tiny, workers=workers), seed=3)
    state = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_loader_can_be_sent_to_a_spawned_worker(tiny: Path) -> None:
    loader = train_loader(settings(tiny), seed=0)
    copy = pickle.loads(pickle.dumps(loader.dataset))
    assert torch.equal(copy[3].sample.image, loader.dataset[3].sample.image)
    assert loader.collate_fn is not None
    pickle.loads(pickle.dumps(loader.collate_fn))


def test_batch_larger_than_the_data(tiny: Path) -> None:
    error_line(lambda: train_loader(settings(tiny, batch_size=11), seed=0), "batch_size=11", "10 training images")
    error_line(lambda: train_loader(settings(tiny, batch_size=12), seed=0, world_size=2), "12", "at most 10")


def steps(loaders: list[Any], passes: int) -> list[set[str]]:
    """The images of each optimizer step: `passes` batches of every process."""
    paths = [[batch.paths for batch in loader] for loader in loaders]
    assert len({len(batches) for batches in paths}) == 1
    return [
        {path for batches in paths for batch in batches[start : start + passes] for path in batch}
        for start in range(0, len(paths[0]), passes)
    ]


def test_a_step_is_the_same_images_however_it_is_shared_out(tiny: Path) -> None:
    """Two steps of four; the last two of the ten make no whole step, on any number of processes."""
    data = settings(tiny, batch_size=4)
    whole = steps([train_loader(data, seed=1)], 1)
    assert [len(step) for step in whole] == [4, 4]
    for processes, micro, passes in ((1, 2, 2), (1, 1, 4), (2, 2, 1), (2, 1, 2), (4, 1, 1)):
        loaders = [
            train_loader(data, seed=1, rank=rank, world_size=processes, micro_batch=micro) for rank in range(processes)
        ]
        assert all(len(batch.targets) == micro for loader in loaders for batch in loader)
        assert steps(loaders, passes) == whole


def test_held_out_images(tmp_path: Path) -> None:
    """A share of each class, the same each time, that training does not see."""
    for label, count in (("cat", 10), ("dog", 3), ("owl", 2)):
        for number in range(count):
            write_image(tmp_path / label / f"{number}.png", seed=number)
    data = settings(tmp_path, train_split=None, val_split=None, holdout=0.2, batch_size=1)
    seen = [
        {path for batch in loader for path in batch.paths} for loader in (train_loader(data, seed=0), eval_loader(data))
    ]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == {str(path) for path in tmp_path.rglob("*.png")}
    held_out = sorted(Path(path).parent.name for path in seen[1])
    assert held_out == ["cat", "cat", "dog", "owl"]
    assert {path for batch in eval_loader(data) for path in batch.paths} == seen[1]
    # As with splits, evaluation is not augmented.
    (batch, *_) = eval_loader(data)
    assert batch.images.dtype == torch.float32
    write_image(tmp_path / "emu" / "0.png")
    error_line(lambda: eval_loader(data), "'emu'", "one image")


def test_squashed_evaluation_shows_everything(tmp_path: Path) -> None:
    """Both sides are resized, whatever their ratio: no crop."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    data = settings(tmp_path, image_size=32, crop_pct=1.0, crop_mode="squash")
    resized = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    expected = (resized - np.array(data.mean)) / np.array(data.std)
    found = eval_transform(data)(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
    assert found == pytest.approx(expected, abs=1e-5)


def test_eval_transform_is_resize_crop_normalize(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    data = settings(tmp_path, image_size=45, crop_pct=0.9)
    short = math.floor(45 / 0.9)
    resized = Image.fromarray(pixels).resize((int(short * 90 / 60), short), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 45) / 2), round((short - 45) / 2)
    cropped = np.asarray(resized, dtype=np.float64)[top : top + 45, left : left + 45] / 255
    expected = (cropped - np.array(data.mean)) / np.array(data.std)
    found = eval_transform(data)(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5), (300, 200)])
def test_any_image_size(size: tuple[int, int], tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", size=size)
    data = settings(tmp_path, image_size=32)
    assert load_image(path, data).shape == (3, 32, 32)
    with Image.open(path) as image:
        assert train_transform(data)(image.convert("RGB")).shape == (3, 32, 32)


@pytest.mark.parametrize("in_chans", [1, 3, 4])
def test_channels(in_chans: int, tiny: Path) -> None:
    changes: dict[str, Any] = {"in_chans": in_chans, "mean": (0.5,) * in_chans, "std": (0.5,) * in_chans}
    if in_chans == 4:
        changes |= {"auto_augment": None, "color_jitter": 0.0}
    data = settings(tiny, **changes)
    for loader in (train_loader(data, seed=0), eval_loader(data)):
        for batch in loader:
            assert batch.images.shape[1:] == (in_chans, 16, 16)
            assert batch.images.float().isfinite().all()
    assert load_image(tiny / "val" / "cat" / "0.png", data).shape == (in_chans, 16, 16)


def test_plain_training_transform_is_only_the_crop(tmp_path: Path) -> None:
    """With everything off and a crop of the whole image, training and evaluation see the same pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    whole: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "crop_pct": 1.0}
    off = settings(tmp_path, hflip=0.0, auto_augment=None, color_jitter=0.0, **whole)
    image = Image.fromarray(pixels)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(train_transform(off)(image), expected)
    flipped = train_transform(replace(off, hflip=1.0))(image)
    assert torch.equal(flipped, expected.flip(-1))


def test_training_transform_has_the_stated_parameters(tmp_path: Path) -> None:
    transform: Any = train_transform(ClassificationData(root=str(tmp_path)))
    steps = {type(step).__name__: step for step in transform.transforms}
    assert list(steps) == [
        "RandomResizedCropAndInterpolation",
        "RandomHorizontalFlip",
        "RandAugment",
        "MaybePILToTensor",
    ]
    crop = steps["RandomResizedCropAndInterpolation"]
    assert (crop.size, crop.scale, crop.ratio) == ((224, 224), (0.08, 1.0), (3 / 4, 4 / 3))
    assert len(crop.interpolation) == 2
    augment = steps["RandAugment"]
    assert augment.num_layers == 2
    assert len(augment.ops) == 15
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in augment.ops} == {(0.5, 9, 0.5)}
    assert augment.ops[0].kwargs["fillcolor"] == (124, 116, 104)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original"])
def test_posterize_to_no_bits_is_black_rather_than_an_error(policy: str, tmp_path: Path) -> None:
    transform: Any = train_transform(settings(tmp_path, auto_augment=policy))
    augment = transform.transforms[2]
    operations = getattr(augment, "ops", None) or [op for pair in augment.policy for op in pair]
    posterize = [op for op in operations if op.name.startswith("Posterize")]
    assert posterize
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    for operation in posterize:
        assert operation.aug_fn(image, 0).getpixel((0, 0)) == (0, 0, 0)
        assert operation.aug_fn(image, 2).getpixel((0, 0)) == (192, 64, 0)
        assert operation.aug_fn(image, 8).getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"image_size": 0}, "image_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": -1}, "workers"),
        ({"in_chans": 2}, "in_chans"),
        ({"in_chans": 1}, "mean"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"crop_pct": 0.0}, "crop_pct"),
        ({"hflip": 1.5}, "hflip"),
        ({"reprob": -0.1}, "reprob"),
        ({"mixup": -0.1}, "mixup"),
        ({"cutmix": -0.1}, "cutmix"),
        ({"holdout": 1.0}, "holdout"),
        ({"source": "hfds", "train_split": None}, "train_split"),
        ({"scale": (0.5, 0.1)}, "scale"),
        ({"scale": (0.5, 2.0)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"color_jitter": -1.0}, "color_jitter"),
        ({"interpolation": "bycubic"}, "interpolation"),
        ({"train_interpolation": "rand"}, "train_interpolation"),
        ({"in_chans": 4, "mean": (0.5,) * 4, "std": (0.5,) * 4}, "auto_augment"),
    ],
)
def test_bad_settings(changes: dict[str, Any], name: str, tmp_path: Path) -> None:
    error_line(lambda: settings(tmp_path, **changes), name)


@pytest.mark.parametrize("policy", ["randm9", "rand-z3", "rand-m9-mstdx", "original-q", "nonsense"])
def test_bad_augmentation_string(policy: str, tmp_path: Path) -> None:
    error_line(lambda: train_transform(settings(tmp_path, auto_augment=policy)), "auto_augment", policy)
