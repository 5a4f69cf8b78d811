"""Every recipe is a document and a run: its debug form is trained here."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import a2mamba
from a2mamba.data import write_demo
from a2mamba.engine import Trainer, parameter_groups
from a2mamba.recipes import RECIPES, ClassificationRun, find_recipe
from a2mamba.recipes.classification import build_model, debug, describe, read_trained, train
from a2mamba.recipes.overrides import from_json, to_json

DIGITS = [f"digit_{i}" for i in range(10)]

PICTURES = 90
every_recipe = pytest.mark.parametrize("name", RECIPES)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The small networks here are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety training and six validation pictures a digit, in ImageNet's layout."""
    root = tmp_path_factory.mktemp("recipes")
    write_demo(root / "demo", train_scenes=1, val_scenes=1)
    for split, count in (("train", PICTURES), ("val", 6)):
        for folder in (root / "demo" / "imagenet" / split).iterdir():
            (root / "digits" / split / folder.name).mkdir(parents=True)
            for picture in sorted(folder.iterdir())[:count]:
                shutil.copy(picture, root / "digits" / split / folder.name)
    return root / "digits"


def small(name: str, digits: Path) -> ClassificationRun:
    """The debug form of a recipe, on the demo data."""
    run = debug(RECIPES[name]())
    return replace(run, data=replace(run.data, root=str(digits)))


def fit(run: ClassificationRun, folder: Path, recipe: str = "digits") -> Trainer:
    return train(run, folder, recipe=recipe, device="cpu", quiet=True)


def test_recipes_were_found() -> None:
    assert len(RECIPES) >= 2
    assert {"digits", "folder"} <= RECIPES.keys()


@every_recipe
def test_a_recipe_is_a_document(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    title, *lines = text.splitlines()
    assert title.endswith((".", "/*."))
    labels = ("Source", "Command", "Hardware and time", "Expected")
    places = [place for label in labels for place, line in enumerate(lines) if re.match(rf"{label}: \S", line)]
    assert len(places) == len(labels)
    assert places == sorted(places)
    assert f"a2mamba train {name}" in text


@every_recipe
def test_a_recipe_makes_the_same_run_each_time(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe() == recipe()
    assert recipe() is not recipe()


@every_recipe
def test_the_resolved_run_survives_json(name: str) -> None:
    for run in (RECIPES[name](), debug(RECIPES[name]())):
        assert from_json(ClassificationRun, to_json(run)) == run


def test_json_does_not_hide_a_difference() -> None:
    run = RECIPES["digits"]()
    assert to_json(run) != to_json(replace(run, seed=run.seed + 1))
    changed = to_json(run).replace('"label_smoothing": 0.1', '"label_smoothing": 0.2')
    assert from_json(ClassificationRun, changed).label_smoothing == 0.2


@every_recipe
def test_the_debug_form_trains(name: str, digits: Path, tmp_path: Path) -> None:
    run = small(name, digits)
    assert run.schedule.total_epochs == 2
    trainer = fit(run, tmp_path, name)
    first, last = trainer.history
    assert last["loss"] < first["loss"] - 0.01
    assert last["step"] == 2 * (10 * PICTURES // run.data.batch_size)
    assert {"top1", "top5", "eval_loss", "ema_top1"} <= last.keys()
    assert last["top5"] > 0
    assert trainer.best is not None
    assert trainer.best["metric"] == run.best_metric
    stored = read_trained(tmp_path / "checkpoints" / "best.pt")
    assert stored is not None
    assert stored.run == run
    assert stored.recipe == name
    assert stored.classes == [f"digit_{i}" for i in range(10)]
    text = (tmp_path / "run.json").read_text()
    assert text == describe(run, name, stored.classes)
    assert from_json(ClassificationRun, json.dumps(json.loads(text)["config"])) == run


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    assert trainer.ema is not None
    averaged = {f"ema.{name}": value for name, value in trainer.ema.module.state_dict().items()}
    return dict(trainer.task.model.state_dict()) | averaged


def test_the_seed_decides_a_run(digits: Path, tmp_path: Path) -> None:
    """The state of the global generators does not; everything else that is random does follow the seed."""
    run = small("folder", digits)
    run = replace(run, model=replace(run.model, drop_path_rate=0.2, drop_rate=0.2))
    run = replace(run, schedule=replace(run.schedule, epochs=1, warmup_epochs=0))
    run = replace(run, data=replace(run.data, train_split="val", batch_size=16))  # few pictures: steps are what counts
    torch.manual_seed(1)
    first = _weights(fit(run, tmp_path / "a"))
    torch.manual_seed(2)
    second = _weights(fit(run, tmp_path / "b"))
    other = _weights(fit(replace(run, seed=run.seed + 1), tmp_path / "c"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    # Matrices and kernels are drawn; what begins at a constant may stay there, as tables for maps of one position do.
    drawn = {name: value for name, value in first.items() if name.endswith("weight") and value.dim() > 1}
    assert len(drawn) > 100
    assert [name for name, value in drawn.items() if torch.equal(value, other[name])] == []


def test_initial_weights_follow_the_seed_alone(digits: Path) -> None:
    run = small("digits", digits)
    state = torch.get_rng_state()
    first = build_model(run, DIGITS).state_dict()
    assert torch.equal(torch.get_rng_state(), state), "building draws nothing from the caller's generator"
    torch.rand(3)
    second = build_model(run, DIGITS).state_dict()
    other = build_model(replace(run, seed=7), DIGITS).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["stem.conv1.weight"], other["stem.conv1.weight"])


def _groups(run: ClassificationRun, digits: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, set[str]]:
    """Group -> names of its parameters, as a training run makes them."""
    run = replace(run, schedule=replace(run.schedule, epochs=1, warmup_epochs=0))
    seen: list[Trainer] = []

    def stop(trainer: Trainer) -> None:
        seen.append(trainer)
        trainer.history.append({})

    monkeypatch.setattr(Trainer, "fit", stop)
    trainer = fit(run, folder)
    assert seen == [trainer]
    names = {id(p): name for name, p in trainer.task.model.named_parameters()}
    groups = {}
    for group in trainer.optimizer.param_groups:
        groups["decay" if group["weight_decay"] else "no_decay"] = {names[id(p)] for p in group["params"]}
    assert groups["decay"] | groups["no_decay"] == set(names.values())
    assert not groups["decay"] & groups["no_decay"]
    return groups


def test_which_parameters_decay(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = _groups(small("digits", digits), digits, monkeypatch, tmp_path)
    assert all(name.endswith((".weight", "bias")) for name in groups["decay"])
    model = a2mamba.create_model("a2mamba_test", num_classes=10, img_size=32)
    expected = {name for name, p in model.named_parameters() if p.dim() <= 1 or name.endswith((".A_log", ".D"))}
    assert groups["no_decay"] == expected
    # Tables of position biases have several axes.
    assert "stages.0.blocks.0.mixer.bias" in groups["decay"]
    assert "stages.3.blocks.0.mixer.global_attention.bias" in groups["decay"]


def test_which_parameters_the_authors_decay(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small("digits", digits)
    ours = _groups(run, digits, monkeypatch, tmp_path / "ours")
    theirs = _groups(replace(run, original_weight_decay=True), digits, monkeypatch, tmp_path / "theirs")
    # In their layout A_log has two axes and the weights of residual scales have four: their optimizer decays both.
    more = theirs["decay"] - ours["decay"]
    assert more
    assert all(re.search(r"(\.A_log|(skip|scale)[12]\.weight)$", name) for name in more)
    assert {name for name in ours["no_decay"] if name.endswith(".A_log")} <= more
    assert {name for name in ours["no_decay"] if re.search(r"(skip|scale)[12]\.weight$", name)} <= more
    assert ours["decay"] <= theirs["decay"]
    assert {name for name in theirs["no_decay"] if name.endswith(".D")}


def test_groups_need_names_that_exist() -> None:
    model = a2mamba.create_model("a2mamba_test", device="meta")
    with pytest.raises(ValueError, match="nothing_of_it"):
        parameter_groups(model, weight_decay=0.1, no_decay={"nothing_of_it"})


def test_mistakes_show_before_the_first_step(digits: Path, tmp_path: Path) -> None:
    """An evaluation split with other classes is refused at once, and nothing is written."""
    root = tmp_path / "data"
    shutil.copytree(digits, root)
    shutil.rmtree(root / "val" / "digit_4")
    run = small("digits", root)
    with pytest.raises(ValueError, match="other classes than training: missing digit_4"):
        fit(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_to_start_from(digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run begins with the weights of its checkpoint; only the classifier is new."""
    source = a2mamba.create_model("a2mamba_test", num_classes=3, img_size=32)
    torch.save(source.state_dict(), tmp_path / "start.pth")
    run = small("digits", digits)
    state = build_model(replace(run, model=replace(run.model, checkpoint=tmp_path / "start.pth")), DIGITS).state_dict()
    assert "has 3 classes, the model 10" in caplog.text
    different = {name for name, value in source.state_dict().items() if not torch.equal(value, state[name])}
    assert different == {"head.fc.weight", "head.fc.bias"}
