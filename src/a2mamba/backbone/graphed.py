"""A model at inference as one CUDA graph for every shape of images: the kernels without the time to launch them.

Small batches keep a GPU waiting for Python: a2mamba_tiny launches 1,600 kernels for one image, in 34 ms on an H100, of
which the GPU works 4. A graph records them once and replays them by one call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 2
"""Calls before the recording: compilations, self-tests and workspaces of libraries may not happen in one."""


class GraphedModel(nn.Module):
    """What :func:`cuda_graph` returns: call it as the model."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model = model
        self.most = most
        self.training = model.training
        self._graphs: OrderedDict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor, Any]] = OrderedDict()

    def forward(self, images: Tensor) -> Any:
        """Return what the model makes of ``images``, in memory of its own.

        Raises:
            ValueError: if the images are not on a GPU, the model is in training mode, or a gradient is wanted.
        """
        if images.device.type != "cuda":
            raise ValueError(f"a CUDA graph needs images on a GPU, got them on {images.device}; call the model itself")
        if self.model.training:
            raise ValueError("a CUDA graph repeats inference; call model.eval() first")
        if torch.is_grad_enabled() and images.requires_grad:
            raise ValueError("a CUDA graph has no gradient; call the model itself, or under torch.no_grad()")
        half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = images.device, images.shape, images.stride(), images.dtype, half
        with torch.cuda.device(images.device):
            if key not in self._graphs:
                self._graphs[key] = self._record(images, half)
                if len(self._graphs) > self.most:
                    self._graphs.popitem(last=False)
            self._graphs.move_to_end(key)
            graph, placed, result = self._graphs[key]
            placed.copy_(images)
            graph.replay()
            return _copied(result)

    def _record(self, images: Tensor, half: torch.dtype | None) -> tuple[torch.cuda.CUDAGraph, Tensor, Any]:
        """Return a graph, the tensor that it reads, and what it writes."""
        # Casts that the caller's autocast keeps would be gone when the graph reads them again: here it keeps none.
        with (
            torch.inference_mode(),
            torch.autocast("cuda", dtype=half, enabled=half is not None, cache_enabled=False),
        ):
            placed = images.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.model(placed)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = self.model(placed)
        return graph, placed, result


def _copied(result: Any) -> Any:
    """Copy the tensors of a nested result: the next replay overwrites what the graph wrote."""
    if isinstance(result, Tensor):
        return result.clone()
    if isinstance(result, dict):
        return {name: _copied(each) for name, each in result.items()}
    return type(result)(_copied(each) for each in result)


def cuda_graph(model: nn.Module, *, most: int = 8) -> GraphedModel:
    """Return a callable that computes what ``model`` does, recording a CUDA graph for every shape of images it meets.

    Changes of parameters in place are seen; tensors that are put in the place of parameters are not. The first call
    with a shape takes as long as several of the model's, and memory for the model's activations stays with the graph.

    Args:
        model: in evaluation mode, on a GPU: one of our backbones or segmenters, or any model that takes one tensor,
            returns tensors, lists or dicts of them, and reads no value of a tensor on the way. Detectors do that.
        most: graphs that are kept; the one not used for longest goes first.

    Raises:
        ValueError: for fewer than one graph.
    """
    if most < 1:
        raise ValueError(f"at least one graph must be kept, got most={most}")
    return GraphedModel(model, most)
