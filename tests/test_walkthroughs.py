"""The walkthroughs in docs/extend_*.md run as they are written: their Python blocks are one file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from test_documents import fenced

FOUND = sorted((Path(__file__).parents[1] / "docs").glob("extend_*.md"))


def test_walkthroughs_were_found() -> None:
    assert "extend_mixer.md" in [file.name for file in FOUND]


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.stem)
def test_what_is_written_runs(file: Path, tmp_path: Path) -> None:
    """In a process of its own, so that what it registers is not there for other tests."""
    blocks = [block.text for block in fenced(file.read_text()) if block.language == "python"]
    assert len(blocks) > 2
    written = tmp_path / f"{file.stem}.py"
    written.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, written], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
