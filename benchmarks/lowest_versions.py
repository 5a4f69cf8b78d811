"""Install the lowest versions that pyproject.toml declares, in an environment of their own, and run the quick tests.

    make test-lowest        # or: python3.11 benchmarks/lowest_versions.py [pytest arguments]

Needs a Python that all these versions have wheels for: 3.10 or 3.11. (Of their own requirements pip takes the newest.)
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv-lowest"
EXTRAS = ("demo", "numba", "coco", "tensorboard", "export")
QUICK = [
    *("tests/backbone", "tests/data", "tests/evaluation", "tests/layers", "tests/export"),
    *("tests/cli/test_commands.py", "tests/cli/test_export.py", "tests/engine/test_hooks.py"),
]
TOOLS = ["pytest>=8.0", "hypothesis>=6.100", "pycocotools>=2.0.8", "torchmetrics>=1.4"]


def lowest_versions() -> list[str]:
    """Return ``name==version`` for every dependency, those of ``EXTRAS`` too.

    Raises:
        ValueError: a dependency without a lower bound.
    """
    found = []
    for requirement in metadata.requires("a2mamba") or []:
        declared, _, condition = requirement.partition(";")
        extra = re.search(r"extra == \W(\w+)", condition)
        if (extra is not None and extra[1] not in EXTRAS) or declared.startswith("a2mamba["):
            continue
        if ">=" not in declared:
            raise ValueError(f"{declared.strip()} declares no lower bound; write NAME>=VERSION in pyproject.toml")
        found.append(declared.strip().replace(">=", "=="))
    return found


def main() -> int:
    """Return pytest's exit status."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *lowest_versions(), *TOOLS], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    tests = sys.argv[1:] or QUICK
    # Old libraries use what their newer requirements have deprecated.
    command = [str(python), "-m", "pytest", "-W", "ignore::DeprecationWarning", *tests]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
