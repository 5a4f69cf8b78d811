"""From a word to a network: released weights, a stored or exported file, a saved folder here or on the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from a2mamba.backbone import read_file, weights_of
from a2mamba.data.text import read_names
from a2mamba.export import SUFFIXES, open_exported, read_sidecar
from a2mamba.hub import HUB_PREFIX, download_folder, is_saved_folder, read_folder
from a2mamba.recipes import parse_run, read_checkpoint
from a2mamba.tasks import TASKS, AnyRun, task_of, task_of_network
from a2mamba.weights import fetch_weights, find_weights


class Loaded(NamedTuple):
    """A network and what its source says of it."""

    model: nn.Module
    run: AnyRun
    classes: list[str]
    report: str
    device: str
    best: Mapping[str, Any] | None = None
    recipe: str | None = None


def load_network(source: str | Path, *, name: str | None, pretrained: str | None, device: str) -> Loaded:
    """Return the network that a source means.

    Args:
        source: see `a2mamba.load`.
        name: of the network, where the source does not say.
        pretrained: data set of released weights.
        device: where the network goes; an exported file stays on the CPU.

    Raises:
        ValueError: a source that is missing, damaged, does not say what it holds or holds something else.
        WeightsUnavailableError: released weights cannot be downloaded.
    """
    path = _place(source)
    if path.is_dir() and not is_saved_folder(path):
        raise ValueError(f"{source} is a folder; give a checkpoint file, such as checkpoints/best.pt in a run's folder")
    released = name is None and not path.exists() and str(source) in _networks()
    if pretrained is not None and not released:
        raise ValueError(
            f"pretrained={pretrained!r} is for the name of a network, and {source} is none: a2mamba models"
        )
    if released:
        return _released(str(source), pretrained, device)
    if is_exported(path):
        return _exported(path)
    if name is not None:
        task_of_network(name)  # says which one is nearest
    return _stored(path, name, device)


def is_exported(path: Path) -> bool:
    """Whether a file is one that `Predictor.export` writes and a predictor reads."""
    return path.suffix in SUFFIXES


def class_names(given: Sequence[str] | Path | None, own: list[str]) -> list[str]:
    """Return the names that were given, in a list or a file of lines, or a network's own.

    Raises:
        ValueError: names of another number of classes.
    """
    if given is None:
        return own
    names = read_names(given) if isinstance(given, Path) else list(given)
    if len(names) != len(own):
        what = str(given) if isinstance(given, Path) else "classes="
        raise ValueError(f"{what} names {len(names)} classes, the model has {len(own)}")
    return names


def _networks() -> list[str]:
    return [network for task in TASKS.values() for network in task.networks()]


def _place(source: str | Path) -> Path:
    """Where a source is on this machine."""
    word = str(source)
    return download_folder(word.removeprefix(HUB_PREFIX)) if word.startswith(HUB_PREFIX) else Path(source)


def _released(name: str, dataset: str | None, device: str) -> Loaded:
    """A network with the weights that were released of it."""
    weights = find_weights(name, dataset)
    task = task_of_network(name)
    run, classes = task.run_of_released(weights)
    path = fetch_weights(weights)
    model, report = task.load_model(run, read_file(path), classes, name=str(path), device=device)
    return Loaded(model, run, classes, f"{report}; released for {weights.dataset}, {weights.license}", device)


def _exported(path: Path) -> Loaded:
    """The file itself in the network's place."""
    sidecar = read_sidecar(path)
    trained = parse_run(sidecar.run, str(path.with_suffix(".json")))
    model, report = open_exported(path, sidecar), f"{sidecar.format} file"
    return Loaded(model, trained.run, trained.classes, report, "cpu", sidecar.best)


def _stored(path: Path, name: str | None, device: str) -> Loaded:
    """The network in a file, which says what it is, or has to be of this name."""
    content, trained = read_folder(path) if path.is_dir() else read_checkpoint(path)
    if trained is not None:
        run, classes = trained.run, trained.classes
        if name not in (None, run.model.name):
            raise ValueError(
                f"{path} holds {run.model.name}, not {name}; leave the name out, or use: a2mamba predict "
                f"{run.model.name} ..."
            )
        task = task_of(run)
    elif name is None:
        raise ValueError(f"{path} does not say which network it holds; give its name, one of: a2mamba models")
    else:
        task = task_of_network(name)
        run, count = task.run_of_network(name), task.count_classes(weights_of(content))
        if count is None:
            raise ValueError(f"{path} has no classifier of a network for {task.name}; train one on it first")
        classes = _numbers(count)
    model, report = task.load_model(run, content, classes, name=str(path), device=device)
    best, recipe = (None, None) if trained is None else (content.get("best"), trained.recipe or None)
    return Loaded(model, run, classes, str(report), device, best, recipe)


def _numbers(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]
