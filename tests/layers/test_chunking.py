"""Maps in chunks: the same results, and only where nobody notices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import a2mamba
from a2mamba.backbone import pyramid
from a2mamba.layers import ConvFFN, ffn
from a2mamba.layers.chunking import chunk_bounds, may_chunk, over_images, over_rows
from a2mamba.ops.dispatch import unwatched
from support import relative_error

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few rows or one image."""
    monkeypatch.setattr(ffn, "MAX_CHUNK_ELEMENTS", 600)
    monkeypatch.setattr(pyramid, "MAX_CHUNK_ELEMENTS", 5000)


@pytest.mark.parametrize(("size", "most"), [(1, 1), (7, 3), (8, 3), (9, 3), (10, 100), (5, 0), (0, 4)])
def test_bounds_cover_everything_once_and_evenly(size: int, most: int) -> None:
    found = list(chunk_bounds(size, most))
    assert [i for first, last in found for i in range(first, last)] == list(range(size))
    lengths = {last - first for first, last in found}
    assert max(lengths, default=0) <= max(1, most)
    assert max(lengths, default=0) - min(lengths, default=0) <= 1
    assert len(found) == -(-size // max(1, most))


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_rows_with_their_margins(most: int) -> None:
    conv = nn.Conv2d(3, 3, 5, padding=2).double()
    x = torch.randn(2, 3, 11, 4, dtype=torch.float64)
    seen: list[int] = []

    def function(rows: Tensor) -> Tensor:
        seen.append(rows.shape[2])
        return conv(rows)

    assert torch.allclose(over_rows(function, x, most, margin=2), conv(x), rtol=1e-12)
    assert max(seen) <= most + 4
    assert torch.allclose(over_images(conv, x, 1), conv(x), rtol=1e-12)


@pytest.mark.parametrize("size", [(4, 5), (30, 9)])
def test_feed_forward_in_chunks(size: tuple[int, int], small_chunks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = ConvFFN(4, 8).double().eval()
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    calls: list[tuple[int, ...]] = []
    whole = ConvFFN._whole

    def watched(self: ConvFFN, x: Tensor) -> Tensor:
        calls.append(tuple(x.shape))
        return whole(self, x)

    monkeypatch.setattr(ConvFFN, "_whole", watched)
    expected = layer(x)
    assert calls == [tuple(x.shape)]
    with torch.no_grad():
        found = layer(x)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert len(calls) > 3 if size == (30, 9) else calls[1:] == ([(3, 4, 4, 5)])
    assert all(shape[0] * 8 * shape[3] * (shape[2] - 2) <= 600 for shape in calls[1:])


def network() -> nn.Module:
    return a2mamba.create_model("a2mamba_test").eval()


def test_a_network_in_chunks(small_chunks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), torch.randn(3, 3, 64, 48)
    batches: list[int] = []
    blocks = pyramid.Stage._blocks

    def watched(self: pyramid.Stage, x: Tensor, rope: Tensor) -> Tensor:
        batches.append(len(x))
        return blocks(self, x, rope)

    monkeypatch.setattr(pyramid.Stage, "_blocks", watched)
    expected = model(x).detach()
    assert batches == [3, 3, 3, 3]
    with torch.no_grad():
        found = model(x)
    assert batches[4:] == [1, 1, 1, 3, 3, 3]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["a2mamba_test", "a2mamba_nano", "segman_encoder_tiny"])
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 32, 32), (2, 3, 31, 70), (1, 3, 96, 64)])
def test_without_gradients_everything_is_computed_otherwise_and_is_the_same(name: str, shape: tuple[int, ...]) -> None:
    model, x = a2mamba.create_model(name, num_classes=7).eval(), torch.randn(shape)
    expected = model(x).detach()
    with torch.no_grad():
        assert relative_error(model(x), expected) < 1e-4
        assert relative_error(a2mamba.fuse_for_inference(model)(x), expected) < 1e-4
    with torch.inference_mode():
        assert relative_error(model(x), expected) < 1e-4


def test_a_hook_sees_the_whole_batch(small_chunks: None) -> None:
    model, x = network(), torch.randn(3, 3, 64, 48)
    seen: list[int] = []
    block = model.get_submodule("stages.0.blocks.0")
    for part in (block, block.get_submodule("mlp.dwconv"), block.get_submodule("mixer.norm")):
        handle = part.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
        with torch.no_grad():
            model(x)
        handle.remove()
    assert seen == [3, 3, 3]
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0])) if module is block else None
    )
    with torch.no_grad():
        model(x)
    handle.remove()
    assert seen == [3, 3, 3, 3]


def test_training_mode_is_not_chunked() -> None:
    """Batch norm sees the whole batch, with gradients or without."""
    model, x = network(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert may_chunk(model, x, 3, 0)
        model.get_submodule("stages.0.blocks.0.mixer.gate_norm").train()
        assert not may_chunk(model, x, 3, 0)
        model.eval()
        assert may_chunk(model, x, 3, 0)
        assert not may_chunk(model, x.to("meta"), 3, 0)
    assert not may_chunk(model, x, 3, 0)


def test_fused_networks_may_be_chunked() -> None:
    with torch.no_grad():
        assert may_chunk(a2mamba.fuse_for_inference(network()), torch.randn(1, 3, 8, 8), 3, 0)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_who_watches() -> None:
    x = torch.zeros(2)
    found: dict[str, bool] = {"gradients": unwatched(x)}

    def ask(name: str, y: Tensor) -> Tensor:
        found[name] = unwatched(y)
        return y

    with torch.no_grad():
        assert unwatched(x)
        with FlopCounterMode(display=False):
            found["counter"] = unwatched(x)
        with torch.autograd.profiler.profile():
            found["profiler"] = unwatched(x)
        torch.func.vmap(lambda y: ask("vmap", y))(x)
        torch.jit.trace(lambda y: ask("trace", y), (x,), check_trace=False)
        found["parameter"] = unwatched(nn.Parameter(x))
        assert unwatched(x)
    with torch.inference_mode():
        assert unwatched(x)
    assert found == dict.fromkeys(("gradients", "counter", "profiler", "vmap", "trace", "parameter"), False)
