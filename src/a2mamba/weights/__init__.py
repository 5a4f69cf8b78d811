"""Weights that others released: where they are, under which license, and the files themselves, downloaded once."""

from a2mamba.weights.fetch import WeightsUnavailableError, fetch_weights, weights_folder
from a2mamba.weights.released import (
    REMARKS,
    WEIGHTS,
    DriveFile,
    HubFile,
    ReleasedWeights,
    dataset_in_words,
    find_weights,
    has_released_weights,
)

__all__ = [
    "REMARKS",
    "WEIGHTS",
    "DriveFile",
    "HubFile",
    "ReleasedWeights",
    "WeightsUnavailableError",
    "dataset_in_words",
    "fetch_weights",
    "find_weights",
    "has_released_weights",
    "weights_folder",
]
