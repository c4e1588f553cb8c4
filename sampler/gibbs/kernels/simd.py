"""Vectors of chains for numba kernels: one lane is one chain, and one bit of an unsigned integer is its spin.

The lanes of a kernel are the bits of its state's element type: a state of uint64 runs 64 chains at a time, one of
uint8 runs 8. Each function below emits the LLVM vector operation of its name on 16-bit words; LLVM splits a vector
into whatever registers the processor has, so nothing here depends on one instruction set (lanes are ordered for
little-endian memory). Sums are modulo 2¹⁶.
"""

# ruff: noqa: ARG001, ARG005 - what emits code has one signature, used or not

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from qshower.sampler.jit.vectors import (
    I1,
    I16,
    I32,
    VectorType,
    address_of,
    constant,
    emitted,
    splatted,
    store,
    unaligned,
)


def _words(array: Any) -> VectorType:
    return VectorType(16, array.dtype.bitwidth)


@emitted(lambda array, index: types.int64)
def at(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """``array[index]`` of a one-dimensional array as int64, for an index that is known to be in range."""
    kinds = signature.args
    value = builder.load(address_of(context, builder, kinds[0], arguments[0], arguments[1], kinds[1]))
    return context.cast(builder, value, kinds[0].dtype, types.int64)


@emitted(lambda words, state, neighbours, steps, entry: words)
def add_where(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """``words`` plus ``steps[entry]`` in the lanes whose bit of ``state[neighbours[entry]]`` is set.

    ``steps`` is an int32 array that holds each 16-bit step twice, in both halves: wide broadcasts are cheap loads.
    """
    kinds = signature.args
    lanes = kinds[0].lanes
    node = builder.load(address_of(context, builder, kinds[2], arguments[2], arguments[4], kinds[4]))
    step = builder.load(address_of(context, builder, kinds[3], arguments[3], arguments[4], kinds[4]))
    full = builder.bitcast(splatted(builder, step, lanes // 2), arguments[0].type)
    bits = builder.load(address_of(context, builder, kinds[1], arguments[1], node, kinds[2].dtype))
    chosen = builder.bitcast(bits, ir.VectorType(I1, lanes))
    return builder.select(chosen, builder.add(arguments[0], full), arguments[0])


@emitted(lambda state, fields, position: _words(state))
def field_words(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Row ``position`` of ``fields`` int16: (updates,) is the same for all lanes, (updates, lanes) has each lane's."""
    kind = signature.args[1]
    if kind.ndim == 1:
        value = builder.load(address_of(context, builder, kind, arguments[1], arguments[2], signature.args[2]))
        return splatted(builder, value, signature.return_type.lanes)
    row = builder.mul(
        context.cast(builder, arguments[2], signature.args[2], types.intp),
        context.get_constant(types.intp, signature.return_type.lanes),
    )
    address = address_of(context, builder, kind, arguments[1], row, types.intp)
    return unaligned(builder, address, ir.VectorType(I16, signature.return_type.lanes))


@emitted(lambda words, target, position: types.none)
def store_words(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Write ``words`` to row ``position`` of an array (rows, lanes) of 16-bit integers."""
    kinds = signature.args
    row = builder.mul(
        context.cast(builder, arguments[2], kinds[2], types.intp),
        context.get_constant(types.intp, kinds[0].lanes),
    )
    address = address_of(context, builder, kinds[1], arguments[1], row, types.intp)
    return store(context, builder, arguments[0], address)


@emitted(lambda state, value: _words(state))
def splat(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """A vector of words with the low 16 bits of an integer in every lane."""
    wide = context.cast(builder, arguments[1], signature.args[1], types.uint64)
    return splatted(builder, builder.trunc(wide, I16), signature.return_type.lanes)


@emitted(lambda bits: types.int64)
def trailing_zeros(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Index of the lowest set bit of an integer that is not 0."""
    count = builder.cttz(arguments[0], I1(1))
    return context.cast(builder, count, signature.args[0], types.int64)


def _binary(operation: str, what: str) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, operation)(arguments[0], arguments[1])

    emit.__doc__ = what
    return emitted(lambda first, _second: first)(emit)


add = _binary("add", "Sum, lane by lane.")
subtract = _binary("sub", "Difference, lane by lane.")
multiply_low = _binary("mul", "Low half of the product, lane by lane.")
both = _binary("and_", "Bits in both of the two, lane by lane.")
exclusive_or = _binary("xor", "Bits in one of the two, lane by lane.")
shift_right_each = _binary("lshr", "The first shifted right by the second, lane by lane.")


@emitted(lambda first, second: first)
def multiply_high(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """High half of the product of unsigned words, lane by lane."""
    kind = signature.args[0]
    wide = ir.VectorType(I32, kind.lanes)
    product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
    return builder.trunc(builder.lshr(product, constant(VectorType(32, kind.lanes), 16)), arguments[0].type)


@emitted(lambda words: words)
def absolute(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Absolute value of signed words."""
    zero = constant(signature.args[0], 0)
    negative = builder.icmp_signed("<", arguments[0], zero)
    return builder.select(negative, builder.sub(zero, arguments[0]), arguments[0])


@emitted(lambda first, second: first)
def smaller(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The smaller of two unsigned words, lane by lane."""
    return builder.select(builder.icmp_unsigned("<", arguments[0], arguments[1]), arguments[0], arguments[1])


def _shift(operation: str, what: str) -> Any:
    def typing(context: Any, vector: Any, count: Any) -> Any:
        if not isinstance(count, types.IntegerLiteral):
            return None
        amount = count.literal_value

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, operation)(arguments[0], constant(signature.args[0], amount))

        return vector(vector, count), emit

    typing.__doc__ = what
    return intrinsic(prefer_literal=True)(typing)


shift_left = _shift("shl", "Each lane shifted left by a constant.")
shift_right = _shift("lshr", "Each lane shifted right by a constant.")


@emitted(lambda state, first, second: state.dtype)
def below(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Bits, of the state's type, of the lanes where the first unsigned word is smaller than the second."""
    mask = builder.icmp_unsigned("<", arguments[1], arguments[2])
    return builder.bitcast(mask, ir.IntType(signature.args[1].lanes))


@emitted(lambda first, second: types.boolean)
def any_below(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Whether the first unsigned word is smaller than the second, which is the same in all lanes, in any lane."""
    words, half = arguments[0], signature.args[0].lanes // 2

    def part(vector: Any, start: int) -> Any:
        kept = ir.Constant(ir.VectorType(I32, half), list(range(start, start + half)))
        return builder.shuffle_vector(vector, vector, kept)

    low, high = part(words, 0), part(words, half)
    least = builder.select(builder.icmp_unsigned("<", low, high), low, high)
    mask = builder.bitcast(builder.icmp_unsigned("<", least, part(arguments[1], 0)), ir.IntType(half))
    return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))


@emitted(lambda state, words: state.dtype)
def negative(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Bits, of the state's type, of the lanes whose signed word is below 0."""
    mask = builder.icmp_signed("<", arguments[1], constant(signature.args[1], 0))
    return builder.bitcast(mask, ir.IntType(signature.args[1].lanes))
