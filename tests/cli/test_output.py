"""Names from files are printed on any terminal, and can do nothing to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from a2mamba.cli.output import print_json, print_table, printable

from .helpers import in_new_process

HOSTILE = "cat\x1b[31m\x07\u202egnp.\udcff"


def test_controls_are_escapes() -> None:
    assert printable(HOSTILE) == "cat\\x1b[31m\\x07\\u202egnp.\\udcff"
    assert printable("Größe, 猫,\tनाम\n[bold]") == "Größe, 猫,\tनाम\n[bold]"


def test_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "number"), [(HOSTILE, 1), ("[red]markup[/red]", 2)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "cat\\x1b[31m" in shown
    assert "[red]markup[/red]" in shown
    print_json({"name": HOSTILE, "猫": [float("nan"), 1.5, float("inf")]})
    shown = capsys.readouterr().out
    shown.encode("utf-8")
    assert json.loads(shown) == {"name": HOSTILE, "猫": [None, 1.5, None]}
    assert "猫" in shown


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_other_encodings(encoding: str, form: tuple[str, ...], tmp_path: Path) -> None:
    """A message about a name that the terminal's encoding does not have is still one line, and exit status 2."""
    name = tmp_path / "猫😀"
    result = in_new_process("data", "check", name, *form, PYTHONIOENCODING=encoding)
    assert result.status == 2, result
    assert ("猫😀" if encoding == "utf-8" else "\\u732b\\U0001f600") in result.err
    assert "does not exist" in result.err


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_file_names_that_are_no_unicode(tmp_path: Path) -> None:
    result = in_new_process("data", "check", os.fsdecode(bytes(tmp_path) + b"/\xff\x1b[2J"))
    assert result.status == 2, result
    assert "\\udcff\\x1b[2J" in result.err
