"""What kernels are told of tensors, with as few calls of PyTorch as can be: small maps wait for those, not for kernels.

A call that does nothing takes a microsecond in a loop and several in a network, and a forward pass has a thousand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from a2mamba.ops.recording import kept


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``x`` in ``dtype``; to ask first is ten times as fast as a ``to`` that has nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def channels_innermost(x: Tensor) -> Tensor:
    """Return (B, C, H, W) with the channels of a position side by side; without a copy where they are so already."""
    if x.stride()[1] == 1:
        return x
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def empty_map(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty map of the shape (B, C, H, W) of ``like``, the channels of a position side by side."""
    return torch.empty(like.shape, dtype=dtype, device="cpu", memory_format=torch.channels_last)


def empty_heads(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty (B, G, H, W, d) of the shape of ``like`` whose memory is (B, H, W, G, d)."""
    batch, heads, height, width, head_dim = like.shape
    memory = torch.empty(batch, height, width, heads, head_dim, dtype=dtype, device="cpu")
    return memory.permute(0, 3, 1, 2, 4)


def place(x: Tensor) -> tuple[int, int, int, int]:
    """Return the address of a map (B, C, H, W), and the steps of images, rows and columns in bytes."""
    of_images, _, of_rows, of_columns = x.stride()
    size = x.itemsize
    return x.data_ptr(), size * of_images, size * of_rows, size * of_columns


def place_of_heads(x: Tensor) -> tuple[int, int, int, int, int]:
    """Return the address of (B, G, H, W, d), and the steps of all axes but the last in bytes."""
    of_images, of_heads, of_rows, of_columns, _ = x.stride()
    size = x.itemsize
    return x.data_ptr(), size * of_images, size * of_heads, size * of_rows, size * of_columns


def place_of_tokens(x: Tensor) -> tuple[int, int, int]:
    """Return the address of (B, C, L), and the steps of sequences and tokens in bytes."""
    of_sequences, _, of_tokens = x.stride()
    size = x.itemsize
    return x.data_ptr(), size * of_sequences, size * of_tokens


def positions(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Return (B, C, H, W) in ``dtype`` with its positions in one row in memory, channels side by side; and their step.

    The step is in bytes. There is a copy only where the memory is another; what is returned may have another shape.
    """
    x = cast(x, dtype)
    batch, _, height, width = x.shape
    of_images, of_channels, of_rows, step = x.stride()
    if of_channels != 1 or of_rows != width * step or (batch > 1 and of_images != height * of_rows):
        # Strides of axes with one entry may be anything: that is looked at here.
        x = x.permute(0, 2, 3, 1).flatten(0, 2)
        x = x if x.stride(1) == 1 else x.contiguous()
        step = x.stride(0)
    return x, x.itemsize * step


def positions_of_heads(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Return (B, G, H, W, d) as :func:`positions` does (B, G * d, H, W)."""
    x = cast(x, dtype)
    batch, _, height, width, head_dim = x.shape
    of_images, of_heads, of_rows, step, of_channels = x.stride()
    row = of_channels == 1 and of_heads == head_dim and of_rows == width * step
    if not row or (batch > 1 and of_images != height * of_rows):
        x = x.permute(0, 2, 3, 1, 4).flatten(0, 2).flatten(1)
        x = x if x.stride(1) == 1 else x.contiguous()
        step = x.stride(0)
    return x, x.itemsize * step


def affine_of(module: nn.Module) -> tuple[Any, Any]:
    """Return weight and bias among a module's own parameters, None for one that is not there.

    To read an attribute of a module takes ten times as long.
    """
    parameters = module._parameters
    return parameters.get("weight"), parameters.get("bias")


@kept(maxsize=64)
def identity_affine(channels: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias, by channel, of an affine that changes nothing."""
    weight, bias = (make(channels, dtype=torch.float32, device="cpu") for make in (torch.ones, torch.zeros))
    return weight, bias


def numbers_of(*parameters: Tensor) -> list[Tensor]:
    """Return parameters as kernels read them: float32, without gaps; those that are so already, themselves."""
    return [cast(each, torch.float32).contiguous() for each in parameters]


@kept(maxsize=64)
def norm_constants(channels: int, eps: float) -> Tensor:
    """Return what a norm multiplies sums by, and what it adds to variances."""
    return torch.tensor([1 / channels, eps], dtype=torch.float32, device="cpu")
