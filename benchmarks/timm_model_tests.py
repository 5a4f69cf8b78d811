"""timm's own tests of models, from a checkout of timm, on our backbones.

    pip download --no-binary timm --no-deps timm && tar xzf timm-*.tar.gz
    python benchmarks/timm_model_tests.py --timm-checkout timm-1.0.31 [--models a2mamba_test ...]

Prints a table of timm's tests: how many of our names pass each, and why a test does not apply; the exit status is 1
where one fails. The checkout's tests run against the installed timm, whose version must be the same.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import timm

from a2mamba.backbone.registry import REGISTERED
from a2mamba.cli.output import print_table

Outcome = Literal["passed", "failed", "skipped"]

ANY_MODEL = {
    "test_reset_classifier_keeps_pool",
    "test_prune_intermediate_layers_params_used",
    "test_prune_to_stem_feature",
    "test_head_hidden_size",
}
"""Tests of a few named models that ask what holds for every model; we put our names in their place."""

_WEIGHTS = "downloads weights"
_SCRIPT = "TorchScript, which PyTorch deprecates, reads neither our annotations nor operators"
_FX = "torch.fx follows no decision on a shape; what follows them is torch.export"

NOT_APPLICABLE = {
    "test_model_load_pretrained": _WEIGHTS,
    "test_model_features_pretrained": _WEIGHTS,
    "test_model_forward_torchscript": _SCRIPT,
    "test_model_forward_fx_torchscript": _SCRIPT,
    "test_model_forward_fx": _FX,
    "test_model_backward_fx": _FX,
    "test_features_only_grad_checkpointing_backward": "timm's FeatureGetterNet has no set_grad_checkpointing",
}
"""Test -> why it is not run."""


@dataclass
class OurModels:
    """A plugin for pytest: timm's lists hold our names alone, and only what is asked of them runs."""

    names: list[str]
    outcomes: dict[str, Counter[Outcome]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(test with its model, the error's last line)"""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept: list[pytest.Item] = []
        dropped: list[pytest.Item] = []
        for item in items:
            (kept if self._is_ours(item) else dropped).append(item)
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept

    def _is_ours(self, item: pytest.Item) -> bool:
        call = getattr(item, "callspec", None)
        model = "" if call is None else str(call.params.get("model_name", ""))
        return model.split(".")[0] in self.names and test_of(item.nodeid) not in NOT_APPLICABLE

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if metafunc.function.__name__ not in ANY_MODEL:
            return
        markers = metafunc.definition.own_markers
        for i, marker in enumerate(markers):
            names = marker.args[0].replace(" ", "").split(",") if marker.name == "parametrize" else []
            if "model_name" in names:
                values = [(name, *({} for _ in names[1:])) if len(names) > 1 else name for name in self.names]
                markers[i] = pytest.mark.parametrize(marker.args[0], values).mark

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        self.outcomes.setdefault(test_of(report.nodeid), Counter())[report.outcome] += 1
        if report.failed:
            lines = re.findall(r"^E +(.*)", report.longreprtext, flags=re.MULTILINE)
            self.failures.append((report.nodeid.split("::")[-1], lines[0] if lines else ""))


def test_of(nodeid: str) -> str:
    """Return the function's name in pytest's name of a test."""
    return nodeid.split("::")[-1].split("[")[0]


test_of.__test__ = False  # type: ignore[attr-defined]


def listing(names: Iterable[str]) -> Callable[..., list[str]]:
    """Return what stands for timm.list_models: as it, but our names alone, and whatever module is asked for."""
    original, ours = timm.list_models, set(names)

    def list_models(filter: Any = "", module: Any = "", **options: Any) -> list[str]:  # timm's names
        return [name for name in original(filter, **options) if name.split(".")[0] in ours]

    return list_models


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm-checkout", type=Path, required=True, help="folder with timm's tests/test_models.py")
    parser.add_argument("--models", nargs="+", default=list(REGISTERED), help="default: all, the ablations too")
    parser.add_argument("-k", dest="keyword", default="", help="only these tests, as pytest's -k")
    arguments = parser.parse_args()
    file = arguments.timm_checkout.resolve() / "tests" / "test_models.py"
    if not file.is_file():
        parser.error(f"{file} does not exist; give the folder of a checkout or of an unpacked source archive of timm")
    plugin = OurModels(arguments.models)
    timm.list_models = listing(arguments.models)
    os.chdir(arguments.timm_checkout)
    options = ["-q", "--tb=short", "--import-mode=importlib", "-p", "no:cacheprovider", "-W", "ignore"]
    options += ["-k", arguments.keyword]
    pytest.main([*options, str(file)], plugins=[plugin])
    rows = [(test, *(count[o] for o in ("passed", "failed", "skipped")), "") for test, count in plugin.outcomes.items()]
    rows += [(test, 0, 0, 0, reason) for test, reason in NOT_APPLICABLE.items()]
    print_table(("timm's test", "passed", "failed", "skipped", "not applicable"), rows)
    if plugin.failures:
        print_table(("failed", "error"), plugin.failures)
    return int(bool(plugin.failures) or not plugin.outcomes)


if __name__ == "__main__":
    sys.exit(main())
