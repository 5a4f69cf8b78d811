"""The file formats: how a program is written, and how the file is run."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.export import ExportedProgram

from a2mamba.export.translation import translation_table

INPUT = "images"
OPSET = 20
"""Read by ONNX Runtime on servers and in browsers, TensorRT 10 and OpenVINO."""

Run = Callable[[np.ndarray], list[np.ndarray]]
"""From the input to the outputs of a file, on so many threads as it was loaded for."""


class Format(ABC):
    """One way to write a program down."""

    suffix: ClassVar[str]
    """of the file that is loaded"""

    @abstractmethod
    def check_installed(self) -> None:
        """ImportError, with what to install, where something is missing."""

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """Write a program, its input named ``INPUT``; files beside ``path`` have its stem."""

    @abstractmethod
    def load(self, path: Path, threads: int) -> Run:
        """Return what runs the file on the CPU."""

    def describe(self, path: Path) -> dict[str, Any]:
        """Return what is to be said about the file, for people and the sidecar."""
        return {}


class OnnxFormat(Format):
    """An ONNX file of standard operators, without control flow; weights inside."""

    suffix = ".onnx"

    def check_installed(self) -> None:
        """See `Format`."""
        _need("export", "onnx", "onnxscript", "onnxruntime")

    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """See `Format`."""
        with _quiet():
            written = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=translation_table(),
                optimize=False,
                input_names=[INPUT],
                output_names=list(outputs),
                verbose=False,
            )
            assert written is not None
            _simplify(written.model)
            written.save(path, external_data=False)

    def load(self, path: Path, threads: int) -> Run:
        """See `Format`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {INPUT: images})

    def describe(self, path: Path) -> dict[str, Any]:
        """See `Format`."""
        import onnx

        model = onnx.load(path, load_external_data=False)
        return {
            "opset": OPSET,
            "nodes": len(model.graph.node),
            "operators": sorted({n.op_type for n in model.graph.node}),
        }


class Pt2Format(Format):
    """A program of torch.export; it calls our operators, which `import a2mamba.ops` registers before it is loaded."""

    suffix = ".pt2"

    def check_installed(self) -> None:
        """See `Format`."""

    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """See `Format`."""
        torch.export.save(program, path)

    def load(self, path: Path, threads: int) -> Run:
        """See `Format`."""
        module = torch.export.load(path).module()

        def run(images: np.ndarray) -> list[np.ndarray]:
            with torch.inference_mode():
                return [output.numpy() for output in module(torch.from_numpy(images))]

        return run


class OpenVinoFormat(Format):
    """OpenVINO's pair of files, .xml and .bin, converted from the ONNX file; float32."""

    suffix = ".xml"

    def check_installed(self) -> None:
        """See `Format`."""
        OnnxFormat().check_installed()
        _need("openvino", "openvino")

    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """See `Format`."""
        import openvino

        source = path.with_suffix(OnnxFormat.suffix)
        OnnxFormat().write(program, source, outputs)
        openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
        source.unlink()

    def load(self, path: Path, threads: int) -> Run:
        """See `Format`."""
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.Core().compile_model(path, "CPU", settings)
        return lambda images: list(model({INPUT: images}).values())


FORMATS: dict[str, Format] = {"onnx": OnnxFormat(), "pt2": Pt2Format(), "openvino": OpenVinoFormat()}


MAX_FOLDED = 2**16
"""Elements of a constant that is computed beforehand; of larger ones the file keeps the few nodes that make it."""

_ANY_SIZE = 2**40


def _simplify(model: Any) -> None:
    """Compute constants, and everything that stands twice once: a map that is applied again among it."""
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateInitializersPass
    from onnxscript import optimizer

    same = CommonSubexpressionEliminationPass(size_limit=_ANY_SIZE)
    same(model)
    optimizer.optimize_ir(model, output_size_limit=MAX_FOLDED)
    DeduplicateInitializersPass(size_limit=_ANY_SIZE)(model)
    same(model)


def _need(extra: str, *packages: str) -> None:
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} is not installed: pip install "a2mamba[{extra}]"')


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what PyTorch and its converter tell their own developers out of the log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
