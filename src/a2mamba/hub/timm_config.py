"""What config.json says of a classifier for timm and for transformers, which reads the same keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from a2mamba.backbone import Pyramid, list_models
from a2mamba.recipes.stored import Trained
from a2mamba.tasks import TASKS, ClassificationRun

_SIZE, _CHANNELS = 224, 3  # what a network is made for without being told


def timm_config(model: Pyramid, run: ClassificationRun, classes: Sequence[str]) -> dict[str, Any]:
    """Return timm's keys.

    The number of classes stands beside the model's arguments and not among them, where timm >= 1.0.31 writes it too:
    transformers 5.24 passes both on, and fails.
    """
    data = run.data
    record: Any = model.pretrained_cfg
    arguments: dict[str, Any] = {}
    if data.image_size != _SIZE:
        arguments["img_size"] = data.image_size
    if data.in_chans != _CHANNELS:
        arguments["in_chans"] = data.in_chans
    side = -(-data.image_size // 32)
    return {
        "architecture": run.model.name,
        "num_classes": len(classes),
        "num_features": model.num_features,
        "global_pool": "avg",
        "label_names": list(classes),
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            "tag": "",
            "custom_load": False,
            "input_size": [data.in_chans, data.image_size, data.image_size],
            "fixed_input_size": False,
            "interpolation": data.interpolation,
            "crop_pct": data.crop_pct,
            "crop_mode": data.crop_mode,
            "mean": list(data.mean),
            "std": list(data.std),
            "num_classes": len(classes),
            "pool_size": [side, side],
            "first_conv": record["first_conv"],
            "classifier": record["classifier"],
        },
    }


def has_timm_config(config: Mapping[str, Any]) -> bool:
    """Whether these are timm's keys, of a classifier of ours."""
    return isinstance(config.get("pretrained_cfg"), dict) and config.get("architecture") in list_models()


def timm_classes(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes; numbers where there are none, or another count of them than of classes."""
    names = [str(name) for name in config.get("label_names") or []]
    count = config.get("num_classes", len(names))
    # transformers keeps the former names where it is given others.
    return names if len(names) == count else [f"class {i}" for i in range(count)]


def run_of_timm(config: Mapping[str, Any], name: str) -> Trained:
    """Return how a classifier looks at images by timm's keys.

    Raises:
        ValueError: a value of another kind than timm's; the message begins with ``name``.
    """
    record = config["pretrained_cfg"]
    arguments = config.get("model_args") or {}
    run = TASKS["classification"].run_of_network(config["architecture"])
    try:
        channels, height, width = record.get("input_size") or (_CHANNELS, _SIZE, _SIZE)
        if height != width:
            raise ValueError(f"input_size={record['input_size']}: expected a square")
        size = arguments.get("img_size", height)
        data = replace(
            run.data,
            image_size=int(size if isinstance(size, int) else size[0]),
            in_chans=int(arguments.get("in_chans", channels)),
            mean=tuple(map(float, record.get("mean") or run.data.mean)),
            std=tuple(map(float, record.get("std") or run.data.std)),
            crop_pct=float(record.get("crop_pct") or run.data.crop_pct),
            crop_mode=str(record.get("crop_mode") or run.data.crop_mode),
            interpolation=str(record.get("interpolation") or run.data.interpolation),
        )
        return Trained(replace(run, data=data), "", timm_classes(config))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} does not describe a classifier ({type(error).__name__}: {error})") from None
