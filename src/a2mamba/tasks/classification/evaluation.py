"""Top-1, top-5 and confusion of a classifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from a2mamba.data import ClassificationBatch
from a2mamba.engine import move_to
from a2mamba.evaluation import ConfusionMatrix, TopK
from a2mamba.tasks.classification.run import ClassificationRun
from a2mamba.tasks.evaluation import Evaluation


class ClassificationEvaluation(Evaluation[ClassificationRun, ClassificationBatch]):
    """See `Evaluation`."""

    matrix: ConfusionMatrix

    def update(
        self, model: nn.Module, batches: Iterable[ClassificationBatch], *, detailed: bool
    ) -> Sequence[TopK | ConfusionMatrix]:
        """Return the metrics of batches of normalized images."""
        memory_format = torch.channels_last if self.run.channels_last else torch.preserve_format
        metrics: list[TopK | ConfusionMatrix] = [TopK()]
        if detailed:
            self.matrix = ConfusionMatrix(len(self.classes))
            metrics.append(self.matrix)
        for batch in batches:
            logits = model(move_to(batch.images, self.device, memory_format))
            for metric in metrics:
                metric.update(logits, batch.targets)
        return metrics

    @property
    def images(self) -> int:
        """Number of images of the last call."""
        return int(self.matrix.matrix.sum())

    def confusion(self) -> list[list[int]]:
        """Return numbers of images, [true class][predicted class]."""
        counts: list[list[int]] = self.matrix.matrix.tolist()
        return counts
