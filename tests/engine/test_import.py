from __future__ import annotations

import subprocess
import sys

import a2mamba.engine as engine


def test_importing_the_engine_is_light() -> None:
    # Whatever the package itself imports is there before, and not the engine's.
    script = """
import sys, a2mamba
before = set(sys.modules)
import a2mamba.engine
added = {name.split(".")[0] for name in set(sys.modules) - before}
print("torch" in sys.modules, sorted(added & {"timm", "rich", "tensorboard", "torchvision"}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_all_names_exist() -> None:
    assert len(engine.__all__) == len(set(engine.__all__)) > 20
    assert [name for name in engine.__all__ if not hasattr(engine, name)] == []
