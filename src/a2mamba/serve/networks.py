"""The networks that a page offers: given as words, loaded once, before the page is up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from a2mamba.predictor import Predictor, load
from a2mamba.weights import dataset_in_words


class Offered(NamedTuple):
    """A network with the name that the page shows."""

    label: str
    predictor: Predictor


def load_networks(
    words: Sequence[str], *, pretrained: bool = False, device: str = "auto", say: Callable[[str], None] = print
) -> list[Offered]:
    """Load what a user lists.

    Args:
        words: a training checkpoint; NAME=FILE, a network's name and a file of its weights; or the name of a network
            whose weights are released.
        pretrained: a word behind such a name may be the data set of the weights.
        device: of all of them.
        say: is given what was loaded, a line for each.

    Raises:
        ValueError: no words, or as `a2mamba.load`.
    """
    if not words:
        raise ValueError("no network to serve; expected a checkpoint, NAME=FILE or the name of a released network")
    found: list[Offered] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, path = _parts(word)
        dataset, rest = dataset_in_words(word, rest) if pretrained else (None, rest)
        predictor = load(path, name=name, pretrained=dataset, device=device)
        say(f"{word}: {predictor.report}")
        found.append(Offered(_label(predictor, dataset or path, [offered.label for offered in found]), predictor))
    return found


def _parts(word: str) -> tuple[str | None, str]:
    """The network's name, where it is given, and the file or released name."""
    name, equals, path = word.partition("=")
    return (name, path) if equals and not Path(word).exists() else (None, word)


def _label(predictor: Predictor, path: str, taken: Sequence[str]) -> str:
    """The network's name, with its file where two are alike."""
    name = predictor.run.model.name
    choices = [name, f"{name} ({Path(path).name})", f"{name} ({path})"]
    free = [choice for choice in choices if choice not in taken]
    return free[0] if free else f"{name} ({path}, {len(taken) + 1})"
