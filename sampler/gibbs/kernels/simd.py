"""Vectors of chains for numba kernels: one lane is one chain, and one bit of an unsigned integer is its spin.

The lanes of a kernel are the bits of its state's element type: a state of uint64 runs 64 chains at a time, one of
uint8 runs 8. Each function below emits the LLVM vector operation of its name on 16-bit words; LLVM splits a vector
into whatever registers the processor has, so nothing here depends on one instruction set (lanes are ordered for
little-endian memory). Sums are modulo 2¹⁶.
"""

# ruff: noqa: ARG005 - lambdas name all arguments of the function whose type they give

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from qshower.sampler.jit.vectors import I1, I16, I32, Call, VectorType, constant, emitted


def _words(array: Any) -> VectorType:
    return VectorType(16, array.dtype.bitwidth)


@emitted(lambda array, index: types.int64)
def at(call: Call) -> Any:
    """``array[index]`` of a one-dimensional array as int64, for an index that is known to be in range."""
    return call.context.cast(call.builder, call.element(0, 1), call.kinds[0].dtype, types.int64)


@emitted(lambda words, state, neighbours, steps, entry: words)
def add_where(call: Call) -> Any:
    """``words`` plus ``steps[entry]`` in the lanes whose bit of ``state[neighbours[entry]]`` is set.

    ``steps`` is an int32 array that holds each 16-bit step twice, in both halves: wide broadcasts are cheap loads.
    """
    builder, words, lanes = call.builder, call.values[0], call.kinds[0].lanes
    node = call.context.cast(builder, call.element(2, 4), call.kinds[2].dtype, types.intp)
    full = builder.bitcast(call.splatted(call.element(3, 4), lanes // 2), words.type)
    chosen = call.bits(builder.load(call.address(1, node)), lanes)
    return builder.select(chosen, builder.add(words, full), words)


@emitted(lambda state, fields, position: _words(state))
def field_words(call: Call) -> Any:
    """Row ``position`` of ``fields`` int16: (updates,) is the same for all lanes, (updates, lanes) has each lane's."""
    lanes = call.result.lanes
    if call.kinds[1].ndim == 1:
        return call.splatted(call.element(1, 2), lanes)
    return call.load(call.address(1, call.times(2, lanes)))


@emitted(lambda words, target, position: types.none)
def store_words(call: Call) -> Any:
    """Write ``words`` to row ``position`` of an array (rows, lanes) of integers as wide as they are."""
    return call.store(call.values[0], call.address(1, call.times(2, call.kinds[0].lanes)))


@emitted(lambda state, value: _words(state))
def splat(call: Call) -> Any:
    """A vector of words with the low 16 bits of an integer in every lane."""
    return call.splatted(call.builder.trunc(call.integer(1, types.uint64), I16), call.result.lanes)


@emitted(lambda bits: types.int64)
def trailing_zeros(call: Call) -> Any:
    """Index of the lowest set bit of an integer that is not 0."""
    count = call.builder.cttz(call.values[0], I1(1))
    return call.context.cast(call.builder, count, call.kinds[0], types.int64)


def _binary(operation: str, what: str) -> Any:
    def emit(call: Call) -> Any:
        return getattr(call.builder, operation)(*call.values)

    emit.__doc__ = what
    return emitted(lambda first, second: first)(emit)


add = _binary("add", "Sum, lane by lane.")
subtract = _binary("sub", "Difference, lane by lane.")
multiply_low = _binary("mul", "Low half of the product, lane by lane.")
both = _binary("and_", "Bits in both of the two, lane by lane.")
exclusive_or = _binary("xor", "Bits in one of the two, lane by lane.")
shift_right_each = _binary("lshr", "The first shifted right by the second, lane by lane.")


@emitted(lambda first, second: first)
def multiply_high(call: Call) -> Any:
    """High half of the product of unsigned words, lane by lane."""
    builder, lanes = call.builder, call.kinds[0].lanes
    first, second = (builder.zext(value, ir.VectorType(I32, lanes)) for value in call.values)
    high = builder.lshr(builder.mul(first, second), constant(VectorType(32, lanes), 16))
    return builder.trunc(high, call.values[0].type)


@emitted(lambda words: words)
def absolute(call: Call) -> Any:
    """Absolute value of signed words."""
    builder, zero, words = call.builder, constant(call.kinds[0], 0), call.values[0]
    return builder.select(builder.icmp_signed("<", words, zero), builder.sub(zero, words), words)


@emitted(lambda first, second: first)
def smaller(call: Call) -> Any:
    """The smaller of two unsigned words, lane by lane."""
    return call.builder.select(call.builder.icmp_unsigned("<", *call.values), *call.values)


def _shift(operation: str, what: str) -> Any:
    def typing(context: Any, vector: Any, count: Any) -> Any:  # noqa: ARG001 - numba's signature
        if not isinstance(count, types.IntegerLiteral):
            return None
        amount = count.literal_value

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            return getattr(builder, operation)(arguments[0], constant(signature.args[0], amount))

        return vector(vector, count), emit

    typing.__doc__ = what
    return intrinsic(prefer_literal=True)(typing)


shift_left = _shift("shl", "Each lane shifted left by a constant.")
shift_right = _shift("lshr", "Each lane shifted right by a constant.")


@emitted(lambda state, first, second: state.dtype)
def below(call: Call) -> Any:
    """Bits, of the state's type, of the lanes where the first unsigned word is smaller than the second."""
    mask = call.builder.icmp_unsigned("<", call.values[1], call.values[2])
    return call.builder.bitcast(mask, ir.IntType(call.kinds[1].lanes))


@emitted(lambda first, second: types.boolean)
def any_below(call: Call) -> Any:
    """Whether the first unsigned word is smaller than the second, which is the same in all lanes, in any lane."""
    builder, (words, bound), half = call.builder, call.values, call.kinds[0].lanes // 2

    def part(vector: Any, start: int) -> Any:
        chosen = ir.Constant(ir.VectorType(I32, half), list(range(start, start + half)))
        return builder.shuffle_vector(vector, vector, chosen)

    low, high = part(words, 0), part(words, half)
    least = builder.select(builder.icmp_unsigned("<", low, high), low, high)
    mask = builder.bitcast(builder.icmp_unsigned("<", least, part(bound, 0)), ir.IntType(half))
    return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))


@emitted(lambda state, words: state.dtype)
def negative(call: Call) -> Any:
    """Bits, of the state's type, of the lanes whose signed word is below 0."""
    mask = call.builder.icmp_signed("<", call.values[1], constant(call.kinds[1], 0))
    return call.builder.bitcast(mask, ir.IntType(call.kinds[1].lanes))
