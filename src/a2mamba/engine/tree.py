"""Batches are trees of tuples, lists and dicts; tensors are their leaves, next to names and other plain values."""

from __future__ import annotations

from typing import Any

import torch


def move_to(tree: Any, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> Any:
    """The tree with every tensor on `device`; 4-D floating-point tensors also in `memory_format`.

    Tuples (named ones too), lists and dicts keep their type and order; other values are returned as they are. The
    copy from pinned memory does not wait for the device.
    """
    if isinstance(tree, torch.Tensor):
        image = tree.ndim == 4 and tree.is_floating_point()
        return tree.to(device, non_blocking=True, memory_format=memory_format if image else torch.preserve_format)
    if isinstance(tree, tuple):
        items = [move_to(item, device, memory_format) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, list):
        return [move_to(item, device, memory_format) for item in tree]
    if isinstance(tree, dict):
        return {key: move_to(value, device, memory_format) for key, value in tree.items()}
    return tree
