"""Vectors of 32-bit words for numba kernels.

A generator of many chains is two vectors of half the lanes (*pairs*), even lanes first; the field of many nodes of one
chain is a vector of as many words as lanes.
"""

# ruff: noqa: ARG005 - lambdas name all arguments of the function whose type they give

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from qshower.sampler.jit.vectors import I1, I16, I32, Call, VectorType, constant, emitted


@emitted(lambda state, source, row, half: VectorType(32, state.dtype.bitwidth // 2))
def load_pairs(call: Call) -> Any:
    """Half ``half`` (0 or 1) of row ``row`` of ``source``, (rows, lanes) uint32."""
    half = call.result.lanes
    return call.load(call.address(1, call.builder.add(call.times(2, 2 * half), call.times(3, half))))


@emitted(lambda pairs, state, target, row, half: types.none)
def store_pairs(call: Call) -> Any:
    """Write ``pairs`` to where ``load_pairs`` with the same arguments reads."""
    half = call.kinds[0].lanes
    return call.store(call.values[0], call.address(2, call.builder.add(call.times(3, 2 * half), call.times(4, half))))


@emitted(lambda state, source, offset: VectorType(32, state.dtype.bitwidth))
def load_words32(call: Call) -> Any:
    """As many 32-bit words as ``state`` has lanes, from ``offset`` of a one-dimensional array of int32."""
    return call.load(call.address(1, call.integer(2)))


@emitted(lambda words, target, offset: types.none)
def store_words32(call: Call) -> Any:
    """Write 32-bit words to ``offset`` of a one-dimensional array of int32."""
    return call.store(call.values[0], call.address(1, call.integer(2)))


@emitted(lambda array, indices: indices)
def gather(call: Call) -> Any:
    """``array[index]``, int32, for each of a vector of indices that are known to be in range."""
    builder, lanes = call.builder, call.kinds[1].lanes
    wide = builder.zext(call.values[1], ir.VectorType(ir.IntType(64), lanes))
    data = call.context.make_array(call.kinds[0])(call.context, builder, call.values[0]).data
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
def low_words(call: Call) -> Any:
    """Low halves of 32-bit words."""
    return call.builder.trunc(call.values[0], ir.VectorType(I16, call.result.lanes))


@emitted(lambda bits, valid, others: others)
def masks_where(call: Call) -> Any:
    """32-bit words of all ones or none, by ``bits``, in the lanes set in ``valid``; those of ``others`` elsewhere."""
    builder, others, lanes = call.builder, call.values[2], call.kinds[2].lanes
    whole = (builder.trunc(call.integer(place, types.uint64), ir.IntType(lanes)) for place in (0, 1))
    chosen, valid = (call.bits(value, lanes) for value in whole)
    return builder.select(valid, builder.sext(chosen, others.type), others)


def _halves(mixed: Any, what: str) -> Any:
    def emit(call: Call) -> Any:
        kind = call.kinds[0]
        value = mixed(call.builder, *call.values, lambda value: constant(kind, value))
        return call.builder.bitcast(value, ir.VectorType(I16, call.result.lanes))

    emit.__doc__ = what
    return emitted(lambda even, odd: VectorType(16, 2 * even.lanes))(emit)


low_halves = _halves(
    lambda b, even, odd, c: b.or_(b.and_(even, c(0xFFFF)), b.shl(odd, c(16))),
    "Low halves of the even lanes' and the odd lanes' 32-bit words, lane by lane.",
)
high_halves = _halves(
    lambda b, even, odd, c: b.or_(b.lshr(even, c(16)), b.and_(odd, c(0xFFFF0000))),
    "High halves of the even lanes' and the odd lanes' 32-bit words, lane by lane.",
)
