from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba.data import (
    ADE20K_CLASSES,
    CITYSCAPES_CLASSES,
    COCO_STUFF_CLASSES,
    LabelFileError,
    SeededDataset,
    SegmentationBatch,
    SegmentationData,
    SegmentationImage,
    UndecodableImageError,
    class_shares,
    eval_segmentation_loader,
    normalize_crops,
    seeded,
    segmentation_classes,
    segmentation_folder,
    segmentation_train_transform,
    train_segmentation_loader,
)

from ..helpers import error_line, write_image

SIZE = (20, 28)


def settings(root: Path, **changes: Any) -> SegmentationData:
    small: dict[str, Any] = {"crop_size": (24, 32), "resize": (80, 20), "batch_size": 2, "workers": 0}
    return SegmentationData(root=str(root), **{**small, **changes})


def write_labels(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def labels(*numbers: int) -> np.ndarray:
    """Stripes of numbers, of an image's size."""
    return np.repeat(np.array(numbers), -(-SIZE[1] // len(numbers)))[: SIZE[1]][None].repeat(SIZE[0], axis=0)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """One's own folder with three classes: five training and three validation pairs."""
    root = tmp_path / "own"
    for split, count in (("train", 5), ("val", 3)):
        for number in range(count):
            write_image(root / "images" / split / f"{number}.jpg", seed=number + 10 * (split == "val"), size=SIZE)
            write_labels(root / "masks" / split / f"{number}.png", labels(0, 2, 255, 1))
    (root / "classes.txt").write_text("ground\nleaf\n\n stem \n")
    return root


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for split in ("train", "val"):
        for city in ("bonn", "aachen"):
            stem = f"{city}_000000_000019"
            write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", size=SIZE)
            fine = root / "gtFine" / split / city
            write_labels(fine / f"{stem}_gtFine_labelIds.png", labels(0, 7, 33, 9))
            write_image(fine / f"{stem}_gtFine_color.png", size=SIZE)
            write_image(fine / f"{stem}_gtFine_instanceIds.png", size=SIZE)
            (fine / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


@pytest.fixture
def coco_stuff(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    for split in ("train2017", "val2017"):
        for number in (9, 10, 100):
            write_image(root / "images" / split / f"{number}.jpg", seed=number, size=SIZE)
            write_labels(root / "annotations" / split / f"{number}.png", labels(0, 12, 181, 255))
    return root


def test_demo_scenes(demo: Path) -> None:
    """Values of the maps: 0 unlabeled, 1 background, 2 + d digit d."""
    data = settings(demo / "ADEChallengeData2016")
    assert len(segmentation_classes(data)) == 11
    dataset = segmentation_folder(data, "validation")
    assert len(dataset) == 12
    for index in range(len(dataset)):
        sample = dataset[index]
        with Image.open(str(sample.path).replace("images", "annotations").replace(".jpg", ".png")) as file:
            stored = np.asarray(file).astype(int)
        assert np.array_equal(sample.target.numpy(), np.where(stored == 0, 255, stored - 1))
        with Image.open(sample.path) as file:
            assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), np.asarray(file))
        assert (sample.image.dtype, sample.target.dtype) == (torch.uint8, torch.int64)


def test_ade20k_has_150_classes_by_its_list(demo: Path, tmp_path: Path) -> None:
    root = tmp_path / "ade"
    shutil.copytree(demo / "ADEChallengeData2016", root, ignore=shutil.ignore_patterns("classes.txt"))
    data = settings(root)
    assert segmentation_classes(data) == [f"class_{value}" for value in range(1, 12)]  # counted
    assert segmentation_classes(settings(root, num_classes=20))[-1] == "class_20"
    assert segmentation_classes(settings(root, num_classes=150)) == list(ADE20K_CLASSES)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")
    assert segmentation_classes(data) == list(ADE20K_CLASSES)
    error_line(lambda: segmentation_classes(settings(root, num_classes=11)), "num_classes=11", "150 classes", str(root))
    (root / "classes.txt").write_text("\n".join(["background", *map(str, range(10))]))
    assert segmentation_classes(data) == ["background", *map(str, range(10))]
    shutil.rmtree(root / "annotations" / "training")
    (root / "classes.txt").unlink()
    (root / "objectInfo150.txt").unlink()
    assert 2 <= len(segmentation_classes(data)) <= 11  # evaluation alone


def test_own_folder(own: Path) -> None:
    data = settings(own, layout="folder")
    assert segmentation_classes(data) == ["ground", "leaf", "stem"]
    dataset = segmentation_folder(data, "train")
    assert [Path(dataset.path(index)).name for index in range(5)] == [f"{number}.jpg" for number in range(5)]
    assert dataset[0].target.tolist() == labels(0, 2, 255, 1).tolist()
    (own / "classes.txt").unlink()
    assert segmentation_classes(data) == ["class_0", "class_1", "class_2"]


def test_bad_lists_of_names(own: Path) -> None:
    data, file = settings(own, layout="folder"), own / "classes.txt"
    for text, part in ((b"a\nb\na\n", "twice: a"), (b"\n", "0 names"), (b"\xfa\xfb", "UTF-8")):
        file.write_bytes(text)
        error_line(lambda: segmentation_classes(data), str(file), part)
    file.unlink()
    for mask in (own / "masks" / "train").iterdir():
        write_labels(mask, labels(255))
    error_line(lambda: segmentation_classes(data), str(own / "masks" / "train"), "classes.txt", "num_classes")


def test_cityscapes(cityscapes: Path) -> None:
    data = settings(cityscapes, layout="cityscapes")
    assert segmentation_classes(data) == list(CITYSCAPES_CLASSES)
    error_line(lambda: segmentation_classes(settings(cityscapes, layout="cityscapes", num_classes=150)), "19 classes")
    dataset = segmentation_folder(data, "train")
    assert [Path(dataset.path(index)).parent.name for index in range(len(dataset))] == ["aachen", "bonn"]
    assert dataset[0].target.tolist() == labels(255, 0, 18, 255).tolist()
    # A converted file is preferred, for the image that has one.
    ids = cityscapes / "gtFine" / "train" / "bonn" / "bonn_000000_000019_gtFine_labelTrainIds.png"
    write_labels(ids, labels(4, 18, 255))
    dataset = segmentation_folder(data, "train")
    assert dataset[0].target.tolist() == labels(255, 0, 18, 255).tolist()
    assert dataset[1].target.tolist() == labels(4, 18, 255).tolist()
    write_labels(ids, labels(19))
    error_line(lambda: dataset[1], str(ids), "label 19", "19 classes")


def test_coco_stuff(coco_stuff: Path) -> None:
    data = settings(coco_stuff, layout="coco_stuff")
    assert segmentation_classes(data) == list(COCO_STUFF_CLASSES)
    dataset = segmentation_folder(data, "train2017")
    assert [Path(dataset.path(index)).name for index in range(3)] == ["9.jpg", "10.jpg", "100.jpg"]
    assert dataset[2].target.tolist() == labels(0, 11, 170, 255).tolist()
    write_labels(coco_stuff / "annotations" / "train2017" / "9_labelTrainIds.png", labels(170, 11))
    dataset = segmentation_folder(data, "train2017")
    assert len(dataset) == 3
    assert dataset[0].target.tolist() == labels(170, 11).tolist()
    assert dataset[1].target.tolist() == labels(0, 11, 170, 255).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_does_not_fit_is_named_in_one_line(workers: int, own: Path) -> None:
    def read() -> list[Any]:
        return list(eval_segmentation_loader(settings(own, layout="folder", workers=workers)))

    read()
    mask, image = own / "masks" / "val" / "1.png", own / "images" / "val" / "1.jpg"
    write_labels(mask, labels(0, 1)[:, :-1])
    error_line(read, str(mask), str(image), "27 x 20", "28 x 20")
    write_labels(mask, labels(0, 1, 3))
    error_line(read, str(mask), "label 3 is out of range", "0 to 2 (3 classes)", "255")
    write_image(mask, size=SIZE)
    error_line(read, str(mask), "colors", "labelmap.txt")
    with pytest.raises(LabelFileError):
        read()
    mask.write_bytes(b"")
    error_line(read, str(mask), "the file is empty")
    write_labels(mask, labels(0, 1))
    image.write_bytes(image.read_bytes()[:300])
    error_line(read, str(image), "cannot decode")
    with pytest.raises(UndecodableImageError):
        read()


def test_pairs_that_miss_a_part(own: Path) -> None:
    data = settings(own, layout="folder")
    extra = write_image(own / "images" / "train" / "sub" / "7.png", size=SIZE)
    error_line(lambda: train_segmentation_loader(data, seed=0), str(extra), "without a label file", str(own / "masks"))
    mask = write_labels(own / "masks" / "train" / "sub" / "7.png", labels(0))
    assert len(segmentation_folder(data, "train")) == 6
    twin = write_image(own / "images" / "train" / "sub" / "7.webp", size=SIZE)
    error_line(lambda: segmentation_folder(data, "train"), str(twin), "share a label file")
    twin.unlink()
    extra.unlink()
    error_line(lambda: segmentation_folder(data, "train"), str(mask), "without an image")
    shutil.rmtree(mask.parent)
    write_image(own / "images" / "train" / ".thumbnails" / "0.png", size=SIZE)  # hidden files are no images
    write_image(own / "images" / "train" / "._0.jpg", size=SIZE)
    assert len(segmentation_folder(data, "train")) == 5


@pytest.mark.parametrize("ending", ["", "_mask"])
def test_names_that_other_systems_take_for_the_same(ending: str, tmp_path: Path) -> None:
    """Case, and accents in two forms, as macOS and tools change them; two that would fit are none."""
    for number, (image, mask) in enumerate((("IMG_1", "img_1"), ("caf\u00e9", "cafe\u0301"), ("b", "b"))):
        write_image(tmp_path / "images" / f"{image}.JPG", seed=number, size=SIZE)
        write_labels(tmp_path / "masks" / f"{mask}{ending}.png", labels(number))
    data = settings(tmp_path, layout="folder", train_split=".", val_split=None, holdout=0.4)
    pairs = segmentation_folder(data, ".").pairs
    assert [Path(pair.label).stem for pair in pairs] == ["b" + ending, "cafe\u0301" + ending, "img_1" + ending]
    assert [Path(pair.image).stem for pair in pairs] == ["b", "caf\u00e9", "IMG_1"]
    write_labels(tmp_path / "masks" / f"Img_1{ending}.png", labels(0))
    error_line(lambda: segmentation_folder(data, "."), "IMG_1.JPG", "without a label file")


def test_missing_folders(own: Path, tmp_path: Path) -> None:
    nowhere = settings(tmp_path / "none", layout="folder")
    error_line(lambda: segmentation_folder(nowhere, "train"), str(tmp_path / "none"), "does not exist", "masks")
    data = settings(own, layout="folder")
    error_line(lambda: segmentation_folder(data, "test"), str(own / "images" / "test"), "train, val")
    error_line(
        lambda: segmentation_folder(settings(own), "training"),
        str(own / "images" / "training"),
        "annotations/{training,validation}",
    )
    (own / "images" / "empty").mkdir()
    (own / "masks" / "empty").mkdir()
    error_line(lambda: segmentation_folder(data, "empty"), str(own / "images" / "empty"), "holds no images")
    file = own / "images" / "train" / "0.jpg"
    error_line(lambda: segmentation_folder(settings(file, layout="folder"), "train"), "is a file")


def test_number_of_classes(own: Path) -> None:
    data = settings(own, layout="folder", num_classes=4)
    for make in (lambda: train_segmentation_loader(data, seed=0), lambda: eval_segmentation_loader(data)):
        error_line(make, "num_classes=4", "3 classes", str(own))
    fits = settings(own, layout="folder", num_classes=3)
    error_line(lambda: eval_segmentation_loader(fits, classes=["ground", "leaf"]), "unexpected stem", str(own))
    assert len(eval_segmentation_loader(fits, classes=["ground", "leaf", "stem"])) == 3


def test_shares_of_the_classes(own: Path) -> None:
    """Four stripes of seven columns: classes 0, 2, ignored, 1; one image of five differs."""
    assert class_shares(settings(own, layout="folder")) == pytest.approx([1 / 3] * 3)
    write_labels(own / "masks" / "train" / "0.png", labels(2))
    assert class_shares(settings(own, layout="folder")) == pytest.approx(
        [4 * 7 / (4 * 21 + 28), 4 * 7 / (4 * 21 + 28), (4 * 7 + 28) / (4 * 21 + 28)]
    )
    # Every third image: 0 and 3.
    assert class_shares(settings(own, layout="folder"), images=2) == pytest.approx([1 / 7, 1 / 7, 5 / 7])
    # Labels that cannot be read are left out.
    (own / "masks" / "train" / "0.png").write_text("no image")
    write_labels(own / "masks" / "train" / "1.png", labels(77))
    assert class_shares(settings(own, layout="folder")) == pytest.approx([1 / 3] * 3)


def test_evaluation_sees_whole_images_once(demo: Path) -> None:
    data = settings(demo / "ADEChallengeData2016")
    alone = list(eval_segmentation_loader(data))
    assert [Path(item.path).name for item in alone] == [f"ADE_val_{number:08d}.jpg" for number in range(1, 13)]
    assert all(isinstance(item, SegmentationImage) for item in alone)
    assert all(item.image.shape == (3, 128, 160) and item.target.shape == (128, 160) for item in alone)
    assert all(item.image.dtype == torch.uint8 and item.target.dtype == torch.int64 for item in alone)
    parts = [[item.path for item in eval_segmentation_loader(data, rank=rank, world_size=5)] for rank in range(5)]
    assert sorted(path for part in parts for path in part) == [item.path for item in alone]


def same(first: SegmentationBatch, second: SegmentationBatch) -> bool:
    return (
        first.paths == second.paths
        and torch.equal(first.images, second.images)
        and torch.equal(first.targets, second.targets)
    )


def test_training_batches(demo: Path) -> None:
    data = settings(demo / "ADEChallengeData2016", crop_size=(48, 64), resize=(320, 64), batch_size=5)
    loader = train_segmentation_loader(data, seed=3)
    batches = list(loader)
    assert len(loader) == len(batches) == 24 // 5
    for batch in batches:
        assert isinstance(batch, SegmentationBatch)
        assert (batch.images.shape, batch.images.dtype) == ((5, 3, 48, 64), torch.uint8)
        assert (batch.targets.shape, batch.targets.dtype) == ((5, 48, 64), torch.uint8)
        assert ((batch.targets < 11) | (batch.targets == 255)).all()
        assert normalize_crops(batch, mean=data.mean, std=data.std).abs().max() < 3
    paths = [path for batch in batches for path in batch.paths]
    assert len(set(paths)) == 20
    again = list(train_segmentation_loader(data, seed=3))
    assert all(same(a, b) for a, b in zip(batches, again, strict=True))
    with_workers = list(train_segmentation_loader(settings(Path(data.root), **{**vars_of(data), "workers": 2}), seed=3))
    assert all(same(a, b) for a, b in zip(batches, with_workers, strict=True))
    other = list(train_segmentation_loader(data, seed=4))
    assert not any(same(a, b) for a, b in zip(batches, other, strict=True))
    assert paths != [path for batch in other for path in batch.paths]  # the order is another one, too
    loader.set_epoch(1)
    assert not any(same(a, b) for a, b in zip(batches, loader, strict=True))
    loader.set_epoch(0)
    loader.skip(10)
    assert all(same(a, b) for a, b in zip(batches[2:], loader, strict=True))


def vars_of(data: SegmentationData) -> dict[str, Any]:
    return {name: value for name, value in vars(data).items() if name != "root"}


def test_epochs_of_a_fixed_number_of_samples(own: Path) -> None:
    data = settings(own, layout="folder")
    loader = train_segmentation_loader(data, seed=0, samples_per_epoch=16)
    assert len(list(loader)) == len(loader) == 8
    paths = [path for batch in loader for path in batch.paths]
    assert sorted(paths[:5]) == sorted(paths[5:10]) == sorted(set(paths))
    for rank in (0, 1):
        loader = train_segmentation_loader(data, seed=0, samples_per_epoch=16, rank=rank, world_size=2)
        assert [len(batch.paths) for batch in loader] == [1] * 8, "a share of the total of 2"
        loader = train_segmentation_loader(data, seed=0, samples_per_epoch=16, rank=rank, world_size=2, micro_batch=2)
        assert [len(batch.paths) for batch in loader] == [2] * 4
    error_line(lambda: train_segmentation_loader(data, seed=0, samples_per_epoch=1), "batch_size=2 exceeds the 1")
    large = settings(own, layout="folder", batch_size=6)
    error_line(lambda: train_segmentation_loader(large, seed=0), "batch_size=6 exceeds the 5", "at most 5")


def test_labels_stay_with_their_pixels() -> None:
    """An image whose color is its label: still so after resizing, cropping and flipping."""
    blocks = np.random.default_rng(0).integers(0, 5, (6, 9)).astype(np.uint8)
    targets = torch.from_numpy(np.kron(blocks, np.ones((20, 20), dtype=np.uint8)))
    image = (targets * 50)[None].repeat(3, 1, 1)
    data = settings(Path("x"), crop_size=(100, 100), resize=(1000, 120), photometric=False, mean=(0,) * 3, std=(1,) * 3)
    transform = segmentation_train_transform(data)
    padded = 0
    for seed in range(20):
        with seeded(seed):
            changed, found = transform(image, targets)
        assert (changed.shape, found.shape) == ((3, 100, 100), (100, 100))
        valid = found != 255
        color = changed[0] * 255 / 50
        # Between two blocks the image is blended and the label is not.
        assert ((color - found).abs() < 0.05)[valid].float().mean() > 0.85
        assert changed[:, ~valid].abs().sum() == 0
        padded += bool((~valid).any())
    assert 0 < padded < 20


def test_batches_travel_as_bytes_and_arrive_as_before(demo: Path) -> None:
    """Normalized on the device, they are the same floats as if each had been normalized and padded by itself."""
    data = settings(demo / "ADEChallengeData2016", crop_size=(64, 64), resize=(91, 73), batch_size=4)
    loader = train_segmentation_loader(data, seed=1)
    dataset = segmentation_folder(data, "training", transform=segmentation_train_transform(data))
    one_by_one = SeededDataset(dataset, 1)
    partial_crops = 0
    keys = iter(loader.epoch_sampler)
    for batch in loader:
        expected = [one_by_one[next(keys)] for _ in range(4)]
        assert batch.paths == [sample.path for sample in expected]
        images = normalize_crops(batch, mean=data.mean, std=data.std)
        assert torch.equal(images, torch.stack([sample.image for sample in expected]))
        assert torch.equal(batch.targets.long(), torch.stack([sample.target for sample in expected]))
        last = normalize_crops(batch, mean=data.mean, std=data.std, channels_last=True)
        assert torch.equal(last, images)
        assert last.is_contiguous(memory_format=torch.channels_last)
        partial_crops += batch.sizes is not None
    assert partial_crops, "some crops were padded"


def test_each_switch_acts() -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 60), dtype=np.uint8))
    targets = torch.from_numpy(np.random.default_rng(1).integers(0, 3, (40, 60), dtype=np.uint8))
    plain: dict[str, Any] = {"crop_size": (40, 60), "resize": (120, 40), "ratio": (1, 1), "hflip": 0.0}
    still = segmentation_train_transform(settings(Path("x"), **plain, photometric=False))
    first, found = still(image, targets)
    assert torch.equal(found, targets)
    assert torch.equal(still(image, targets)[0], first)
    assert first.mean().abs() < 0.4
    mirrored = segmentation_train_transform(settings(Path("x"), **{**plain, "hflip": 1.0}, photometric=False))
    assert torch.equal(mirrored(image, targets)[0], first.flip(-1))
    colorful = segmentation_train_transform(settings(Path("x"), **plain))
    with seeded(0):
        results = [colorful(image, targets) for _ in range(8)]
    assert any(not torch.equal(changed, first) for changed, _ in results)
    assert all(torch.equal(found, targets) for _, found in results)
    assert pickle.loads(pickle.dumps(still))(image, targets)[0].equal(first)  # workers may be spawned


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"layout": "voc"}, "layout='voc'"),
    ({"crop_size": (0, 5)}, "crop_size=(0, 5)"),
    ({"resize": (2048,)}, "resize=(2048,)"),
    ({"num_classes": 0}, "num_classes=0"),
    ({"num_classes": 256}, "num_classes=256"),
    ({"ratio": (2.0, 0.5)}, "ratio=(2.0, 0.5)"),
    ({"ratio": (0.0, 0.5)}, "ratio=(0.0, 0.5)"),
    ({"category_limit": 0.0}, "category_limit=0.0"),
    ({"category_limit": 1.5}, "category_limit=1.5"),
    ({"hflip": 1.5}, "hflip=1.5"),
    ({"mean": (0.5,)}, "mean=(0.5,)"),
    ({"std": (0.5, 0.5)}, "std=(0.5, 0.5)"),
    ({"std": (0.5, 0.0, 0.5)}, "std=(0.5, 0.0, 0.5)"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"workers": -1}, "workers=-1"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    error_line(lambda: settings(Path("x"), **change), message)


def test_defaults_are_the_protocol() -> None:
    data = SegmentationData(root="x")
    assert (data.crop_size, data.resize, data.ratio, data.category_limit) == ((512, 512), (2048, 512), (0.5, 2.0), 0.75)
    assert (data.hflip, data.photometric, data.batch_size) == (0.5, True, 16)
    assert [round(255 * value, 3) for value in data.mean] == [123.675, 116.28, 103.53]
    assert [round(255 * value, 3) for value in data.std] == [58.395, 57.12, 57.375]
