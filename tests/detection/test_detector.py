"""The contract of a whole detector, on all sorts of images and objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from detection_scenes import SmallBackbone, Target, images, shake, target, total
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import a2mamba
from a2mamba.detection import Detector, DetectorConfig, create_detector, detector_config, iter_masks
from a2mamba.detection.preprocess import resized
from a2mamba.engine.sync_norm import SyncBatchNorm2d, synchronize_norms

KINDS = ("mask_rcnn", "cascade_mask_rcnn")
both = pytest.mark.parametrize("kind", KINDS)
CLASSES = 3


def make(kind: str, **changes: Any) -> Detector:
    """The test detector; ``changes`` of its config."""
    torch.manual_seed(0)
    name = f"{kind}_a2mamba_test"
    return create_detector(name, num_classes=CLASSES, config=replace(detector_config(name), **changes))


def convolutional(kind: str = "mask_rcnn", **changes: Any) -> Detector:
    """The test detector's parts on a backbone that takes no time."""
    torch.manual_seed(0)
    config = replace(detector_config(f"{kind}_a2mamba_test"), **changes)
    return Detector(SmallBackbone(), num_classes=CLASSES, config=config)


SIZES = ((70, 100), (97, 64))


def scene() -> tuple[list[Tensor], list[Target]]:
    torch.manual_seed(1)
    return images(*SIZES), [
        target(SIZES[0], [[5, 5, 60, 50], [40, 20, 95, 69]], [1, 3]),
        target(SIZES[1], [[10, 30, 50, 90]], [2]),
    ]


def check_training(model: nn.Module, photos: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
    """Losses are finite float32 scalars, and every parameter takes part."""
    losses: dict[str, Tensor] = model.train()(photos, targets)
    for name, loss in losses.items():
        assert loss.shape == (), name
        assert loss.dtype == torch.float32, name
        assert loss.isfinite(), name
        assert loss >= 0, name
    model.zero_grad()
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    return losses


@both
def test_training_and_detecting(kind: str) -> None:
    model = make(kind)
    photos, targets = scene()
    copies = [{name: value.clone() for name, value in t.items()} for t in targets], [x.clone() for x in photos]
    losses = check_training(model, photos, targets)
    stages = [""] if kind == "mask_rcnn" else ["_stage1", "_stage2", "_stage3"]
    kinds = ("loss_classifier", "loss_box_reg", "loss_mask")
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", *(name + s for s in stages for name in kinds)}
    with torch.inference_mode():
        found = model.eval()(photos)
    for detection, (height, width) in zip(found, SIZES, strict=True):
        count = len(detection["boxes"])
        assert 0 < count <= 100
        assert set(detection) == {"boxes", "labels", "scores", "masks"}
        assert detection["masks"].shape == (count, 1, height, width)
        assert 0 <= detection["masks"].min() <= detection["masks"].max() <= 1
        assert detection["labels"].dtype == torch.int64
        assert 1 <= detection["labels"].min() <= detection["labels"].max() <= CLASSES
        assert (detection["scores"].diff() <= 0).all()
        assert detection["boxes"].min() >= 0
        assert (detection["boxes"][:, 2:].max(dim=0).values <= torch.tensor([width, height]) + 1e-3).all()
    for given, before in zip(targets, copies[0], strict=True):
        assert all(torch.equal(given[name], before[name]) for name in before)
    assert all(torch.equal(a, b) for a, b in zip(photos, copies[1], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_a_scene(kind: str) -> None:
    """A few steps on one photo: the losses fall, and the objects are found where they are."""
    config = detector_config(f"{kind}_a2mamba_test")
    model = convolutional(
        kind,
        rpn=replace(config.rpn, post_nms_train=40, post_nms_test=20),
        roi=replace(config.roi, batch_per_image=24),
        min_size=96,
    )
    size = (96, 96)
    truth = target(size, [[8, 8, 56, 56], [50, 44, 92, 90]], [1, 3])
    photo = torch.full((3, *size), 0.1)
    photo[0] += 0.8 * truth["masks"][0]
    photo[2] += 0.8 * truth["masks"][1]
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=50)
    model.train()
    history = []
    for _ in range(50):
        loss = total(model([photo], [truth]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    assert sum(history[-5:]) < 0.5 * sum(history[:5])
    with torch.inference_mode():
        (found,) = model.eval()([photo])
    for label, box, mask in zip(truth["labels"], truth["boxes"], truth["masks"], strict=True):
        best = int((found["labels"] == label).nonzero()[0])
        overlap = intersection_over_union(found["boxes"][best], box)
        assert overlap > 0.6
        predicted = found["masks"][best, 0] >= 0.5
        assert (predicted & (mask == 1)).sum() / (predicted | (mask == 1)).sum() > 0.7


def intersection_over_union(a: Tensor, b: Tensor) -> float:
    side = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    return float(side.prod() / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - side.prod()))


def one_pixel() -> list[Target]:
    return [target(SIZES[0], [[5, 5, 6, 6], [99, 69, 100, 70]], [1, 2]), target(SIZES[1], [[0, 0, 1, 1]], [3])]


def crowded() -> list[Target]:
    grid = [[3.0 * x, 3.0 * y, 3.0 * x + 4, 3.0 * y + 4] for x in range(20) for y in range(20)]
    grid = [box for box in grid if box[2] <= 64 and box[3] <= 70]
    assert len(grid) > 300
    return [target(size, grid, [1 + i % 3 for i in range(len(grid))]) for size in SIZES]


def without_objects() -> list[Target]:
    return [target(size, [], []) for size in SIZES]


def some_without() -> list[Target]:
    return [target(SIZES[0], [], []), target(SIZES[1], [[3, 4, 20.5, 30.2]], [2])]


def whole_image() -> list[Target]:
    return [target((h, w), [[0, 0, w, h]], [1]) for h, w in SIZES]


@both
@pytest.mark.parametrize("objects", [one_pixel, crowded, without_objects, some_without, whole_image])
def test_any_objects(kind: str, objects: Any) -> None:
    check_training(convolutional(kind), scene()[0], objects())


@both
@pytest.mark.parametrize("sizes", [((1, 1), (1, 1)), ((8, 20), (64, 9)), ((300, 33), (5, 200))])
def test_any_image_size(kind: str, sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    model = convolutional(kind)
    objects = [target((h, w), [[0, 0, w, h]], [2]) for h, w in sizes]
    check_training(model, images(*sizes), objects)
    with torch.inference_mode():
        found = model.eval()(images(*sizes))
    for detection, size in zip(found, sizes, strict=True):
        assert detection["masks"].shape[2:] == size
        assert all(value.isfinite().all() for value in detection.values())


def test_backbone_takes_any_image_size() -> None:
    sizes = ((20, 150), (97, 64))
    check_training(make("mask_rcnn"), images(*sizes), [target(size, [[2, 2, 18, 19]], [1]) for size in sizes])


@both
def test_no_positive_proposals(kind: str) -> None:
    """The objects' own boxes are left out, and no proposal is near."""
    config = detector_config(f"{kind}_a2mamba_test")
    model = convolutional(
        kind,
        roi=replace(config.roi, add_ground_truth=False),
        rpn=replace(config.rpn, min_box_size=50.0),
    )
    losses = check_training(model, scene()[0], one_pixel())
    assert all(losses[name] == 0 for name in losses if "mask" in name or name.startswith("loss_box"))
    assert any(losses[name] > 0 for name in losses if "classifier" in name)


@both
def test_no_proposals_at_all(kind: str) -> None:
    config = detector_config(f"{kind}_a2mamba_test")
    model = convolutional(kind, rpn=replace(config.rpn, min_box_size=1e6))
    losses = check_training(model, scene()[0], without_objects())
    assert all(losses[name] == 0 for name in losses if "classifier" in name)
    with torch.inference_mode():
        assert [len(detection["masks"]) for detection in model.eval()(scene()[0])] == [0, 0]


@both
def test_bfloat16(kind: str) -> None:
    model = make(kind)
    photos, targets = scene()
    torch.manual_seed(2)
    expected = check_training(model, photos, targets)
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = check_training(model, photos, targets)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=0.25, atol=0.05)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        detections = model.eval()(photos)
    for detection in detections:
        assert len(detection["boxes"]) > 0
        assert {detection[name].dtype for name in ("boxes", "scores", "masks")} == {torch.float32}


def test_a_model_that_is_cast_as_a_whole() -> None:
    torch.manual_seed(0)
    model = create_detector("mask_rcnn_a2mamba_test", num_classes=CLASSES, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    photos, targets = scene()
    check_training(model, [x.bfloat16() for x in photos], targets)
    with torch.inference_mode():
        detections = model.eval()([x.bfloat16() for x in photos])
    assert all(d["boxes"].dtype == torch.float32 for d in detections)


@both
def test_gradient_checkpointing_changes_nothing(kind: str) -> None:
    model, twin = make(kind), make(kind)
    twin.set_grad_checkpointing()
    backbone: Any = twin.backbone
    assert all(stage.checkpointed_blocks == len(stage.blocks) for stage in backbone.stages)
    for m in (model, twin):
        torch.manual_seed(3)
        check_training(m, *scene())
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=name)
    twin.set_grad_checkpointing(False)
    assert all(stage.checkpointed_blocks == 0 for stage in backbone.stages)
    with pytest.raises(ValueError, match="SmallBackbone has no gradient checkpointing"):
        convolutional().set_grad_checkpointing()


@pytest.fixture
def process_group() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@both
def test_distributed_training_finds_every_parameter_in_use(kind: str) -> None:
    """DistributedDataParallel would complain in the step after one that left a parameter out."""
    model = DistributedDataParallel(convolutional(kind))
    for objects in (without_objects(), one_pixel(), some_without()):
        check_training(model, scene()[0], objects)


def test_norms_of_box_heads_can_be_synchronized() -> None:
    model = convolutional("cascade_mask_rcnn")
    names = list(model.state_dict())
    before = model.state_dict()
    model.synchronize_norms()
    assert list(model.state_dict()) == names
    kinds = {type(m).__name__ for m in model.roi_heads.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {"SyncBatchNorm"}
    assert isinstance(model.backbone.norm, nn.BatchNorm2d)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        assert len(model.eval()(scene()[0])) == 2


def test_the_engine_synchronizes_them_too() -> None:
    """As it does in a run of several processes, whose box heads may see no boxes."""
    model = synchronize_norms(convolutional("cascade_mask_rcnn"))
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {SyncBatchNorm2d}
    check_training(model, scene()[0], without_objects())


def test_frozen_norms() -> None:
    model = convolutional(freeze_backbone_norm=True)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items() if name.startswith("norm")}
    total(model.train()(*scene())).backward()
    assert model.training
    assert not model.backbone.get_submodule("norm").training
    after = model.backbone.state_dict()
    assert len(before) == 5
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [name for name, p in model.named_parameters() if p.grad is None] == [
        "backbone.norm.weight",
        "backbone.norm.bias",
    ]
    free = convolutional().train()
    free(*scene())
    assert not torch.equal(free.backbone.state_dict()["norm.running_mean"], before["norm.running_mean"])


@pytest.mark.parametrize(
    ("size", "rounding", "expected"),
    [
        ((480, 640), "nearest", (800, 1067)),
        ((480, 640), "floor", (800, 1066)),
        ((600, 805), "nearest", (800, 1073)),
        ((640, 427), "nearest", (1199, 800)),
        ((300, 1000), "nearest", (400, 1333)),
        ((800, 1333), "nearest", (800, 1333)),
        ((1, 5000), "nearest", (1, 1333)),
    ],
)
def test_sizes_of_evaluation(size: tuple[int, int], rounding: Any, expected: tuple[int, int]) -> None:
    assert resized(*size, DetectorConfig(resize_rounding=rounding)) == expected


def test_batches_are_padded_with_zeros_to_a_multiple() -> None:
    model = convolutional(size_divisor=32).train()
    photos = images((33, 64), (20, 70))
    batch, _ = model.preprocess(photos)
    assert batch.tensors.shape == (2, 3, 64, 96)
    assert batch.image_sizes == [(33, 64), (20, 70)]
    expected = (photos[1] - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    torch.testing.assert_close(batch.tensors[1, :, :20, :70], expected)
    assert (batch.tensors[1, :, 20:] == 0).all()
    assert (batch.tensors[1, :, :, 70:] == 0).all()


def test_training_images_are_resized_where_that_is_asked_for() -> None:
    photos, targets = scene()
    model = convolutional(resize_in_training=True, min_size=140, max_size=400).train()
    batch, found = model.preprocess(photos, targets)
    assert batch.image_sizes == [(140, 200), (212, 140)]
    assert found[0]["boxes"].tolist() == [[10, 10, 120, 100], [80, 40, 190, 138]]
    assert found[0]["masks"].shape == (2, 140, 200)
    assert torch.equal(found[0]["masks"][:, ::2, ::2], targets[0]["masks"])
    assert torch.equal(found[0]["labels"], targets[0]["labels"])
    check_training(model, photos, targets)
    check_training(model, photos, without_objects())


def test_detections_are_in_pixels_of_the_given_image() -> None:
    """An image that is enlarged before has the same detections, and boxes that are as much larger."""
    small, large = convolutional(min_size=64, max_size=64).eval(), convolutional(min_size=64, max_size=64).eval()
    photo = images((64, 64))[0]
    half = photo.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    with torch.inference_mode():
        (a,), (b,) = small([photo]), large([half])
    torch.testing.assert_close(b["boxes"], 2 * a["boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(b["scores"], a["scores"], rtol=1e-4, atol=1e-4)
    assert b["masks"].shape[2:] == (128, 128)


@pytest.mark.parametrize("paste", ["grid", "box"])
def test_masks_can_stay_in_their_boxes(paste: Any) -> None:
    model = convolutional(paste=paste).eval()
    with torch.inference_mode():
        whole, small = model(scene()[0]), model(scene()[0], paste=False)
    for a, b, size in zip(whole, small, SIZES, strict=True):
        assert b["masks"].shape == (len(a["masks"]), 1, 28, 28)
        assert torch.equal(a["boxes"], b["boxes"])
        pasted = torch.stack(list(iter_masks(b["masks"], b["boxes"], size, paste=paste)))
        assert torch.equal(pasted[:, None], a["masks"])


def test_inference_is_deterministic_and_leaves_the_model_alone() -> None:
    model = make("cascade_mask_rcnn").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    photos, _ = scene()
    with torch.inference_mode():
        a, b = model(photos), model(photos)
    for x, y in zip(a, b, strict=True):
        assert all(torch.equal(x[name], y[name]) for name in x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_state_has_plain_names() -> None:
    names = list(make("cascade_mask_rcnn").state_dict())
    assert {name.split(".")[0] for name in names} == {"backbone", "fpn", "rpn", "roi_heads"}
    assert {name.split(".")[1] for name in names if name.startswith("backbone")} == {"stem", "stages"}
    assert {".".join(n.split(".")[1:4]) for n in names if n.startswith("roi_heads")} == {
        f"stages.{i}.{head}" for i in range(3) for head in ("box_head", "mask_head")
    }


class NHWC(SmallBackbone):
    """As timm's Swin: maps with channels last."""

    output_fmt = "NHWC"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [level.permute(0, 2, 3, 1) for level in super().forward(x)]


def timm_backbone(name: str, **options: Any) -> nn.Module:
    backbone: nn.Module = timm.create_model(name, pretrained=False, features_only=True, **options)
    return backbone


@pytest.mark.parametrize(
    "make_backbone",
    [
        lambda: timm_backbone("resnet10t", out_indices=(1, 2, 3, 4)),
        lambda: timm_backbone("convnext_atto"),
        lambda: a2mamba.create_model("a2mamba_test", features_only=True),
        NHWC,
    ],
    ids=["resnet", "convnext", "ours as features", "channels last"],
)
def test_other_backbones(make_backbone: Any) -> None:
    torch.manual_seed(0)
    config = detector_config("mask_rcnn_a2mamba_test")
    model = Detector(make_backbone(), num_classes=CLASSES, config=config)
    check_training(model, *scene())
    with torch.inference_mode():
        found = model.eval()(scene()[0])
    assert all(len(detection["boxes"]) > 0 for detection in found)


def test_maps_as_declared_whatever_their_layout() -> None:
    torch.manual_seed(0)
    config = detector_config("mask_rcnn_a2mamba_test")
    a, b = (Detector(kind(), num_classes=2, config=config).eval() for kind in (SmallBackbone, NHWC))
    b.load_state_dict(a.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for left, right in zip(a.levels(x), b.levels(x), strict=True):
        torch.testing.assert_close(left, right)


def test_a_pyramid_of_fewer_levels() -> None:
    backbone = SmallBackbone()
    backbone.feature_info = backbone.feature_info[:3]
    backbone.stages = backbone.stages[:2]
    config = detector_config("mask_rcnn_a2mamba_test")
    config = replace(config, rpn=replace(config.rpn, anchor_sizes=(16.0, 32.0, 64.0, 96.0)))
    check_training(Detector(backbone, num_classes=CLASSES, config=config), *scene())


def test_backbones_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear declares no feature_info"):
        Detector(nn.Linear(2, 2), num_classes=1)
    uneven = SmallBackbone()
    uneven.feature_info[1]["reduction"] = 12
    with pytest.raises(ValueError, match=r"maps of strides \[4, 12, 16, 32\]; expected powers of two that double"):
        Detector(uneven, num_classes=1)
    with pytest.raises(ValueError, match=r"anchor_sizes=.* expected 6, one for each level"):
        Detector(timm_backbone("resnet10t"), num_classes=1)
    with pytest.raises(ValueError, match="num_classes=0: expected 1 or more"):
        Detector(SmallBackbone(), num_classes=0)


def changed(**values: Any) -> list[Target]:
    targets = scene()[1]
    for name, value in values.items():
        if value is None:
            del targets[1][name]
        else:
            targets[1][name] = value
    return targets


MASK = torch.zeros(1, 97, 64, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (changed(boxes=torch.tensor([[10.0, 30, 10, 90]])), r"image 1: box 0 is \[10\.0, 30\.0, 10\.0, 90\.0\]"),
        (changed(boxes=torch.tensor([[10.0, 95, 50, 90]])), "image 1: box 0 is .* with x1 < x2 and y1 < y2"),
        (changed(boxes=torch.tensor([[10.0, 30, float("nan"), 90]])), "image 1: box 0 is .*nan.*finite numbers"),
        (changed(labels=torch.tensor([0])), "image 1: label 0 is 0; expected 1 to 3"),
        (changed(labels=torch.tensor([4])), "image 1: label 0 is 4; expected 1 to 3"),
        (changed(labels=torch.tensor([1, 2])), r"target 1: labels must be int64 \(1,\), got torch\.int64 \(2,\)"),
        (changed(labels=torch.tensor([1.0])), r"target 1: labels must be int64 \(1,\), got torch\.float32"),
        (changed(boxes=torch.zeros(4)), r"target 1: boxes must be floating point \(N, 4\), got torch\.float32 \(4,\)"),
        (changed(boxes=torch.tensor([[1, 2, 3, 4]])), "target 1: boxes must be floating point"),
        (changed(masks=MASK[:, 1:]), r"target 1: masks must be uint8 or bool \(1, 97, 64\), got .* \(1, 96, 64\)"),
        (changed(masks=MASK.float()), "target 1: masks must be uint8 or bool"),
        (changed(masks=None), "target 1: masks missing; expected boxes, labels and masks"),
        (scene()[1][:1], "training needs one target for each of 2 images, got 1"),
        (None, "training needs one target for each of 2 images, got none"),
    ],
)
def test_targets_that_cannot_be_learned_from(targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        convolutional().train()(scene()[0], targets)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        (torch.rand(2, 3, 64, 64), "expected a list of image tensors, got Tensor"),
        ([], "expected at least one image, got none"),
        ([torch.rand(1, 64, 64)], r"image 0: expected \(3, height, width\), got \(1, 64, 64\)"),
        ([torch.rand(3, 8, 8), torch.rand(3, 0, 64)], "image 1: expected"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], "image 0: expected floating point in .*; divide by 255"),
    ],
)
def test_images_of_another_form(photos: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convolutional().eval()(photos)


# Boxes alone


def without_masks(targets: list[Target]) -> list[Target]:
    return [{name: value for name, value in t.items() if name != "masks"} for t in targets]


@both
@pytest.mark.parametrize("resize_in_training", [False, True])
def test_boxes_alone(kind: str, resize_in_training: bool) -> None:
    """``masks=False``: targets need no masks, there are no heads for them, and results have none."""
    name = f"{kind}_a2mamba_test"
    config = replace(detector_config(name), resize_in_training=resize_in_training)
    torch.manual_seed(0)
    model = create_detector(name, num_classes=CLASSES, config=config, masks=False)
    photos, targets = scene()
    losses = check_training(model, photos, without_masks(targets))
    assert not any("mask" in name for name in [*losses, *model.state_dict()])
    with torch.inference_mode():
        found = model.eval()(photos)
    assert all(set(detection) == {"boxes", "labels", "scores"} for detection in found)
    assert all(len(detection["boxes"]) > 0 for detection in found)


def test_boxes_alone_are_the_boxes_of_a_detector_with_masks() -> None:
    torch.manual_seed(0)
    full = make("cascade_mask_rcnn")
    shake(full)
    alone = make("cascade_mask_rcnn", masks=False)
    alone.load_state_dict({name: value for name, value in full.state_dict().items() if "mask_head" not in name})
    photos, targets = scene()
    with torch.inference_mode():
        for a, b in zip(full.eval()(photos), alone.eval()(photos), strict=True):
            assert len(a["boxes"]) > 0
            assert all(torch.equal(a[name], b[name]) for name in ("boxes", "labels", "scores"))
    torch.manual_seed(2)
    learned = alone.train()(photos, targets)  # masks that are there are not read
    torch.manual_seed(2)
    assert all(torch.equal(learned[name], value) for name, value in alone(photos, without_masks(targets)).items())


def test_a_detector_with_masks_says_how_to_do_without() -> None:
    photos, targets = scene()
    with pytest.raises(ValueError, match=r"target 0: masks missing; expected boxes, labels and masks; .* masks=False"):
        make("mask_rcnn")(photos, without_masks(targets))


# Fusing


@both
def test_fused_detectors_find_the_same(kind: str) -> None:
    model = make(kind)
    shake(model)
    photos, _ = scene()
    fused = a2mamba.fuse_for_inference(model.eval())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.inference_mode():
        for a, b in zip(model(photos), fused(photos), strict=True):
            assert len(a["boxes"]) > 0
            for name in ("boxes", "scores", "masks"):
                torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="fused before"):
        a2mamba.fuse_for_inference(fused)
    with pytest.raises(ValueError, match="training mode"):
        a2mamba.fuse_for_inference(model.train())
