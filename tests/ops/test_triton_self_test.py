"""The self-test: trusts right kernels, switches wrong ones off with one warning, and remembers its verdict."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from a2mamba.ops import self_test

CPU = torch.device("cpu")


class Broken:
    """A kernel that is launched with another scale than the caller's."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.arg_names = kernel, kernel.arg_names

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(**arguments: Any) -> None:
            self.kernel[grid](**{**arguments, "scale": 1.5 * arguments["scale"]})

        return launch


def run_passed(folder: str, operator: str, broken: str | None) -> tuple[str | None, list[str]]:
    """Return verdict and warnings of two calls in a fresh memory, with one kernel of neighborhood attention broken."""
    from a2mamba.ops import triton_launch
    from a2mamba.ops.neighborhood import triton_kernels

    self_test.forget()
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if broken is not None:
            with (
                mock.patch.object(triton_kernels, broken, Broken(getattr(triton_kernels, broken))),
                # Launches that are known already would run the right kernel.
                mock.patch.dict(triton_launch._known, clear=True),
            ):
                reason = self_test.passed(operator, CPU)
        else:
            # As a first use inside inference under autocast would call it.
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                reason = self_test.passed(operator, CPU)
        assert self_test.passed(operator, CPU) == reason
    self_test.forget()
    return reason, [str(w.message) for w in caught if w.category is RuntimeWarning and "overflow" not in str(w.message)]


@pytest.mark.parametrize("operator", sorted(self_test.COMPARISONS))
def test_right_kernels_pass(operator: str, tmp_path: Path, interpreted: Callable[..., Any]) -> None:
    assert interpreted(run_passed, str(tmp_path), operator, None) == (None, [])
    file = tmp_path / "a2mamba" / "self_test.json"
    if operator.endswith("/numba"):
        assert not file.exists(), "Numba's kernels are compared by every process"
    else:
        assert list(json.loads(file.read_text()).values()) == [None]


def test_a_wrong_kernel_is_switched_off(tmp_path: Path, interpreted: Callable[..., Any]) -> None:
    reason, messages = interpreted(run_passed, str(tmp_path), "neighborhood_attention", "attention_backward_q_kernel")
    assert "gradient of q" in reason
    assert len(messages) == 1
    assert messages[0].startswith("neighborhood_attention: the Triton kernels are switched off on cpu")
    # The next process is told by the file, and warns too.
    assert interpreted(run_passed, str(tmp_path), "neighborhood_attention", None) == (reason, messages)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty cache file's path, with nothing remembered and a comparison that counts its calls."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    self_test.forget()
    yield self_test.cache_file()
    self_test.forget()


def test_a_verdict_is_asked_for_once(memory: Path) -> None:
    compare = mock.Mock(return_value=None)
    with mock.patch.dict(self_test.COMPARISONS, {"an operator": compare}):
        assert [self_test.passed("an operator", CPU) for _ in range(3)] == [None] * 3
        self_test.forget()
        assert self_test.passed("an operator", CPU) is None
    assert compare.call_count == 1
    assert [name.split(" | ")[0] for name in json.loads(memory.read_text())] == ["an operator"]
    assert not list(memory.parent.glob("*.tmp"))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"an operator": 1}', "\udcff"])
def test_a_broken_cache_is_ignored_and_repaired(content: str, memory: Path) -> None:
    memory.parent.mkdir()
    memory.write_bytes(content.encode(errors="surrogateescape"))
    compare = mock.Mock(return_value=None)
    with mock.patch.dict(self_test.COMPARISONS, {"an operator": compare}):
        assert self_test.passed("an operator", CPU) is None
    assert compare.call_count == 1
    assert set(json.loads(memory.read_text()).values()) == {None}


def test_a_folder_that_cannot_be_written_is_no_error(memory: Path) -> None:
    memory.parent.write_text("a file where the folder should be")
    with mock.patch.dict(self_test.COMPARISONS, {"an operator": mock.Mock(return_value=None)}):
        assert self_test.passed("an operator", CPU) is None


def test_a_failure_is_a_reason_but_not_kept(memory: Path) -> None:
    compare = mock.Mock(side_effect=RuntimeError("out of memory\nand more"))
    with (
        mock.patch.dict(self_test.COMPARISONS, {"an operator": compare}),
        pytest.warns(RuntimeWarning, match="an operator"),
    ):
        reason = self_test.passed("an operator", CPU)
    assert reason == "they raised RuntimeError: out of memory"
    assert not memory.exists()


def test_nothing_runs_while_compiling(memory: Path) -> None:
    compare = mock.Mock(return_value=None)
    with mock.patch.dict(self_test.COMPARISONS, {"an operator": compare}):

        def forward(x: torch.Tensor) -> torch.Tensor:
            return x + 1 if self_test.passed("an operator", CPU) is None else x - 1

        assert torch.compile(forward, fullgraph=True, backend="eager")(torch.zeros(1)) == 1
    assert compare.call_count == 0


def test_an_unknown_operator_is_an_error() -> None:
    with pytest.raises(KeyError):
        self_test.passed("no operator", CPU)
