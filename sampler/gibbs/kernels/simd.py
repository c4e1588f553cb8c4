"""Vectors of chains for numba kernels: one lane is one chain, and one bit of an unsigned integer is its spin.

The lanes of a kernel are the bits of its state's element type: a state of uint64 runs 64 chains at a time, one of
uint8 runs 8. Each function below emits the LLVM vector operation of its name on 16-bit words; LLVM splits a vector
into whatever registers the processor has, so nothing here depends on one instruction set (lanes are ordered for
little-endian memory). Sums are modulo 2¹⁶.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic as _intrinsic

from qshower.sampler.jit.vectors import (
    I1,
    I16,
    I32,
    VectorType,
    address_of,
    constant,
    intrinsic,
    splatted,
    unaligned,
)


def _words(array: Any) -> VectorType:
    return VectorType(16, array.dtype.bitwidth)


@intrinsic
def at(context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001
    """``array[index]`` of a one-dimensional array as int64, for an index that is known to be in range."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        value = builder.load(address_of(context, builder, kinds[0], arguments[0], arguments[1], kinds[1]))
        return context.cast(builder, value, kinds[0].dtype, types.int64)

    return types.int64(array, index), emit


@intrinsic
def add_where(context: Any, words: Any, state: Any, neighbours: Any, steps: Any, entry: Any) -> Any:  # noqa: ARG001
    """``words`` plus ``steps[entry]`` in the lanes whose bit of ``state[neighbours[entry]]`` is set.

    ``steps`` is an int32 array that holds each 16-bit step twice, in both halves: wide broadcasts are cheap loads.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        lanes = kinds[0].lanes
        node = builder.load(address_of(context, builder, kinds[2], arguments[2], arguments[4], kinds[4]))
        step = builder.load(address_of(context, builder, kinds[3], arguments[3], arguments[4], kinds[4]))
        full = builder.bitcast(splatted(builder, step, lanes // 2), arguments[0].type)
        bits = builder.load(address_of(context, builder, kinds[1], arguments[1], node, kinds[2].dtype))
        chosen = builder.bitcast(bits, ir.VectorType(I1, lanes))
        return builder.select(chosen, builder.add(arguments[0], full), arguments[0])

    return words(words, state, neighbours, steps, entry), emit


@intrinsic
def field_words(context: Any, state: Any, fields: Any, position: Any) -> Any:  # noqa: ARG001
    """Row ``position`` of ``fields`` int16: (updates,) is the same for all lanes, (updates, lanes) has each lane's."""
    result = _words(state)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[1]
        if kind.ndim == 1:
            value = builder.load(address_of(context, builder, kind, arguments[1], arguments[2], signature.args[2]))
            return splatted(builder, value, result.lanes)
        row = builder.mul(
            context.cast(builder, arguments[2], signature.args[2], types.intp),
            context.get_constant(types.intp, result.lanes),
        )
        address = address_of(context, builder, kind, arguments[1], row, types.intp)
        return unaligned(builder, address, ir.VectorType(I16, result.lanes))

    return result(state, fields, position), emit


@intrinsic
def store_words(context: Any, words: Any, target: Any, position: Any) -> Any:  # noqa: ARG001
    """Write ``words`` to row ``position`` of an array (rows, lanes) of 16-bit integers."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        row = builder.mul(
            context.cast(builder, arguments[2], kinds[2], types.intp),
            context.get_constant(types.intp, kinds[0].lanes),
        )
        address = address_of(context, builder, kinds[1], arguments[1], row, types.intp)
        stored = builder.store(arguments[0], builder.bitcast(address, arguments[0].type.as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return types.none(words, target, position), emit


@intrinsic
def splat(context: Any, state: Any, value: Any) -> Any:  # noqa: ARG001
    """A vector of words with the low 16 bits of an integer in every lane."""
    result = _words(state)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = context.cast(builder, arguments[1], signature.args[1], types.uint64)
        return splatted(builder, builder.trunc(wide, I16), result.lanes)

    return result(state, value), emit


@intrinsic
def trailing_zeros(context: Any, bits: Any) -> Any:  # noqa: ARG001
    """Index of the lowest set bit of an integer that is not 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count = builder.cttz(arguments[0], I1(1))
        return context.cast(builder, count, signature.args[0], types.int64)

    return types.int64(bits), emit


def _binary(operation: str, what: str) -> Any:
    def typing(context: Any, first: Any, second: Any) -> Any:  # noqa: ARG001
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            return getattr(builder, operation)(arguments[0], arguments[1])

        return first(first, second), emit

    typing.__doc__ = what
    return intrinsic(typing)


add = _binary("add", "Sum, lane by lane.")
subtract = _binary("sub", "Difference, lane by lane.")
multiply_low = _binary("mul", "Low half of the product, lane by lane.")
exclusive_or = _binary("xor", "Bits in one of the two, lane by lane.")
shift_right_each = _binary("lshr", "The first shifted right by the second, lane by lane.")


@intrinsic
def multiply_high(context: Any, first: Any, second: Any) -> Any:  # noqa: ARG001
    """High half of the product of unsigned words, lane by lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        kind = signature.args[0]
        wide = ir.VectorType(I32, kind.lanes)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, constant(VectorType(32, kind.lanes), 16)), arguments[0].type)

    return first(first, second), emit


@intrinsic
def absolute(context: Any, words: Any) -> Any:  # noqa: ARG001
    """Absolute value of signed words."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        zero = constant(signature.args[0], 0)
        negative = builder.icmp_signed("<", arguments[0], zero)
        return builder.select(negative, builder.sub(zero, arguments[0]), arguments[0])

    return words(words), emit


@intrinsic
def smaller(context: Any, first: Any, second: Any) -> Any:  # noqa: ARG001
    """The smaller of two unsigned words, lane by lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.select(builder.icmp_unsigned("<", arguments[0], arguments[1]), arguments[0], arguments[1])

    return first(first, second), emit


def _shift(operation: str, what: str) -> Any:
    def typing(context: Any, vector: Any, count: Any) -> Any:  # noqa: ARG001
        if not isinstance(count, types.IntegerLiteral):
            return None
        amount = count.literal_value

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            return getattr(builder, operation)(arguments[0], constant(signature.args[0], amount))

        return vector(vector, count), emit

    typing.__doc__ = what
    return _intrinsic(prefer_literal=True)(typing)


shift_left = _shift("shl", "Each lane shifted left by a constant.")
shift_right = _shift("lshr", "Each lane shifted right by a constant.")


@intrinsic
def below(context: Any, state: Any, first: Any, second: Any) -> Any:  # noqa: ARG001
    """Bits, of the state's type, of the lanes where the first unsigned word is smaller than the second."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        mask = builder.icmp_unsigned("<", arguments[1], arguments[2])
        return builder.bitcast(mask, ir.IntType(signature.args[1].lanes))

    return state.dtype(state, first, second), emit


@intrinsic
def any_below(context: Any, first: Any, second: Any) -> Any:  # noqa: ARG001
    """Whether the first unsigned word is smaller than the second, which is the same in all lanes, in any lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        words, half = arguments[0], signature.args[0].lanes // 2

        def part(vector: Any, start: int) -> Any:
            kept = ir.Constant(ir.VectorType(I32, half), list(range(start, start + half)))
            return builder.shuffle_vector(vector, vector, kept)

        low, high = part(words, 0), part(words, half)
        least = builder.select(builder.icmp_unsigned("<", low, high), low, high)
        mask = builder.bitcast(builder.icmp_unsigned("<", least, part(arguments[1], 0)), ir.IntType(half))
        return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))

    return types.boolean(first, second), emit


@intrinsic
def negative(context: Any, state: Any, words: Any) -> Any:  # noqa: ARG001
    """Bits, of the state's type, of the lanes whose signed word is below 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        mask = builder.icmp_signed("<", arguments[1], constant(signature.args[1], 0))
        return builder.bitcast(mask, ir.IntType(signature.args[1].lanes))

    return state.dtype(state, words), emit
