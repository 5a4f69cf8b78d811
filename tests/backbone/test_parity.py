"""The backbones against numbers of the original implementation: outputs, features, gradients, sizes."""

from __future__ import annotations

import json

import pytest
import torch

import a2mamba
from a2mamba.analysis import flops, parameters
from support import (
    DATA,
    normal,
    reference_images,
    reference_model,
    reference_state,
    relative_error,
    released_layout,
    stored,
    uninitialized,
)

RUNS = sorted(p.stem for p in DATA.glob("a2mamba_*x*.npz") if "grad" not in p.stem)
ENCODERS = sorted(p.stem for p in DATA.glob("segman_encoder_*.npz"))

PARAMETERS = {
    "a2mamba_nano": 4_195_052,
    "a2mamba_tiny": 15_365_506,
    "a2mamba_small": 30_672_834,
    "a2mamba_base": 51_134_464,
    "a2mamba_large": 93_737_376,
    "a2mamba_large_paper": 94_948_590,
    "segman_encoder_tiny": 3_506_014,
    "segman_encoder_small": 25_507_582,
    "segman_encoder_base": 45_020_682,
    "segman_encoder_large": 80_985_272,
}
GIGA_FLOPS = {
    "a2mamba_nano": {224: 0.825, 512: 4.35, 1024: 17.99},
    "a2mamba_tiny": {224: 2.712, 512: 14.26, 1024: 58.45},
    "a2mamba_small": {224: 5.389, 384: 15.89, 512: 28.37},
    "a2mamba_base": {224: 11.458, 384: 33.75, 512: 60.18},
    "a2mamba_large": {224: 17.436, 512: 91.52},
    "a2mamba_large_paper": {224: 18.278, 384: 53.83},
}


def test_there_are_reference_runs() -> None:
    assert len(RUNS) == 8
    assert len(ENCODERS) == 4
    assert {run.rsplit("_", 1)[0] for run in RUNS} == {
        f"a2mamba_{s}" for s in ("nano", "tiny", "small", "base", "large")
    }


@pytest.mark.parametrize("run", RUNS)
def test_a2mamba_reproduces_the_original(run: str) -> None:
    name, size = run.rsplit("_", 1)
    batch, height, width = map(int, size.split("x"))
    expected = {key: torch.from_numpy(value) for key, value in stored(run).items()}
    model = reference_model(name)
    images = reference_images(batch, height, width)
    with torch.inference_mode():
        last, maps = model.forward_intermediates(images)
        logits = model.forward_head(last)
    assert (logits - expected["logits"]).abs().max() < 1e-4
    for i, found in enumerate(maps):
        mean, std = found.mean((2, 3)), found.std((2, 3), correction=0)
        tokens = found.flatten(2)
        assert relative_error(mean, expected[f"stage{i}_mean"]) < 1e-4
        assert relative_error(std, expected[f"stage{i}_std"]) < 1e-4
        sample = tokens[..., :: max(1, tokens.shape[-1] // 16)]
        assert relative_error(sample, expected[f"stage{i}_sample"]) < 1e-4


@pytest.mark.parametrize("run", ENCODERS)
def test_segman_encoder_reproduces_the_original(run: str) -> None:
    with torch.inference_mode():
        logits = reference_model(run.rsplit("_", 1)[0])(reference_images(1, 224, 224))
    assert (logits - torch.from_numpy(stored(run)["logits"])).abs().max() < 1e-4


def test_gradients_reproduce_the_original() -> None:
    expected = stored("a2mamba_nano_grad_1x224x224")
    model = reference_model("a2mamba_nano")
    images = reference_images(1, 224, 224).requires_grad_()
    loss = (model(images) * normal("loss.weights", 1000)).sum()
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(loss, [images, *model.parameters()])
    assert abs(loss.item() - float(expected["loss"])) < 1e-3 * abs(float(expected["loss"]))

    image_gradient = gradients[0]
    assert abs(image_gradient.abs().mean().item() / float(expected["input_grad_mean_abs"]) - 1) < 1e-3
    # The released layout gives every gradient the name and shape that the original reports it under.
    holder = uninitialized("a2mamba_nano")
    with torch.no_grad():
        for name, gradient in zip(names, gradients[1:], strict=True):
            holder.get_parameter(name).copy_(gradient)
    released = a2mamba.to_released(holder)
    checked = 0
    for key, value in expected.items():
        kind, _, name = key.partition("/")
        if kind == "norm":
            assert abs(released[name].norm().item() - float(value)) <= 1e-3 * float(value) + 1e-6, name
            checked += 1
        elif kind == "head":
            found = released[name].flatten()[: len(value)]
            scale = float(expected[f"norm/{name}"]) / released[name].numel() ** 0.5
            assert (found - torch.from_numpy(value)).abs().max() <= 1e-3 * max(abs(value).max(), scale) + 1e-6, name
    assert checked > 300


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    assert parameters(a2mamba.create_model(name, device="meta")) == PARAMETERS[name]


def test_test_variant_is_small() -> None:
    assert 100_000 < parameters(a2mamba.create_model("a2mamba_test")) < 500_000


@pytest.mark.parametrize(("name", "side"), [(name, side) for name, row in GIGA_FLOPS.items() for side in row])
def test_flops(name: str, side: int) -> None:
    found = flops(a2mamba.create_model(name, device="meta"), (3, side, side)) / 1e9
    assert found == pytest.approx(GIGA_FLOPS[name][side], rel=5e-3)


@pytest.mark.parametrize("name", sorted(json.loads((DATA / "released_layout.json").read_text())))
def test_round_trip_is_bit_identical(name: str) -> None:
    state = reference_state(name)
    model = reference_model(name)
    back = a2mamba.to_released(model)
    assert {key: list(tensor.shape) for key, tensor in back.items()} == released_layout()[name]
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    again = uninitialized(name)
    report = a2mamba.load_checkpoint(again, back)
    assert report.loaded == report.total
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
