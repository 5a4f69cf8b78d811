"""The package is light, and its models are known to timm whoever imports which first."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(program: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_the_package_is_light() -> None:
    heavy = run("import sys, a2mamba; print({'torch', 'timm', 'torchvision', 'numpy', 'PIL'} & set(sys.modules))")
    assert heavy == "set()"


@pytest.mark.parametrize(
    "first",
    [
        "import a2mamba, timm",
        "import timm, a2mamba",
        "import a2mamba; a2mamba.create_model; import timm",
        "import a2mamba.data, timm",
        "import a2mamba.segmentation, timm",
    ],
)
def test_timm_knows_the_models(first: str) -> None:
    assert run(f"{first}; print('a2mamba_nano' in timm.list_models())") == "True"


def test_timm_is_found_as_without_us() -> None:
    program = (
        "import a2mamba, timm, sys; print(timm.__spec__.loader is timm.__loader__, type(timm.__loader__).__name__)"
    )
    assert run(program) == "True SourceFileLoader"
    assert (
        run("import sys; before = len(sys.meta_path); import a2mamba, timm; print(len(sys.meta_path) - before)") == "0"
    )


def test_every_name_is_there() -> None:
    import a2mamba

    assert [name for name in a2mamba.__all__ if not hasattr(a2mamba, name)] == []
    assert set(a2mamba.__all__) <= set(dir(a2mamba))
    with pytest.raises(AttributeError, match="'a2mamba' has no attribute 'create_modle'"):
        _ = a2mamba.create_modle
