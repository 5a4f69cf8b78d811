"""Forward passes on a CPU that are recorded once and repeated: the same numbers, or a reason."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import a2mamba
from a2mamba.backbone import cpu_graph, fuse_for_inference
from a2mamba.backbone.recorded import Recorded
from a2mamba.ops import dispatch, numba_threads, recording
from support import needs_numba

SIZE = 64


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(name: str = "a2mamba_test", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)  # zeros would hide what reads them
    return model


def assert_the_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert found.stride() == expected.stride()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_the_same(found[name], value)
    else:
        for ours, right in zip(found, expected, strict=True):
            assert_the_same(ours, right)


def recordings(graph: nn.Module) -> list[Recorded]:
    return list(graph._graphs.values())  # type: ignore[operator]


@pytest.mark.parametrize("numba", [pytest.param(True, marks=needs_numba), False], ids=["numba", "torch"])
@pytest.mark.parametrize("half", [None, torch.bfloat16], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", ["a2mamba_test", "segman_v2_test", "resnet10t", "test_vit"])
def test_repetitions_are_exact(
    name: str, half: torch.dtype | None, numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "HAS_NUMBA", numba)
    if name == "segman_v2_test":
        torch.manual_seed(0)
        model: nn.Module = a2mamba.create_segmenter(name, num_classes=3).eval()
    else:
        model = network(name, **({"img_size": SIZE} if name == "test_vit" else {}))
    graph = cpu_graph(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half is not None):
        for seed in range(3):
            images = noise(2, 3, SIZE, SIZE, seed=seed)
            assert_the_same(graph(images), model(images))
    assert len(recordings(graph)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("coatnet_nano_rw_224", "convit_tiny", "edgenext_small", "fastvit_t8", "levit_128", "maxvit_tiny_rw_224"),
        *("nest_tiny", "regnety_002", "swin_tiny_patch4_window7_224", "tiny_vit_5m_224", "xcit_nano_12_p16_224"),
        *("a2mamba_tiny", "segman_encoder_tiny"),
    ],
)
def test_families_of_networks(name: str) -> None:
    model = network(name)
    graph = cpu_graph(model)
    with torch.no_grad():
        graph(torch.zeros(1, 3, 224, 224))
        images = noise(1, 3, 224, 224)
        assert_the_same(graph(images), model(images))


@pytest.mark.parametrize(
    "change",
    [
        fuse_for_inference,
        lambda model: model.bfloat16(),
        lambda model: model.to(memory_format=torch.channels_last),
    ],
    ids=["fused", "bfloat16", "channels-last"],
)
def test_forms_of_a_network(change: Callable[[nn.Module], nn.Module]) -> None:
    model = change(network())
    images = noise(2, 3, SIZE, 96).to(next(model.parameters()).dtype)
    graph = cpu_graph(model)
    with torch.no_grad():
        graph(torch.zeros_like(images))
        assert_the_same(graph(images), model(images))


@needs_numba
def test_large_maps_in_chunks() -> None:
    """Of a size at which layers divide their maps, by images and by rows."""
    model = network("a2mamba_nano", num_classes=3)
    images = noise(1, 3, 512, 320)
    graph = cpu_graph(model)
    with torch.no_grad():
        assert_the_same(graph(images), model(images))


def test_features_are_repeated() -> None:
    model = network(features_only=True)
    graph = cpu_graph(model)
    with torch.inference_mode():
        graph(noise(1, 3, SIZE, SIZE))
        images = noise(1, 3, SIZE, SIZE, seed=2)
        assert_the_same(graph(images), model(images))


class Structured(nn.Module):
    """Returns what is computed, given, kept and plain."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = nn.Buffer(torch.arange(3.0))

    def forward(self, x: Tensor) -> dict[str, Any]:
        twice = 2 * x
        return {"views": (twice[:, 1:], [twice.mT, twice]), "given": x, "kept": self.kept + 1, "count": 3, "none": None}


def test_nested_results_in_memory_of_their_own() -> None:
    model = Structured().eval()
    graph = cpu_graph(model)
    x = noise(2, 3)
    first, second = graph(x), graph(x)
    expected = model(x)
    for name in ("views", "given", "kept"):
        assert_the_same(second[name], expected[name])
    assert (second["count"], second["none"]) == (3, None)
    first["kept"].zero_()
    first["views"][0].zero_()
    assert_the_same(second["views"], expected["views"])
    assert_the_same(graph(x)["kept"], expected["kept"])


class InPlace(nn.Module):
    """Writes to memory that was made of constants, empty, or given by PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(2, 4)
        zeros[0] = 1
        read_before = zeros.sum()
        zeros[:, 1:] = x
        out = torch.empty(4, 2, 4)
        out[0] = 5
        out[1] = zeros
        out[2:] = x.mean()
        out[3].zero_()
        y = F.relu_(x - 1).add_(read_before)
        torch.mul(y, 2, out=y)
        y = torch.cat([y])
        return torch.cat([out.flatten(), y.flatten(), torch.view_as_complex(zeros.view(2, 2, 2)).abs().flatten()])


def test_writing_in_place() -> None:
    model = InPlace().eval()
    graph = cpu_graph(model)
    for seed in range(3):
        x = noise(2, 3, seed=seed)
        before = x.clone()
        assert_the_same(graph(x), model(x))
        assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x if x.sum() > 0 else -x, "reads a value that depends on the images"),
        (lambda x: x[x > 0], "reads a value that depends on the images"),
        (lambda x: x.nonzero(), "reads a value that depends on the images"),
        (lambda x: x + torch.rand(3), "something else than the model"),
        (lambda x: torch.from_numpy(x.numpy() + 1), "something else than the model"),
        (lambda x: torch.from_numpy(x.numpy()).argmax(1), "something else than the model"),
        (lambda x: slice(x), "returns a slice"),
    ],
    ids=["value", "mask", "count", "random", "numpy", "numbers", "slice"],
)
def test_what_cannot_be_repeated_is_refused(function: Callable[[Tensor], Any], message: str) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    with pytest.raises(ValueError, match=f"cannot be recorded: .*({message})"):
        cpu_graph(Model().eval())(noise(2, 3))


def test_a_model_that_changes_itself_is_refused() -> None:
    class Last(nn.Module):
        last = torch.zeros(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last.copy_(x.mean((0, 2, 3)))

    left_in_training = nn.Sequential(nn.BatchNorm2d(3)).eval()
    left_in_training[0].train()
    for model in (left_in_training, Last().eval()):
        with pytest.raises(ValueError, match="changes what it keeps"):
            cpu_graph(model)(noise(2, 3, 4, 4))


def test_other_kinds_of_tensors_are_refused() -> None:
    class Quantized(Tensor):
        pass

    model = nn.Linear(3, 3).eval()
    model.weight = nn.Parameter(model.weight.detach().as_subclass(Quantized))
    with pytest.raises(ValueError, match="cannot be recorded: it takes plain tensors, and one is a Quantized"):
        cpu_graph(model)(noise(2, 3))


def test_changed_parameters_are_recorded_anew() -> None:
    model = network()
    images = noise(1, 3, SIZE, SIZE)
    graph = cpu_graph(model)
    with torch.no_grad():
        first = graph(images)
        state = {
            name: value * 1.1 if value.is_floating_point() else value for name, value in model.state_dict().items()
        }
        model.load_state_dict(state)
        assert_the_same(graph(images), model(images))
        assert not torch.equal(graph(images), first)
        model.double()
        model.float()
        assert_the_same(graph(images), model(images))
    assert len(recordings(graph)) == 1


def test_threads_and_strides_and_precision_have_their_own() -> None:
    model = network()
    graph = cpu_graph(model)
    images = noise(2, 3, SIZE, SIZE)
    threads = torch.get_num_threads()
    with torch.no_grad():
        graph(images)
        for index in range(2):  # images of a batch lie at different places
            assert_the_same(graph(images[index : index + 1]), model(images[index : index + 1]))
        assert len(recordings(graph)) == 2
        last = images.contiguous(memory_format=torch.channels_last)
        assert_the_same(graph(last), model(last))
        with torch.autocast("cpu", torch.bfloat16):
            assert_the_same(graph(images), model(images))
        torch.set_num_threads(threads + 1)
        try:
            assert_the_same(graph(images), model(images))
        finally:
            torch.set_num_threads(threads)
    assert len(recordings(graph)) == 5


def test_gaps_between_rows() -> None:
    model = network()
    graph = cpu_graph(model)
    with torch.no_grad():
        for seed in range(2):
            images = noise(1, 3, SIZE, 2 * SIZE, seed=seed)
            assert_the_same(graph(images[..., ::2]), model(images[..., ::2]))
            assert_the_same(graph(images[..., 1::2]), model(images[..., 1::2]))
    assert len(recordings(graph)) == 1


def test_results_serve_for_gradients() -> None:
    """They are no tensors of inference mode, which nothing may be computed a gradient with."""
    found = cpu_graph(network())(noise(1, 3, SIZE, SIZE))
    weight = torch.ones(1, requires_grad=True)
    (found * weight).sum().backward()
    assert weight.grad is not None


@needs_numba
def test_threads_repeat_at_once() -> None:
    model = network()
    graph = cpu_graph(model)
    images = [noise(1, 3, SIZE, SIZE, seed=seed) for seed in range(4)]
    with torch.no_grad():
        graph(images[0])
        expected = [model(each) for each in images]
    found: list[list[Tensor]] = [[] for _ in images]

    def work(index: int) -> None:
        for _ in range(5):
            found[index].append(graph(images[index]))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for results, right in zip(found, expected, strict=True):
        assert len(results) == 5
        assert all(torch.equal(each, right) for each in results)


@needs_numba
def test_tables_that_others_push_out_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are given addresses of tables, of which the most recent are kept."""
    from a2mamba.ops.neighborhood import numba_branches, numba_impl

    tables: list[weakref.ref[Tensor]] = []

    def make(*arguments: Any) -> numba_impl.Plan:
        plan = numba_impl.make_plan.__wrapped__(*arguments)  # type: ignore[attr-defined]  # by update_wrapper
        tables.append(weakref.ref(plan.masks))
        return plan

    monkeypatch.setattr(numba_branches, "make_plan", recording.kept(maxsize=64)(make))
    model = network()
    graph = cpu_graph(model)
    images = noise(1, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = graph(images)
        numba_branches.make_plan.cache_clear()
        gc.collect()
        assert tables
        assert all(table() is not None for table in tables)
        assert torch.equal(graph(images), expected)
        del graph
        gc.collect()
        assert all(table() is None for table in tables)


@needs_numba
def test_weights_go_with_their_graph() -> None:
    model = network()
    graph = cpu_graph(model)
    with torch.no_grad():
        graph(noise(1, 3, SIZE, SIZE))
    weight = weakref.ref(next(model.parameters()))
    del model, graph
    gc.collect()
    assert weight() is None


@needs_numba
def test_unknown_memory_is_an_error() -> None:
    secret = torch.ones(8)

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if recording.current() is not None:
                numba_threads.run(0, 1, [secret.data_ptr()])
            return x + 1

    with pytest.raises(RuntimeError, match="memory that its recorder was not told of"):
        cpu_graph(Model().eval())(noise(2, 3))


def test_nothing_of_a_pass_is_kept() -> None:
    """A recording holds what does not vary, not the maps of the pass: they go when the pass lets go of them."""
    kept: list[bool] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            computed, written = x.exp(), torch.empty(4, 4)
            written[1:] = 0
            written[:1] = x[:1]
            found = (computed + written).mean()
            maps = weakref.ref(computed), weakref.ref(written)
            del computed, written
            kept.append(any(each() is not None for each in maps))
            return found

    graph = cpu_graph(Watched().eval())
    for _ in range(2):
        graph(noise(4, 4))
    assert kept == [False] * 3  # before, while and after it was recorded


def test_images_and_modes_that_do_not_fit_are_refused() -> None:
    graph = cpu_graph(network())
    with pytest.raises(ValueError, match="for images on cpu, got them on meta"):
        graph(torch.zeros(1, 3, SIZE, SIZE, device="meta"))
    with pytest.raises(ValueError, match="no gradient"):
        graph(torch.zeros(1, 3, SIZE, SIZE, requires_grad=True))
    with pytest.raises(ValueError, match="most=0"):
        cpu_graph(network(), most=0)
    graph.model.train()
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        graph(torch.zeros(1, 3, SIZE, SIZE))
