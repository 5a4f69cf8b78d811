"""The file formats: how a program is written, and how the file is run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from a2mamba.export.aot import AotFormat
from a2mamba.export.coreml import CoreMLFormat
from a2mamba.export.format import INPUT, Format, Run, need
from a2mamba.export.mixer import on_tokens
from a2mamba.export.program import run_program
from a2mamba.export.translation import translation_table
from a2mamba.quiet import errors_only

OPSET = 20
"""Read by ONNX Runtime on servers and in browsers, TensorRT 10 and OpenVINO."""


class OnnxFormat(Format):
    """An ONNX file of standard operators, without control flow; weights inside."""

    suffix = ".onnx"

    def check_installed(self) -> None:
        """See `Format`."""
        need("export", "onnx", "onnxscript", "onnxruntime")

    def prepare(self, network: nn.Module) -> nn.Module:
        """See `Format`."""
        return on_tokens(network)

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
    """A program of torch.export; it calls our operators, which `import a2mamba.export` registers."""

    suffix = ".pt2"

    def check_installed(self) -> None:
        """See `Format`."""

    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """See `Format`."""
        torch.export.save(program, path)

    def load(self, path: Path, threads: int) -> Run:
        """See `Format`."""
        return run_program(torch.export.load(path).module())


class OpenVinoFormat(Format):
    """OpenVINO's pair of files, .xml and .bin, converted from the ONNX file; float32."""

    suffix = ".xml"

    def check_installed(self) -> None:
        """See `Format`."""
        OnnxFormat().check_installed()
        need("openvino", "openvino")

    def prepare(self, network: nn.Module) -> nn.Module:
        """See `Format`."""
        return OnnxFormat().prepare(network)

    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """See `Format`."""
        source = path.with_suffix(OnnxFormat.suffix)
        OnnxFormat().write(program, source, outputs)
        self.convert(source, path)
        source.unlink()

    def convert(self, source: Path, path: Path) -> None:
        """Write the pair of files of an ONNX file."""
        import openvino

        openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)

    def load(self, path: Path, threads: int) -> Run:
        """See `Format`."""
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.Core().compile_model(path, "CPU", settings)
        return lambda images: list(model({INPUT: images}).values())


FORMATS: dict[str, Format] = {
    "onnx": OnnxFormat(),
    "pt2": Pt2Format(),
    "openvino": OpenVinoFormat(),
    "aot": AotFormat(),
    "coreml": CoreMLFormat(),
}
"""Of two with the same suffix, the first is meant where none is named."""


MAX_FOLDED = 2**16
"""Elements of a constant that is computed beforehand; of larger ones the file keeps the few nodes that make it."""

_ANY_SIZE = 2**40


def _simplify(model: Any) -> None:
    """Compute constants, and everything that stands twice once: a map that is applied again among it; drop notes."""
    from onnx_ir.passes.common import (
        ClearMetadataAndDocStringPass,
        CommonSubexpressionEliminationPass,
        DeduplicateInitializersPass,
    )
    from onnxscript import optimizer

    same = CommonSubexpressionEliminationPass(size_limit=_ANY_SIZE)
    same(model)
    optimizer.optimize_ir(model, output_size_limit=MAX_FOLDED)
    DeduplicateInitializersPass(size_limit=_ANY_SIZE)(model)
    same(model)
    # Of every node PyTorch notes where it comes from, with paths of this machine: several megabytes.
    ClearMetadataAndDocStringPass()(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what PyTorch and its converter tell their own developers out of the log."""
    with errors_only("torch.onnx", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
