"""Vectors of 32-bit words for numba kernels.

A generator of many chains is two vectors of half the lanes (*pairs*), even lanes first; the field of many nodes of one
chain is a vector of as many words as lanes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from qshower.sampler.jit.vectors import (
    I1,
    I16,
    I32,
    VectorType,
    address_of,
    constant,
    intrinsic,
    pairs_address,
    unaligned,
)


@intrinsic
def load_pairs(context: Any, state: Any, source: Any, row: Any, half: Any) -> Any:  # noqa: ARG001
    """Half ``half`` (0 or 1) of row ``row`` of ``source``, (rows, lanes) uint32."""
    lanes = state.dtype.bitwidth
    result = VectorType(32, lanes // 2)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        place = (builder, kinds[1], arguments[1], arguments[2], kinds[2], arguments[3], kinds[3], lanes)
        address = pairs_address(context, *place)
        return unaligned(builder, address, ir.VectorType(I32, lanes // 2))

    return result(state, source, row, half), emit


@intrinsic
def store_pairs(context: Any, pairs: Any, state: Any, target: Any, row: Any, half: Any) -> Any:  # noqa: ARG001
    """Write ``pairs`` to where ``load_pairs`` with the same arguments reads."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        lanes = kinds[1].dtype.bitwidth
        place = (builder, kinds[2], arguments[2], arguments[3], kinds[3], arguments[4], kinds[4], lanes)
        address = pairs_address(context, *place)
        stored = builder.store(arguments[0], builder.bitcast(address, arguments[0].type.as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return types.none(pairs, state, target, row, half), emit


@intrinsic
def load_words32(context: Any, state: Any, source: Any, offset: Any) -> Any:  # noqa: ARG001
    """As many 32-bit words as ``state`` has lanes, from ``offset`` of a one-dimensional array of int32."""
    result = VectorType(32, state.dtype.bitwidth)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = address_of(context, builder, signature.args[1], arguments[1], arguments[2], signature.args[2])
        return unaligned(builder, address, ir.VectorType(I32, result.lanes))

    return result(state, source, offset), emit


@intrinsic
def store_words32(context: Any, words: Any, target: Any, offset: Any) -> Any:  # noqa: ARG001
    """Write 32-bit words to ``offset`` of a one-dimensional array of int32."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = address_of(context, builder, signature.args[1], arguments[1], arguments[2], signature.args[2])
        stored = builder.store(arguments[0], builder.bitcast(address, arguments[0].type.as_pointer()))
        stored.align = 4
        return context.get_dummy_value()

    return types.none(words, target, offset), emit


@intrinsic
def gather(context: Any, array: Any, indices: Any) -> Any:  # noqa: ARG001
    """``array[index]``, int32, for each of a vector of indices that are known to be in range."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = signature.args[1].lanes
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        wide = builder.zext(arguments[1], ir.VectorType(ir.IntType(64), lanes))
        pointers = builder.gep(data, [wide], source_etype=I32)
        # llvmlite types the result as one pointer; with a vector of indices it is a vector of them.
        pointers.type = ir.VectorType(data.type, lanes)
        vector, mask = ir.VectorType(I32, lanes), ir.VectorType(I1, lanes)
        name = f"llvm.masked.gather.v{lanes}i32.v{lanes}p0"
        kind = ir.FunctionType(vector, [pointers.type, I32, mask, vector])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        everywhere = ir.Constant(mask, [1] * lanes)
        return builder.call(function, [pointers, I32(4), everywhere, ir.Constant(vector, ir.Undefined)])

    return indices(array, indices), emit


@intrinsic
def both(context: Any, first: Any, second: Any) -> Any:  # noqa: ARG001
    """Bits in both of the two, lane by lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.and_(arguments[0], arguments[1])

    return first(first, second), emit


@intrinsic
def low_words(context: Any, words: Any) -> Any:  # noqa: ARG001
    """Low halves of 32-bit words."""
    result = VectorType(16, words.lanes)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.trunc(arguments[0], ir.VectorType(I16, result.lanes))

    return result(words), emit


@intrinsic
def masks_where(context: Any, bits: Any, valid: Any, others: Any) -> Any:  # noqa: ARG001
    """32-bit words of all ones or none, by ``bits``, in the lanes set in ``valid``; those of ``others`` elsewhere."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = signature.args[2].lanes

        def lane_bits(value: Any, kind: Any) -> Any:
            whole = context.cast(builder, value, kind, types.uint64)
            return builder.bitcast(builder.trunc(whole, ir.IntType(lanes)), ir.VectorType(I1, lanes))

        chosen, kept = (lane_bits(arguments[n], signature.args[n]) for n in (0, 1))
        return builder.select(kept, builder.sext(chosen, arguments[2].type), arguments[2])

    return others(bits, valid, others), emit


def _halves(emit_pairs: Any, what: str) -> Any:
    def typing(context: Any, even: Any, odd: Any) -> Any:  # noqa: ARG001
        result = VectorType(16, 2 * even.lanes)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            kind = signature.args[0]
            mixed = emit_pairs(builder, arguments[0], arguments[1], lambda value: constant(kind, value))
            return builder.bitcast(mixed, ir.VectorType(I16, result.lanes))

        return result(even, odd), emit

    typing.__doc__ = what
    return intrinsic(typing)


low_halves = _halves(
    lambda b, even, odd, c: b.or_(b.and_(even, c(0xFFFF)), b.shl(odd, c(16))),
    "Low halves of the even lanes' and the odd lanes' 32-bit words, lane by lane.",
)
high_halves = _halves(
    lambda b, even, odd, c: b.or_(b.lshr(even, c(16)), b.and_(odd, c(0xFFFF0000))),
    "High halves of the even lanes' and the odd lanes' 32-bit words, lane by lane.",
)
