"""The selective scan as a graph of additions and multiplications, for runtimes that have no loops.

The sequence is cut into chunks. Unrolled steps advance all chunks at once; the last states of the chunks are scanned
the same way, and what they carry into the next chunk is added with its decay, the exponential of a running sum. A decay
is never above one and no state is divided, so the form is exact: it is the recurrence, bracketed otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from a2mamba.export.graph import constant, reshape

SEQUENTIAL = 16
"""Up to this length the recurrence is unrolled as it is."""
ARTANH = (1.99999967, 0.66675978, 0.3959006, 0.34222454)
"""p with 2 artanh(z) = z p(z^2) for z^2 in [0, 1/9], to 2e-7 of it: Chebyshev interpolation of degree 3."""


def selective_scan_state(u: Any, delta: Any, A: Any, B: Any, delta_bias: Any | None, delta_softplus: bool) -> Any:
    """Return the states (B, C, L) of values of a graph: u, delta (B, C, L), A (C,), B (B, N, L), float32."""
    from onnxscript import opset18 as op

    channels, length, groups = int(u.shape[1]), int(u.shape[2]), int(B.shape[1])
    step = op.Transpose(delta, perm=[0, 2, 1])
    if delta_bias is not None:
        step = op.Add(step, delta_bias)
    if delta_softplus:
        step = softplus(step)
    x = op.Mul(step, op.Transpose(u, perm=[0, 2, 1]))
    projection = op.Transpose(B, perm=[0, 2, 1])
    if groups > 1:
        x = reshape(x, 0, length, groups, channels // groups)
        projection = reshape(projection, 0, length, groups, 1)
    x = op.Mul(x, projection)
    if groups > 1:
        x = reshape(x, 0, length, channels)
    return op.Transpose(linear_recurrence(op.Mul(step, A), x, length, channels), perm=[0, 2, 1])


def softplus(x: Any) -> Any:
    """Return max(x, 0) + log(1 + e), e = exp(-|x|), of operators that runtimes compute for many numbers at once.

    ONNX Runtime takes one number after the other for Softplus, and one thread for Log. With z = e / (2 + e), which is
    small where e is and never above 1/3, the logarithm is 2 artanh(z) = z p(z^2): small steps keep their digits.
    """
    from onnxscript import opset18 as op

    e = op.Exp(op.Mul(op.Abs(x), constant(np.float32(-1))))
    z = op.Div(e, op.Add(e, constant(np.float32(2))))
    square = op.Mul(z, z)
    polynomial = constant(np.float32(ARTANH[-1]))
    for coefficient in reversed(ARTANH[:-1]):
        polynomial = op.Add(op.Mul(square, polynomial), constant(np.float32(coefficient)))
    return op.Add(op.Relu(x), op.Mul(z, polynomial))


def linear_recurrence(log_decay: Any, x: Any, length: int, channels: int) -> Any:
    """Return h with h_t = exp(log_decay_t) h_{t-1} + x_t along axis 1, from zero; all (B, length, channels).

    ``log_decay`` is not above zero.
    """
    from onnxscript import opset18 as op

    if length <= SEQUENTIAL:
        return _concat(_steps(op.Exp(log_decay), x, length, 1), 1)
    size = chunk_size(length)
    chunks = -(-length // size)
    padding = chunks * size - length
    if padding:
        after = constant(np.array([0, 0, 0, 0, padding, 0]))
        log_decay, x = op.Pad(log_decay, after), op.Pad(x, after)
    log_decay, x = (reshape(each, 0, chunks, size, channels) for each in (log_decay, x))
    states = _steps(op.Exp(log_decay), x, size, 2)
    decay = op.CumSum(log_decay, constant(np.int64(2)))
    total = op.Slice(decay, *(constant(np.array([at])) for at in (size - 1, size, 2)))
    # What every chunk but the last hands on: its last state, and by how much the state before it has decayed.
    total, last = (
        reshape(op.Slice(each, *(constant(np.array([at])) for at in (0, chunks - 1, 1))), 0, chunks - 1, channels)
        for each in (total, states[-1])
    )
    carried = linear_recurrence(total, last, chunks - 1, channels)
    carried = op.Pad(carried, constant(np.array([0, 1, 0, 0, 0, 0])))  # nothing into the first
    h = op.Add(_concat(states, 2), op.Mul(op.Exp(decay), reshape(carried, 0, chunks, 1, channels)))
    h = reshape(h, 0, chunks * size, channels)
    return op.Slice(h, *(constant(np.array([at])) for at in (0, length, 1))) if padding else h


def _steps(decay: Any, x: Any, length: int, dim: int) -> list[Any]:
    """The states after every step along an axis, which each of them keeps, one long."""
    from onnxscript import opset18 as op

    if length == 1:
        return [x]
    decays, inputs = (op.Split(each, axis=dim, num_outputs=length) for each in (decay, x))
    states = [inputs[0]]
    for a, b in zip(decays[1:], inputs[1:], strict=True):
        states.append(op.Add(op.Mul(a, states[-1]), b))
    return states


def _concat(parts: list[Any], dim: int) -> Any:
    from onnxscript import opset18 as op

    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=dim)


def chunk_size(length: int) -> int:
    """Return the places of a chunk: near twice the cube root of the length, where possible a divisor.

    Chunks of chunks make the number of steps grow as the cube root, and with it the nodes of the graph.
    """
    target = round(2 * length ** (1 / 3))
    nearby = range(max(2, target - target // 3), target + target // 3 + 1)
    return min((size for size in nearby), key=lambda size: (length % size != 0, abs(size - target)))
