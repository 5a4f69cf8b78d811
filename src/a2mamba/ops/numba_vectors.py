"""Eight floats at a time, in code that Numba compiles: what the CPU kernels of all operators are built from.

Numba turns Python loops into LLVM's, but leaves to chance whether they use a processor's vectors and whether a sum
stays in a register. Here the innermost loops are written in LLVM's terms: a *vector* is ``<8 x float>`` on every
processor (LLVM splits it where registers are shorter), and sums are the carried values of a :class:`Loop`, that is,
registers. Addresses are integers in bytes; nothing is checked. Kernels must only pass addresses that they own.

Importing this module imports Numba; nothing else in the package does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import cfunc
from numba.core import cgutils, extending, types
from numba.core import config as numba_config

from a2mamba.ops.dispatch import LANES

BYTES = 4 * LANES
"""Of one vector."""

INT = ir.IntType(64)
FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_UNDEFINED = ir.Constant(VECTOR, ir.Undefined)


def fingerprint(*files: str) -> int:
    """Return a number that changes with this file and ``files``.

    Numba's cache on disk looks at a kernel's own file and closure; kernels have in the latter what else they are of. No
    compiled function may stand there: it has a new identity in every process, and would never be found again.
    """
    content = bytes([LANES]) + b"".join(Path(file).read_bytes() for file in (__file__, *files))
    return int(hashlib.sha256(content).hexdigest()[:15], 16)


intrinsic: Any = extending.intrinsic
"""Numba's decorator. It has no type here, for what it returns is not called as it is declared."""

_SIGNATURE = types.void(types.CPointer(types.int64))


def kernel(function: Callable[..., None]) -> Any:
    """Decorate what ``numba_threads.run`` is given the address of.

    It is compiled, or read from Numba's cache on disk. Where neither the package's folder nor the user's cache can be
    written, every process compiles for itself.
    """
    try:
        return cfunc(_SIGNATURE, cache=True, error_model="numpy")(function)
    except (OSError, RuntimeError):
        return cfunc(_SIGNATURE, error_model="numpy")(function)


Builder = Any
Value = Any


def procedure(arguments: int) -> tuple[Any, Callable[..., Any]]:
    """Return the signature of an intrinsic of so many integers that returns nothing, and a wrapper of its emitter."""

    def wrap(emit: Callable[..., None]) -> Callable[..., Any]:
        def codegen(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            emit(builder, *values)
            return context.get_dummy_value()

        return codegen

    return types.void(*[types.intp] * arguments), wrap


def integer(value: int) -> Value:
    """Return a constant of 64 bits."""
    return ir.Constant(INT, value)


def constant(value: float) -> Value:
    """Return a vector of one value, rounded to float32."""
    return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)


def ahead(b: Builder, address: Value, byte_count: int) -> Value:
    """Return ``address`` plus a constant."""
    return b.add(address, integer(byte_count)) if byte_count else address


def _pointer(b: Builder, address: Value, kind: Any) -> Value:
    return b.inttoptr(address, kind.as_pointer())


def load(b: Builder, address: Value) -> Value:
    """Return the eight floats at any address."""
    return b.load(_pointer(b, address, VECTOR), align=4)


def store(b: Builder, value: Value, address: Value) -> None:
    """Write eight floats to any address."""
    b.store(value, _pointer(b, address, VECTOR), align=4)


def load_splat(b: Builder, address: Value) -> Value:
    """Return the float at an address, eight times."""
    first = b.insert_element(_UNDEFINED, b.load(_pointer(b, address, FLOAT), align=4), ir.Constant(ir.IntType(32), 0))
    return b.shuffle_vector(first, _UNDEFINED, ir.Constant(_INTS, [0] * LANES))


def load_every(b: Builder, address: Value, step: int) -> Value:
    """Return eight floats, ``step`` bytes apart."""
    vector = _UNDEFINED
    for lane in range(LANES):
        number = b.load(_pointer(b, ahead(b, address, lane * step), FLOAT), align=4)
        vector = b.insert_element(vector, number, ir.Constant(ir.IntType(32), lane))
    return vector


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has not."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_HALVES = ir.VectorType(ir.IntType(16), LANES)
_PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


def _ints(value: int) -> Value:
    return ir.Constant(_INTS, [value] * LANES)


def load_half(b: Builder, address: Value) -> Value:
    """Return the eight bfloat16 at any address, as floats."""
    bits = b.zext(b.load(_pointer(b, address, _HALVES), align=2), _INTS)
    return b.bitcast(b.shl(bits, _ints(16)), VECTOR)


def store_half(b: Builder, value: Value, address: Value) -> None:
    """Write eight floats as bfloat16, rounded to the nearest and of two to the even one, to any address."""
    bits = b.bitcast(value, _INTS)
    odd = b.and_(b.lshr(bits, _ints(16)), _ints(1))
    rounded = b.lshr(b.add(bits, b.add(odd, _ints(0x7FFF))), _ints(16))
    b.store(b.trunc(rounded, _HALVES), _pointer(b, address, _HALVES), align=2)


def load_half_splat(b: Builder, address: Value) -> Value:
    """Return the bfloat16 at an address as a float, eight times."""
    half = ir.IntType(16)
    bits = b.zext(b.load(_pointer(b, address, half), align=2), ir.IntType(32))
    number = b.bitcast(b.shl(bits, ir.Constant(ir.IntType(32), 16)), FLOAT)
    first = b.insert_element(_UNDEFINED, number, ir.Constant(ir.IntType(32), 0))
    return b.shuffle_vector(first, _UNDEFINED, _ints(0))


@lru_cache(maxsize=1)
def _host_features() -> dict[str, bool]:
    """Return what this processor has; asking it takes longer than a small kernel, most of all in a virtual machine."""
    return dict(get_host_cpu_features())


def has_pair_products() -> bool:
    """Whether this processor multiplies pairs of bfloat16 (AVX512-BF16), and Numba compiles for it as it is."""
    settings: Any = numba_config  # read from the environment: its names are not in the module's text
    if settings.CPU_NAME or settings.CPU_FEATURES:
        return False
    features = _host_features()
    return bool(features.get("avx512bf16") and features.get("avx512vl"))


def pair_fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """Return z + x.low * y.low + x.high * y.high of vectors of pairs of bfloat16; see :func:`has_pair_products`."""
    name = "llvm.x86.avx512bf16.dpbf16ps.256"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(VECTOR, [VECTOR, _PAIRS, _PAIRS]), name)
    return b.call(function, [z, b.bitcast(x, _PAIRS), b.bitcast(y, _PAIRS)])


def round_to_half(b: Builder, x: Value) -> Value:
    """Return positive floats rounded to what bfloat16 can hold, of two to the larger one."""
    bits = b.add(b.bitcast(x, _INTS), _ints(0x8000))
    return b.bitcast(b.and_(bits, _ints(0xFFFF0000)), VECTOR)


def pair(b: Builder, low: Value, high: Value) -> Value:
    """Return the pairs of two vectors of floats that bfloat16 can hold."""
    low, high = (b.bitcast(each, _INTS) for each in (low, high))
    return b.bitcast(b.or_(b.lshr(low, _ints(16)), high), VECTOR)


def reader(half: bool) -> tuple[Callable[[Builder, Value], Value], int]:
    """Return how to load a vector of bfloat16 (``half``) or float32 as floats, and its bytes."""
    return (load_half, BYTES // 2) if half else (load, BYTES)


def writer(half: bool) -> tuple[Callable[[Builder, Value, Value], None], int]:
    """Return how to store a vector of floats as bfloat16 (``half``) or float32, and its bytes."""
    return (store_half, BYTES // 2) if half else (store, BYTES)


def fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """Return x * y + z, in one instruction where the processor has it."""
    name = f"llvm.fmuladd.v{LANES}f32"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(VECTOR, [VECTOR] * 3), name)
    return b.call(function, [x, y, z])


def maximum(b: Builder, x: Value, y: Value) -> Value:
    """Return the larger of two vectors, lane by lane; ``y`` where ``x`` is NaN."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def square_root(b: Builder, x: Value) -> Value:
    """Return the square root, rounded correctly."""
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(VECTOR, [VECTOR]), f"llvm.sqrt.v{LANES}f32")
    return b.call(function, [x])


def lane_sum(b: Builder, x: Value) -> Value:
    """Return the sum of the lanes of a vector in every lane, always added in the same order."""
    for step in (4, 2, 1):
        lanes = [(lane + step) % LANES for lane in range(LANES)]
        x = b.fadd(x, b.shuffle_vector(x, _UNDEFINED, ir.Constant(_INTS, lanes)))
    return x


def pick_lanes(b: Builder, x: Value, lanes: Sequence[int]) -> Value:
    """Return the vector whose i-th lane is lane ``lanes[i]`` of ``x``."""
    return b.shuffle_vector(x, _UNDEFINED, ir.Constant(_INTS, list(lanes)))


def sign_lanes(b: Builder, x: Value) -> Value:
    """Return ``x`` with the sign of every even lane turned."""
    return b.fmul(x, ir.Constant(VECTOR, [-1.0, 1.0] * (LANES // 2)))


def polynomial(b: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    """Return the sum of coefficients[i] * x ** i."""
    result = constant(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = fma(b, result, x, constant(coefficient))
    return result


def _fit(function: Callable[[np.ndarray], np.ndarray], low: float, high: float, degree: int) -> tuple[float, ...]:
    """Return the polynomial of least relative error, very nearly: least squares in Chebyshev's points."""
    points = (low + high) / 2 + (high - low) / 2 * np.cos((np.arange(256) + 0.5) * np.pi / 256)
    values = function(points)
    powers = np.vander(points, degree + 1, increasing=True) / values[:, None]
    return tuple(float(c) for c in np.linalg.lstsq(powers, np.ones_like(points), rcond=None)[0])


_EXP, _EXP_HALF = (_fit(np.exp, -0.5 * math.log(2), 0.5 * math.log(2), degree) for degree in (6, 3))
_LOG1P_BY_X = _fit(lambda x: np.log1p(x) / x, 0.0, 1.0, 11)
_LN2_HIGH = 0.693359375
"""ln 2 to so few bits that its product with an exponent is exact; the rest is subtracted separately."""


def exp(b: Builder, x: Value, positive: bool = False, half: bool = False) -> Value:
    """Return exp(x) to two units in the last place, or to 1e-4 of it if ``half``; 0 below -87, NaN for NaN.

    Args:
        b: where to emit.
        x: at most zero, or any vector if ``positive``: then infinity above 88.
        positive: whether ``x`` may be positive.
        half: whether the result will be rounded to bfloat16.
    """
    # Adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits, from where it is shifted to the exponent.
    shifted = fma(b, x, constant(1 / math.log(2)), constant(1.5 * 2**23))
    n = b.fsub(shifted, constant(1.5 * 2**23))
    rest = fma(b, n, constant(-_LN2_HIGH), x)
    rest = fma(b, n, constant(_LN2_HIGH - math.log(2)), rest)
    exponent = b.shl(b.bitcast(shifted, _INTS), ir.Constant(_INTS, [23] * LANES))
    power = b.bitcast(b.add(exponent, ir.Constant(_INTS, [127 << 23] * LANES)), VECTOR)
    result = b.fmul(polynomial(b, rest, _EXP_HALF if half else _EXP), power)
    result = b.select(b.fcmp_ordered("<", x, constant(-87.0)), constant(0.0), result)
    if positive:
        result = b.select(b.fcmp_ordered(">", x, constant(88.0)), constant(math.inf), result)
    return result


_GELU_REACH = 5.6
"""Where the normal distribution function is one or zero, for float32."""


def _fit_ratio(
    function: Callable[[np.ndarray], np.ndarray], high: float, degree: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return two polynomials of one degree whose ratio has very nearly the least relative error on [0, high]."""
    points = (0.5 + 0.5 * np.cos((np.arange(256) + 0.5) * np.pi / 256)) * high
    values, powers = function(points), np.vander(points / high, degree + 1, increasing=True)
    weights, numerator, denominator = np.ones_like(points), powers[0], powers[0]
    # Linear where the denominator in the error is the one of the round before.
    for _ in range(20):
        columns = np.hstack([powers / values[:, None], -powers[:, 1:]]) * weights[:, None]
        solution = np.linalg.lstsq(columns, weights, rcond=None)[0]
        numerator, denominator = solution[: degree + 1], solution[degree + 1 :]
        weights = 1 / (1 + powers[:, 1:] @ denominator)
    scale = high ** np.arange(degree + 1)
    return tuple(map(float, numerator / scale)), (1.0, *map(float, denominator / scale[1:]))


def _normal_by_x(squares: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erf(math.sqrt(square / 2)) / math.sqrt(square) for square in squares])


_NORMAL, _NORMAL_HALF = (_fit_ratio(_normal_by_x, _GELU_REACH**2, degree) for degree in (5, 3))
"""Of x^2: (normal distribution function of x - 1 / 2) / x."""


def gelu(b: Builder, x: Value, half: bool = False) -> Value:
    """Return x times the normal distribution function of x, to 1e-6 of the larger of |x| and 1; NaN for NaN.

    ``half``: to 1e-4 of it, for results that will be rounded to bfloat16.
    """
    square = b.fmul(x, x)
    near = b.fmul(x, _normal_distribution(b, x, square, half))
    # Far from zero the ratio may be anything, also not a number.
    return b.select(b.fcmp_ordered("<", square, constant(_GELU_REACH**2)), near, maximum(b, constant(0.0), x))


def gelu_slope(b: Builder, x: Value, half: bool = False) -> Value:
    """Return the derivative of :func:`gelu`, to 1e-6, or to 1e-4 if ``half``; NaN for NaN."""
    square = b.fmul(x, x)
    density = b.fmul(exp(b, b.fmul(square, constant(-0.5)), half=half), constant(1 / math.sqrt(2 * math.pi)))
    near = fma(b, x, density, _normal_distribution(b, x, square, half))
    # A product with zero, for that keeps a NaN.
    far = b.select(b.fcmp_ordered(">", x, constant(0.0)), constant(1.0), b.fmul(x, constant(0.0)))
    return b.select(b.fcmp_ordered("<", square, constant(_GELU_REACH**2)), near, far)


def _normal_distribution(b: Builder, x: Value, square: Value, half: bool) -> Value:
    """Return the normal distribution function of ``x``, ``square`` being its square, within ``_GELU_REACH`` of zero."""
    above, below = (polynomial(b, square, coefficients) for coefficients in (_NORMAL_HALF if half else _NORMAL))
    return fma(b, x, b.fdiv(above, below), constant(0.5))


def silu(b: Builder, x: Value) -> Value:
    """Return x / (1 + exp(-x)) to 1e-6 of |x|; NaN for NaN and for minus infinity."""
    return b.fdiv(x, b.fadd(constant(1.0), exp(b, b.fsub(constant(0.0), x), positive=True)))


def softplus(b: Builder, x: Value) -> Value:
    """Return log(1 + exp(x)) as max(x, 0) + log1p(exp(-|x|)), which needs no threshold."""
    return _softplus_of(b, x, _exp_of_minus_absolute(b, x))


def softplus_and_slope(b: Builder, x: Value) -> tuple[Value, Value]:
    """Return :func:`softplus` and its derivative 1 / (1 + exp(-x)), by one exponential."""
    small = _exp_of_minus_absolute(b, x)
    numerator = b.select(b.fcmp_ordered("<", x, constant(0.0)), small, constant(1.0))
    return _softplus_of(b, x, small), b.fdiv(numerator, b.fadd(constant(1.0), small))


def _exp_of_minus_absolute(b: Builder, x: Value) -> Value:
    negated = b.fsub(constant(0.0), x)
    return exp(b, b.select(b.fcmp_ordered("<", x, negated), x, negated))


def _softplus_of(b: Builder, x: Value, small: Value) -> Value:
    """Return softplus of ``x``, ``small`` being exp(-|x|)."""
    # max(0, x) keeps a NaN, for its second argument wins then.
    return fma(b, small, polynomial(b, small, _LOG1P_BY_X), maximum(b, constant(0.0), x))


class Loop:
    """``for index in range(count)`` around the code emitted until :meth:`close`; ``count`` is at least one.

    Args:
        b: where to emit.
        count: how often.
        carried: values before the first round. Inside, ``values`` holds those of the round; after
            :meth:`close`, which is given the values for the next round, its result holds the last.
    """

    def __init__(self, b: Builder, count: Value, carried: Sequence[Value]) -> None:
        self.b, self.count = b, count
        before = b.block
        self.body, self.after = b.append_basic_block("body"), b.append_basic_block("after")
        b.branch(self.body)
        b.position_at_end(self.body)
        self.index = b.phi(INT)
        self.index.add_incoming(integer(0), before)
        self.values = [b.phi(value.type) for value in carried]
        for phi, value in zip(self.values, carried, strict=True):
            phi.add_incoming(value, before)

    def close(self, following: Sequence[Value]) -> list[Value]:
        """End the loop."""
        b = self.b
        index = b.add(self.index, integer(1))
        self.index.add_incoming(index, b.block)
        for phi, value in zip(self.values, following, strict=True):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed("<", index, self.count), self.body, self.after)
        b.position_at_end(self.after)
        return list(following)


def _transposed(b: Builder, rows: Sequence[Value]) -> list[Value]:
    """Return the columns of eight vectors: in each of three steps, pairs of rows exchange half of their lanes."""
    rows = list(rows)
    for step in (1, 2, 4):
        first = [lane + LANES - step if lane & step else lane for lane in range(LANES)]
        second = [lane + LANES if lane & step else lane + step for lane in range(LANES)]
        for i in range(LANES):
            if not i & step:
                above, below = rows[i], rows[i | step]
                rows[i] = b.shuffle_vector(above, below, ir.Constant(_INTS, first))
                rows[i | step] = b.shuffle_vector(above, below, ir.Constant(_INTS, second))
    return rows


def _transposition(
    load_row: Callable[[Builder, Value], Value], store_column: Callable[[Builder, Value, Value], None]
) -> Callable[..., Any]:
    """Return an intrinsic that transposes a block of 8 x 8 numbers, multiplying its rows by the vector at ``factor``.

    Only the first ``source_count`` rows are read, the last of them again in place of the others; only the first
    ``target_count`` rows are written, the others to the 32 bytes at ``spare``.
    """

    @intrinsic
    def transpose(  # type: ignore[no-untyped-def]
        typing, source, source_step, source_count, target, target_step, target_count, spare, factor
    ):
        signature, wrap = procedure(8)

        def emit(b, source, source_step, source_count, target, target_step, target_count, spare, factor):  # type: ignore[no-untyped-def]
            scale = load(b, factor)
            last = b.sub(source_count, integer(1))
            rows = []
            for i in range(LANES):
                row = b.select(b.icmp_signed("<", integer(i), last), integer(i), last)
                rows.append(b.fmul(load_row(b, b.add(source, b.mul(row, source_step))), scale))
            for i, column in enumerate(_transposed(b, rows)):
                address = b.add(target, b.mul(integer(i), target_step))
                store_column(b, column, b.select(b.icmp_signed("<", integer(i), target_count), address, spare))

        return signature, wrap(emit)

    return transpose


transpose = _transposition(load, store)
transpose_from_half, transpose_to_half = _transposition(load_half, store), _transposition(load, store_half)


def _cells(of_positions: bool) -> Callable[..., Any]:
    """Return an intrinsic that writes a block of 8 x 8 pairs of bfloat16: (position, channel) -> (channel, position).

    A pair is two neighboring channels, or (``of_positions``) one channel of a position and of the one ``shift`` behind.
    The positions are those from ``first`` on, ``source`` being the address of position 0; outside of range(count) is
    what stands at ``zeros``, 32 bytes.
    """

    @intrinsic
    def write_cells(typing, source, source_step, first, count, shift, target, target_step, zeros):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(8)

        def emit(b, source, source_step, first, count, shift, target, target_step, zeros):  # type: ignore[no-untyped-def]
            def read_at(position: Value, kind: Any) -> Value:
                # As numbers without a sign those below zero are large.
                inside = b.icmp_unsigned("<", position, count)
                address = b.select(inside, b.add(source, b.mul(position, source_step)), zeros)
                return b.load(_pointer(b, address, kind), align=2)

            rows = []
            for i in range(LANES):
                position = b.add(first, integer(i))
                if of_positions:
                    low, high = (b.zext(read_at(each, _HALVES), _INTS) for each in (position, b.add(position, shift)))
                    cells = b.or_(low, b.shl(high, _ints(16)))
                else:
                    cells = read_at(position, _INTS)
                rows.append(b.bitcast(cells, VECTOR))
            for i, column in enumerate(_transposed(b, rows)):
                store(b, column, b.add(target, b.mul(integer(i), target_step)))

        return signature, wrap(emit)

    return write_cells


write_channel_pairs, write_position_pairs = _cells(False), _cells(True)


@intrinsic
def fill(typing, address, count):  # type: ignore[no-untyped-def]
    """Write ``count`` >= 1 vectors of zeros."""
    signature, wrap = procedure(2)

    def emit(b, address, count):  # type: ignore[no-untyped-def]
        loop = Loop(b, count, [address])
        store(b, constant(0.0), loop.values[0])
        loop.close([ahead(b, loop.values[0], BYTES)])

    return signature, wrap(emit)


@intrinsic
def copy(typing, source, count, target):  # type: ignore[no-untyped-def]
    """Write the ``count`` >= 1 vectors at ``source`` to ``target``."""
    signature, wrap = procedure(3)

    def emit(b, source, count, target):  # type: ignore[no-untyped-def]
        loop = Loop(b, count, [source, target])
        store(b, load(b, loop.values[0]), loop.values[1])
        loop.close([ahead(b, address, BYTES) for address in loop.values])

    return signature, wrap(emit)


@intrinsic
def add_lanes(typing, source, count, target):  # type: ignore[no-untyped-def]
    """Write the sums of the lanes of each of ``count`` >= 1 vectors, always added in the same order."""
    signature, wrap = procedure(3)

    def emit(b, source, count, target):  # type: ignore[no-untyped-def]
        loop = Loop(b, count, [source, target])
        source, target = loop.values
        total = lane_sum(b, load(b, source))
        b.store(b.extract_element(total, ir.Constant(ir.IntType(32), 0)), _pointer(b, target, FLOAT), align=4)
        loop.close([ahead(b, source, BYTES), ahead(b, target, 4)])

    return signature, wrap(emit)


@intrinsic
def read(typing, address):  # type: ignore[no-untyped-def]
    """Return the integer of 64 bits at ``address``."""

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.load(_pointer(builder, values[0], INT))

    return types.int64(types.intp), codegen


@intrinsic
def take_number(typing, address):  # type: ignore[no-untyped-def]
    """Return the integer at ``address`` and increase it by one; no two threads get the same."""

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("add", _pointer(builder, values[0], INT), integer(1), "monotonic")

    return types.int64(types.intp), codegen
