"""What happens to a training batch on its device: mixing, normalization, erasing, in this order.

The order is the authors' (classification protocol of the paper's section 4.1, as their scripts run it with timm): two
images are mixed as they come out of the augmentation, the mixture is normalized, and rectangles of the normalized
mixture become noise. The authors mix in 8 bits and round; here it is done in float32, which differs by at most half a
step of 8 bits. All random numbers come from the global generators, which the engine seeds for every step.
"""

from __future__ import annotations

import torch
from torch import Tensor


class BatchTransform:
    """uint8 images and class indices -> normalized float32 images and probabilities of the classes.

    Mixup and CutMix are timm's in batch mode: one decision and one lambda a batch, always active, one of the two with
    equal chance where both are, each image mixed with its mirror image in the batch's order, lambda corrected to the
    area that CutMix really replaces. Label smoothing is part of the targets before they are mixed: with C classes and
    smoothing s a class has s / C, the true one 1 - s + s / C. Erasing is timm's: one rectangle of 2 % to a third of the
    area, of a ratio from 0.3 to 1 / 0.3, filled with unit normal noise.

    Args:
        mixup: alpha of Mixup's Beta(alpha, alpha); 0 switches it off.
        cutmix: alpha of CutMix's; 0 switches it off.
        smoothing: share of the target that is spread over all classes.
        erasing: probability of erasing for each image.
        mean: per channel, subtracted from values in [0, 1].
        std: per channel, divides after that.
        classes: number of classes.
    """

    def __init__(
        self,
        *,
        mixup: float,
        cutmix: float,
        smoothing: float,
        erasing: float,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        classes: int,
    ) -> None:
        from timm.data.mixup import Mixup

        self.classes = classes
        self.smoothing = smoothing
        self.erasing = erasing
        self.mixing = None
        if mixup > 0 or cutmix > 0:
            self.mixing = Mixup(
                mixup_alpha=mixup,
                cutmix_alpha=cutmix,
                prob=1.0,
                switch_prob=0.5,
                mode="batch",
                correct_lam=True,
                label_smoothing=smoothing,
                num_classes=classes,
            )
        self._mean = torch.tensor(mean).view(-1, 1, 1) * 255
        self._std = torch.tensor(std).view(-1, 1, 1) * 255

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return images float32 (B, C, H, W) and targets float32 (B, classes), both on the device of ``images``.

        Args:
            images: uint8 (B, C, H, W); not changed.
            targets: class indices int64 (B,).

        Raises:
            ValueError: an odd number of images cannot be mixed.
        """
        from timm.data.mixup import mixup_target

        assert images.dtype == torch.uint8, "the training loader leaves normalization to this transform"
        batch = images.float()
        if self.mixing is None:
            probabilities = mixup_target(targets, self.classes, 1.0, self.smoothing)
        elif len(images) % 2:
            raise ValueError(
                f"mixup and cutmix need an even number of images in a forward pass, found {len(images)}; "
                f"change data.batch_size or micro_batch, or set data.mixup=0 data.cutmix=0"
            )
        else:
            batch, probabilities = self.mixing(batch, targets)
        self._mean, self._std = self._mean.to(batch.device), self._std.to(batch.device)
        batch = batch.sub_(self._mean).div_(self._std)
        if self.erasing > 0:
            from timm.data.random_erasing import RandomErasing

            batch = RandomErasing(self.erasing, mode="pixel", max_count=1, device=batch.device)(batch)
        return batch, probabilities
