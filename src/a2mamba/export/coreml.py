"""A Core ML package, which runs on Apple's systems; it can be converted anywhere."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from a2mamba.export.format import INPUT, Format, Run, need
from a2mamba.export.plain import plain


class CoreMLFormat(Format):
    """An ML program in float32 for one image; a folder."""

    suffix = ".mlpackage"
    free_batch = False

    def check_installed(self) -> None:
        """See `Format`."""
        need("coreml", "coremltools")

    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """See `Format`."""
        import coremltools
        from torch._decomp import get_decompositions

        # Operations that coremltools 9 does not know.
        unknown = get_decompositions([torch.ops.aten.addcmul.default, torch.ops.aten.new_ones.default])
        model = coremltools.convert(
            plain(program).run_decompositions(unknown),
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS17,
            compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(path))

    def load(self, path: Path, threads: int) -> Run:
        """See `Format`; the number of threads is Core ML's own."""
        import coremltools

        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
        return lambda images: list(model.predict({INPUT: images}).values())

    def not_here(self) -> str | None:
        """See `Format`."""
        return None if platform.system() == "Darwin" else "Core ML is on Apple's systems alone"
