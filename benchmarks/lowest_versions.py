"""Install the lowest versions that pyproject.toml declares, in an environment of their own, and run the quick tests.

    make test-lowest        # or: python3.11 benchmarks/lowest_versions.py [pytest arguments, of the first set alone]

Needs a Python that all these versions have wheels for: 3.10 or 3.11. (Of their own requirements pip takes the newest.)
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv-lowest"
EXTRAS = ("demo", "numba", "coco", "tensorboard", "heif", "export", "openvino", "coreml", "weights", "docs")
TESTS = [
    *("tests/backbone", "tests/data", "tests/evaluation", "tests/layers", "tests/export", "tests/hub", "tests/weights"),
    *("tests/cli/test_commands.py", "tests/cli/test_export.py", "tests/engine/test_hooks.py", "tests/test_site.py"),
]
# gradio and transformers require newer versions of two of our own requirements, beside the same lowest torch. They come
# over the others, when the tests of those are done.
LATER = ("serve", "integrations")
LATER_TESTS = ["tests/serve", "tests/examples", "tests/hub"]
RAISED = ("huggingface_hub", "safetensors")
TOOLS = ["pytest>=8.0", "hypothesis>=6.100", "pycocotools>=2.0.8", "torchmetrics>=1.4"]


def lowest_versions(extras: Sequence[str]) -> list[str]:
    """Return ``name==version`` for every dependency, those of ``extras`` too.

    Raises:
        ValueError: a dependency without a lower bound.
    """
    found = []
    for requirement in metadata.requires("a2mamba") or []:
        declared, _, condition = requirement.partition(";")
        extra = re.search(r"extra == \W(\w+)", condition)
        if (extra is not None and extra[1] not in extras) or declared.startswith("a2mamba["):
            continue
        if ">=" not in declared:
            raise ValueError(f"{declared.strip()} declares no lower bound; write NAME>=VERSION in pyproject.toml")
        found.append(declared.strip().replace(">=", "=="))
    return found


def main() -> int:
    """Return 0 where both sets of tests pass, and otherwise pytest's exit status."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)

    def pip(command: str, *arguments: str) -> None:
        quiet = [str(python), "-m", "pip", command, "--quiet", "--disable-pip-version-check"]
        subprocess.run([*quiet, *arguments], check=True)

    def test(tests: Sequence[str]) -> int:
        # Old libraries use what their newer requirements have deprecated.
        command = [str(python), "-m", "pytest", "-W", "ignore::DeprecationWarning", *tests]
        return subprocess.run(command, cwd=ROOT, check=False).returncode

    first = lowest_versions(EXTRAS)
    every = lowest_versions((*EXTRAS, *LATER))
    later = [pinned for pinned in every if pinned not in first]
    pip("uninstall", "--yes", *(pinned.partition("==")[0] for pinned in later))
    pip("install", *first, *TOOLS)
    pip("install", "--no-deps", "--editable", str(ROOT))
    status = test(sys.argv[1:] or TESTS)
    if len(sys.argv) == 1:
        pip("install", *(pinned for pinned in every if not pinned.startswith(RAISED)))
        status = test(LATER_TESTS) or status
    return status


if __name__ == "__main__":
    sys.exit(main())
