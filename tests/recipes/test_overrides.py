from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from a2mamba.engine import OptimizerConfig
from a2mamba.recipes.overrides import apply_overrides, describe_fields, from_json, to_json
from data.helpers import error_line


@dataclass(frozen=True)
class Averaging:
    """A group that a run may be without."""

    decay: float = 0.9999
    start: int = 0


@dataclass(kw_only=True)
class Data:
    root: Path
    """folder with train and val"""
    scale: tuple[float, float] = (0.08, 1.0)
    sizes: tuple[int, ...] = (224,)
    names: list[str] = field(default_factory=list)
    interpolation: Literal["bicubic", "random"] = "random"
    mean: float | None = None
    label: str | None = None
    flip: bool = True
    """mirror half of the images

    left and right"""


@dataclass(kw_only=True)
class Run:
    epochs: int = 300
    warmup: int = 5
    optimizer: OptimizerConfig
    data: Data
    averaging: Averaging | None = None

    def __post_init__(self) -> None:
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup ({self.warmup}) must be less than epochs ({self.epochs})")


def run() -> Run:
    return Run(optimizer=OptimizerConfig(lr=2e-3), data=Data(root=Path("/data")))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("epochs=10", 10),
        ("optimizer.lr=1e-3", 1e-3),
        ("optimizer.lr=1", 1.0),
        ("optimizer.name=lamb", "lamb"),
        ("optimizer.betas=0.9,0.95", (0.9, 0.95)),
        ("optimizer.betas=(0.9, 0.95)", (0.9, 0.95)),
        ("optimizer.betas=none", None),
        ("optimizer.clip_grad_norm=None", None),
        ("optimizer.clip_grad_norm=1", 1.0),
        ("data.root=/x=y", Path("/x=y")),
        ("data.scale=0.5,1", (0.5, 1.0)),
        ("data.sizes=224,256,288", (224, 256, 288)),
        ("data.sizes=(7,)", (7,)),
        ("data.sizes=", ()),
        ("data.names=a, b", ["a", "b"]),
        ("data.interpolation=bicubic", "bicubic"),
        ("data.mean=0.5", 0.5),
        ("data.label=none", None),
        ("data.label=dog", "dog"),
        ("data.flip=FALSE", False),
        ("data.flip=yes", True),
        (" data.flip = 0", False),
    ],
)
def test_a_value_takes_the_type_of_its_field(override: str, value: object) -> None:
    before = run()
    after = apply_overrides(before, [override])
    found: object = after
    for name in override.partition("=")[0].strip().split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)
    assert before == run(), "the configuration that was given is not changed"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs=1e3", "epochs: expected int, found '1e3'"),
        ("epochs=true", "epochs: expected int"),
        ("optimizer.lr=fast", "optimizer.lr: expected float, found 'fast'"),
        ("optimizer.lr=none", "optimizer.lr: expected float"),
        ("optimizer.betas=0.9", "optimizer.betas: expected float,float or none, found '0.9'"),
        ("data.flip=2", "data.flip: expected true or false"),
        ("data.interpolation=area", "data.interpolation: expected one of bicubic, random, found 'area'"),
        ("data.sizes=1,,2", "data.sizes: expected int values, comma-separated"),
        ("data.mean=x", "data.mean: expected float or none"),
        ("optimizer=adam", "optimizer is a group of values; set one of them, such as optimizer.name=..."),
        ("epochs", "expected key=value, found 'epochs'"),
        ("=3", "expected key=value"),
        ("epoch=3", "unknown key 'epoch'; did you mean epochs?"),
        ("optimzer.lr=3", "unknown key 'optimzer.lr'; did you mean optimizer.lr?"),
        ("lr=3", "unknown key 'lr'; did you mean optimizer.lr?"),
        ("optimizer.weight_deacy=3", "did you mean optimizer.weight_decay?"),
        ("averaging.deca=3", "did you mean averaging.decay?"),
        ("epochs.lr=3", "unknown key 'epochs.lr'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_do(override: str, expected: str) -> None:
    error_line(lambda: apply_overrides(run(), [override]), expected)


def test_later_overrides_win_and_all_apply_before_checks() -> None:
    assert apply_overrides(run(), ["epochs=7", "epochs=9"]).epochs == 9
    assert apply_overrides(run(), ["epochs=2", "warmup=1"]) == apply_overrides(run(), ["warmup=1", "epochs=2"])
    with pytest.raises(ValueError, match=r"warmup \(5\) must be less"):
        apply_overrides(run(), ["epochs=2"])


def test_an_optional_group_is_switched_on_and_off() -> None:
    on = apply_overrides(run(), ["averaging.decay=0.9"])
    assert on.averaging == Averaging(decay=0.9)
    assert apply_overrides(on, ["averaging.start=3"]).averaging == Averaging(decay=0.9, start=3)
    assert apply_overrides(on, ["averaging=none"]).averaging is None
    assert apply_overrides(on, ["averaging=none", "averaging.start=3"]).averaging == Averaging(decay=0.9, start=3)


def test_json_round_trip() -> None:
    original = apply_overrides(
        run(), ["averaging.decay=0.5", "data.names=a,b", "optimizer.betas=0.8,0.9", "data.mean=1"]
    )
    text = to_json(original)
    assert json.loads(text)["data"]["root"] == "/data"
    assert from_json(Run, text) == original
    assert from_json(Run, to_json(run())) == run()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"epocs": 3}, "unknown key 'epocs'; did you mean epochs?"),
        ({"epochs": 3.5}, "epochs: expected int, found 3.5"),
        ({"epochs": True}, "epochs: expected int, found true"),
        ({"optimizer": 3}, "optimizer: expected an object"),
        ({"optimizer": {}}, "optimizer: no value for lr"),
        ({"optimizer": {"lr": 1, "beta": 1}}, "unknown key 'optimizer.beta'; did you mean optimizer.betas?"),
        ({"optimizer": {"lr": None}}, "optimizer.lr: expected float, found null"),
    ],
)
def test_json_of_another_shape_is_refused(change: dict[str, object], expected: str) -> None:
    text = json.dumps(json.loads(to_json(run())) | change)
    error_line(lambda: from_json(Run, text), expected)


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        from_json(Run, "{")


def test_fields_are_described_for_help() -> None:
    described = {entry.key: entry for entry in describe_fields(run())}
    assert list(described)[:3] == ["epochs", "warmup", "optimizer.name"]
    assert described["data.root"] == ("data.root", "path", Path("/data"), "folder with train and val")
    assert described["data.flip"].doc == "mirror half of the images\n\nleft and right"
    assert described["optimizer.lr"].doc == "peak learning rate, reached after the warm-up"
    assert described["optimizer.clip_grad_norm"].type == "float or none"
    assert described["averaging"].value is None
    assert "averaging.decay" in {entry.key for entry in describe_fields(apply_overrides(run(), ["averaging.decay=1"]))}
