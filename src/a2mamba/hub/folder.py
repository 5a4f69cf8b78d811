"""A network in a folder: model.safetensors, config.json, and README.md for people.

config.json has what this package needs under "a2mamba": the run, as checkpoints store it, without the places of its
files. For a classifier it also has what timm writes, from which timm and transformers make the same network, and the
images that it takes. Nothing in a folder is code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from a2mamba.backbone import Pyramid, is_fused, read_file
from a2mamba.files import read_json, replace_file, replace_text
from a2mamba.hub.card import model_card
from a2mamba.hub.timm_config import has_timm_config, run_of_timm, timm_classes, timm_config
from a2mamba.recipes.stored import Checkpoint, describe, parse_run
from a2mamba.tasks import AnyRun, ClassificationRun

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
FORMAT = "a2mamba-folder-1"


def write_folder(
    folder: Path | str,
    model: nn.Module,
    run: AnyRun,
    classes: Sequence[str],
    *,
    recipe: str | None,
    best: Mapping[str, Any] | None,
    license: str | None,
) -> Path:
    """Write a network; each file whole or not at all. Return the folder.

    Args:
        folder: is made; other files in it stay.
        model: of the run; not fused.
        run: how it looks at images; paths in it are left out.
        classes: names, in index order.
        recipe: that it was trained by, if any.
        best: "metric", "value" and "epoch" of its weights, if they were measured.
        license: of the weights, as the hub writes it ("apache-2.0"); None: the card says that none is stated.

    Raises:
        ValueError: a fused network; a license that is no identifier.
    """
    if is_fused(model):
        raise ValueError("a fused network cannot be trained or loaded again; save the one that it was made from")
    folder = Path(folder)
    published = _without_places(run)
    own = {"format": FORMAT, **json.loads(describe(published, recipe or "", classes)), "best": best}
    config: dict[str, Any] = {"architecture": run.model.name, "a2mamba": own}
    if isinstance(run, ClassificationRun):
        assert isinstance(model, Pyramid)
        config = timm_config(model, run, classes) | config
    card = model_card(model, published, classes, recipe=recipe, best=best, license=license)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}

    def write(path: Path) -> None:
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})

    replace_file(folder / WEIGHTS_FILE, write, durable=True)
    replace_text(folder / CONFIG_FILE, json.dumps(config, indent=2))
    replace_text(folder / CARD_FILE, card)
    return folder


def is_saved_folder(path: Path) -> bool:
    """Whether a folder holds a network in this form."""
    return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()


def read_folder(folder: Path) -> Checkpoint:
    """Return the weights in a folder and the run that they are of, as `read_checkpoint` does for a file.

    Folders of classifiers that timm or transformers saved are read too.

    Raises:
        ValueError: a file is missing or damaged, or does not describe a network of this package.
    """
    path = folder / CONFIG_FILE
    config = read_json(path)
    own = config.get("a2mamba")
    # Trained further in transformers, a network has other classes than when it was saved here; its keys then say how.
    named = own.get("classes") if isinstance(own, dict) else None
    if has_timm_config(config) and (own is None or (named is not None and named != timm_classes(config))):
        trained, best = run_of_timm(config, str(path)), None
    elif isinstance(own, dict) and own.get("format") == FORMAT:
        trained, best = parse_run(own, str(path)), own.get("best")
    else:
        found = own.get("format") if isinstance(own, dict) else own
        raise ValueError(f"{path} describes no network of this package: format {found!r}, expected {FORMAT!r}")
    weights = read_file(folder / WEIGHTS_FILE)
    # transformers puts its own name before those of timm.
    weights = {name.removeprefix("timm_model."): tensor for name, tensor in weights.items()}
    return Checkpoint({"model": weights, "best": _checked_best(best, path)}, trained)


def _checked_best(best: Any, path: Path) -> dict[str, Any] | None:
    if best is None:
        return None
    kinds: dict[str, Any] = {"metric": str, "value": (int, float), "epoch": int}
    if not isinstance(best, dict) or any(not isinstance(best.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{path}: best={best!r}: expected metric, value and epoch")
    return {key: best[key] for key in kinds}


def _without_places(run: AnyRun) -> AnyRun:
    """The run without what is true on one machine: where data and weights were."""
    places: dict[str, Any] = {
        name: "" for name, value in vars(run.data).items() if isinstance(value, str) and Path(value).is_absolute()
    }
    changed: Any = run
    return replace(
        changed, model=run.model.without_weights(), data=replace(changed.data, **(places | {"root": ""})), wandb=None
    )
