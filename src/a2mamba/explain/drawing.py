"""Explanations as drawings: one image each, with a title and what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from a2mamba.explain.attention import AttentionMap
from a2mamba.explain.grad_cam import GradCAM
from a2mamba.explain.receptive_field import side_holding
from a2mamba.explain.states import HiddenStates
from a2mamba.visualize import heat_image, heat_overlay, image_grid, mark_point

SHARES = (0.5, 0.9, 0.99)
"""Of an effective receptive field, for which the smallest squares are stated."""

_CELL = 300
_FADE = 0.25


@dataclass(frozen=True)
class Drawing:
    """An explanation as an image."""

    name: str
    """what its file is called"""
    title: str
    caption: str
    """what there is to see, in a few sentences"""
    image: Image.Image


def draw_attention(image: Image.Image, maps: Sequence[AttentionMap], point: tuple[int, int]) -> Drawing:
    """Draw the last block of each stage: the mean of its heads, over the image.

    Args:
        image: as the network sees it, ``View.image``.
        maps: of ``attention_maps`` for that image.
        point: that was asked about, (x, y).
    """
    last = {each.stage: each.block for each in maps}
    branches = list(dict.fromkeys(each.branch for each in maps))
    rows, captions = [], []
    for stage, block in last.items():
        found = {each.branch: each for each in maps if (each.stage, each.block) == (stage, block)}
        row = [mark_point(image, point)]
        for branch in branches:
            blank = Image.new("RGB", image.size, "white")
            row.append(_marked(image, found[branch], point) if branch in found else blank)
        rows.append(row)
        first = next(iter(found.values()))
        captions.append(
            f"stage {stage + 1}, block {block + 1}: {first.map_size[1]} x {first.map_size[0]} positions of "
            f"{first.stride} x {first.stride} pixels"
            + "".join(
                f"; {each.branch}: {len(each.columns)} x {len(each.rows)} keys"
                + (f", {each.dilation[1]} apart" if max(each.dilation) > 1 else "")
                for each in found.values()
            )
        )
    return Drawing(
        "attention",
        "Where the marked pixel looks",
        "The attention weights of the query at the ring, the mean of the heads of each branch, in the last block of "
        "every stage; the lightest color is the largest weight of a map.",
        image_grid(rows, headings=["query", *branches], cell=_cell(image), captions=captions),
    )


def draw_states(image: Image.Image, states: Sequence[HiddenStates]) -> Drawing:
    """Draw the strength of the hidden states of the last block of each stage that has some.

    Args:
        image: as the network sees it.
        states: of ``hidden_states`` for that image.
    """
    last = {each.stage: each for each in states}
    rows, captions = [], []
    for stage, each in last.items():
        strengths = [_enlarged(strength, image, 4 * 2**stage) for strength in each.strength()]
        top = max(float(strength.max()) for strength in strengths)
        rows.append([image, *(heat_image(strength, top=top) for strength in strengths)])
        captions.append(f"stage {stage + 1}, block {each.block + 1}")
    return Drawing(
        "states",
        "Hidden states before and after aggregation",
        "The root mean square of the states at each position, over heads and channels, both in one color scale. The "
        "scan reads the rows one after the other, so its states remember what came before; the attention maps "
        "then gather those of neighbors from all sides.",
        image_grid(rows, headings=["image", "before", "after"], cell=_cell(image), captions=captions),
    )


def draw_grad_cam(image: Image.Image, found: GradCAM, classes: Sequence[str]) -> Drawing:
    """Draw Grad-CAM over the image.

    Args:
        image: as the network sees it.
        found: of ``grad_cam`` for that image.
        classes: their names.
    """
    name = classes[found.class_index]
    nothing = "" if float(found.heat.max()) > 0 else " Here nothing does: every weighted sum is negative."
    return Drawing(
        "grad-cam",
        f"What speaks for “{name}”",
        "Grad-CAM: the channels of the map, weighted by their influence on the score of the class; light is what "
        f"speaks for it.{nothing}",
        image_grid([[image, heat_overlay(image, found.heat)]], headings=["image", name], cell=_cell(image)),
    )


def draw_features(image: Image.Image, colors: Sequence[Tensor]) -> Drawing:
    """Draw the principal components of the maps of all stages.

    Args:
        image: as the network sees it.
        colors: of ``principal_colors``, (3, h, w) for each stage.
    """
    drawn = []
    for stage, each in enumerate(colors):
        full = _enlarged(each, image, 4 * 2**stage).permute(1, 2, 0)
        drawn.append(Image.fromarray(np.asarray(full.mul(255).round().byte())))
    headings = ["image", *(f"stage {stage + 1}" for stage in range(len(colors)))]
    return Drawing(
        "features",
        "What looks alike to the network",
        "The three principal components of each stage's map as red, green and blue: positions of one color have "
        "similar features.",
        image_grid([[image, *drawn]], headings=headings, cell=_cell(image)),
    )


def draw_receptive_fields(fields: Mapping[str, Tensor], images: str) -> Drawing:
    """Draw effective receptive fields side by side, each relative to its own largest value.

    Args:
        fields: network -> (H, W) of ``effective_receptive_field``.
        images: what they were averaged over, in words.
    """
    drawn = [heat_image((field / field.max()) ** _FADE) for field in fields.values()]
    sides = []
    for name, field in fields.items():
        each = ", ".join(f"{side_holding(field, share)} for {100 * share:g} %" for share in SHARES)
        sides.append(f"{name}: {each}")
    height, width = next(iter(fields.values())).shape
    return Drawing(
        "receptive-field",
        "Effective receptive field",
        f"How much each of {width} x {height} pixels moves the middle of the last map: mean absolute gradients over "
        f"{images}, each network relative to its own largest, as fourth roots, so that weak influence shows. Side of "
        f"the square in the middle that holds a share of the influence, in pixels: {'; '.join(sides)}.",
        image_grid([drawn], headings=list(fields), cell=(_CELL, _CELL)),
    )


def _marked(image: Image.Image, found: AttentionMap, point: tuple[int, int]) -> Image.Image:
    return mark_point(heat_overlay(image, found.on_image().mean(0)), point)


def _enlarged(values: Tensor, image: Image.Image, stride: int) -> Tensor:
    """(..., h, w) -> (..., H, W): each position as a square of pixels."""
    rows = torch.arange(image.height) // stride
    columns = torch.arange(image.width) // stride
    return values[..., rows, :][..., columns]


def _cell(image: Image.Image) -> tuple[int, int]:
    """Return the height and width of a cell whose long side is fixed, in the image's shape."""
    scale = _CELL / max(image.size)
    return max(1, round(image.height * scale)), max(1, round(image.width * scale))
