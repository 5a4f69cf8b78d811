"""The published classification data sets, one file each."""

from a2mamba.data.classification.datasets.imagenet import IMAGENET

__all__ = ["IMAGENET"]
