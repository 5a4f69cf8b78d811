"""SegMAN's segmentation networks against numbers of the original implementation, and their released files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

import a2mamba
from a2mamba.analysis import flops, parameters
from a2mamba.backbone import CheckpointError
from a2mamba.backbone.segman import VARIANTS as SEGMAN_ENCODERS
from a2mamba.segmentation import Segmenter
from a2mamba.segmentation.segman import VARIANTS, MMSCopE
from support import DATA, reference_images, reference_segmenter_state, relative_error, released_segmenter, stored

RUNS = sorted(path.stem for path in DATA.glob("segman_*_ade20k_*.npz"))
PARAMETERS = {
    "segman_tiny": 6_397_260,
    "segman_small": 29_424_636,
    "segman_base": 51_802_820,
    "segman_large": 92_335_734,
}
# Decoder alone, with 150, 19 and 171 classes.
DECODERS = {
    "segman_tiny": (4_115_926, 4_099_027, 4_118_635),
    "segman_small": (5_469_414, 5_450_419, 5_472_459),
    "segman_base": (8_383_650, 8_359_939, 8_387_451),
    "segman_large": (13_033_894, 13_004_419, 13_038_619),
}
# At 512 x 512 and at 1024 x 2048, by the formulas of the fact sheet, whose norms are counted a little differently.
GIGA_FLOPS = {
    "segman_tiny": (6.06, 50.7),
    "segman_small": (25.17, 215.8),
    "segman_base": (57.90, 478.9),
    "segman_large": (97.24, 795.8),
}


def empty(name: str) -> Segmenter:
    model = a2mamba.create_segmenter(name, num_classes=150, device="meta")
    model.to_empty(device="cpu")
    return model.eval()


@cache
def reference(name: str) -> Segmenter:
    """Return a network with the weights of the reference run; do not change it."""
    model = empty(name)
    a2mamba.load_checkpoint(model, {"state_dict": reference_segmenter_state(name), "meta": {"epoch": 1}})
    return model


def test_there_is_a_run_of_every_size() -> None:
    assert {run.split("_ade20k_")[0] for run in RUNS} == set(PARAMETERS)


@pytest.mark.parametrize("run", RUNS)
def test_logits_are_those_of_the_original(run: str) -> None:
    name, size = run.split("_ade20k_")
    batch, height, width = map(int, size.split("x"))
    expected = {key: torch.from_numpy(value) for key, value in stored(run).items()}
    with torch.inference_mode():
        logits = reference(name)(reference_images(batch, height, width), native_resolution=True)
    assert list(logits.shape) == expected["shape"].tolist()
    assert (logits[:, ::5, ::4, ::4] - expected["logits_sample"]).abs().max() < 1e-4
    assert (logits.mean((2, 3)) - expected["mean"]).abs().max() < 1e-4
    assert relative_error(logits.std((2, 3)), expected["std"]) < 1e-4


@pytest.mark.parametrize("name", PARAMETERS)
def test_counts(name: str) -> None:
    model = a2mamba.create_segmenter(name, num_classes=150, device="meta")
    assert parameters(model) == PARAMETERS[name]
    channels = tuple(SEGMAN_ENCODERS[name.replace("segman_", "segman_encoder_")].channels)
    for classes, expected in zip((150, 19, 171), DECODERS[name], strict=True):
        with torch.device("meta"):
            decoder = MMSCopE(channels, num_classes=classes, config=VARIANTS[name])
        assert parameters(decoder) == expected


@pytest.mark.parametrize(
    "name", ["segman_tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in list(PARAMETERS)[1:])]
)
def test_flops(name: str) -> None:
    model = a2mamba.create_segmenter(name, num_classes=150, device="meta")
    found = [flops(model, size) / 1e9 for size in ((3, 512, 512), (3, 1024, 2048))]
    assert found == pytest.approx(GIGA_FLOPS[name], rel=0.01)


@pytest.mark.parametrize("name", PARAMETERS)
def test_round_trip_is_bit_identical(name: str) -> None:
    back = a2mamba.to_released(reference(name))
    assert {key: list(tensor.shape) for key, tensor in back.items()} == released_segmenter(name)
    assert all(torch.equal(back[key], value) for key, value in reference_segmenter_state(name).items())
    again = empty(name)
    report = a2mamba.load_checkpoint(again, back)
    assert report.loaded == report.total
    for a, b in zip(again.state_dict().values(), reference(name).state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_files_load_by_name_and_from_training(tmp_path: Path) -> None:
    model = reference("segman_tiny")
    torch.save({"state_dict": a2mamba.to_released(model)}, tmp_path / "released.pth")
    torch.save({"model": {}, "ema": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "ours.pt")
    for name in ("released.pth", "ours.pt"):
        found = a2mamba.create_segmenter("segman_tiny", num_classes=150, checkpoint=tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    encoder = a2mamba.create_segmenter("segman_tiny", num_classes=3, backbone_checkpoint=tmp_path / "released.pth")
    assert all(
        torch.equal(a, b) for a, b in zip(encoder.backbone.parameters(), model.backbone.parameters(), strict=True)
    )


def test_misfits_are_named_and_change_nothing() -> None:
    released = a2mamba.to_released(reference("segman_tiny"))
    missing = dict(released)
    del missing["decode_head.cat.bn.bias"]
    body = {key.removeprefix("backbone."): value for key, value in released.items() if key.startswith("backbone.")}
    model = empty("segman_tiny")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for state, message in (
        (missing, r"1 missing: decoder\.merge\.norm\.bias"),
        (released | {"decode_head.more.weight": torch.ones(1)}, r"1 left over: decode_head\.more\.weight"),
        (
            released | {"decode_head.conv_seg.weight": torch.ones(19, 128, 1, 1)},
            r"decoder\.classifier\.conv\.weight \(19, 128, 1, 1\) instead of \(150, 128, 1, 1\)",
        ),
        (released | {"backbone.layers.0.rope.angle": torch.ones(16)}, "rotary frequencies"),
        (body, r"no weights of a whole Segmenter.*model\.backbone"),
        ({}, "found no tensors"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            a2mamba.load_checkpoint(model, state)
        assert "\n" not in str(caught.value)
    assert not any(parameter.any() for parameter in model.parameters())


def test_networks_that_were_not_released_say_so() -> None:
    for name in ("segman_v2_test", "upernet_a2mamba_test"):
        model = a2mamba.create_segmenter(name, num_classes=3)
        with pytest.raises(CheckpointError, match="no released layout"):
            a2mamba.to_released(model)
        with pytest.raises(CheckpointError, match="no released layout"):
            a2mamba.load_checkpoint(model, {"backbone.a": torch.ones(1), "decode_head.b": torch.ones(1)})
        again = a2mamba.create_segmenter(name, num_classes=3)
        a2mamba.load_checkpoint(again, model.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="Linear has no released layout"):
        a2mamba.to_released(torch.nn.Linear(1, 1))
