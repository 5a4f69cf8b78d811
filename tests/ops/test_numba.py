"""Numba kernels of attention and scan: against the references, alone and in threads, compiled, exported, missing."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import a2mamba
from a2mamba.export.comparison import torch_threads
from a2mamba.ops import (
    NeighborhoodMap,
    dispatch,
    neighborhood,
    neighborhood_attention,
    numba_threads,
    selective_scan,
    selective_scan_state,
    self_test,
)
from a2mamba.ops.neighborhood import numba_impl as attention_impl
from a2mamba.ops.neighborhood import torch_impl
from a2mamba.ops.neighborhood.cases import Case as AttentionCase
from a2mamba.ops.selective_scan import numba_impl as scan_impl
from a2mamba.ops.selective_scan import torch_impl as scan_torch_impl
from a2mamba.ops.selective_scan.cases import Case as ScanCase
from support import needs_numba, relative_error

SCANS = (
    ScanCase(2, 8, 49),
    ScanCase(1, 9, 1),
    ScanCase(2, 24, 211),
    ScanCase(1, 26, 65, groups=2),
    ScanCase(1, 100, 70, bias=False),
    ScanCase(2, 16, 33, groups=2, channels_last=False),
    ScanCase(1, 12, 400, bias=False, softplus=False),
    ScanCase(0, 8, 9),
)
"""Vectors that end inside a group or an item of work, runs that end early."""

DTYPES = [(torch.float32, 3e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)]


pytestmark = pytest.mark.usefixtures("one_thread")


def gradients(out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


def attend(case: AttentionCase, tensors: tuple[Tensor | None, ...], backend: str = "numba") -> Tensor:
    q, k, v, bias = tensors
    assert q is not None
    assert k is not None
    assert v is not None
    return neighborhood_attention(q, k, v, bias, kernel_size=case.kernel_size, dilation=case.dilation, backend=backend)


def scan(case: ScanCase, tensors: tuple[Any, ...], backend: str = "numba") -> Tensor:
    return selective_scan_state(*tensors, delta_softplus=case.softplus, backend=backend)


def attention_results(case: AttentionCase, dtype: torch.dtype, backend: str) -> list[Tensor]:
    tensors = tuple(t if t is None else t.requires_grad_() for t in case.inputs(dtype))
    return gradients(attend(case, tensors, backend), [t for t in tensors if t is not None])


def attention_gradients(case: AttentionCase, tensors: Sequence[Tensor | None], grad: Tensor) -> tuple[Tensor, ...]:
    settings = [*case.kernel_size], [*case.dilation], case.d**-0.5
    return torch.ops.a2mamba.neighborhood_attention_numba_backward(grad, *tensors, *settings)


def outer_gradient(case: AttentionCase) -> Tensor:
    """Return a gradient of the output, laid out as that."""
    return replace(case, d=case.d if case.e is None else case.e).inputs(seed=1)[0]


def scan_gradients(case: ScanCase, tensors: tuple[Tensor | None, ...]) -> Tensor:
    """Return all gradients of a scan in one vector."""
    leaves = tuple(t if t is None else t.detach().requires_grad_() for t in tensors)
    return torch.cat([t.flatten() for t in gradients(scan(case, leaves), [t for t in leaves if t is not None])])


def scan_results(case: ScanCase, dtype: torch.dtype, backend: str) -> list[Tensor]:
    tensors = tuple(t if t is None else t.requires_grad_() for t in case.inputs(dtype))
    return gradients(scan(case, tensors, backend), [t for t in tensors if t is not None])


@needs_numba
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("case", neighborhood.CASES, ids=str)
def test_attention_agrees_with_reference(case: AttentionCase, dtype: torch.dtype, tolerance: float) -> None:
    expected = attention_results(case, torch.float64, "reference")
    for found, right in zip(attention_results(case, dtype, "numba"), expected, strict=True):
        assert found.dtype == dtype
        assert found.shape == right.shape
        assert relative_error(found, right) < tolerance


@needs_numba
def test_attention_on_maps_of_every_kind() -> None:
    """Windows, dilations and sizes drawn at random: rows and columns that fill strips and tiles in all ways."""
    draw = random.Random(0)
    for seed in range(150):
        window = draw.choice((1, 3, 5, 7, 9, 11, 13)), draw.choice((1, 3, 5, 7, 9, 11, 13))
        dilation = draw.randint(1, 6), draw.randint(1, 6)
        size = draw.randint(1, 40), draw.randint(1, 40)
        case = AttentionCase(1, 1, *size, draw.choice((8, 12, 20)), window, dilation, draw.choice((None, 28)))
        results = []
        for backend in ("numba", "torch"):
            leaves = [t for t in case.inputs(seed=seed) if t is not None]
            for leaf in leaves:
                leaf.requires_grad_()
            results.append(gradients(attend(case, tuple(leaves), backend), leaves))
        for found, right in zip(*results, strict=True):
            # Where a window is one key, the gradients of queries, keys and bias are exactly zero.
            assert relative_error(found, right) < 3e-6 or (found - right).abs().max() < 1e-5, case


@needs_numba
@pytest.mark.parametrize("case", SCANS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_scan_agrees_with_reference(case: ScanCase, dtype: torch.dtype, tolerance: float) -> None:
    tensors = case.inputs(dtype)
    states = scan(case, tensors)
    assert states.dtype == torch.float32
    expected = scan(case, tuple(t if t is None else t.double() for t in tensors), "reference")
    assert states.shape == expected.shape
    assert relative_error(states, expected) < 1e-6
    expected_results = scan_results(case, torch.float64, "reference")
    for found, right in zip(scan_results(case, dtype, "numba"), expected_results, strict=True):
        assert relative_error(found, right) < tolerance


@needs_numba
def test_long_scans_stay_exact() -> None:
    case = ScanCase(1, 8, 65536)
    tensors = case.inputs()
    exact = scan(case, tuple(t if t is None else t.double() for t in tensors), "torch")
    assert relative_error(scan(case, tensors), exact) < 1e-6
    u, delta, _, B, bias = tensors
    extreme = torch.tensor([-1e-6, -1e4, -1.0, -0.01, -1e-30, -1e30, -100.0, 0.0])
    assert scan(case, (u, delta, extreme, B, bias)).isfinite().all()


@needs_numba
def test_elementary_functions() -> None:
    """A scan of one token is softplus; one of two is the exponential too."""
    x = torch.linspace(-85, 85, 8 * 4000).view(1, 8, 4000)
    ones = torch.ones(4000, 1, 1)
    delta = x.permute(2, 1, 0).contiguous()
    steps = selective_scan_state(torch.ones_like(delta), delta, -torch.ones(8), ones, backend="numba")
    right = F.softplus(delta.double(), threshold=200)
    assert ((steps - right).abs() / right).max() < 5e-7
    # h_2 = exp(A * step) with a step of one that adds nothing.
    u = torch.tensor([1.0, 0.0]).expand(8, 2)[None]
    for A in (-torch.linspace(0, 86, 8), torch.linspace(0, 87, 8)):
        h = selective_scan_state(u, torch.ones(1, 8, 2), A, torch.ones(1, 2), delta_softplus=False, backend="numba")
        assert (h[0, :, 1] / A.double().exp() - 1).abs().max() < 1e-6
    A = torch.tensor([-89.0, -1e4, -3e4, 89.0, 3e4, torch.nan, 0.0, -0.0])
    arguments = (1000 * u, torch.tensor([1e-3, 1.0]).expand(1, 8, 2), A, torch.ones(1, 2))
    found, right = (selective_scan_state(*arguments, delta_softplus=False, backend=b) for b in ("numba", "reference"))
    torch.testing.assert_close(found, right, rtol=0, atol=1e-37, equal_nan=True)


@needs_numba
def test_a_map_applied_twice() -> None:
    case = neighborhood.CASES[6]
    q, k, v, bias = (t.requires_grad_() for t in case.inputs() if t is not None)
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for dtype, backend, results in ((torch.float32, "numba", found), (torch.float64, "reference", expected)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (q, k, v, bias)]
        q_leaf, k_leaf, _, bias_leaf = leaves
        attention = NeighborhoodMap(
            q_leaf, k_leaf, bias_leaf, kernel_size=case.kernel_size, dilation=case.dilation, backend=backend
        )
        first = attention(leaves[2])
        results += [first.detach(), *gradients(attention(first + leaves[2]), leaves)]
        assert torch.equal(attention(leaves[2]), first)
    for ours, right in zip(found, expected, strict=True):
        assert relative_error(ours, right) < 3e-6


@needs_numba
@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("case", [case for case in neighborhood.CASES if case.batch], ids=str)
def test_a_map_that_is_stored(case: AttentionCase, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At inference a small map is kept for its next application, and a large one computed once more."""
    monkeypatch.setattr(attention_impl, "STORED", limit)
    q, k, v, bias = case.inputs()
    other = case.inputs(seed=1)[2]
    options: dict[str, Any] = {"kernel_size": case.kernel_size, "dilation": case.dilation}
    with torch.no_grad():
        for again in (True, False):
            attention = NeighborhoodMap(q, k, bias, **options, again=again, backend="numba")
            first, second = attention(v), attention(other)
            stored = isinstance(attention.memory, Tensor)
            assert stored == (again and limit > 0)
            for values, found in ((v, first), (other, second)):
                assert torch.equal(found, attend(case, (q, k, values, bias)))
            # What is stored is what is read: the scores are not computed again.
            q_before, attention.q = q, torch.full_like(q, torch.nan)
            assert attention(v).isnan().any() != stored
            attention.q = q_before
    # With gradients nothing is stored.
    attention = NeighborhoodMap(q.requires_grad_(), k, bias, **options, again=True, backend="numba")
    attention(v)
    assert not isinstance(attention.memory, Tensor)


@needs_numba
def test_inputs_of_any_strides() -> None:
    case = AttentionCase(2, 2, 9, 11, 12, (5, 3), (1, 2))
    q, k, v, bias = case.inputs()
    expected = attend(case, (q, k, v, bias))
    wide = torch.full((2, 3, 2, 9, 11, 40), torch.nan)
    wide[:, 1, ..., 5:17] = k
    assert bias is not None
    strided = (
        q.transpose(2, 4).contiguous().transpose(2, 4),
        wide[:, 1, ..., 5:17],
        v.contiguous(),
        bias.mT.contiguous().mT,
    )
    assert torch.equal(attend(case, strided), expected)
    grad = outer_gradient(case)
    for apart in (grad.transpose(2, 4).contiguous().transpose(2, 4), grad[:1, :, :1, :1, :1].expand(grad.shape)):
        straight = attention_gradients(case, (q, k, v, bias), apart.contiguous())
        found = attention_gradients(case, strided, apart)
        assert all(torch.equal(ours, right) for ours, right in zip(found, straight, strict=True))

    scan_case = ScanCase(2, 24, 65)
    u, delta, A, B, delta_bias = scan_case.inputs()
    expected = scan(scan_case, (u, delta, A, B, delta_bias))
    wide = torch.full((2, 65, 50), torch.nan)
    wide[..., 7:31] = u.transpose(1, 2)
    strided_u = wide[..., 7:31].transpose(1, 2)
    assert torch.equal(scan(scan_case, (strided_u, delta.contiguous(), A.repeat(2)[:24], B, delta_bias)), expected)
    A_apart = torch.stack((A, A), 1)[:, 0]
    assert torch.equal(scan(scan_case, (strided_u, delta, A_apart, B.mT.contiguous().mT, delta_bias)), expected)


@needs_numba
def test_gradients_of_bfloat16_are_those_of_its_numbers(poison: Callable[[], None]) -> None:
    """What is read and written as bfloat16 is computed in float32, and rounded once."""
    poison()
    for case in neighborhood.CASES:
        *halves, bias = case.inputs(torch.bfloat16)
        grad = outer_gradient(case).bfloat16()
        apart = torch.full((*grad.shape[:-1], 3 * grad.shape[-1]), torch.nan, dtype=torch.bfloat16)
        apart[..., : grad.shape[-1]] = grad
        floats = [None if t is None else t.float() for t in (*halves, bias)]
        expected = attention_gradients(case, floats, grad.float())
        for outer in (grad, apart[..., : grad.shape[-1]]):
            found = attention_gradients(case, (*halves, bias), outer)
            assert all(t.dtype == torch.bfloat16 for t in found[:3])
            assert all(torch.equal(ours, right.to(ours.dtype)) for ours, right in zip(found, expected, strict=True))


@needs_numba
def test_images_and_heads_do_not_touch_each_other() -> None:
    case = AttentionCase(3, 2, 9, 13, 8, (5, 5))
    tensors, grad = case.inputs(), outer_gradient(case)
    expected = attend(case, tensors)
    *expected_maps, expected_table = attention_gradients(case, tensors, grad)
    for t in tensors[:3]:
        assert t is not None
        t[1, 0] = torch.nan
    *maps, table = attention_gradients(case, tensors, grad)
    for found, right in zip([attend(case, tensors), *maps], [expected, *expected_maps], strict=True):
        assert found[1, 0].isnan().all()
        found[1, 0] = right[1, 0]
        assert torch.equal(found, right)
    assert table[0].isnan().any()
    assert torch.equal(table[1], expected_table[1])

    scan_case = ScanCase(3, 24, 40)
    u, *others = scan_case.inputs()
    expected = scan(scan_case, (u, *others))
    u[1, 3, 7] = torch.nan
    found = scan(scan_case, (u, *others))
    assert found[1, 3, 7:].isnan().all()
    found[1, 3, 7:] = expected[1, 3, 7:]
    assert torch.equal(found, expected)


@needs_numba
def test_every_output_is_written_and_no_stale_memory_read(poison: Callable[[], None]) -> None:
    poison()
    for count in (1, 2):
        with torch_threads(count):
            for case in neighborhood.CASES:
                assert attend(case, case.inputs()).isfinite().all(), case
                found = attention_gradients(case, case.inputs(), outer_gradient(case))
                assert all(t.isfinite().all() for t in found), case
            for scan_case in SCANS:
                assert scan(scan_case, scan_case.inputs()).isfinite().all(), scan_case


def workloads() -> list[Callable[[], Tensor]]:
    """Return calls that are cut into work items in all ways: one image, few, many."""
    attentions = [
        AttentionCase(1, 1, 23, 30, 16, (7, 7), (3, 2)),
        AttentionCase(1, 3, 3, 20, 8, (3, 3)),
        AttentionCase(7, 2, 30, 28, 16, (9, 9)),  # takes so long that threads do meet
    ]
    scans = [ScanCase(1, 200, 77), ScanCase(5, 24, 50, groups=3)]
    attention_inputs = [case.inputs() for case in attentions]
    scan_inputs = [case.inputs() for case in scans]

    def joined(case: AttentionCase, tensors: Sequence[Tensor | None]) -> Tensor:
        return torch.cat([t.flatten() for t in attention_gradients(case, tensors, outer_gradient(case))])

    return [
        *(lambda c=c, t=t: attend(c, t) for c, t in zip(attentions, attention_inputs, strict=True)),
        # A gradient's item is an image, and the first case has but one.
        *(lambda c=c, t=t: joined(c, t) for c, t in zip(attentions[1:], attention_inputs[1:], strict=True)),
        *(lambda c=c, t=t: scan(c, t) for c, t in zip(scans, scan_inputs, strict=True)),
        *(lambda c=c, t=t: scan_gradients(c, t) for c, t in zip(scans, scan_inputs, strict=True)),
    ]


@needs_numba
@pytest.mark.parametrize("pool", ["of PyTorch", "our own"])
def test_threads_do_not_change_a_bit(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pool == "our own":
        monkeypatch.setattr(numba_threads, "openmp", lambda: None)
    elif numba_threads.openmp() is None:
        pytest.skip("no GNU OpenMP here")
    calls = workloads()
    expected = [call() for call in calls]
    used: list[int] = []
    inner = numba_threads.call

    def counted(kernel: int, argument: int, workers: int) -> None:
        used.append(workers)
        inner(kernel, argument, workers)

    monkeypatch.setattr(numba_threads, "call", counted)
    for count in (2, 3):
        used.clear()
        with torch_threads(count):
            assert all(torch.equal(call(), right) for call, right in zip(calls, expected, strict=True))
        assert set(used) == {count}


@needs_numba
@pytest.mark.parametrize("pool", ["of PyTorch", "our own"])
def test_calls_from_several_python_threads(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pool == "our own":
        monkeypatch.setattr(numba_threads, "openmp", lambda: None)
    calls = workloads()
    expected = [call() for call in calls]

    def repeat(_: int) -> bool:
        assert torch.get_num_threads() == 2
        return all(torch.equal(call(), right) for _ in range(20) for call, right in zip(calls, expected, strict=True))

    with torch_threads(2), ThreadPoolExecutor(max_workers=3) as executor:
        assert all(executor.map(repeat, range(3)))


FORK = """
import os, signal, sys, torch
from a2mamba.ops import neighborhood, neighborhood_attention, numba_threads
if sys.argv[1] == "own":
    numba_threads.openmp = lambda: None
torch.set_num_threads(2)
q, k, v, bias = neighborhood.CASES[6].inputs()
run = lambda: neighborhood_attention(q, k, v, bias, kernel_size=7, dilation=(3, 4), backend="numba")
expected = run()
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    os._exit(0 if torch.equal(run(), expected) else 1)
_, status = os.waitpid(child, 0)
assert torch.equal(run(), expected)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@needs_numba
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.parametrize("pool", ["OpenMP", "own"])
def test_forked_processes_run(pool: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK, pool], check=True, timeout=300)


LAZY = """
import sys
import a2mamba, a2mamba.ops.neighborhood.operator, a2mamba.ops.selective_scan.operator
assert "numba" not in sys.modules and "llvmlite" not in sys.modules
"""


@needs_numba
def test_a_second_process_compiles_nothing() -> None:
    """Every kernel is found in Numba's cache again; one that is not is compiled, and stored, by every process."""
    program = """
import importlib
from a2mamba.ops.numba_vectors import has_pair_products
for module in (
    "depthwise.numba_kernels",
    "feed_forward.numba_kernels",
    "neighborhood.numba_kernels",
    "neighborhood.numba_kernels_backward",
    "positional.numba_kernels",
    "rotary.numba_kernels",
    *(["neighborhood.numba_kernels_bfloat16"] if has_pair_products() else []),
    "readout.numba_kernels",
    "selective_scan.numba_kernels",
    "selective_scan.numba_kernels_backward",
):
    compiled = importlib.import_module("a2mamba.ops." + module)._COMPILED
    for kernel in compiled if isinstance(compiled, tuple) else (compiled,):
        print(module, kernel.cache_hits)
"""
    for _ in range(2):
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert len(found.splitlines()) in (10, 11)
    assert {line.split()[1] for line in found.splitlines()} == {"1"}, found


@needs_numba
def test_where_nothing_can_be_written_kernels_are_compiled_all_the_same(tmp_path: Path) -> None:
    """A read-only installation, and a user without a home."""
    package = tmp_path / "a2mamba"
    shutil.copytree(Path(a2mamba.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (package / "ops", *(package / "ops").iterdir()):
        if folder.is_dir():
            (folder / "__pycache__").write_text("in the way of a folder")
    program = """
import torch
from a2mamba.ops import selective_scan, selective_scan_state
from a2mamba.ops.selective_scan import numba_kernels
with torch.no_grad():
    selective_scan_state(*selective_scan.CASES[2].inputs(), backend="numba")
print(numba_kernels.__file__, numba_kernels._COMPILED.cache_hits)
"""
    nowhere = {"HOME": os.devnull + "/home", "XDG_CACHE_HOME": os.devnull + "/cache", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **nowhere, "PYTHONPATH": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.split() == [str(package / "ops" / "selective_scan" / "numba_kernels.py"), "0"], done.stderr
    assert not list(tmp_path.rglob("*.nbi"))


def test_openmp_is_found_wherever_wheels_keep_it(tmp_path: Path) -> None:
    names = ("torch/lib/libgomp.so.1", "torch.libs/libgomp-947d5fa1.so.1.0.0", "torch/lib/libomp.dylib")
    for name in (*names, "torch/lib/libtorch.so", "torch.libs/libarm_compute.so"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert set(numba_threads.openmp_libraries(tmp_path / "torch")) == {tmp_path / name for name in names}


def test_importing_the_package_does_not_import_numba() -> None:
    subprocess.run([sys.executable, "-c", LAZY], check=True)


def mixer(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, A: Tensor, B: Tensor) -> Tensor:
    attention = NeighborhoodMap(q, k, bias, kernel_size=5, dilation=(1, 2))
    u = attention(v).permute(0, 1, 4, 2, 3).flatten(1, 2).flatten(2)
    states = selective_scan_state(u, 0.5 * u, A, B)
    return attention(states.unflatten(2, v.shape[2:4]).unflatten(1, (v.shape[1], -1)).permute(0, 1, 3, 4, 2))


def mixer_inputs() -> tuple[Tensor, ...]:
    case = AttentionCase(2, 2, 9, 11, 8, (5, 5))
    tensors = [t for t in case.inputs() if t is not None]
    return *tensors, -torch.rand(16, generator=torch.Generator().manual_seed(2)), torch.ones(2, 99)


@needs_numba
def test_compiles_without_a_break() -> None:
    inputs = mixer_inputs()
    leaves = [t.clone().requires_grad_() for t in inputs]
    found = gradients(torch.compile(mixer, fullgraph=True, backend="aot_eager")(*leaves), leaves)
    leaves = [t.clone().requires_grad_() for t in inputs]
    for ours, right in zip(found, gradients(mixer(*leaves), leaves), strict=True):
        assert relative_error(ours, right) < 1e-6


class Mixer(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return mixer(q, k, v, bias, A, B)


@needs_numba
def test_an_exported_program_runs_with_numba_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = mixer_inputs()
    program = torch.export.export(Mixer(), inputs)
    names = {str(node.target) for node in program.graph.nodes if "a2mamba" in str(node.target)}
    operators = ("neighborhood_attention_numba", "neighborhood_attention_numba_again", "selective_scan_state_numba")
    assert names == {f"a2mamba.{name}.default" for name in operators}
    expected = mixer(*inputs)
    assert torch.equal(program.module()(*inputs), expected)
    monkeypatch.setattr(dispatch, "HAS_NUMBA", False)
    for implementation in (attention_impl, scan_impl):
        monkeypatch.setattr(implementation, "forward", mock.Mock(side_effect=AssertionError))
    assert relative_error(program.module()(*inputs), expected) < 3e-6


@needs_numba
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_registration() -> None:
    case = neighborhood.CASES[9]
    tensors = [t if t is None else t.requires_grad_() for t in case.inputs()]
    arguments = (*tensors, [*case.kernel_size], [*case.dilation], 0.3)
    torch.library.opcheck(torch.ops.a2mamba.neighborhood_attention_numba.default, arguments)
    torch.library.opcheck(torch.ops.a2mamba.neighborhood_attention_numba_again.default, arguments)
    plain = [t if t is None else t.detach() for t in tensors]
    backward = torch.ops.a2mamba.neighborhood_attention_numba_backward.default
    torch.library.opcheck(backward, (outer_gradient(case), *plain, *arguments[4:]))
    halves = [t if t is None else t.bfloat16() for t in plain[:3]]
    torch.library.opcheck(backward, (outer_gradient(case).bfloat16(), *halves, None, *arguments[4:]))
    scan_case = SCANS[3]
    scan_arguments = (*(t if t is None else t.requires_grad_() for t in scan_case.inputs()), scan_case.softplus)
    torch.library.opcheck(torch.ops.a2mamba.selective_scan_state_numba.default, scan_arguments)
    backward = torch.ops.a2mamba.selective_scan_state_numba_backward.default
    for dtype in (torch.float32, torch.bfloat16):
        detached = [t.detach().to(dtype) if isinstance(t, Tensor) else t for t in scan_arguments]
        states = torch.ops.a2mamba.selective_scan_state_numba(*detached)
        torch.library.opcheck(backward, (states.cos(), states, *detached))


@needs_numba
@pytest.mark.parametrize("operator", ["attention", "scan"])
def test_gradients_are_numba_s_where_it_is_and_torch_s_where_not(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = neighborhood.CASES[6] if operator == "attention" else SCANS[3]
    leaves = [t.requires_grad_() for t in case.inputs() if t is not None]
    out = attend(case, tuple(leaves)) if isinstance(case, AttentionCase) else scan(case, tuple(leaves))
    implementations = (attention_impl, torch_impl) if operator == "attention" else (scan_impl, scan_torch_impl)
    calls = {implementation: mock.Mock(wraps=implementation.backward) for implementation in implementations}
    for implementation, call in calls.items():
        monkeypatch.setattr(implementation, "backward", call)
    results = []
    for present in (True, False):
        monkeypatch.setattr(dispatch, "HAS_NUMBA", present)
        results.append(torch.autograd.grad(out.square().sum(), leaves, retain_graph=True))
        assert [call.call_count for call in calls.values()] == [1, 1 - present]
    for found, right in zip(*results, strict=True):
        assert relative_error(found, right) < 3e-6


@needs_numba
def test_gradients_of_some_inputs_alone() -> None:
    case = neighborhood.CASES[6]
    expected = attention_results(case, torch.float32, "numba")[1:]
    for i, right in enumerate(expected):
        tensors = [t for t in case.inputs() if t is not None]
        tensors[i].requires_grad_()
        assert torch.equal(gradients(attend(case, tuple(tensors)), [tensors[i]])[1], right)


@needs_numba
@torch.no_grad()
def test_the_network_takes_numba_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = a2mamba.create_model("a2mamba_test", num_classes=5, img_size=32).eval()
    image = torch.randn(1, 3, 32, 40)
    call = mock.Mock(wraps=numba_threads.call)
    monkeypatch.setattr(numba_threads, "call", call)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(image)
    found = model(image)

    packages = ("feed_forward", "neighborhood", "readout", "selective_scan")
    modules = [importlib.import_module(f"a2mamba.ops.{package}.numba_kernels") for package in packages]
    names = ("KERNEL", "READ_OUT", "GATED_NORM")
    kernels = {getattr(module, name) for module in modules for name in names if hasattr(module, name)}
    assert len(kernels) == 5
    assert kernels <= {arguments.args[0] for arguments in call.call_args_list}
    monkeypatch.setattr(dispatch, "HAS_NUMBA", False)
    assert relative_error(found, model(image)) < 1e-5


@needs_numba
@torch.no_grad()
@pytest.mark.parametrize("cast", [True, False], ids=["autocast", "weights"])
def test_the_network_in_bfloat16(cast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, image = a2mamba.create_model("a2mamba_nano").eval(), torch.randn(2, 3, 64, 80)
    expected = model(image)
    if not cast:
        model, image = model.bfloat16(), image.bfloat16()
    call = mock.Mock(wraps=numba_threads.call)
    monkeypatch.setattr(numba_threads, "call", call)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        found = model(image)
        used = {arguments.args[0] for arguments in call.call_args_list}
        monkeypatch.setattr(dispatch, "HAS_NUMBA", False)
        plain = model(image)
    packages = ("feed_forward", "readout", "rotary", "selective_scan")
    modules = [importlib.import_module(f"a2mamba.ops.{package}.numba_kernels") for package in packages]
    names = ("KERNEL", "READ_OUT", "GATED_NORM")
    assert {getattr(module, name) for module in modules for name in names if hasattr(module, name)} < used
    # No further from float32 than PyTorch's own operations are.
    assert (found - expected).norm() < 1.3 * (plain - expected).norm()
    assert (found - expected).norm() < 0.2 * expected.norm()


@needs_numba
def test_functions_of_different_products_have_different_names() -> None:
    """One that is compiled and one of the same name that is read from the cache may be called for each other."""
    from a2mamba.ops import numba_vectors
    from a2mamba.ops.neighborhood.numba_kernels import tile_functions

    both = [tile_functions(product) for product in (numba_vectors.fma, numba_vectors.pair_fma)]
    for one, other in zip(*both, strict=True):
        assert one.py_func.__qualname__ != other.py_func.__qualname__


@needs_numba
@torch.no_grad()
def test_pairs_of_bfloat16_are_multiplied_where_the_processor_can(monkeypatch: pytest.MonkeyPatch) -> None:
    from a2mamba.ops import numba_vectors

    if not numba_vectors.has_pair_products():
        pytest.skip("no AVX512-BF16 here")
    from a2mamba.ops.neighborhood import numba_kernels, numba_kernels_bfloat16

    # Whose calls are not those of a test.
    assert self_test.passed("neighborhood_attention/numba", torch.device("cpu")) is None
    call = mock.Mock(wraps=numba_threads.call)
    monkeypatch.setattr(numba_threads, "call", call)
    draw = random.Random(0)
    for seed in range(60):
        window = draw.choice((1, 3, 5, 7, 9, 11, 13)), draw.choice((1, 3, 5, 7, 9, 11, 13))
        size, width = (draw.randint(1, 40), draw.randint(1, 40)), draw.choice((12, 16, 20, 24))
        dilation = draw.randint(1, 6), draw.randint(1, 6)
        case = AttentionCase(2, 2, *size, width, window, dilation, draw.choice((None, 28)))
        tensors = case.inputs(torch.bfloat16, seed=seed)
        call.reset_mock()
        found = attend(case, tensors)
        kernel = numba_kernels.KERNEL if width < 16 else numba_kernels_bfloat16.KERNEL
        assert {arguments.args[0] for arguments in call.call_args_list} == {kernel}
        exact = attend(case, tuple(t if t is None else t.double() for t in tensors), "torch")
        assert relative_error(found, exact) < 8e-3, case
        q, k, v, bias = tensors
        attention = NeighborhoodMap(q, k, bias, kernel_size=window, dilation=dilation, again=True)
        assert torch.equal(attention(v), found)
        assert torch.equal(attention(v), found)
    monkeypatch.setattr(numba_vectors.numba_config, "CPU_NAME", "generic")
    assert not numba_vectors.has_pair_products()


@needs_numba
def test_defaults_of_the_caller_change_nothing() -> None:
    case = AttentionCase(1, 1, 17, 10, 8, (5, 5))  # of its own: its tables must be made under these defaults
    tensors, grad, scan_tensors = case.inputs(), outer_gradient(case), SCANS[0].inputs()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        # Not through the operators, which shield what they call from the default device.
        found = attention_impl.forward(*tensors, case.kernel_size, case.dilation, case.d**-0.5)
        found_gradients = attention_impl.backward(grad, *tensors, case.kernel_size, case.dilation, case.d**-0.5)
        states = scan_impl.forward(*scan_tensors, SCANS[0].softplus)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    attention_impl.make_plan.cache_clear()
    attention_impl._factors.cache_clear()
    expected = attention_gradients(case, tensors, grad)
    assert all(torch.equal(ours, right) for ours, right in zip(found_gradients, expected, strict=True))
    assert torch.equal(found, attend(case, tensors))
    assert torch.equal(states, scan(SCANS[0], scan_tensors))


X, U = torch.zeros(1, 2, 6, 6, 8), torch.zeros(1, 8, 6)


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (attend, (X.double(), X.double(), X, None), "q must be float16, .* got torch.float64"),
        (attend, (X[..., :6], X[..., :6], X, None), "heads of q and k must be .* got 6"),
        (attend, (X, X, X[..., :4], None), "heads of v must be .* got 4"),
        (attend, (X, X, X.to("meta"), None), "v is on meta and q on cpu"),
        (attend, (X.to("meta"), X.to("meta"), X, None), "run on CPUs, and the tensors are on meta"),
        (scan, (U.double(), U, U[0, :, 0], U[:, :1], None), "u must be float16, .* got torch.float64"),
        (scan, (U[:, :6], U[:, :6], U[0, :6, 0], U[:, :1], None), "must have at least 8, got 6"),
    ],
)
def test_what_it_cannot_run_is_named(operator: Any, arguments: tuple[Tensor | None, ...], message: str) -> None:
    case = neighborhood.CASES[0] if operator is attend else SCANS[0]
    with mock.patch.object(dispatch, "HAS_NUMBA", True), pytest.raises(ValueError, match=message):
        operator(case, arguments)


def test_where_numba_is_missing_the_reason_says_what_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HAS_NUMBA", False)
    for verdicts in (neighborhood.explain_backends(X, X, X), selective_scan.explain_backends(U)):
        reasons = {verdict.backend: verdict.reason for verdict in verdicts}
        assert reasons["numba"] == 'numba is not installed: pip install "a2mamba[numba]"'
        assert reasons["torch"] is None
    assert torch.equal(neighborhood_attention(X, X, X, kernel_size=3), X)


@needs_numba
@pytest.mark.parametrize(
    ("name", "spoil", "what"),
    [
        ("forward", lambda out: 1.01 * out, "output"),
        ("backward", lambda found: (found[0], 1.01 * found[1], *found[2:]), "gradient of k"),
    ],
)
def test_a_wrong_kernel_is_switched_off(
    name: str, spoil: Callable[[Any], Any], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    self_test.forget()
    right = getattr(attention_impl, name)
    monkeypatch.setattr(attention_impl, name, lambda *arguments: spoil(right(*arguments)))
    try:
        with pytest.warns(RuntimeWarning, match="neighborhood_attention/numba: the Numba kernels are switched off"):
            reasons = {verdict.backend: verdict.reason for verdict in neighborhood.explain_backends(X, X, X)}
        assert str(reasons["numba"]).startswith(f"their {what} differs from the reference by 1.0e-02")
        assert self_test.passed("selective_scan_state/numba", torch.device("cpu")) is None
    finally:
        self_test.forget()
    assert os.listdir(tmp_path) == [], "the next process asks again: Numba may have compiled another kernel by then"
