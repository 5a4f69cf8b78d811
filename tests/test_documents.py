"""Documents say what is true: commands and options exist, links lead somewhere, Python examples are Python."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from a2mamba.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])
EXAMPLES = [file for file in DOCUMENTS if file.name != "CHANGELOG.md"]
every_document = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block: the word behind the opening fence, and the text."""

    language: str
    text: str


def fenced(text: str) -> list[Block]:
    """The fenced blocks of a document."""
    found = re.findall(r"^[ \t]*```([\w+-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(language, body) for language, body in found]


def commands(text: str) -> list[list[str]]:
    """The words behind every `a2mamba` that stands as a command in code: fenced, indented or between backticks."""
    blocks = fenced(text)
    code = [line for block in blocks if block.language != "python" for line in block.text.splitlines()]
    for block in blocks:
        text = text.replace(block.text, "")
    code += re.findall(r"`([^`\n]+)`", text)
    code += [line for line in text.splitlines() if line.startswith("    ")]
    found = []
    for line in code:
        for part in re.split(r"&&|\|\s|;", line.split("  #")[0]):
            words = part.strip().removeprefix("$ ").split()
            while words and "=" in words[0]:  # VARIABLE=value before a command
                words.pop(0)
            if words and words[0].rsplit("/", 1)[-1] == "a2mamba":
                found.append(words[1:])
    return found


def links(text: str) -> list[str]:
    """The targets of links and images that point into the repository, without their anchors."""
    for block in fenced(text):
        text = text.replace(block.text, "")
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    inside = [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:|#|//", target)]
    return [target.split("#")[0] for target in inside]


def test_what_is_read_from_a_document() -> None:
    text = """
Use `a2mamba info a2mamba_tiny` or [this](docs/x.md#part), not [that](https://a2mamba.org) or [here](#here).
The package `a2mamba` and `a2mamba.cli`.

    $ a2mamba data demo demo && HF_HOME=x .venv/bin/a2mamba train digits  # a2mamba wrong

```sh
a2mamba eval digits --checkpoint "a b.pt" | tee log
```
```python
a2mamba = 1
```
<img src="images/a.png">
"""
    assert commands(text) == [
        ["eval", "digits", "--checkpoint", '"a', 'b.pt"'],
        ["info", "a2mamba_tiny"],
        [],
        ["data", "demo", "demo"],
        ["train", "digits"],
    ]
    assert links(text) == ["docs/x.md", "images/a.png"]
    assert [block.language for block in fenced(text)] == ["sh", "python"]


def test_documents_were_found() -> None:
    names = {str(file.relative_to(ROOT)) for file in DOCUMENTS}
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "docs/architecture.md"} <= names
    assert ("README.md" in names) == (ROOT / "README.md").exists()


@every_document
def test_links_lead_somewhere(file: Path) -> None:
    broken = [target for target in links(file.read_text()) if not (file.parent / target).exists()]
    assert broken == []


@every_document
def test_python_examples_are_python(file: Path) -> None:
    for block in fenced(file.read_text()):
        if block.language in ("python", "py"):
            source = "\n".join(re.sub(r"^(>>>|\.\.\.) ?", "", line) for line in block.text.splitlines())
            ast.parse(source if source.strip() else "pass")


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Command -> its long options, as its help shows them."""
    found = {}
    for command in COMMANDS:
        shown = io.StringIO()
        for words in ([command, "--help"], *([command, action, "--help"] for action in _actions(command))):
            with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
                main(words)
        found[command] = set(re.findall(r"--[a-z][a-z-]*", shown.getvalue()))
    return found


def _actions(command: str) -> list[str]:
    return {"data": ["demo", "check", "convert"], "hub": ["save", "push"]}.get(command, [])


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_and_their_options_exist(file: Path, options: dict[str, set[str]]) -> None:
    for words in commands(file.read_text()):
        if not words or words[0].startswith("-") or words[0].isupper():  # the bare name, and `a2mamba COMMAND --help`
            continue
        assert words[0] in COMMANDS, f"a2mamba {shlex.join(words)}"
        used = {re.split(r"[=\]]", word.lstrip("["))[0] for word in words if word.lstrip("[").startswith("--")}
        assert used <= options[words[0]], f"a2mamba {shlex.join(words)}"


def test_the_changelog_names_every_command() -> None:
    """Commands are listed there by their bare names, beside the word command line."""
    listed = set(re.findall(r"`(\w+)`", (ROOT / "CHANGELOG.md").read_text()))
    assert set(COMMANDS) <= listed
