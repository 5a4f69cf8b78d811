from __future__ import annotations

import ast
from pathlib import Path

import pytest

import a2mamba.data
import a2mamba.evaluation

HEAVY = {"matplotlib", "scipy", "sklearn", "timm", "torchvision"}
FILES = [
    path for package in (a2mamba.data, a2mamba.evaluation) for path in sorted(Path(package.__path__[0]).rglob("*.py"))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_importing_is_cheap(path: Path) -> None:
    """What only some calls need is imported by those calls, not by the module."""
    imported: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
    assert not {name.split(".")[0] for name in imported} & HEAVY


def test_every_file_was_found() -> None:
    assert {"scenes.py", "class_folders.py", "imagenet.py", "classification.py"} <= {path.name for path in FILES}


def test_public_names_exist() -> None:
    for package in (a2mamba.data, a2mamba.evaluation):
        assert package.__all__
        assert all(hasattr(package, name) for name in package.__all__)
