"""The segmentation networks: counts, contracts, gradients, and every choice of SegMAN-V2's decoder."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

import a2mamba
from a2mamba.analysis import flops, parameters
from a2mamba.backbone import A2Mamba, SegMANEncoder
from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.segman import VARIANTS as SEGMAN_ENCODERS
from a2mamba.layers.rep_conv import RepConv
from a2mamba.segmentation import (
    SegMANConfig,
    SegMANV2Config,
    Segmenter,
    factory,
    segman_v2,
    upernet,
)
from a2mamba.segmentation.conv import Classifier, ConvNormReLU, PooledConv, pad_to_multiple, pixel_unshuffle
from a2mamba.segmentation.segman import MMSCopE
from a2mamba.segmentation.segman_v2 import GlobalMASS, MMRefine, SegMANV2Decoder
from a2mamba.segmentation.uper_net import UperHead

SMALL = ("segman_v2_test", "upernet_a2mamba_test")
README = Path(segman_v2.__file__).with_name("README.md")


pytestmark = pytest.mark.usefixtures("seeded")


def make(name: str, num_classes: int = 6, **options: Any) -> Segmenter:
    return a2mamba.create_segmenter(name, num_classes=num_classes, **options)


# Counts


@pytest.mark.parametrize(
    ("size", "head", "millions"),
    [
        ("small", 30_487_852, 59.61),
        ("base", 30_717_228, 80.30),
        ("large_paper", 32_486_700, 125.67),
        ("large", None, 124.0),
    ],
)
def test_parameters_of_upernet(size: str, head: int | None, millions: float) -> None:
    """The auxiliary head is counted."""
    model = make(f"upernet_a2mamba_{size}", 150, device="meta")
    assert parameters(model) / 1e6 == pytest.approx(millions, rel=5e-4)
    if head is not None:
        assert sum(parameters(module) for _, module in model.heads()) == head


@pytest.mark.parametrize(
    ("size", "giga"),
    [
        ("small", 958.6),
        pytest.param("base", 1089.2, marks=pytest.mark.slow),
        pytest.param("large_paper", 1236.1, marks=pytest.mark.slow),
        pytest.param("large", 1216.8, marks=pytest.mark.slow),
    ],
)
def test_flops_of_upernet(size: str, giga: float) -> None:
    """The auxiliary head is not computed."""
    model = make(f"upernet_a2mamba_{size}", 150, device="meta")
    assert flops(model, (3, 512, 2048)) / 1e9 == pytest.approx(giga, rel=5e-3)


# Parameters in millions, multiply-accumulates at 512 x 512 and 1024 x 2048 in thousand millions; Tables VII and XIII.
PAPER: dict[str, tuple[float, float, float | None]] = {
    "nano": (6.6, 7.4, 67),
    "tiny": (18, 17.6, None),
    "small": (32, 34, 282),
    "base": (56, 66, 552),
    "large": (108, 109, 871),
}
# How far our counts may be off; small and large contradict themselves in the paper.
TOLERANCES = {
    "nano": (0.02, 0.02, 0.04),
    "tiny": (0.03, 0.03, 1.0),
    "small": (0.04, 0.055, 0.02),
    "base": (0.02, 0.02, 0.04),
    "large": (0.02, 0.03, 0.03),
}


def stated(size: str) -> tuple[float, float, float]:
    """Return our counts of one size as the README states them: millions, thousand millions twice."""
    row = re.search(rf"^\| {size} \|.*$", README.read_text(), flags=re.MULTILINE)
    assert row is not None, f"no row of {size} in {README.name}"
    found = re.findall(r"\*\*([\d.]+)\*\*", row.group())
    millions, middle, large = map(float, found)
    return millions, middle, large


@pytest.mark.parametrize("size", PAPER)
def test_parameters_of_segman_v2(size: str) -> None:
    found = parameters(make(f"segman_v2_{size}", 150, device="meta")) / 1e6
    assert found == pytest.approx(stated(size)[0], abs=0.006)
    assert found == pytest.approx(PAPER[size][0], rel=TOLERANCES[size][0])


@pytest.mark.parametrize("size", ["nano", *(pytest.param(s, marks=pytest.mark.slow) for s in list(PAPER)[1:])])
def test_flops_of_segman_v2(size: str) -> None:
    """At the sizes of ADE20K and of Cityscapes."""
    model = make(f"segman_v2_{size}", 150, device="meta")
    found = [flops(model, image) / 1e9 for image in ((3, 512, 512), (3, 1024, 2048))]
    for i, (count, digits) in enumerate(zip(found, (0.006, 0.06), strict=True), 1):
        assert count == pytest.approx(stated(size)[i], abs=digits)
        expected = PAPER[size][i]
        if expected is not None:
            assert count == pytest.approx(expected, rel=TOLERANCES[size][i])


# The contract


@pytest.mark.parametrize("name", a2mamba.list_segmenters())
def test_every_network_has_its_backbone(name: str) -> None:
    model = make(name, device="meta")
    body = next(module for module in model.backbone.modules() if isinstance(module, (A2Mamba, SegMANEncoder)))
    assert body.head is None
    expected = SEGMAN_ENCODERS[factory.SEGMENTERS[name]] if name.startswith("segman_") and "v2" not in name else None
    assert isinstance(body, SegMANEncoder if expected else A2Mamba)
    reference = a2mamba.create_model(factory.SEGMENTERS[name], device="meta", features_only=True)
    assert parameters(model.backbone) == parameters(reference)


def test_names() -> None:
    names = a2mamba.list_segmenters()
    assert len(names) == len(set(names)) == 17
    assert {"segman_v2_nano", "segman_large", "upernet_a2mamba_large_paper", *SMALL} <= set(names)
    assert factory.SEGMENTERS["segman_v2_large"] == "a2mamba_large_paper"
    assert factory.SEGMENTERS["upernet_a2mamba_large"] == "a2mamba_large"


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (33, 200), (1, 1)])
@pytest.mark.parametrize("name", [*SMALL, "segman_tiny"])
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    model = make(name).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        logits, native = model(images), model(images, native_resolution=True)
        heads = model(images, all_heads=True)
    stride = {"segman_v2_test": 4, "upernet_a2mamba_test": 4, "segman_tiny": 8}[name]
    assert model.decoder.stride == stride
    assert native.shape == (2, 6, *(-(-side // stride) for side in size))
    assert logits.shape == (2, 6, *size)
    enlarged = F.interpolate(native, size, mode="bilinear", align_corners=False)
    assert torch.equal(logits, enlarged)
    assert torch.equal(heads["decode"], logits)
    assert logits.isfinite().all()
    if name.startswith("upernet"):
        assert heads["auxiliary"].shape == logits.shape
        assert model(images, all_heads=True, native_resolution=True)["auxiliary"].shape[2] == -(-size[0] // 16)
    else:
        assert list(heads) == ["decode"]


@pytest.mark.parametrize("name", [*SMALL, "segman_tiny"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = make(name).train()
    logits = model(torch.randn(2, 3, 70, 101), all_heads=True, native_resolution=True)
    sum((x * torch.randn_like(x)).mean() for x in logits.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()] == []


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16(name: str) -> None:
    model, images = make(name), torch.randn(2, 3, 64, 96)
    with torch.autocast("cpu", torch.bfloat16):
        heads = model.train()(images, all_heads=True)
        sum(x.float().square().mean() for x in heads.values()).backward()
    assert all(x.isfinite().all() for x in heads.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        expected = model.eval()(images)
        found = make(name, dtype=torch.bfloat16).eval()(images.bfloat16())
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()
    assert expected.dtype == torch.float32


SLOW_ONES = [pytest.param(name, marks=pytest.mark.slow) for name in ("upernet_a2mamba_test", "segman_tiny")]


@pytest.mark.parametrize("name", ["segman_v2_test", *SLOW_ONES])
def test_compiles_as_one_graph(name: str) -> None:
    model, images = make(name).eval(), torch.randn(1, 3, 64, 80)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["segman_v2_test", *SLOW_ONES])
def test_exports(name: str) -> None:
    model, images = make(name).eval(), torch.randn(1, 3, 75, 90)
    exported = torch.export.export(model, (images,))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(images), model(images), rtol=1e-4, atol=1e-5)


def test_synchronized_norms_compute_the_same() -> None:
    model, images = make("upernet_a2mamba_test").eval(), torch.randn(1, 3, 64, 64)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.decoder.modules())
    with torch.no_grad():
        torch.testing.assert_close(converted(images), make_again(model)(images))


def make_again(model: Segmenter) -> Segmenter:
    again = make("upernet_a2mamba_test").eval()
    a2mamba.load_checkpoint(again, model.state_dict())
    return again


@pytest.mark.parametrize("name", ["upernet_a2mamba_test", "segman_v2_test", "segman_tiny"])
def test_a_batch_of_one_is_refused_in_training(name: str) -> None:
    with pytest.raises(ValueError, match="a batch of one image in training"):
        make(name).train()(torch.randn(1, 3, 64, 64))


def test_checkpointing_of_the_backbone_changes_nothing() -> None:
    model, images = make("segman_v2_test").eval(), torch.randn(2, 3, 64, 64)

    def gradient() -> Tensor:
        model.zero_grad()
        model(images).square().mean().backward()
        grad = model.get_parameter("backbone.model.stem.conv1.weight").grad
        assert grad is not None
        return grad.clone()

    plain = gradient()
    model.set_grad_checkpointing()
    network = model.backbone.get_submodule("model")
    assert isinstance(network, Pyramid)
    assert all(stage.checkpointed_blocks > 0 for stage in network.stage_list())
    assert torch.allclose(plain, gradient(), atol=1e-7)


@pytest.mark.parametrize("name", [*SMALL, "segman_tiny"])
def test_fused_networks_compute_the_same(name: str) -> None:
    model, images = make(name), torch.randn(2, 3, 64, 96)
    randomize(model.decoder)
    with torch.no_grad():
        expected = model.eval()(images)
        fused = a2mamba.fuse_for_inference(model)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
        assert (fused(images) - expected).abs().max() < 1e-4 * expected.abs().max()
        assert torch.equal(model(images), expected), "the network itself is not changed"
    assert fused.auxiliary is None
    with pytest.raises(ValueError, match="fused before"):
        a2mamba.fuse_for_inference(fused)
    with pytest.raises(ValueError, match="training mode"):
        a2mamba.fuse_for_inference(model.train())


def test_networks_with_other_backbones_fuse_too() -> None:
    model = upernet(timm.create_model("resnet18", features_only=True), num_classes=4, width=16).eval()
    images, norms = torch.randn(1, 3, 64, 64), sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(a2mamba.fuse_for_inference(model)(images), model(images), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == norms, "the network itself is not changed"


# Creation


def test_options_reach_the_backbone(tmp_path: Path) -> None:
    model = make("segman_v2_test", drop_path_rate=0.4, img_size=(96, 128))
    rates = [m.drop_prob for m in model.backbone.modules() if isinstance(m, DropPath)]
    assert max(rates) == pytest.approx(0.4)
    assert model.get_parameter("backbone.model.stages.3.blocks.0.mixer.global_attention.bias").shape[-1] == 3 * 4
    assert make("segman_v2_test", in_chans=1).eval()(torch.zeros(1, 1, 32, 32)).shape[-2:] == (32, 32)
    backbone = a2mamba.create_model("a2mamba_test")
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    loaded = make("upernet_a2mamba_test", backbone_checkpoint=tmp_path / "backbone.pth")
    assert torch.equal(loaded.get_parameter("backbone.model.stem.conv1.weight"), backbone.stem.conv1.weight)
    torch.save(loaded.state_dict(), tmp_path / "network.pth")
    again = make("upernet_a2mamba_test", checkpoint=tmp_path / "network.pth")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), loaded.parameters(), strict=True))
    half = make("upernet_a2mamba_test", dtype=torch.float64)
    assert {p.dtype for p in half.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [("upernet_a2mamba_nano", 64, 64), ("segman_v2_nano", 32, 32), ("segman_small", 24, 24)],
)
def test_decoders_can_be_narrow(name: str, width: int, expected: int) -> None:
    model, standard = make(name, width=width, device="meta"), make(name, device="meta")
    assert model.get_parameter("decoder.fuse.conv.weight").shape[0] == expected
    assert parameters(model.decoder) < parameters(standard.decoder) / 8
    assert parameters(model.backbone) == parameters(standard.backbone)
    if name == "segman_small":
        assert model.get_parameter("decoder.projections.0.weight").shape[0] == 48


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="did you mean 'segman_v2_nano'"):
        make("segman_v2_nan")
    with pytest.raises(ValueError, match="known: "):
        make("zzz")
    with pytest.raises(ValueError, match="must be at least 1"):
        make("segman_v2_test", 0)
    with pytest.raises(ValueError, match="must be at least 1"):
        make("segman_v2_test", width=0)
    with pytest.raises(ValueError, match="3 \\* width must be a multiple of head_dim 32"):
        make("segman_v2_test", width=40)
    with pytest.raises(ValueError, match="holds the backbone too"):
        make("segman_v2_test", checkpoint="a.pth", pretrained_backbone=True)


# Other backbones


@pytest.mark.parametrize(
    "backbone",
    [
        partial(timm.create_model, "resnet18"),
        partial(timm.create_model, "convnext_atto"),
        partial(
            timm.create_model, "swin_tiny_patch4_window7_224", img_size=(64, 96), depths=(1, 1, 1, 1), embed_dim=24
        ),
    ],
    ids=["resnet18", "convnext_atto", "swin"],
)
def test_backbones_of_timm(backbone: Any) -> None:
    model = upernet(backbone(features_only=True), num_classes=4, width=16).eval()
    images = torch.randn(1, 3, 64, 96)
    maps = model.features(images)
    assert [tuple(x.shape[2:]) for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert model(images).shape == (1, 4, 64, 96)
    assert model(images, all_heads=True)["auxiliary"].shape == (1, 4, 64, 96)
    sets = model.parameter_sets()
    names = {name for name, _ in model.named_parameters()}
    assert sets["decoder"] == {name for name in names if not name.startswith("backbone.")}
    exempt = {n for n in names if n.startswith("backbone.") and ("norm" in n or "relative_position_bias_table" in n)}
    assert sets["norm_no_decay"] == exempt


def test_backbones_without_the_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="features_only=True"):
        upernet(a2mamba.create_model("a2mamba_test"), num_classes=3)
    short = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3))
    with pytest.raises(ValueError, match=r"strides \[4, 8, 16\]; strides \[32\] are missing"):
        upernet(short, num_classes=3)


# Sets of parameters


@pytest.mark.parametrize("name", [*SMALL, "segman_tiny"])
def test_parameter_sets_are_what_the_substring_rules_find(name: str) -> None:
    """The original rules, applied to the released names of the backbone's tensors."""
    model = make(name)
    body = next(module for module in model.backbone.modules() if isinstance(module, (A2Mamba, SegMANEncoder)))
    with torch.no_grad():
        for i, parameter in enumerate(body.parameters()):
            parameter.fill_(i)
    ours = {f"backbone.model.{n}" for n, _ in body.named_parameters()}
    exempt_values = {
        int(value.flatten()[0]) for key, value in a2mamba.to_released(body).items() if "norm" in key and value.numel()
    }
    values = {f"backbone.model.{n}": i for i, (n, _) in enumerate(body.named_parameters())}
    sets = model.parameter_sets()
    assert sets["norm_no_decay"] == {n for n in ours if values[n] in exempt_values}
    assert len(sets["norm_no_decay"]) >= 2 * 2 * 5
    assert sets["decoder"] == {n for n, _ in model.named_parameters()} - ours


# Parts


def test_rep_conv_fuses_exactly() -> None:
    module = RepConv(6, 7, ((3, 1), (3, 3), (5, 1), (3, 2))).double()
    for norm in module.norms:
        assert isinstance(norm, nn.BatchNorm2d)
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            nn.init.normal_(tensor)
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64)
    expected = module.eval()(x)
    by_branch = sum(norm(conv(x)) for conv, norm in zip(module.convs, module.norms, strict=True))
    assert torch.allclose(expected, by_branch)
    before = parameters(module)
    module.fold()
    module.fold()
    assert torch.allclose(module(x), expected, atol=1e-12)
    assert parameters(module) == 6 * 49 + 6 < before
    full = RepConv(4, 5, ((3, 2),), groups=1).eval()
    x = torch.randn(1, 4, 8, 8)
    expected = full(x)
    full.fold()
    assert torch.allclose(full(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="does not fit into a kernel of 5"):
        RepConv(4, 5, ((3, 3),))


def test_pooling_by_hand() -> None:
    module = PooledConv(4, 5, grid=1).eval()
    x = torch.randn(2, 4, 6, 7)
    expected = module.project(x.mean((2, 3), keepdim=True))
    assert torch.allclose(module(x), expected.expand(2, 5, 6, 7), atol=1e-6)
    grid = PooledConv(4, 5, grid=3).eval()
    blocks = x[..., :6].unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))
    pooled = F.interpolate(grid.project(blocks), (6, 6), mode="bilinear")
    assert torch.allclose(grid(x[..., :6]), pooled, atol=1e-6)


def test_initial_values() -> None:
    decoder = UperHead((16, 24, 32, 48), num_classes=100, width=64)
    assert decoder.classifier.conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert decoder.classifier.conv.bias is not None
    assert not decoder.classifier.conv.bias.any()
    conv = decoder.fuse.conv.weight
    assert conv.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert decoder.classifier.drop.p == 0.1


@pytest.mark.parametrize("name", ["segman_v2_test", "upernet_a2mamba_test"])
def test_classifiers_start_from_shares(name: str) -> None:
    """A map of nothing has the shares as its probabilities, in every head."""
    model = factory.create_segmenter(name, num_classes=3)
    model.start_from_shares([0.9, 0.1, 0.0])
    for _, head in model.heads():
        assert isinstance(head.classifier, Classifier)
        conv = head.classifier.conv
        logits = head.classifier.eval()(torch.zeros(1, conv.in_channels, 2, 2))
        torch.testing.assert_close(logits.softmax(1)[0, :, 0, 0], torch.tensor([0.9, 0.1, 1e-4]) / 1.0001)
        assert conv.weight.abs().max() <= conv.in_channels**-0.5  # PyTorch's own initialization
        assert conv.weight.std() > 0.02
    with pytest.raises(ValueError, match="2 shares for 3 classes"):
        model.start_from_shares([0.5, 0.5])


def test_folding_keeps_every_number() -> None:
    x = torch.randn(1, 3, 5, 7)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 3, 8, 8)
    assert torch.equal(padded[:, :, :5, :7], x)
    assert torch.equal(padded[:, :, 7, :7], x[:, :, 4])
    assert pad_to_multiple(padded, 4) is padded
    folded = pixel_unshuffle(padded, 2)
    assert torch.equal(F.pixel_shuffle(folded, 2), padded)


def conv(module: nn.Module, x: Tensor) -> Tensor:
    """A convolution, its norm in eval mode and ReLU, written out."""
    assert isinstance(module, ConvNormReLU)
    c, n = module.conv, module.norm
    assert isinstance(n, nn.BatchNorm2d)
    assert n.running_mean is not None
    assert n.running_var is not None
    y = F.conv2d(x, c.weight, None, c.stride, c.padding)
    shift, scale = n.running_mean[:, None, None], (n.running_var + n.eps).sqrt()[:, None, None]
    return ((y - shift) / scale * n.weight[:, None, None] + n.bias[:, None, None]).clamp(min=0)


def randomize(module: nn.Module) -> None:
    """Give every norm statistics and weights of its own."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias, std=0.2)


def up(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, tuple(like.shape[2:]), mode="bilinear", align_corners=False)


def features(sides: tuple[int, int] = (32, 48)) -> list[Tensor]:
    return [torch.randn(2, c, sides[0] >> i, sides[1] >> i).double() for i, c in enumerate((8, 12, 16, 20))]


def test_uper_head_by_hand() -> None:
    head = UperHead((8, 12, 16, 20), num_classes=5, width=8).double().eval()
    randomize(head)
    c1, c2, c3, c4 = features()
    pools = [
        up(conv(pool.get_submodule("project"), F.adaptive_avg_pool2d(c4, grid)), c4)
        for pool, grid in zip(head.pools, (1, 2, 3, 6), strict=True)
    ]
    p4 = conv(head.bottleneck, torch.cat([c4, *pools], 1))
    lateral1, lateral2, lateral3 = head.laterals
    p3 = conv(lateral3, c3) + up(p4, c3)
    p2 = conv(lateral2, c2) + up(p3, c2)
    p1 = conv(lateral1, c1) + up(p2, c1)
    outs = [up(conv(out, p), c1) for out, p in zip(head.outputs, (p1, p2, p3), strict=True)]
    expected = head.classifier.conv(conv(head.fuse, torch.cat([*outs, up(p4, c1)], 1)))
    assert torch.allclose(head([c1, c2, c3, c4]), expected, atol=1e-10)


CONFIG = SegMANV2Config(width=8, projection_width=12, low_level_width=4, mlp_ratio=1, head_dim=12)


def v2_decoder(config: SegMANV2Config) -> SegMANV2Decoder:
    torch.manual_seed(3)
    decoder = SegMANV2Decoder((8, 12, 16, 20), num_classes=5, config=config).double().eval()
    randomize(decoder)
    # Its own initial values are so small that the block hardly adds to its input.
    for parameter in decoder.refine.block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return decoder


def test_segman_v2_decoder_by_hand() -> None:
    decoder = v2_decoder(CONFIG)
    c1, c2, c3, c4 = features()
    project2, project3, project4 = decoder.projections
    fused = conv(decoder.fuse, torch.cat([project2(c2), up(project3(c3), c2), up(project4(c4), c2)], 1))
    refine = decoder.refine
    halved = conv(refine.conv1, fused)
    scales = [
        conv(refine.fold_conv, F.pixel_unshuffle(fused, 2)),
        conv(refine.conv2, halved),
        conv(refine.conv_fold, F.pixel_unshuffle(halved, 2)),
    ]
    table = a2mamba.layers.rope_table(4, 6, 12, torch.device("cpu"), torch.float64)
    context = up(refine.block(torch.cat(scales, 1), table), fused)
    assert decoder.shortcut is not None
    shortcut = sum(n(c(fused)) for c, n in zip(decoder.shortcut.convs, decoder.shortcut.norms, strict=True))
    assert decoder.image_pool is not None
    pooled = conv(decoder.image_pool.project, fused.mean((2, 3), keepdim=True)).expand_as(fused)
    assert isinstance(decoder.linear, ConvNormReLU)
    joined = conv(decoder.linear, torch.cat([pooled, fused, shortcut, context], 1))
    assert decoder.low_level is not None
    low = conv(decoder.low_level, c1)
    merged = conv(decoder.merge, torch.cat([up(joined, c1), low], 1))
    expected = decoder.classifier.conv(merged)
    assert torch.allclose(decoder([c1, c2, c3, c4]), expected, atol=1e-10)


def test_global_mass_by_hand() -> None:
    """The attention map is written out, and applied to the values and to the states of the scan."""
    from a2mamba.layers.heads import from_heads, rotated_qkv

    module = GlobalMASS(24, 3).double().eval()
    randomize(module)
    x = torch.randn(2, 24, 3, 5, dtype=torch.float64)
    table = a2mamba.layers.rope_table(3, 5, 8, torch.device("cpu"), torch.float64)
    q, k, v = rotated_qkv(module.qkv(x), 3, table)
    weights = (q.flatten(2, 3) @ k.flatten(2, 3).transpose(-1, -2) / 8**0.5).softmax(-1)

    def attend(values: Tensor) -> Tensor:
        return (weights @ values.flatten(2, 3)).view_as(values)

    mixed = module.ssm(from_heads(attend(v)), lambda states: (attend(states),))
    gate = F.silu(module.gate_norm(module.gate(x)))
    mixed = (module.norm(mixed) + module.lepe(module.qkv(x)[:, 48:])) * gate
    assert torch.allclose(module(x, table), module.proj(module.proj_norm(mixed)), atol=1e-10)


CHANGES: list[dict[str, Any]] = [
    {"projection_norm": True},
    {"pool_conv": False},
    {"identity_conv": True},
    {"rotary": False},
    {"pair_bias_tokens": 9},
    {"state_attention": False},
    {"refine_width": 6},
    {"mixer": "scan"},
    {"shortcut_kernel": None},
    {"shortcut_kernel": 7},
    {"shortcut_branches": ((3, 1),)},
    {"shortcut_depthwise": False},
    {"shortcut_merge": "add"},
    {"linear_norm": False},
    {"head_dim": 8},
    {"width": 16},
    {"projection_width": 20},
    {"low_level_width": 12},
    {"low_level_width": None},
    {"mlp_ratio": 2.5},
    {"drop_rate": 0.5},
]


def test_every_choice_is_tried() -> None:
    assert {key for change in CHANGES for key in change} == {f.name for f in dataclasses.fields(SegMANV2Config)}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_choice_has_an_effect(change: dict[str, Any]) -> None:
    inputs = features((28, 36))
    plain, changed = v2_decoder(CONFIG), v2_decoder(dataclasses.replace(CONFIG, **change))
    if "drop_rate" in change:
        assert (plain.classifier.drop.p, changed.classifier.drop.p) == (0.1, 0.5)
        return
    own = changed.state_dict()
    # As many weights as there are in both have the same values.
    for key, value in plain.state_dict().items():
        if key in own and own[key].shape == value.shape:
            own[key].copy_(value)
    for name, parameter in changed.named_parameters():
        if name.endswith("attention.bias"):
            nn.init.normal_(parameter)
    found = changed.train(False)(inputs)
    if changed.stride == 4:
        assert found.shape == (2, 5, 28, 36)
        assert (found - plain(inputs)).abs().max() > 1e-6
    else:
        assert found.shape == (2, 5, 14, 18)
    found.square().mean().backward()
    assert [n for n, p in changed.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("sides", [(9, 13), (10, 6), (4, 8), (1, 1), (3, 2)])
def test_maps_of_any_size_are_refined(sides: tuple[int, int]) -> None:
    refine = MMRefine(CONFIG).eval()
    x = torch.randn(1, 8, *sides)
    found = refine(x)
    assert found.shape == (1, 24, *sides)
    padded = F.pad(x, (0, -sides[1] % 4, 0, -sides[0] % 4), mode="replicate")
    assert torch.allclose(found, refine(padded)[:, :, : sides[0], : sides[1]], atol=1e-6)
    scan = MMSCopE((8, 12, 16, 20), num_classes=3, config=SegMANConfig(width=8, projection_width=12)).eval()
    assert scan.context(x).shape == (1, 24, *sides)
    assert torch.allclose(scan.context(x), scan.context(padded)[:, :, : sides[0], : sides[1]], atol=1e-6)
