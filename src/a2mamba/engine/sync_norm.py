"""Batch norm over the samples of all processes, on GPUs and on CPUs (the authors' scripts train with it)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Normalize(torch.autograd.Function):
    """y = (x - m) / sqrt(v + eps) * w + b, with m and v over the N positions of all processes.

    With g = dL/dy, h = (x - m) / sqrt(v + eps) and sums over all processes:

        dL/dx = w / sqrt(v + eps) (g - sum(g) / N - h sum(g h) / N)

    dL/dw and dL/db stay sums over this process: averaging over processes is the business of whoever averages the
    gradients of all other parameters.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        sums = torch.cat((wide.sum(axes), wide.new_tensor([wide.numel() // wide.shape[1]])))
        dist.all_reduce(sums)
        count = sums[-1].clamp(min=1)  # where no process has anything, there is nothing to normalize either
        mean = sums[:-1] / count
        centered = wide - _channel(mean, x)
        # A second exchange rather than E[x^2] - E[x]^2, which cancels where the mean is large.
        squares = centered.square().sum(axes)
        dist.all_reduce(squares)
        variance = squares / count
        inverse = (variance + eps).rsqrt()
        normal = centered * _channel(inverse, x)
        ctx.save_for_backward(normal, inverse, count, weight)
        ctx.dtype = x.dtype
        y = normal if weight is None else normal * _channel(weight, x)
        y = y if bias is None else y + _channel(bias, x)
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        normal, inverse, count, weight = ctx.saved_tensors
        axes = [axis for axis in range(normal.dim()) if axis != 1]
        grad = grads[0].to(normal.dtype)
        grad_bias, grad_weight = grad.sum(axes), (grad * normal).sum(axes)
        sums = torch.cat((grad_bias, grad_weight))
        dist.all_reduce(sums)
        mean_grad, mean_product = (sums / count).chunk(2)
        scale = inverse if weight is None else inverse * weight
        grad_x = (grad - _channel(mean_grad, grad) - normal * _channel(mean_product, grad)) * _channel(scale, grad)
        if weight is None:
            return grad_x.to(ctx.dtype), None, None, None
        return grad_x.to(ctx.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch statistics in training are those of all processes.

    The same parameters, buffers and names as BatchNorm2d; in eval mode, or alone, the same computation. On GPUs the
    kernels of torch's SyncBatchNorm are used, which exist there only; elsewhere plain operations, which exchange two
    vectors of C numbers in the forward and one of 2 C in the backward.

    It is a BatchNorm2d to whoever asks, as gradient checkpointing does; torch's own class is not. An empty batch passes
    through: a process without boxes takes part in the exchanges of the others.
    """

    process_group = None  # torch's forward asks for it; None: all processes of the run
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). Raises ValueError for an input that is not 4-D."""
        together = dist.is_initialized() and dist.get_world_size() > 1
        if not (self.training and together):
            if len(input) == 0 and self.affine:
                return input * _channel(self.weight, input) + _channel(self.bias, input)
            return super().forward(input)
        if input.device.type == "cuda":
            return nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]  # it asks for no more than is set above
        self._check_input_dim(input)
        y, mean, variance, count = _Normalize.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._follow(mean, variance, count)
        return y

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, with the unbiased variance, as torch does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate: Any = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.float()
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)


def synchronize_norms(model: nn.Module) -> nn.Module:
    """Replaces every BatchNorm2d inside `model`, in place; parameters and buffers stay the same objects.

    A subclass that differs for empty batches alone says so by an attribute ``synchronizable = True``, and is replaced
    too.

    Raises:
        ValueError: for a batch norm of another class: left alone it would silently see its own samples only.
    """
    if isinstance(model, _BatchNorm):
        return _synchronized(model, "")
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _synchronized(child, f"{path}.{name}".lstrip(".")))
    return model


def _synchronized(norm: _BatchNorm, path: str) -> _BatchNorm:
    if isinstance(norm, SyncBatchNorm2d):
        return norm
    if type(norm) is not nn.BatchNorm2d and not getattr(norm, "synchronizable", False):
        raise ValueError(
            f"{path or 'the model'} is a {type(norm).__name__}, and only BatchNorm2d can be synchronized over "
            "processes; set sync_batch_norm=false"
        )
    made = SyncBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    made._parameters = norm._parameters
    made._buffers = norm._buffers
    return made.train(norm.training)


def _channel(vector: Tensor, like: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...)."""
    return vector.view(1, -1, *[1] * (like.dim() - 2))
