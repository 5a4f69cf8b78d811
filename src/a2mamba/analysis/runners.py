"""One model, ready to be timed: in PyTorch, or as a file in another runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import timm
import torch
from torch import Tensor, nn

from a2mamba.analysis.flops import parameters
from a2mamba.backbone import Pyramid, cpu_graph, cuda_graph, fuse_for_inference
from a2mamba.segmentation import check_segmenter, create_segmenter

Mode = Literal["inference", "training"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RUNTIMES = {"pytorch": None, "graph": None, "onnxruntime": "onnx", "openvino": "openvino"}
"""What runs a model -> the format of the files that it reads; "graph" is PyTorch, recorded and repeated."""


@dataclass(frozen=True)
class Setting:
    """What every model of a comparison shares."""

    size: int
    """side of the square images"""
    batch: int
    """images in a batch"""
    mode: Mode = "inference"
    """a forward pass in inference mode, or forward, backward and no optimizer"""
    dtype: str = "float32"
    """float32, or the dtype of autocast"""
    device: str = "cpu"
    compile: bool = False
    """measure after torch.compile"""
    fused: bool = False
    """measure our models after fuse_for_inference; timm's have nothing alike and run as they are"""
    runtime: str = "pytorch"
    """one of :data:`RUNTIMES`; those that read files: inference in float32 on a CPU"""


class Runner:
    """One model, ready to be timed under a setting.

    Args:
        name: a timm model, ours among them, or a segmentation network of ours, with 150 classes; "NETWORK on BACKBONE"
            means one on another backbone.
        setting: see :class:`Setting`.

    Raises:
        ValueError: if timm does not know the name, a model is to be fused for training, or a runtime cannot do what
            the setting asks for.
        ImportError: if the runtime is not installed.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        if setting.fused and setting.mode == "training":
            raise ValueError("a fused model cannot be trained; measure inference, or do not fuse")
        if setting.runtime not in RUNTIMES:
            raise ValueError(f"unknown runtime {setting.runtime!r}; there are {', '.join(RUNTIMES)}")
        asked = (setting.mode, setting.dtype, setting.device, setting.compile)
        exported = RUNTIMES[setting.runtime] is not None
        if exported and asked != ("inference", "float32", "cpu", False):
            raise ValueError(f"{setting.runtime} is measured for inference in float32 on a CPU, not compiled")
        if setting.runtime == "graph" and (
            setting.mode != "inference" or (setting.compile and setting.device == "cpu")
        ):
            raise ValueError("a graph repeats inference, and on a CPU not what torch.compile makes; leave that out")
        torch.manual_seed(0)
        self.setting = setting
        self.model = make_model(name, setting.size).to(setting.device)
        self.model.train(setting.mode == "training")
        self.parameters = parameters(self.model)
        self.fused = (setting.fused or exported) and isinstance(self.model, Pyramid)
        if self.fused:
            self.model = fuse_for_inference(self.model)
        self.images = torch.randn(setting.batch, 3, setting.size, setting.size, device=setting.device)
        compiled = setting.compile and not exported
        network = cast(nn.Module, torch.compile(self.model)) if compiled else self.model
        self.call: Callable[[Tensor], Tensor] = network
        self.resources = ExitStack()
        if exported:
            self.call = self._exported()
        elif setting.runtime == "graph":
            self.call = (cuda_graph if self.images.is_cuda else cpu_graph)(network)

    def step(self) -> Tensor:
        """Run one batch and return the logits."""
        if self.setting.mode == "inference":
            with torch.inference_mode(), self._autocast():
                return self.call(self.images)
        for parameter in self.model.parameters():
            parameter.grad = None
        with self._autocast():
            logits = self.call(self.images)
        logits.float().square().mean().backward()
        return logits

    def warm_up(self, batches: int) -> None:
        """Run so many batches, at least one.

        Raises:
            ValueError: if the output is not finite.
        """
        for _ in range(max(1, batches)):
            logits = self.step()
        if not logits.isfinite().all():
            size, dtype = self.setting.size, self.setting.dtype
            raise ValueError(f"the output is not finite at {size} in {dtype}; no speed is reported")

    def time(self) -> float:
        """Return the seconds of one batch."""
        self._wait()
        start = time.perf_counter()
        self.step()
        self._wait()
        return time.perf_counter() - start

    def close(self) -> None:
        """Remove an exported file."""
        self.resources.close()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.setting.dtype == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.setting.device).type, dtype=DTYPES[self.setting.dtype])

    def _wait(self) -> None:
        if torch.device(self.setting.device).type == "cuda":
            torch.cuda.synchronize()

    def _exported(self) -> Callable[[Tensor], Tensor]:
        """The model as a file of the runtime's format, with a free batch and everything folded that can be."""
        from timm.utils import reparameterize_model

        from a2mamba.export import FORMATS
        from a2mamba.export.program import trace

        setting = self.setting
        writer = FORMATS[str(RUNTIMES[setting.runtime])]
        writer.check_installed()
        model: nn.Module = self.model if self.fused else reparameterize_model(self.model)
        example = torch.randn(2, 3, setting.size, setting.size)
        with ExitStack() as stack:
            path = Path(stack.enter_context(TemporaryDirectory(prefix="a2mamba-bench-"))) / f"model{writer.suffix}"
            writer.write(trace(writer.prepare(model), example), path, ["output"])
            run = writer.load(path, torch.get_num_threads())
            self.resources = stack.pop_all()  # some runtimes read the weights when they need them
        return lambda images: torch.from_numpy(run(images.numpy())[0])


def make_model(name: str, size: int) -> nn.Module:
    """Return a timm model, ours among them, or a segmentation network of ours: NETWORK, or NETWORK on BACKBONE."""
    if timm.is_model(name):
        options: dict[str, Any] = {"img_size": size} if _takes_img_size(name) else {}
        return timm.create_model(name, **options)
    network, _, backbone = name.partition(" on ")
    try:
        check_segmenter(network)
    except ValueError as error:
        raise ValueError(f"unknown model {name!r}: neither ours nor timm's") from error
    return create_segmenter(network, num_classes=150, backbone=backbone or None, img_size=size)


def _takes_img_size(name: str) -> bool:
    """Whether a timm model is made for one image size (Swin and other transformers)."""
    record = timm.get_pretrained_cfg(name)
    return record is not None and bool(record.fixed_input_size)
