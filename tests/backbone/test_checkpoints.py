"""Loading every kind of file, and refusing what does not fit."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import a2mamba
from a2mamba.backbone import CheckpointError, WeightsUnavailableError, read_file
from support import uninitialized

NAME = "a2mamba_test"


def make(name: str, **options: Any) -> Any:
    return timm.create_model(name, **options)


def create(name: str, **options: Any) -> Any:
    return a2mamba.create_model(name, **options)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return create(NAME)


@pytest.fixture(scope="module")
def released(model: Any) -> dict[str, Tensor]:
    return a2mamba.to_released(model)


def other_values(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(tensor) if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def assert_loads(content: Any, path: Path, model: Any, expected: str) -> None:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({key: t.clone().contiguous() for key, t in content.items()}, path)
    else:
        torch.save(content, path)
    fresh = uninitialized(NAME)
    report = a2mamba.load_checkpoint(fresh, path)
    assert same(fresh, model)
    assert expected in str(report)
    assert f"loaded {report.total} of {report.total} tensors" in str(report)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_released_and_native(suffix: str, tmp_path: Path, model: Any, released: dict[str, Tensor]) -> None:
    assert_loads(released, tmp_path / f"a{suffix}", model, "weights, released layout")
    assert_loads(model.state_dict(), tmp_path / f"b{suffix}", model, "weights, native layout")


def test_training_checkpoints_prefer_ema(tmp_path: Path, model: Any, released: dict[str, Tensor]) -> None:
    raw = other_values(released)
    timm_like = {
        "state_dict": raw,
        "state_dict_ema": released,
        "args": argparse.Namespace(model="a2mamba_nano", lr=1e-3),
        "epoch": 3,
    }
    assert_loads(timm_like, tmp_path / "timm.pth", model, "EMA weights")
    assert_loads({"state_dict": released, "state_dict_ema": None}, tmp_path / "raw.pth", model, "weights")
    native = model.state_dict()
    ours = {"format": "a2mamba-checkpoint-1", "model": other_values(native), "ema": native, "run": "{}"}
    assert_loads(ours, tmp_path / "ours.pt", model, "EMA weights, native layout")
    assert_loads(ours | {"model": native, "ema": None}, tmp_path / "ours-raw.pt", model, "weights, native layout")


def test_arrays_will_do(model: Any, released: dict[str, Tensor]) -> None:
    fresh = uninitialized(NAME)
    a2mamba.load_checkpoint(fresh, {key: tensor.numpy() for key, tensor in released.items()})
    assert same(fresh, model)


def test_prefixes(tmp_path: Path, model: Any, released: dict[str, Tensor]) -> None:
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "model."):
        assert_loads({prefix + k: v for k, v in released.items()}, tmp_path / "a.pth", model, "released layout")


def test_backbone_of_a_segmentation_checkpoint(tmp_path: Path, model: Any, released: dict[str, Tensor]) -> None:
    body = {f"backbone.{k}": v for k, v in released.items() if not k.startswith("classifier.")}
    state = {"state_dict": body | {"decode_head.conv_seg.weight": torch.ones(1)}, "meta": {"epoch": 1}}
    torch.save(state, tmp_path / "seg.pth")
    fresh = create(NAME)
    head = fresh.head.fc.weight.clone()
    report = a2mamba.load_checkpoint(fresh, tmp_path / "seg.pth")
    assert "no head" in str(report)
    assert torch.equal(fresh.head.fc.weight, head)
    assert torch.equal(fresh.stages[2].blocks[1].mixer.ssm.D, model.stages[2].blocks[1].mixer.ssm.D)
    maps = create(NAME, features_only=True, checkpoint=tmp_path / "seg.pth")
    assert len(maps(torch.zeros(1, 3, 64, 64))) == 4


def test_another_number_of_classes_replaces_the_classifier(model: Any, released: dict[str, Tensor]) -> None:
    fresh = create(NAME, num_classes=7)
    classifier = fresh.head.fc.weight.clone()
    report = a2mamba.load_checkpoint(fresh, released)
    assert "has 1000 classes, the model 7" in str(report)
    assert torch.equal(fresh.head.fc.weight, classifier)
    assert torch.equal(fresh.head.conv.weight, model.head.conv.weight)
    assert report.loaded == report.total - 2
    bare = create(NAME, num_classes=0)
    assert "no classifier" in str(a2mamba.load_checkpoint(bare, released))


@pytest.mark.parametrize("in_chans", [1, 4])
def test_in_chans_adapts_the_first_convolution(in_chans: int, model: Any, released: dict[str, Tensor]) -> None:
    fresh = create(NAME, in_chans=in_chans)
    assert f"from 3 to {in_chans}" in str(a2mamba.load_checkpoint(fresh, released))
    if in_chans == 1:
        torch.testing.assert_close(fresh.stem.conv1.weight, model.stem.conv1.weight.sum(1, keepdim=True))


def test_img_size_resizes_the_global_bias(released: dict[str, Tensor]) -> None:
    fresh = create(NAME, img_size=(384, 352))
    assert "from 49 to 132 tokens" in str(a2mamba.load_checkpoint(fresh, released))
    at_runtime = create(NAME).eval()
    a2mamba.load_checkpoint(at_runtime, released)
    images = torch.randn(1, 3, 384, 352)
    torch.testing.assert_close(fresh.eval()(images), at_runtime(images), rtol=1e-4, atol=1e-5)


def test_pruned_feature_extractors_load(released: dict[str, Tensor], model: Any) -> None:
    maps = create(NAME, features_only=True, out_indices=(0, 2))
    report = a2mamba.load_checkpoint(maps, released)
    assert "parts that this feature extractor does not have" in str(report)
    assert torch.equal(maps.model.stem.conv1.weight, model.stem.conv1.weight)


def test_misfits_are_named_and_change_nothing(released: dict[str, Tensor]) -> None:
    fresh = create(NAME)
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    missing = dict(released)
    del missing["layers.4.blocks.1.cpe1.bias"]
    cases = [
        (missing, "1 missing: stages.2.blocks.1.pos1.bias"),
        (released | {"layers.9.weight": torch.ones(1)}, "1 left over: layers.9.weight"),
        (released | {"patch_embed.0.weight": torch.ones(8, 3, 5, 5)}, r"stem.conv1.weight \(8, 3, 5, 5\) instead of"),
        (released | {"layers.0.blocks.0.token_mixer.rpb.1": torch.ones(1, 9, 9)}, "share one position bias"),
        (released | {"layers.0.rope.angle": torch.ones(4)}, "rotary frequencies"),
        ({"conv.weight": torch.ones(1)}, "no weights of an A2Mamba"),
        ({}, "found no tensors"),
    ]
    for state, message in cases:
        with pytest.raises(CheckpointError, match=message):
            a2mamba.load_checkpoint(fresh, state)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        a2mamba.load_checkpoint(uninitialized("a2mamba_nano"), released)
    assert all(torch.equal(tensor, before[key]) for key, tensor in fresh.state_dict().items())
    with pytest.raises(CheckpointError, match="expected an A2Mamba or SegMAN encoder, got Linear"):
        a2mamba.load_checkpoint(nn.Linear(1, 1), released)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code from the file ran')",)


def test_damaged_and_foreign_files(tmp_path: Path, released: dict[str, Tensor]) -> None:
    fresh = create(NAME)
    torch.save(released, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    (tmp_path / "list.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"state_dict": Malicious()}, protocol=2))
    torch.save({"state_dict": Malicious()}, tmp_path / "code-zip.pth")
    for path in sorted(tmp_path.glob("*")):
        if path.name == "whole.pth":
            continue
        with pytest.raises(CheckpointError, match=path.name) as caught:
            a2mamba.load_checkpoint(fresh, path)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such file"):
        a2mamba.load_checkpoint(fresh, tmp_path / "absent.pth")


def test_a_flipped_bit_is_never_a_weight(tmp_path: Path, released: dict[str, Tensor]) -> None:
    """torch's own reader does not look at the checksums of a zip."""
    path = tmp_path / "released.pth"
    key = next(key for key, value in released.items() if value.shape == (8, 3, 3, 3))
    marked = released | {key: torch.full((8, 3, 3, 3), 1234.5678)}
    torch.save(marked, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((2,), 1234.5678).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(bytes(content))
    assert len(torch.load(path, weights_only=True)[key].unique()) == 2, "torch reads it"
    with pytest.raises(CheckpointError, match=r"released\.pth is damaged: the checksum of '.*' is wrong"):
        a2mamba.load_checkpoint(create(NAME), path)


def test_an_altered_directory_of_a_zip_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"stem.conv1.weight": torch.ones(3)}, path)
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    generator = torch.Generator().manual_seed(0)
    messages: list[str] = []
    for place in range(start, len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << int(torch.randint(8, (), generator=generator))
        path.write_bytes(bytes(content))
        try:
            found = read_file(path)
        except CheckpointError as error:
            messages.append(str(error))
        else:  # a date, say
            assert torch.equal(found["stem.conv1.weight"], torch.ones(3))
    assert len(messages) > 100
    assert all(message.startswith(str(path)) for message in messages)
    assert not any("\n" in message or "weights_only" in message for message in messages)


def test_what_carries_no_checksum_says_so(tmp_path: Path, model: Any, released: dict[str, Tensor]) -> None:
    torch.save(released, tmp_path / "zip.pth")
    torch.save(released, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(
        {key: t.clone().contiguous() for key, t in released.items()}, tmp_path / "a.safetensors"
    )
    for name, verified in (("zip.pth", True), ("legacy.pth", False), ("a.safetensors", False)):
        path = tmp_path / name
        report = a2mamba.load_checkpoint(uninitialized(NAME), path)
        assert report.verified is verified
        assert ("not verified: the file carries no checksum" in str(report)) is not verified
        assert a2mamba.load_checkpoint(uninitialized(NAME), read_file(path)).verified is verified
        assert ("not verified" in a2mamba.load(path, name=NAME).report) is not verified
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        report = a2mamba.load_checkpoint(uninitialized(NAME), path, sha256=digest.upper())
        assert report.verified
        with pytest.raises(CheckpointError, match=f"{name} has the SHA-256 {digest}, expected 00"):
            a2mamba.load_checkpoint(uninitialized(NAME), path, sha256="00" * 32)


@pytest.mark.parametrize("protocol", [0, 3, 4, 5])
def test_another_pickle_protocol_is_one_line_of_ours(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"x": 1, "y": {2.5}}, protocol=protocol))
    torch.save({"x": range(3)}, tmp_path / "b.pth", pickle_protocol=protocol)
    for name in ("a.pth", "b.pth"):
        with pytest.raises(CheckpointError, match=r"is not read, as it could run code|is damaged") as error:
            read_file(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "weights_only" not in str(error.value)
        assert "\n" not in str(error.value)


def test_tensors_that_are_no_weights_are_refused(released: dict[str, Tensor]) -> None:
    key = next(key for key, value in released.items() if value.shape == (8, 3, 3, 3))
    for tensor in (released[key].to_sparse(), released[key].to("meta"), released[key].int(), released[key] * 1j):
        with pytest.raises(CheckpointError, match=r"1 of another kind of tensor: stem\.conv1\.weight"):
            a2mamba.load_checkpoint(uninitialized(NAME), released | {key: tensor})


def hub_cache(root: Path, content: Any) -> None:
    """Lay out a downloaded file as huggingface_hub keeps it."""
    repository = root / "models--LMMM2025--A2Mamba"
    snapshot = repository / "snapshots" / ("0" * 40)
    weights = snapshot / "a2mamba_pretrained_weights"
    weights.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    torch.save(content, weights / "a2mamba_nano.pth")


def test_pretrained_reads_the_hub_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The released file, as a training checkpoint with a Namespace, found in the hub's cache without a network."""
    torch.manual_seed(1)
    source = create("a2mamba_nano")
    released = a2mamba.to_released(source)
    hub_cache(tmp_path, {"state_dict_ema": released, "args": argparse.Namespace(lr=1)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for loaded in (
        make("a2mamba_nano", pretrained=True, cache_dir=tmp_path),
        make("a2mamba_nano.in1k", pretrained=True, num_classes=5, in_chans=1, cache_dir=tmp_path),
        make("a2mamba_nano", pretrained=True, img_size=256, cache_dir=tmp_path),
        make("a2mamba_nano", pretrained=True, features_only=True, cache_dir=tmp_path).model,
    ):
        block = loaded.stages[2].blocks[3].mixer.qkv.weight
        assert torch.equal(block, source.stages[2].blocks[3].mixer.qkv.weight)


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailableError, match=r"could not be downloaded .* pass its path as checkpoint="):
        create("a2mamba_nano", pretrained=True)


def test_create_model_names_mistakes() -> None:
    with pytest.raises(ValueError, match="did you mean 'a2mamba_nano'"):
        create("a2mamba_nan")
    with pytest.raises(TypeError, match="did you mean 'drop_path_rate'"):
        make("a2mamba_test", drop_path=0.1)
    with pytest.raises(ValueError, match="exclude each other"):
        create("a2mamba_test", pretrained=True, checkpoint="x.pth")
    with pytest.raises(ValueError, match="features_only"):
        create("a2mamba_test", out_indices=(0, 1))
    with pytest.raises(ValueError, match="num_classes must be >= 0"):
        create("a2mamba_test", num_classes=-1)
    with pytest.raises(ValueError, match="img_size"):
        create("a2mamba_test", img_size=0)
