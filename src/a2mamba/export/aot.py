"""A program compiled for this machine by AOTInductor: one file, which PyTorch runs without this package."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch.export import ExportedProgram

from a2mamba.export.format import Format, Run
from a2mamba.export.plain import plain
from a2mamba.export.program import run_program


class AotFormat(Format):
    """A package of compiled code and weights. Loading one runs the code in it."""

    suffix = ".pt2"

    def check_installed(self) -> None:
        """See `Format`; ImportError without a C++ compiler."""
        compiler = os.environ.get("CXX")
        if not any(shutil.which(each) for each in ([compiler] if compiler else ["g++", "clang++", "c++"])):
            raise ImportError("an AOTInductor package is compiled when it is written: install a C++ compiler, as g++")

    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """See `Format`."""
        from torch._inductor import aoti_compile_and_package

        aoti_compile_and_package(plain(program), package_path=str(path))

    def load(self, path: Path, threads: int) -> Run:
        """See `Format`."""
        from torch._inductor import aoti_load_package

        return run_program(aoti_load_package(str(path)))
