"""A model at inference as one graph for every shape of images: what it computes, without the time to tell it.

Small batches wait for Python. a2mamba_tiny launches 1,600 kernels for one image, in 34 ms on an H100, of which the GPU
works 4: a CUDA graph records them once and replays them by one call. On CPUs `recorded.py` does the like.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from a2mamba.backbone.recorded import record

WARM_UP = 2
"""Calls before a GPU's recording: compilations, self-tests and workspaces of libraries may not happen in one."""


_LOCK = threading.RLock()
"""Threads look for graphs and record them one after the other; of all models, as one that holds a lock has no copy."""


class Graph(Protocol):
    """What was recorded for one shape of images."""

    @property
    def stale(self) -> bool:
        """Whether it has to be recorded anew."""

    def __call__(self, images: Tensor) -> Any:
        """Return what the model makes of ``images``, in memory of its own."""


class GraphedModel(nn.Module):
    """What :func:`cuda_graph` and :func:`cpu_graph` return: call it as the model."""

    def __init__(
        self,
        model: nn.Module,
        most: int,
        device_type: str,
        record: Callable[[nn.Module, Tensor, torch.dtype | None], Graph],
    ) -> None:
        super().__init__()
        if most < 1:
            raise ValueError(f"at least one graph must be kept, got most={most}")
        self.model = model
        self.most = most
        self.device_type = device_type
        self.training = model.training
        self._record = record
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()

    def forward(self, images: Tensor) -> Any:
        """Return what the model makes of ``images``, in memory of its own.

        Raises:
            ValueError: if the images are on another device, the model is in training mode, a gradient is wanted, or
                the model cannot be recorded.
        """
        if images.device.type != self.device_type:
            raise ValueError(
                f"this graph is for images on {self.device_type}, got them on {images.device}; call the model itself"
            )
        if self.model.training:
            raise ValueError("a graph repeats inference; call model.eval() first")
        if torch.is_grad_enabled() and images.requires_grad:
            raise ValueError("a graph has no gradient; call the model itself, or under torch.no_grad()")
        half = torch.get_autocast_dtype(self.device_type) if torch.is_autocast_enabled(self.device_type) else None
        threads = torch.get_num_threads() if self.device_type == "cpu" else None
        key = images.device, images.shape, images.stride(), images.dtype, half, threads
        with _LOCK:
            graph = self._graphs.get(key)
            if graph is None or graph.stale:
                graph = self._graphs[key] = self._record(self.model, images, half)
                if len(self._graphs) > self.most:
                    self._graphs.popitem(last=False)
            self._graphs.move_to_end(key)
        return graph(images)


class _CudaGraph:
    """A CUDA graph, the tensor that it reads, and what it writes."""

    stale = False

    def __init__(self, model: nn.Module, images: Tensor, half: torch.dtype | None) -> None:
        # Casts that the caller's autocast keeps would be gone when the graph reads them again: here it keeps none.
        autocast = torch.autocast("cuda", dtype=half, enabled=half is not None, cache_enabled=False)
        with torch.cuda.device(images.device), torch.inference_mode(), autocast:
            self.images = images.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    model(self.images)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = model(self.images)

    def __call__(self, images: Tensor) -> Any:
        with torch.cuda.device(images.device):
            self.images.copy_(images)
            self.graph.replay()
            return _copied(self.result)


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
    return GraphedModel(model, most, "cuda", _CudaGraph)


def cpu_graph(model: nn.Module, *, most: int = 8) -> GraphedModel:
    """Return a callable that computes what ``model`` does on a CPU, recording its calls for every shape it meets.

    The same operations and kernels run on the same numbers, so the result is the model's; only Python's part goes,
    which is a quarter of the time of a2mamba_nano for one image. The first call with a shape takes as long as four
    of the model's. A parameter that is changed in place, as load_state_dict does, or moved to another dtype makes the
    next call record anew; a change through ``.data`` is not noticed, nor are hooks of modules called.

    Args:
        model: in evaluation mode: as for :func:`cuda_graph`; any model of PyTorch's own operations will do.
        most: recordings that are kept; the one not used for longest goes first.

    Raises:
        ValueError: for fewer than one recording.
    """
    return GraphedModel(model, most, "cpu", record)
