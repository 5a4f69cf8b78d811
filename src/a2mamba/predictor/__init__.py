"""From a file of weights to predictions, whatever the task.

    predictor = a2mamba.load("best.pt")
    predictor.predict("photos").save("out")

Images are streamed: none is held for longer than its batch.
"""

from __future__ import annotations

from a2mamba.predictor.predictions import Predictions, UnreadableImagesError, save_index
from a2mamba.predictor.predictor import Predictor, load
from a2mamba.predictor.sources import ImageLike, find_images

__all__ = [
    "ImageLike",
    "Predictions",
    "Predictor",
    "UnreadableImagesError",
    "find_images",
    "load",
    "save_index",
]
