"""What the decoders are made of: convolution with norm, image pooling, resizing, padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNormReLU(nn.Module):
    """Convolution without bias -> BatchNorm -> ReLU.

    The norm is nn.BatchNorm2d; in several processes the engine makes it a synchronized one, as in the papers' runs.

    Args:
        inputs, outputs: channels.
        kernel_size: k.
        stride: of the convolution.
        padding: pixels on every side; k // 2 if None.
    """

    conv_norms = (("conv", "norm"),)

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int = 1, *, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, bias=False)
        # An Identity once the norm is folded into the convolution.
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H', W')."""
        return F.relu(self.norm(self.conv(x)))


class PooledConv(nn.Module):
    """Average pooling to a small grid -> 1 x 1 :class:`ConvNormReLU` -> back to the size of the map.

    Args:
        inputs, outputs: channels.
        grid: side of the pooled map; 1 pools the whole image.
    """

    def __init__(self, inputs: int, outputs: int, *, grid: int = 1) -> None:
        super().__init__()
        self.grid = grid
        self.project = ConvNormReLU(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W).

        Raises:
            ValueError: in training with one image a batch and ``grid`` 1: one value a channel has no variance.
        """
        norm = self.project.norm
        # Norms that take statistics over processes, torch's and the engine's, have a process group, None for all.
        takes_statistics = self.training and norm.training and not hasattr(norm, "process_group")
        if takes_statistics and self.grid == 1 and x.shape[0] == 1:  # the batch last: an export leaves it open
            raise ValueError(
                "a batch of one image in training: the norm after image pooling needs at least two; "
                "use a larger batch, or SyncBatchNorm over several processes"
            )
        pooled = self.project(F.adaptive_avg_pool2d(x, self.grid))
        # What interpolation makes of a single position, without computing it.
        return pooled.expand(-1, -1, *x.shape[2:]) if self.grid == 1 else resize_to(pooled, x)


class Classifier(nn.Module):
    """Channel dropout, then a 1 x 1 convolution to classes whose weights start as normal with std 0.01.

    Args:
        inputs: channels.
        num_classes: outputs.
        drop_rate: probability that a channel of a sample is dropped.
    """

    def __init__(self, inputs: int, num_classes: int, *, drop_rate: float) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(drop_rate)
        self.conv = nn.Conv2d(inputs, num_classes, 1)
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    @torch.no_grad()
    def start_from(self, shares: Tensor) -> None:
        """Set the biases to the logarithms of the classes' shares (num_classes,), and draw larger weights.

        From the protocols' biases of zero and weights of 0.01, networks that have no features yet learn the shares
        first, and for hundreds of steps nothing else, where one class has nearly all pixels.
        """
        assert self.conv.bias is not None
        self.conv.reset_parameters()
        self.conv.bias.copy_(shares.clamp(min=1e-4).log())

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, num_classes, H, W)."""
        return self.conv(self.drop(x))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) to (B, C, *size): bilinear, align_corners false, no antialiasing."""
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def resize_to(x: Tensor, like: Tensor) -> Tensor:
    """Resize a map to the height and width of another, see :func:`resize`."""
    return resize(x, (like.shape[2], like.shape[3]))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of (B, C, H, W) until both sides are multiples; the map itself if they are."""
    bottom, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """Fold blocks of ``factor`` x ``factor`` positions into channels, without loss, keeping channels-last memory.

    (B, C, H, W) -> (B, C * factor ** 2, H / factor, W / factor); channel order as F.pixel_unshuffle.
    """
    return F.pixel_unshuffle(x, factor).contiguous(memory_format=torch.channels_last)
