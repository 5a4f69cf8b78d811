"""Documents run as they are written: every shell and Python block, from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

from snippets import DOCUMENTS, NOT_RUN, ROOT, Block, blocks, prepare, run_document, to_run, why_not

FAST = {"docs/extend_dataset.md", "docs/extend_mixer.md", "docs/operators.md"}
"""Run by default; all others are `slow`."""

RUN = {document.relative_to(ROOT).as_posix(): document for document in DOCUMENTS if to_run(document)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of documents that make all they need themselves."""
    return tmp_path_factory.mktemp("empty")


def test_what_is_found_in_a_document() -> None:
    text = """
Text, and `a2mamba info`.

    a2mamba models | head
    a2mamba info a2mamba_tiny

    root/train/cat/1.jpg

- In a list:

    ```bash
    echo 1
    ```

```python
x = 1
```

```text
a2mamba is not run here
```
"""
    assert blocks(text) == [
        Block("bash", "a2mamba models | head\na2mamba info a2mamba_tiny\n", 4),
        Block("bash", "echo 1\n", 12),
        Block("python", "x = 1\n", 16),
    ]


def test_documents_were_found() -> None:
    assert RUN.keys() >= FAST
    assert {"README.md", "docs/first.md", "docs/classification.md"} <= RUN.keys()


def test_every_reason_is_needed() -> None:
    shown = [block.text for document in DOCUMENTS for block in blocks(document.read_text())]
    unused = [reason for reason in NOT_RUN if not any(reason in text for text in shown)]
    assert unused == []


def test_a_failure_is_seen(empty: Path, tmp_path: Path) -> None:
    """A document fails where any line of a shell block or any Python block does."""
    for code in ("bash\nfalse\ntrue\n", "python\nassert False\n"):
        document = ROOT / "docs" / "x.md"
        block = blocks(f"```{code}```\n")
        assert [why_not(each) for each in block] == [None]
        folder = tmp_path / block[0].language
        done = run_document(document, block, empty, folder, timeout=60)
        assert done.returncode == 1, done.stdout
        assert "docs/x.md:2" in done.stdout


@pytest.mark.parametrize("name", sorted(FAST))
def test_short_documents_run(name: str, empty: Path, tmp_path: Path) -> None:
    _run(name, empty, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RUN.keys() - FAST))
def test_documents_run(name: str, prepared: Path, tmp_path: Path) -> None:
    _run(name, prepared, tmp_path)


def _run(name: str, prepared: Path, folder: Path) -> None:
    done = run_document(
        RUN[name], to_run(RUN[name]), prepared, folder, timeout=1800
    )  # 3 minutes at most on an idle core
    assert done.returncode == 0, done.stdout[-6000:]
