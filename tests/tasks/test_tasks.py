"""What every task has to offer, and what is the same for all."""

from __future__ import annotations

import ast
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import a2mamba
from a2mamba.data import recognize, write_demo
from a2mamba.engine import Hook, Trainer
from a2mamba.evaluation import CocoMetric
from a2mamba.recipes import RECIPES, read_checkpoint, train
from a2mamba.tasks import TASKS, Evaluation, evaluation, task_of, task_of_network
from data import folders

SOURCE = Path(a2mamba.__file__).parent


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo scenes whose annotation files hold boxes alone."""
    root = tmp_path_factory.mktemp("tasks")
    write_demo(root / "demo", segmentation_scenes=1, train_scenes=16, val_scenes=3)
    shutil.move(root / "demo" / "coco", root / "boxes")
    for file in (root / "boxes" / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        file.write_text(json.dumps(content))
    return root / "boxes"


def boxes_only(coco: Path, name: str = "objects") -> Any:
    run: Any = RECIPES[name]()
    run = task_of(run).debug(run)
    return replace(run, data=replace(run.data, root=str(coco), masks=False))


def test_every_recipe_and_network_has_its_task() -> None:
    assert set(TASKS) == {"classification", "segmentation", "detection"}
    for recipe in RECIPES.values():
        run = recipe()
        assert isinstance(run, task_of(run).run_type)
    for name, task in TASKS.items():
        assert task.name == name == task.run_type.task
        for network in task.networks():
            assert task_of_network(network) is task
            assert task.run_of_network(network).model.name == network


EXCEPT = {"info.py", "models.py", "demo.py", "report.py", "fit.py"}
"""Lists and costs of networks, the demonstration, and what to choose for data of each kind."""


def test_nothing_else_asks_for_a_tasks_name() -> None:
    """No comparison with, and no table of, the names of tasks above `tasks` and `recipes`."""
    found = []
    for file in (file for part in ("recipes", "predictor", "cli") for file in (SOURCE / part).rglob("*.py")):
        if file.name in EXCEPT:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            inside = (
                node.comparators if isinstance(node, ast.Compare) else node.keys if isinstance(node, ast.Dict) else []
            )
            names = [each.value for each in inside if isinstance(each, ast.Constant) and each.value in TASKS]
            found += [f"{file.name}: {name}" for name in names]
    assert found == []


@pytest.mark.parametrize("name", ["objects", "objects_cascade"])
def test_boxes_alone_train_evaluate_and_predict(name: str, coco: Path, tmp_path: Path) -> None:
    run = boxes_only(coco, name)
    trainer = train(run, tmp_path, recipe=name, device="cpu", quiet=True)
    row = trainer.history[-1]
    assert {"box_ap", "box_ap50", "ema_box_ap"} <= row.keys()
    assert not [key for key in row if "mask" in key]
    assert not [key for key in trainer.task.model.state_dict() if "mask" in key]
    file = tmp_path / "checkpoints" / "last.pt"
    content, trained = read_checkpoint(file)
    assert trained is not None
    task = task_of(trained.run)
    model, _ = task.load_model(trained.run, content, trained.classes, name="last.pt", device="cpu")
    evaluated = task.evaluation(trained.run, trained.classes, device="cpu")
    metrics = evaluated(model)
    assert {f"ema_{key}": value for key, value in metrics.items()} == {
        key: value for key, value in row.items() if key.startswith("ema_")
    }
    assert {key for key in evaluated.class_table()[0] if key != "class"} >= {"box_ap", "box_ap50"}
    predictor = a2mamba.load(file, min_score=0.0)
    image = next((coco / "val2017").iterdir())
    (found,) = predictor.predict(image)
    assert getattr(found, "masks", 0) is None
    entry = found.save(tmp_path / "out")
    assert "mask_pixels" not in str(entry)
    assert (tmp_path / "out" / entry["drawing"]).is_file()


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_classes_that_the_split_lacks_are_said_once(
    kind: str, coco: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And do not count: the means are over the others."""
    if kind == "detection":
        run = boxes_only(coco)
        file = coco / "annotations" / "instances_val2017.json"
        shown = {entry["category_id"] for entry in json.loads(file.read_text())["annotations"]}
    else:
        folders.SEGMENTATION["images/masks"](tmp_path)
        for mask in (tmp_path / "masks" / "val").iterdir():
            mask.write_bytes((tmp_path / "masks" / "train" / "0.png").read_bytes())
            Image.fromarray(np.minimum(np.asarray(Image.open(mask)), 1)).save(mask)
        run = RECIPES["segman_v2_nano_ade20k"]()
        run = replace(run, data=recognize(tmp_path).place(run.data))
        run = task_of(run).debug(run)
        shown = {0, 1}
    task = task_of(run)
    measured = task.evaluation(run, task.held_out_classes(run), device="cpu")
    model = task.build_model(run, measured.classes)
    for _ in range(2):
        measured(model)
    values = {row["class"]: row.get("iou", row.get("box_ap")) for row in measured.class_table()}
    absent = [name for name, value in values.items() if value is None or math.isnan(value)]
    count = f"nothing of {len(absent)} of {len(measured.classes)} classes"
    assert len(absent) == len(measured.classes) - len(shown) > 0
    assert caplog.text.count(f"the evaluation split shows {count} ({absent[0]}") == 1


def test_the_first_process_alone_computes_the_metric(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = boxes_only(coco)
    task = task_of(run)
    measured = task.evaluation(run, task.held_out_classes(run), device="cpu")
    model = task.build_model(run, measured.classes).eval()
    computed = []
    original = CocoMetric.results

    def results(metric: CocoMetric) -> Iterator[tuple[str, float]]:
        computed.append(metric)
        return original(metric)

    monkeypatch.setattr(CocoMetric, "results", results)
    with torch.no_grad():
        first = dict(measured.measure(model))
        assert len(computed) == 1
        assert "box_ap" in first
        monkeypatch.setattr(evaluation, "is_main_process", lambda: False)
        assert dict(measured.measure(model)) == {}
    assert len(computed) == 1


class Steps(Hook):
    """Adds a metric of its own, and counts."""

    def __init__(self) -> None:
        self.steps = 0

    def after_step(self, trainer: Trainer) -> None:
        self.steps += 1

    def after_epoch(self, trainer: Trainer) -> None:
        trainer.add_metrics({"ours": float(self.steps)})


def test_hooks_of_ones_own(coco: Path, tmp_path: Path) -> None:
    """They are called, and what they add is logged and stored."""
    steps = Steps()
    run = replace(boxes_only(coco), evaluate_every=1)
    trainer = train(run, tmp_path, recipe="objects", device="cpu", quiet=True, hooks=[steps])
    assert steps.steps == trainer.step > 0
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("ours")
    assert [float(row.split(",")[place]) for row in rows] == [row["ours"] for row in trainer.history]
    stored = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert json.loads(stored["progress"]["history"])[-1]["ours"] == steps.steps


def test_what_a_task_does_not_have_is_said() -> None:
    for task in TASKS.values():
        run = task.run_of_network(task.networks()[0])
        bare: Any = SimpleNamespace(run=run)
        bare._has_no = partial(Evaluation._has_no, bare)
        for ask in (Evaluation.class_table, Evaluation.confusion, partial(Evaluation.write_results, path=Path("x"))):
            with pytest.raises(ValueError, match=f"{task.name} has no"):
                ask(bare)
