"""Vectors of 32-bit words for numba kernels.

A generator of many chains is two vectors of half the lanes (*pairs*), even lanes first; the field of many nodes of one
chain is a vector of as many words as lanes.
"""

# ruff: noqa: ARG001, ARG005 - what emits code has one signature, used or not

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
    emitted,
    pairs_address,
    store,
    unaligned,
)


@emitted(lambda state, source, row, half: VectorType(32, state.dtype.bitwidth // 2))
def load_pairs(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Half ``half`` (0 or 1) of row ``row`` of ``source``, (rows, lanes) uint32."""
    lanes = 2 * signature.return_type.lanes
    kinds = signature.args
    place = (builder, kinds[1], arguments[1], arguments[2], kinds[2], arguments[3], kinds[3], lanes)
    address = pairs_address(context, *place)
    return unaligned(builder, address, ir.VectorType(I32, lanes // 2))


@emitted(lambda pairs, state, target, row, half: types.none)
def store_pairs(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Write ``pairs`` to where ``load_pairs`` with the same arguments reads."""
    kinds = signature.args
    lanes = kinds[1].dtype.bitwidth
    place = (builder, kinds[2], arguments[2], arguments[3], kinds[3], arguments[4], kinds[4], lanes)
    address = pairs_address(context, *place)
    return store(context, builder, arguments[0], address)


@emitted(lambda state, source, offset: VectorType(32, state.dtype.bitwidth))
def load_words32(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """As many 32-bit words as ``state`` has lanes, from ``offset`` of a one-dimensional array of int32."""
    address = address_of(context, builder, signature.args[1], arguments[1], arguments[2], signature.args[2])
    return unaligned(builder, address, ir.VectorType(I32, signature.return_type.lanes))


@emitted(lambda words, target, offset: types.none)
def store_words32(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Write 32-bit words to ``offset`` of a one-dimensional array of int32."""
    address = address_of(context, builder, signature.args[1], arguments[1], arguments[2], signature.args[2])
    return store(context, builder, arguments[0], address)


@emitted(lambda array, indices: indices)
def gather(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """``array[index]``, int32, for each of a vector of indices that are known to be in range."""
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


@emitted(lambda words: VectorType(16, words.lanes))
def low_words(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Low halves of 32-bit words."""
    return builder.trunc(arguments[0], ir.VectorType(I16, signature.return_type.lanes))


@emitted(lambda bits, valid, others: others)
def masks_where(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """32-bit words of all ones or none, by ``bits``, in the lanes set in ``valid``; those of ``others`` elsewhere."""
    lanes = signature.args[2].lanes

    def lane_bits(value: Any, kind: Any) -> Any:
        whole = context.cast(builder, value, kind, types.uint64)
        return builder.bitcast(builder.trunc(whole, ir.IntType(lanes)), ir.VectorType(I1, lanes))

    chosen, kept = (lane_bits(arguments[n], signature.args[n]) for n in (0, 1))
    return builder.select(kept, builder.sext(chosen, arguments[2].type), arguments[2])


def _halves(emit_pairs: Any, what: str) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        mixed = emit_pairs(builder, arguments[0], arguments[1], lambda value: constant(kind, value))
        return builder.bitcast(mixed, ir.VectorType(I16, signature.return_type.lanes))

    emit.__doc__ = what
    return emitted(lambda even, _odd: VectorType(16, 2 * even.lanes))(emit)


low_halves = _halves(
    lambda b, even, odd, c: b.or_(b.and_(even, c(0xFFFF)), b.shl(odd, c(16))),
    "Low halves of the even lanes' and the odd lanes' 32-bit words, lane by lane.",
)
high_halves = _halves(
    lambda b, even, odd, c: b.or_(b.lshr(even, c(16)), b.and_(odd, c(0xFFFF0000))),
    "High halves of the even lanes' and the odd lanes' 32-bit words, lane by lane.",
)
