"""Every row of the ablations is a network that can be made by name, counted, trained and loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import a2mamba
from a2mamba.analysis import flops, parameters
from a2mamba.backbone import Ablation
from a2mamba.backbone.ablations import VARIANTS
from a2mamba.data import write_demo
from a2mamba.recipes import make_run, train
from a2mamba.recipes.overrides import apply_overrides
from a2mamba.segmentation.segman_v2 import ROADMAP
from a2mamba.tasks import task_of

FULL = [name for name in VARIANTS if not name.endswith("_test")]
SMALL = [f"{name}_test" for name in FULL]

COUNTS = {
    # (parameters with and without the classifier in millions, multiply-accumulates at 512 x 512 with and without it)
    "ablation_lass": (14.53, 13.05, 13.32, 13.20),
    "ablation_ama": (14.52, 13.03, 13.32, 13.20),
    "ablation_ama_rows": (14.22, 12.74, 12.83, 12.71),
    "ablation_no_gate": (14.27, 12.78, 13.30, 13.18),
    "a2mamba_tiny": (15.37, 13.88, 14.26, 14.14),
    "segman_encoder_small": (25.51, 23.96, 21.38, 21.25),
    "ablation_mass": (27.12, 25.57, 22.79, 22.66),
}
"""Worked out by hand from the descriptions of Tables IX and XII, before these networks were written."""


def test_every_ablation_has_a_small_form() -> None:
    assert len(FULL) >= 17
    assert set(VARIANTS) == {*FULL, *SMALL}


def test_ablations_are_made_by_name_and_not_listed() -> None:
    assert set(VARIANTS).isdisjoint(a2mamba.list_models())
    assert set(VARIANTS) <= set(timm.list_models())
    assert set(ROADMAP).isdisjoint(a2mamba.list_segmenters())
    assert isinstance(a2mamba.create_model("ablation_pvt_test"), Ablation)
    with pytest.raises(ValueError, match="did you mean 'ablation_acmix'"):
        a2mamba.create_model("ablation_acmx")


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_worked_out_by_hand(name: str) -> None:
    model = a2mamba.create_model(name, device="meta").eval()
    bare = a2mamba.create_model(name, device="meta").eval()
    bare.prune_intermediate_layers(len(bare.stages), prune_head=True)
    size = (3, 512, 512)
    found = (parameters(model) / 1e6, parameters(bare) / 1e6, flops(model, size) / 1e9, flops(bare, size) / 1e9)
    assert found[:2] == pytest.approx(COUNTS[name][:2], abs=0.006)
    assert found[2:] == pytest.approx(COUNTS[name][2:], rel=0.01)


@pytest.mark.parametrize("name", SMALL)
def test_logits_gradients_and_weights(name: str) -> None:
    """An odd image through the small form; all parameters learn; its weights go into a fresh network."""
    torch.manual_seed(0)
    model = a2mamba.create_model(name, num_classes=3)
    images = torch.randn(2, 3, 65, 97)
    logits = model(images)
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert without == []
    again = a2mamba.create_model(name, num_classes=3)
    a2mamba.load_checkpoint(again, model.state_dict())
    with torch.no_grad():
        expected = model.eval()(images)
        torch.testing.assert_close(again.eval()(images), expected)
        torch.testing.assert_close(a2mamba.fuse_for_inference(model)(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FULL)
def test_full_forms_take_any_image(name: str) -> None:
    model = a2mamba.create_model(name, device="meta").eval()
    assert model(torch.empty(1, 3, 131, 67, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("name", ROADMAP)
def test_decoders_of_the_roadmap(name: str) -> None:
    """On the test backbone, with a narrow decoder; the logits are where the text says."""
    torch.manual_seed(0)
    model = a2mamba.create_segmenter(name, num_classes=3, backbone="a2mamba_test", width=32)
    images = torch.randn(2, 3, 64, 96)
    out = model(images, native_resolution=True)
    assert out.shape == (2, 3, 8, 12)
    out.square().sum().backward()
    # The classifier begins at zero, so that nothing behind it has a gradient yet: it alone must have one.
    assert model.eval()(images).shape == (2, 3, 64, 96)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small part of the embedded data."""
    root = tmp_path_factory.mktemp("paper") / "demo"
    write_demo(root, segmentation_scenes=8, train_scenes=8, val_scenes=4)
    for folder in root.glob("imagenet/*/*"):
        for image in sorted(folder.iterdir())[20 if folder.parent.name == "train" else 5 :]:
            image.unlink()
    return root


def _epochs(name: str, demo: Path, output: Path) -> None:
    """One debug run of a backbone on the embedded digits."""
    run = task_of(make_run("digits")).debug(make_run("digits"))
    words = [f"model.name={name}", f"data.root={demo / 'imagenet'}", "schedule.epochs=1", "schedule.warmup_epochs=0"]
    trainer = train(apply_overrides(run, words), output, recipe="digits", device="cpu", quiet=True)
    assert trainer.history[-1]["loss"] < 2.5
    assert "top1" in trainer.history[-1]


FAST = ("ablation_deform_conv_test", "ablation_bi_former_test")


@pytest.mark.parametrize("name", FAST)
def test_two_rows_train(name: str, demo: Path, tmp_path: Path) -> None:
    _epochs(name, demo, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name not in FAST])
def test_every_row_trains(name: str, demo: Path, tmp_path: Path) -> None:
    _epochs(name, demo, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ROADMAP, "segman_tiny", "segman_v2_test"])
def test_every_decoder_trains(name: str, demo: Path, tmp_path: Path) -> None:
    run = task_of(make_run("scenes")).debug(make_run("scenes"))
    words = [f"model.name={name}", "model.backbone=ablation_mass_test", "model.width=32"]
    words += [f"data.root={demo / 'ADEChallengeData2016'}"]
    trainer = train(apply_overrides(run, words), tmp_path / "run", recipe="scenes", device="cpu", quiet=True)
    assert "miou" in trainer.history[-1]
