"""Documents say what is true: commands, options, keys and Python names exist, links lead somewhere.

Nothing is run here; `tests/test_walkthroughs.py` runs what documents show.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import snippets
from a2mamba.catalog import FACTS, MODELS
from a2mamba.cli.main import COMMANDS, main
from snippets import PYTHON, ROOT, SHELL, blocks, fenced

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])
GENERATED = {ROOT / "docs" / name for name in ("commands.md", "recipes.md", "reference.md")}
"""Pages that hooks in docs/hooks make when the site is built."""
EXAMPLES = [file for file in DOCUMENTS if file.name != "CHANGELOG.md"]
every_document = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))


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
    assert [target for target in links(file.read_text()) if not leads_somewhere((file.parent / target).resolve())] == []


def leads_somewhere(target: Path) -> bool:
    """Whether a file is there, or will be a page of the site: docs/code has the README files beside the code."""
    if target.exists() or target in GENERATED:
        return True
    code = ROOT / "docs" / "code"
    return (
        target.is_relative_to(code)
        and (ROOT / "src" / "a2mamba" / target.relative_to(code).with_suffix("") / "README.md").exists()
    )


def test_no_file_has_the_markers_of_a_merge() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout of git")
    found = subprocess.run(
        ["git", "grep", "-nE", "^(<{7}|>{7})"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (1, ""), found  # 1: nothing was found


def test_the_readme_stands_alone() -> None:
    """It is shown where the repository is not: nothing but its images, which have a text, is beside it."""
    assert [target for target in links((ROOT / "README.md").read_text()) if not target.endswith(".png")] == []


@every_document
def test_python_examples_are_python(file: Path) -> None:
    for block in fenced(file.read_text()):
        if block.language in PYTHON:
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


def invocations(text: str) -> list[list[str]]:
    """The words behind each `a2mamba` in the shell blocks of a document, also under torchrun, but for synopses."""
    found = []
    for block in blocks(text):
        if block.language not in SHELL:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|\||;", line.split(" #")[0]):
                words = shlex.split(command)
                place = next((i for i, word in enumerate(words) if word.rsplit("/", 1)[-1] == "a2mamba"), None)
                synopsis = any(word.isupper() or word.endswith("=DIR") or "..." in word for word in words)
                if place is not None and not synopsis:
                    found.append(words[place + 1 :])
    return found


def test_invocations() -> None:
    text = """
```bash
torchrun -m a2mamba train digits \\
  data.root=x && a2mamba eval --checkpoint "a b.pt" | head  # a2mamba
a2mamba data check DIR
pip install a2mamba-x
```
"""
    assert invocations(text) == [["train", "digits", "data.root=x"], ["eval", "--checkpoint", "a b.pt"]]


INVOCATIONS = sorted({tuple(words) for file in snippets.DOCUMENTS for words in invocations(file.read_text())})


@pytest.mark.parametrize("words", INVOCATIONS, ids=shlex.join)
def test_commands_are_understood(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command's own parser; recipes exist, and so do the keys that are changed, with values of their type."""
    parsed: list[argparse.Namespace] = []

    def run(arguments: argparse.Namespace) -> int:
        parsed.append(arguments)
        return 0

    monkeypatch.setattr(importlib.import_module(f"a2mamba.cli.{words[0]}"), "run", run)
    with contextlib.suppress(SystemExit):  # --help, --version
        assert main(words) == 0
    assert parsed or "--help" in words
    for arguments in parsed:
        names_exist(arguments)


def names_exist(arguments: argparse.Namespace) -> None:
    """Recipes, keys and networks of parsed arguments exist."""
    from a2mamba.recipes import RECIPES, make_run
    from a2mamba.recipes.batches import override

    if arguments.command == "train":
        override(make_run(arguments.recipe, paper=arguments.paper), arguments.overrides)
    if arguments.command == "info":
        assert arguments.name in networks()
    if getattr(arguments, "model", None) is not None:
        assert arguments.model in networks()
    if arguments.command == "eval":
        assert [word for word in arguments.overrides if "=" not in word and word not in RECIPES] == []
    if arguments.command == "bench" and arguments.models:
        import timm

        assert set(arguments.models) <= {*networks(), *timm.list_models()}


def networks() -> set[str]:
    return {name for names in MODELS.values() for name in names}


@pytest.mark.parametrize(
    "file",
    [file for file in EXAMPLES if any(block.language in PYTHON for block in fenced(file.read_text()))],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_python_names_exist(file: Path) -> None:
    """What is imported from the package, its attributes, and the keywords of calls."""
    for block in fenced(file.read_text()):
        if block.language in PYTHON:
            check_names(ast.parse(block.text))


def check_names(tree: ast.AST) -> None:
    """Raise AssertionError for a name of the package that does not exist, or a keyword that its function lacks."""
    known: dict[str, Any] = {"a2mamba": importlib.import_module("a2mamba")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "a2mamba":
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"from {node.module} import {name.name}"
                known[name.asname or name.name] = getattr(module, name.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            resolve(node, known)
        if isinstance(node, ast.Call):
            function = resolve(node.func, known)
            if function is not None:
                parameters = inspect.signature(function).parameters
                lacking = [word.arg for word in node.keywords if word.arg and word.arg not in parameters]
                kinds = {parameter.kind for parameter in parameters.values()}
                assert not lacking or inspect.Parameter.VAR_KEYWORD in kinds, f"{ast.unparse(node)}: {lacking}"


def resolve(node: ast.AST, known: dict[str, Any]) -> Any:
    """The object that a name or dotted name of the package stands for; None for everything else."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, known)
        if inspect.ismodule(owner):
            assert hasattr(owner, node.attr), ast.unparse(node)
            return getattr(owner, node.attr)
    return None


@pytest.mark.parametrize(
    "source",
    [
        "from a2mamba.data import recognise",
        "import a2mamba\na2mamba.create_modell('x')",
        "import a2mamba\na2mamba.load('x', devise='cpu')",
    ],
)
def test_a_wrong_name_is_seen(source: str) -> None:
    with pytest.raises(AssertionError):
        check_names(ast.parse(source))


@pytest.mark.parametrize("name", ["README.md", "docs/classification.md"])
def test_tables_of_models_have_our_counts(name: str) -> None:
    rows = {
        cells[1].strip("` "): [cell.strip() for cell in cells[2:5]]
        for line in (ROOT / name).read_text().splitlines()
        if (cells := line.split("|"))[0] == "" and len(cells) > 5
    }
    for model in ("nano", "tiny", "small", "base", "large"):
        facts = FACTS[f"a2mamba_{model}"]
        parameters, flops, top1 = rows[f"a2mamba_{model}"]
        assert parameters == f"{facts.parameters / 1e6:.1f} M"
        assert flops == f"{facts.flops / 1e9:.2f}"
        assert top1.split()[0] == str(facts.top1)


def test_the_changelog_names_every_command() -> None:
    """Commands are listed there by their bare names, beside the word command line."""
    listed = set(re.findall(r"`(\w+)`", (ROOT / "CHANGELOG.md").read_text()))
    assert set(COMMANDS) <= listed
