"""The arrows of docs/architecture.md, held against every import statement, and what importing the package may do."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypeGuard

import pytest

import a2mamba

SOURCE = Path(a2mamba.__file__).parent
DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
ROOT = "(root)"


def _table() -> dict[str, set[str]]:
    """Package -> packages that it may import, from the document's table."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]+?) \|$", DOCUMENT.read_text(), flags=re.MULTILINE)
    names = [name for name, _ in rows]
    table: dict[str, set[str]] = {}
    for place, (name, allowed) in enumerate(rows):
        if allowed == "everything":
            table[name] = {*names, ROOT} - {name}
        elif allowed == "all of the above":
            table[name] = set(names[:place])
        elif allowed == "nothing":
            table[name] = set()
        else:
            assert re.fullmatch(r"`\w+`(, `\w+`)*", allowed), f"unreadable row of {name}: {allowed!r}"
            table[name] = set(re.findall(r"\w+", allowed))
    return table


TABLE = _table()


def _packages() -> list[str]:
    """Folders, and files that are a part by themselves; `python -m a2mamba` is the command line."""
    folders = [entry.name for entry in SOURCE.iterdir() if (entry / "__init__.py").is_file()]
    return sorted([*folders, *(file.stem for file in SOURCE.glob("*.py") if not file.stem.startswith("__"))])


def _module_name(file: Path, root: Path = SOURCE) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(("a2mamba", *parts)).removesuffix(".__init__")


def imports(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Every module that the source text of ``module`` imports anywhere, in full: functions and type checking included.

    ``from a import b`` yields ``a.b``: whether b is a module is for the reader to decide.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif _imports_by_name(node) and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def _imports_by_name(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether a node calls importlib.import_module(...) or __import__(...)."""
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return called in ("import_module", "__import__")


def _imports_of(file: Path) -> list[str]:
    return list(imports(file.read_text(), _module_name(file), is_package=file.name == "__init__.py"))


def _package_of(module: str, packages: list[str]) -> str:
    """The package of a module inside a2mamba; names that the root offers belong to the root."""
    below = ["cli"] if module == "a2mamba.__main__" else module.split(".")[1:2]
    return below[0] if below and below[0] in packages else ROOT


def _arrows() -> dict[str, dict[str, list[str]]]:
    """Package -> package that it imports -> where."""
    packages = _packages()
    arrows: dict[str, dict[str, list[str]]] = {name: {} for name in [*packages, ROOT]}
    for file in sorted(SOURCE.rglob("*.py")):
        source = _package_of(_module_name(file), packages)
        for module in _imports_of(file):
            if module.split(".")[0] != "a2mamba":
                continue
            target = _package_of(module, packages)
            if target != source:
                arrows[source].setdefault(target, []).append(f"{file.relative_to(SOURCE)}: {module}")
    return arrows


ARROWS = _arrows()


def test_import_statements_of_every_form_are_seen() -> None:
    text = """
import a, b.c as d
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from e import f
def function():
    from g.h import i
    try:
        import j
    except ImportError:
        q = importlib.import_module("r.s")
from . import k
from .l import m
from ..n import o
from .. import p
"""
    expected = ["a", "b.c", "typing.TYPE_CHECKING", "e.f", "g.h.i", "j", "r.s"]
    as_module = {*expected, "a2mamba.x.k", "a2mamba.x.l.m", "a2mamba.n.o", "a2mamba.p"}
    assert set(imports(text, "a2mamba.x.y", is_package=False)) == as_module
    assert set(imports(text, "a2mamba.x", is_package=True)) == as_module


def test_the_table_names_every_package() -> None:
    assert {"ops", "layers", "backbone", "data", "evaluation", "engine", "tasks", "recipes", "cli"} <= set(_packages())
    assert set(TABLE) == set(_packages())


def test_arrows_were_found() -> None:
    assert "backbone" in ARROWS[ROOT]
    assert {"ops"} <= ARROWS["layers"].keys()
    assert {"layers"} <= ARROWS["backbone"].keys()
    assert {"backbone", "data", "engine", "evaluation", "visualize"} <= ARROWS["tasks"].keys()
    assert {"data", "engine", "tasks"} <= ARROWS["recipes"].keys()
    assert {"recipes", "data"} <= ARROWS["cli"].keys(), "imports inside functions are found"


@pytest.mark.parametrize("package", sorted(TABLE))
def test_imports_follow_the_table(package: str) -> None:
    wrong = {target: where for target, where in ARROWS[package].items() if target not in TABLE[package]}
    assert not wrong, f"{package} may import {sorted(TABLE[package]) or 'nothing'}"


def test_nothing_imports_the_command_line() -> None:
    assert {package: found["cli"] for package, found in ARROWS.items() if "cli" in found} == {}


def test_there_are_no_cycles() -> None:
    order = list(TopologicalSorter({package: set(targets) for package, targets in ARROWS.items()}).static_order())
    assert order.index("ops") < order.index("layers") < order.index("backbone") < order.index("recipes")
    allowed = {package: targets - {ROOT} for package, targets in TABLE.items()}
    assert len(list(TopologicalSorter(allowed).static_order())) == len(TABLE), "nor does the table allow any"


def _files() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere; a name in a module counts as that module."""
    files = {_module_name(file): file for file in SOURCE.rglob("*.py")}

    def module_of(name: str) -> str:
        while name not in files and "." in name:
            name = name.rpartition(".")[0]
        return name

    found = {module: {module_of(name) for name in _imports_of(file)} for module, file in files.items()}
    return {module: (targets & files.keys()) - {module} for module, targets in found.items()}


def test_no_files_import_each_other() -> None:
    """Not even inside functions, and not through a package that collects names."""
    files = _files()
    assert "a2mamba.ops.dispatch" in files["a2mamba.ops.neighborhood.operator"], "imports are found"
    assert len(list(TopologicalSorter(files).static_order())) == len(files) > 100


def test_only_entrances_import_by_a_computed_name() -> None:
    """Such a name cannot be read here; the finder of commands has one, and what makes `import a2mamba` light."""
    users = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if _imports_by_name(node) and not isinstance(node.args[0], ast.Constant):
                users.add(str(file.relative_to(SOURCE)))
    assert users == {"__init__.py", "after_import.py", "cli/main.py"}


def test_operators_need_torch_and_compilers_alone() -> None:
    outside = {
        module.split(".")[0]
        for file in (SOURCE / "ops").rglob("*.py")
        for module in _imports_of(file)
        if module.split(".")[0] not in sys.stdlib_module_names
    }
    assert "torch" in outside
    assert outside <= {"torch", "triton", "numba", "llvmlite", "numpy", "a2mamba"}


COMPILED = re.compile(r"triton|numba_(?:kernels|vectors)")
"""Names of modules that need a compiler which is not everywhere; they are imported at their first use."""
MODULES = sorted(_module_name(file) for file in SOURCE.rglob("*.py") if not COMPILED.search(file.name))


def test_every_module_can_be_imported() -> None:
    assert len(MODULES) > 50
    for module in MODULES:
        assert importlib.import_module(module).__doc__, f"{module} has no docstring"


LOOK = """
import json, logging, socket, sys, threading, warnings
import torch

def refuse(*arguments, **options):
    raise AssertionError(f"a connection to {arguments}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse

def state():
    backends = torch.backends
    return {
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()],
        "default": [str(torch.get_default_dtype()), str(torch.get_default_device())],
        "grad": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()],
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.get_deterministic_debug_mode()],
        "precision": [torch.get_float32_matmul_precision(), backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32],
        "cudnn": [backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic],
        "mkldnn": backends.mkldnn.is_available() and backends.mkldnn.enabled,
        "sdp": [backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled()],
        "cuda used": torch.cuda.is_initialized(),
        "seed": torch.initial_seed(),
        "random": torch.get_rng_state().tolist(),
        "log": [logging.getLogger().level, len(logging.getLogger().handlers)],
        "hooks": [sys.excepthook is sys.__excepthook__, len(torch.nn.modules.module._global_forward_hooks)],
    }

torch.manual_seed(7)
before = state()
import a2mamba
after = state()
changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
heavy = {"matplotlib", "sklearn", "tensorboard", "torch.utils.tensorboard", "rich.progress", "rich.console",
         "a2mamba.cli", "a2mamba.recipes", "a2mamba.data", "a2mamba.engine", "pandas", "scipy"}
heavy |= {name for name in sys.modules if name.startswith("a2mamba.") and "triton" in name}
report = {"changed": changed, "heavy": sorted(heavy & set(sys.modules)), "names": a2mamba.__all__}
open(sys.argv[1], "w").write(json.dumps(report))
"""


def test_importing_does_nothing_else(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-W", "error::FutureWarning:a2mamba", "-c", LOOK, str(report)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = json.loads(report.read_text())
    assert found["changed"] == {}
    assert found["heavy"] == []
    assert {"create_model", "list_models", "load_checkpoint", "to_released", "ops"} <= set(found["names"])
