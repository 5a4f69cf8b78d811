"""Batches: their order, the randomness of each sample, and a loader whose errors stay readable."""

from a2mamba.data.loading.loader import BatchLoader, evaluation_batches
from a2mamba.data.loading.samplers import EpochSampler, GroupedSampler, RepeatedSampler, SampleKey
from a2mamba.data.loading.seeded import SeededDataset, seeded

__all__ = [
    "BatchLoader",
    "EpochSampler",
    "GroupedSampler",
    "RepeatedSampler",
    "SampleKey",
    "SeededDataset",
    "evaluation_batches",
    "seeded",
]
