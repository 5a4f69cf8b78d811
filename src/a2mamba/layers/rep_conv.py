"""A re-parameterized depthwise convolution: several dilated branches in training, one kernel after folding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RepConv(nn.Module):
    """Sum of depthwise convolutions with BatchNorm, of different size and dilation (UniRepLKNet's dilated block).

    Every branch reaches no further than the K x K kernel, so all are one K x K kernel with a bias once their norms are
    constant; :meth:`fold` makes it.

    Args:
        channels: C.
        kernel_size: K of the full branch, odd.
        branches: (kernel size, dilation) of the others; dilation * (size - 1) + 1 <= K.
        groups: C for a depthwise convolution, 1 for a full one.
    """

    def __init__(
        self, channels: int, kernel_size: int, branches: Sequence[tuple[int, int]], *, groups: int | None = None
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.fused: nn.Conv2d | None = None
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for size, dilation in ((kernel_size, 1), *branches):
            reach = dilation * (size - 1) + 1
            if reach > kernel_size or size % 2 == 0:
                raise ValueError(f"branch ({size}, {dilation}) does not fit into a kernel of {kernel_size}")
            self.convs.append(
                nn.Conv2d(
                    channels,
                    channels,
                    size,
                    padding=reach // 2,
                    dilation=dilation,
                    groups=channels if groups is None else groups,
                    bias=False,
                )
            )
            self.norms.append(nn.BatchNorm2d(channels))
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        if self.fused is not None:
            return self.fused(x)
        return torch.stack([norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True)]).sum(0)

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the branches by one K x K convolution with bias, for inference: equal in eval mode, to rounding.

        The branches are gone then, and with them the names of their tensors in the state dict.
        """
        if self.fused is not None:
            return
        kernels, biases = [], []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            kernels.append(self._spread(conv) * scale[:, None, None, None])
            biases.append(norm.bias - norm.running_mean * scale)
        first = self.convs[0]
        assert isinstance(first, nn.Conv2d)
        fused = nn.Conv2d(
            first.in_channels,
            first.out_channels,
            self.kernel_size,
            padding=self.kernel_size // 2,
            groups=first.groups,
            device=first.weight.device,
            dtype=first.weight.dtype,
        )
        assert fused.bias is not None
        fused.weight.copy_(torch.stack(kernels).sum(0))
        fused.bias.copy_(torch.stack(biases).sum(0))
        self.fused = fused.train(self.training)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()

    def _spread(self, conv: nn.Conv2d) -> Tensor:
        """Return a branch's kernel as a K x K one: zeros between its taps, and around it."""
        size, dilation = conv.kernel_size[0], conv.dilation[0]
        reach = dilation * (size - 1) + 1
        spread = conv.weight.new_zeros(*conv.weight.shape[:2], reach, reach)
        spread[..., ::dilation, ::dilation] = conv.weight
        return F.pad(spread, ((self.kernel_size - reach) // 2,) * 4)
