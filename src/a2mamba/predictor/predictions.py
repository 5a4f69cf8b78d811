"""Predictions of several images, as a list that can be saved and shown; the error about those that are unreadable."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from a2mamba.data import UndecodableImageError
from a2mamba.files import replace_text
from a2mamba.tasks import Prediction

_SHOWN = 8  # drawings that a notebook shows of a list


class UnreadableImagesError(ValueError):
    """Some images could not be read; all others were predicted.

    Args:
        failures: one error for each, which names it.
        asked: number of images that were asked about.

    Attributes:
        predictions: those of the others, where `Predictor.predict` made a list of them.
    """

    def __init__(self, failures: Sequence[UndecodableImageError], asked: int) -> None:
        each = "; ".join(f"{error.path}: {error.reason}" for error in failures)
        several = f"{len(failures)} of {asked} images cannot be decoded: {each}; replace or remove the files"
        super().__init__(str(failures[0]) if len(failures) == 1 else several)
        self.failures = list(failures)
        self.predictions: Predictions | None = None


class Predictions(list[Prediction]):
    """Predictions in the order of their images.

    Args:
        predictions: of one predictor.
        describe: makes of their entries what predictions.json holds.
    """

    def __init__(
        self, predictions: Iterable[Prediction], describe: Callable[[list[dict[str, Any]]], dict[str, Any]]
    ) -> None:
        super().__init__(predictions)
        self._describe = describe

    def to_dict(self) -> dict[str, Any]:
        """Return model, weights and predictions as plain types."""
        return self._describe([prediction.to_dict() for prediction in self])

    def save(self, folder: Path | str) -> Path:
        """Write the drawings of all and predictions.json, which names them; return that file."""
        return save_index(folder, self._describe([prediction.save(folder) for prediction in self]))

    def _repr_png_(self) -> bytes | None:
        """Let notebooks show the first drawings, one below the other."""
        if not self:
            return None
        drawings = [prediction.drawing().convert("RGB") for prediction in self[:_SHOWN]]
        canvas = Image.new(
            "RGB", (max(each.width for each in drawings), sum(each.height for each in drawings)), "white"
        )
        top = 0
        for drawing in drawings:
            canvas.paste(drawing, (0, top))
            top += drawing.height
        buffer = io.BytesIO()
        canvas.save(buffer, format="PNG")
        return buffer.getvalue()


def save_index(folder: Path | str, content: dict[str, Any]) -> Path:
    """Write predictions.json into a folder, whole or not at all."""
    path = Path(folder) / "predictions.json"
    replace_text(path, json.dumps(content, indent=2))
    return path
