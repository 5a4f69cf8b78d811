"""How tests call commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2mamba.cli.main import main
from a2mamba.export.comparison import torch_threads


@dataclass(frozen=True)
class Result:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def refused(self, *parts: str) -> None:
        """One line on stderr that says all of ``parts``, exit status 2, nothing on stdout."""
        assert self.status == 2, self
        assert self.out == ""
        assert re.match(r"a2mamba( \w+)*: ", self.err), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err
        for part in parts:
            assert part in self.err, self.err


def in_process(*words: str | Path) -> Result:
    """Run a command in this process, on one thread, so that its numbers are the same in another."""
    out, err = io.StringIO(), io.StringIO()
    with torch_threads(1), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 0
    return Result(status, out.getvalue(), err.getvalue())


def start(*words: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start a command as a user does, in a process of its own, on one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "a2mamba.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def in_new_process(*words: str | Path, **environment: str) -> Result:
    """Run a command as a user does, in a process of its own."""
    with start(*words, **environment) as process:
        out, err = process.communicate(timeout=600)
    return Result(process.returncode, out, err)


@dataclass(frozen=True)
class Trained:
    """A finished small run: its folder, and what the command said."""

    folder: Path
    result: Result

    @property
    def best(self) -> Path:
        """The best checkpoint."""
        return self.folder / "checkpoints" / "best.pt"

    @property
    def last(self) -> Path:
        """The last checkpoint."""
        return self.folder / "checkpoints" / "last.pt"


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder."""
    return {str(entry): entry.read_bytes() if entry.is_file() else None for entry in sorted(folder.rglob("*"))}
