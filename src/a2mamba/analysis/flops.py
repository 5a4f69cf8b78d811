"""Counting multiply-accumulates by the rules behind the paper's columns (docs/network.md, section 11).

A convolution, a linear map and a matrix product count one per multiply-accumulate; neighborhood attention counts
its K*K keys for scores, for the bias and for the values, and for the values alone when its map is applied again; the
scan counts 7 per token and channel, batch norm 2 and layer norm 5 per element. Activations, softmax, residual
additions and rotary encoding are free. Operators are counted as they run, on fake tensors: nothing is computed, and any
model can be counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from a2mamba.backbone import Pyramid
from a2mamba.ops.dispatch import HAS_TRITON
from a2mamba.ops.neighborhood.reference import effective_window

aten = torch.ops.aten

Shape = Sequence[int]


def _keys(q: Shape, window: Shape, dilation: Shape) -> int:
    """Return the number of (query, key) pairs of all heads."""
    axes = zip(q[2:4], window, dilation, strict=True)
    return math.prod(q[:4]) * math.prod(effective_window(*axis)[0] for axis in axes)


def _attention(
    q: Shape, k: Shape, v: Shape, bias: Shape | None, window: Shape, dilation: Shape, *_: Any, **__: Any
) -> int:
    return _keys(q, window, dilation) * (q[-1] + v[-1] + (bias is not None))


def _attention_again(
    q: Shape, k: Shape, v: Shape, bias: Shape | None, window: Shape, dilation: Shape, *_: Any, **__: Any
) -> int:
    """The paper's code stores its maps, so a second application has no scores to compute."""
    return _keys(q, window, dilation) * v[-1]


def _attention_again_with_sums(
    q: Shape, k: Shape, v: Shape, bias: Shape | None, _: Shape, *rest: Any, **__: Any
) -> int:
    """The Triton backend's second application takes the log-sum-exp of the first one too."""
    return _attention_again(q, k, v, bias, *rest)


def _dense_attention(q: Shape, k: Shape, v: Shape, *_: Any, attn_mask: Shape | None = None, **__: Any) -> int:
    scores = math.prod(q[:-1]) * k[-2]
    return scores * (q[-1] + v[-1])


def _per_element(count: int) -> Callable[..., int]:
    def formula(x: Shape, *_: Any, **__: Any) -> int:
        return count * math.prod(x)

    return formula


def _deform_conv(x: Shape, weight: Shape, offset: Shape, *_: Any, **__: Any) -> int:
    """Count the convolution alone, as its plain form would count; moving the taps is free, as interpolation is."""
    return x[0] * math.prod(offset[2:]) * math.prod(weight)


def _doubled(formula: Callable[..., int]) -> Callable[..., int]:
    """Count twice: PyTorch's counter has two operations in each multiply-accumulate."""

    def twice(*shapes: Any, **options: Any) -> int:
        return 2 * formula(*shapes, **options)

    return twice


FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.a2mamba.neighborhood_attention: _attention,
    torch.ops.a2mamba.neighborhood_attention_again: _attention_again,
    torch.ops.a2mamba.selective_scan_state: _per_element(7),
    torch.ops.a2mamba.neighborhood_attention_numba: _attention,
    torch.ops.a2mamba.neighborhood_attention_numba_again: _attention_again,
    torch.ops.a2mamba.selective_scan_state_numba: _per_element(7),
    aten._scaled_dot_product_flash_attention_for_cpu: _dense_attention,
    torch.ops.torchvision.deform_conv2d: _deform_conv,
    aten.native_batch_norm: _per_element(2),
    aten._native_batch_norm_legit_no_training: _per_element(2),
    aten.native_layer_norm: _per_element(5),
}
"""What PyTorch's counter does not know, or counts as nothing."""


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return the formulas of all operators; those of the Triton backends exist where those can be used."""
    if not torch.cuda.is_available() or not HAS_TRITON:
        return FORMULAS
    from a2mamba.ops.neighborhood import triton_impl as _attention_kernels  # noqa: F401 - registers its operators
    from a2mamba.ops.selective_scan import triton_impl as _scan_kernels  # noqa: F401 - the same

    ours = torch.ops.a2mamba
    return FORMULAS | {
        ours.neighborhood_attention_triton: _attention,
        ours.neighborhood_attention_triton_again: _attention_again_with_sums,
        ours.selective_scan_state_triton: _per_element(7),
    }


def flops(model: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> int:
    """Return the multiply-accumulates of one image through a model in eval mode, by docs/network.md, section 11.

    Args:
        model: any module that takes (B, C, H, W) images; it is not changed and not computed.
        input_size: (C, H, W), or (B, C, H, W).

    Raises:
        ValueError: if ``input_size`` has another number of axes.
    """
    shape = tuple(input_size)
    if len(shape) == 3:
        shape = (1, *shape)
    if len(shape) != 4:
        raise ValueError(f"input_size must be (C, H, W) or (B, C, H, W), got {tuple(input_size)}")
    counter = FlopCounterMode(display=False, custom_mapping={op: _doubled(f) for op, f in _formulas().items()})
    with _pretending(model), counter:
        model(_image(shape, model))
    return counter.get_total_flops() // 2


def feature_maps(model: Pyramid, input_size: Sequence[int] = (3, 224, 224)) -> list[dict[str, Any]]:
    """Return module, channels, stride, height and width of every map that a backbone offers, without computing."""
    with _pretending(model):
        _, maps = model.forward_intermediates(_image((1, *input_size), model))
    return [
        {
            "module": info["module"],
            "channels": found.shape[1],
            "stride": info["reduction"],
            "height": found.shape[2],
            "width": found.shape[3],
        }
        for info, found in zip(model.feature_info, maps, strict=True)
    ]


@contextmanager
def _pretending(model: nn.Module) -> Iterator[None]:
    """Let the model, in eval mode, run on tensors that have shapes and no values."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    # On the meta device nothing has values anyway, and counting takes a third of the time.
    on_meta = all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    try:
        with nullcontext() if on_meta else FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _image(shape: tuple[int, ...], model: nn.Module) -> Tensor:
    """Return an empty image on the device and in the dtype of the model's parameters."""
    parameter = next(model.parameters(), torch.empty(0))
    return torch.empty(shape, device=parameter.device, dtype=parameter.dtype)


def parameters(model: nn.Module) -> int:
    """Return the number of parameters; one that is used in several places counts once."""
    return sum(p.numel() for p in model.parameters())
