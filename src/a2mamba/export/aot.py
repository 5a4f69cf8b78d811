"""A program compiled for this machine by AOTInductor: one file, which PyTorch runs without this package."""

from __future__ import annotations

import os
import shutil
import zipfile
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
        from torch._inductor import aoti_compile_and_package, config

        # Tables for profilers would double the compiled code, and name this machine's folders.
        tables = "enable_line_tables"  # not in torch 2.7, which writes none
        options = {f"aot_inductor.{tables}": False} if hasattr(config.aot_inductor, tables) else None
        aoti_compile_and_package(plain(program), package_path=str(path), inductor_configs=options)
        _empty_sources(path)

    def load(self, path: Path, threads: int) -> Run:
        """See `Format`."""
        from torch._inductor import aoti_load_package

        return run_program(aoti_load_package(str(path)))


def _empty_sources(path: Path) -> None:
    """Drop the text of the sources that a package was compiled from: PyTorch loads the compiled code alone.

    Their names stay: some loaders find by them what else belongs to the code.
    """
    whole = path.rename(path.with_suffix(".whole"))
    with zipfile.ZipFile(whole) as package, zipfile.ZipFile(path, "w") as copy:
        for entry in package.infolist():
            copy.writestr(entry, b"" if entry.filename.endswith(".cpp") else package.read(entry))
    whole.unlink()
