"""Where a pixel looks: for one query, the attention maps of all branches of every block.

No backend of the operator keeps a map, so each is computed again, for this query alone, by the rule of
``ops/neighborhood/reference.py``; the network itself runs with whatever backend it would.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from a2mamba.explain.network import as_batch, blocks_of, pyramid_of, run_once
from a2mamba.layers import LASS, MASS, GlobalAttention, resize_pair_bias
from a2mamba.layers.acmix import ACmix
from a2mamba.layers.heads import rotated_qkv
from a2mamba.layers.mass import adaptive_dilation
from a2mamba.layers.mass_parts import MASSParts
from a2mamba.ops.neighborhood.reference import axis_neighbors


@dataclass(frozen=True)
class AttentionMap:
    """The attention weights of one branch of one block, for one query."""

    stage: int
    """from 0"""
    block: int
    """number in its stage, from 0"""
    branch: str
    """"sliding", "dilated" (adaptively), "dilation 3" and so on in ablations, or "global": the last stage's full
    attention"""
    dilation: tuple[int, int]
    """distance of neighboring keys, rows and columns, in positions of the stage's map"""
    query: tuple[int, int]
    """row and column of the query in the stage's map"""
    rows: Tensor
    """int64 (K_h,): rows of the keys in the stage's map"""
    columns: Tensor
    """int64 (K_w,): their columns"""
    weights: Tensor
    """float32 (heads, K_h, K_w), each head's sum 1"""
    map_size: tuple[int, int]
    """height and width of the stage's map"""
    image_size: tuple[int, int]
    """height and width of the image in pixels"""
    stride: int
    """pixels to a position of the stage's map"""

    def on_map(self) -> Tensor:
        """Return the weights over all positions of the stage's map, (heads, h, w): zero where no key is."""
        full = self.weights.new_zeros(len(self.weights), *self.map_size)
        full[:, self.rows[:, None], self.columns[None, :]] = self.weights
        return full

    def on_image(self) -> Tensor:
        """Return the weights over the pixels, (heads, H, W), each head's sum 1.

        A position of the map stands for a square of ``stride`` x ``stride`` pixels (fewer where the image ends), which
        share its weight equally.
        """
        return spread(self.on_map(), self.image_size, self.stride)


def attention_maps(model: nn.Module, image: Tensor, point: tuple[int, int]) -> list[AttentionMap]:
    """Return where a pixel looks: the attention of every branch of every block, in the order in which they run.

    Args:
        model: a classifier, segmenter or detector in eval mode whose backbone is ours; of the latter two the backbone
            alone is run.
        image: (C, H, W) or (1, C, H, W), normalized as the backbone takes it; ``Predictor.view`` makes it.
        point: column x and row y of the pixel in that image, from 0.

    Raises:
        ValueError: a point outside the image, another shape, a network in training mode or without attention of ours.
    """
    pyramid, batch = pyramid_of(model), as_batch(model, image)
    height, width = batch.shape[2:]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"the point ({x}, {y}) is outside the image, which is {width} x {height} pixels")
    found: list[AttentionMap] = []

    def look(stage: int, number: int, mixer: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        tokens, rope = inputs
        stride = int(pyramid.feature_info[stage]["reduction"])
        query = y // stride, x // stride
        for branch, dilation, rows, columns, weights in _branches(mixer, tokens, rope, query):
            size = (tokens.shape[2], tokens.shape[3])
            found.append(
                AttentionMap(
                    stage, number, branch, dilation, query, rows, columns, weights, size, (height, width), stride
                )
            )

    hooks = []
    for stage, number, block in blocks_of(pyramid):
        if isinstance(block.mixer, _MIXERS):
            hooks.append(block.mixer.register_forward_pre_hook(partial(look, stage, number)))
    if not hooks:
        raise ValueError(f"the mixers of {type(model).__name__} have no neighborhood attention to look at")
    run_once(pyramid, batch, hooks)
    return found


def spread(maps: Tensor, image_size: tuple[int, int], stride: int) -> Tensor:
    """(..., h, w) -> (..., H, W): each position's value shared equally by its pixels, sums unchanged."""
    rows = torch.arange(image_size[0], device=maps.device) // stride
    columns = torch.arange(image_size[1], device=maps.device) // stride
    area = rows.bincount(minlength=maps.shape[-2])[:, None] * columns.bincount(minlength=maps.shape[-1])
    return (maps / area)[..., rows, :][..., columns]


_MIXERS = (MASS, MASSParts, LASS, ACmix)
_Branch = tuple[str, tuple[int, int], Tensor, Tensor, Tensor]
"""Name, dilation, rows and columns of the keys, weights (heads, K_h, K_w)."""


def _branches(mixer: nn.Module, x: Tensor, rope: Tensor, query: tuple[int, int]) -> list[_Branch]:
    """Return the attention of a mixer at one position of its input (1, C, h, w)."""
    assert isinstance(mixer, _MIXERS)
    height, width = x.shape[2:]
    q, k, _ = (heads[0].float() for heads in rotated_qkv(mixer.qkv(x), mixer.heads, rope))
    at = q[:, query[0], query[1]] * q.shape[-1] ** -0.5
    branches = []
    rates = _rates(mixer)
    for rate, own_q, own_k in zip(rates, at.chunk(len(rates)), k.chunk(len(rates)), strict=True):
        adaptive = rate == "adaptive"
        dilation = adaptive_dilation(height, width, mixer.kernel_size) if adaptive else (int(rate), int(rate))
        name = "dilated" if adaptive else "sliding" if rate == 1 else f"dilation {rate}"
        rows, dy = _neighbors(height, mixer.kernel_size, dilation[0], query[0])
        columns, dx = _neighbors(width, mixer.kernel_size, dilation[1], query[1])
        keys = own_k[:, rows[:, None], columns[None, :]]
        scores = torch.einsum("gd,gijd->gij", own_q, keys)
        scores = scores + mixer.bias.float()[:, dy[:, None] + mixer.kernel_size - 1, dx + mixer.kernel_size - 1]
        branches.append((name, dilation, rows, columns, _softmax(scores)))
    attention = getattr(mixer, "global_attention", None)
    if isinstance(attention, GlobalAttention):
        scores = torch.einsum("gd,ghwd->ghw", at, k)
        bias = resize_pair_bias(attention.bias.float(), height * width)[:, query[0] * width + query[1]]
        whole = torch.arange(height), torch.arange(width)
        branches.append(("global", (1, 1), *whole, _softmax(scores + bias.view_as(scores))))
    return branches


def _rates(mixer: MASS | MASSParts | LASS | ACmix) -> tuple[int | str, ...]:
    """Return the dilation of each branch, which share the heads."""
    if isinstance(mixer, MASS):
        return 1, "adaptive"
    return mixer.options.dilations if isinstance(mixer, MASSParts) else (1,)


def _neighbors(length: int, kernel_size: int, dilation: int, query: int) -> tuple[Tensor, Tensor]:
    """Return the key positions of one query on an axis, and their offsets in the dilated sequence."""
    positions, offsets = axis_neighbors(length, kernel_size, dilation)
    return positions[query], offsets[query]


def _softmax(scores: Tensor) -> Tensor:
    """Normalize (heads, K_h, K_w) over each head, on the CPU."""
    return scores.flatten(1).softmax(1).view_as(scores).cpu()
