"""Vectors of chains for numba kernels: one lane is one chain, and one bit of an unsigned integer is its spin.

The lanes of a kernel are the bits of its state's element type: a state of uint64 runs 64 chains at a time, one of
uint8 runs 8. Each function below emits the LLVM vector operation of its name on 16-bit words; LLVM splits a vector
into whatever registers the processor has, so nothing here depends on one instruction set (lanes are ordered for
little-endian memory). Sums are modulo 2¹⁶. numba looks at the file of a cached kernel alone when it decides whether the
cache is stale: after an edit here, in ``plain`` or in ``streams``, remove the cached kernels (``*.nbi``, ``*.nbc``).

``Words`` is a vector of 16-bit words, one for each lane. ``Pairs`` is a vector of half as many 32-bit words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic as _intrinsic
from numba.extending import register_model


def intrinsic(typing: Callable[..., Any]) -> Any:
    """Numba's decorator, untyped: it replaces the signature (context, ...) by that of the function it emits."""
    return _intrinsic(typing)


_I1, _I16, _I32 = ir.IntType(1), ir.IntType(16), ir.IntType(32)


class VectorType(types.Type):
    """A vector of ``lanes`` unsigned integers of ``width`` bits."""

    def __init__(self, width: int, lanes: int) -> None:
        self.width, self.lanes = width, lanes
        super().__init__(name=f"vector_{lanes}_of_u{width}")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: VectorType) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(kind.width), kind.lanes))  # type: ignore[no-untyped-call]


def _words(array: Any) -> VectorType:
    return VectorType(16, array.dtype.bitwidth)


def _splat(builder: ir.IRBuilder, value: Any, lanes: int) -> Any:
    vector = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _constant(kind: VectorType, value: int) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(kind.width), kind.lanes), [value] * kind.lanes)


def _address(context: Any, builder: ir.IRBuilder, kind: Any, value: Any, index: Any, index_kind: Any) -> Any:
    data = context.make_array(kind)(context, builder, value).data
    return builder.gep(data, [context.cast(builder, index, index_kind, types.intp)])


def _pairs_address(
    context: Any,
    builder: ir.IRBuilder,
    kind: Any,
    value: Any,
    row: Any,
    row_kind: Any,
    half: Any,
    half_kind: Any,
    lanes: int,
) -> Any:
    first = builder.mul(context.cast(builder, row, row_kind, types.intp), context.get_constant(types.intp, lanes))
    rest = builder.mul(context.cast(builder, half, half_kind, types.intp), context.get_constant(types.intp, lanes // 2))
    return _address(context, builder, kind, value, builder.add(first, rest), types.intp)


def _unaligned(builder: ir.IRBuilder, address: Any, vector: ir.VectorType) -> Any:
    loaded = builder.load(builder.bitcast(address, vector.as_pointer()))
    loaded.align = 1
    return loaded


@intrinsic
def at(context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001
    """``array[index]`` of a one-dimensional array as int64, for an index that is known to be in range."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        value = builder.load(_address(context, builder, kinds[0], arguments[0], arguments[1], kinds[1]))
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
        node = builder.load(_address(context, builder, kinds[2], arguments[2], arguments[4], kinds[4]))
        step = builder.load(_address(context, builder, kinds[3], arguments[3], arguments[4], kinds[4]))
        full = builder.bitcast(_splat(builder, step, lanes // 2), arguments[0].type)
        bits = builder.load(_address(context, builder, kinds[1], arguments[1], node, kinds[2].dtype))
        chosen = builder.bitcast(bits, ir.VectorType(_I1, lanes))
        return builder.select(chosen, builder.add(arguments[0], full), arguments[0])

    return words(words, state, neighbours, steps, entry), emit


@intrinsic
def field_words(context: Any, state: Any, fields: Any, position: Any) -> Any:  # noqa: ARG001
    """Row ``position`` of ``fields`` int16: (updates,) is the same for all lanes, (updates, lanes) has each lane's."""
    result = _words(state)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[1]
        if kind.ndim == 1:
            value = builder.load(_address(context, builder, kind, arguments[1], arguments[2], signature.args[2]))
            return _splat(builder, value, result.lanes)
        row = builder.mul(
            context.cast(builder, arguments[2], signature.args[2], types.intp),
            context.get_constant(types.intp, result.lanes),
        )
        address = _address(context, builder, kind, arguments[1], row, types.intp)
        return _unaligned(builder, address, ir.VectorType(_I16, result.lanes))

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
        address = _address(context, builder, kinds[1], arguments[1], row, types.intp)
        stored = builder.store(arguments[0], builder.bitcast(address, arguments[0].type.as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return types.none(words, target, position), emit


@intrinsic
def load_pairs(context: Any, state: Any, source: Any, row: Any, half: Any) -> Any:  # noqa: ARG001
    """Half ``half`` (0 or 1) of row ``row`` of ``source``, (rows, lanes) uint32."""
    lanes = state.dtype.bitwidth
    result = VectorType(32, lanes // 2)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        place = (builder, kinds[1], arguments[1], arguments[2], kinds[2], arguments[3], kinds[3], lanes)
        address = _pairs_address(context, *place)
        return _unaligned(builder, address, ir.VectorType(_I32, lanes // 2))

    return result(state, source, row, half), emit


@intrinsic
def store_pairs(context: Any, pairs: Any, state: Any, target: Any, row: Any, half: Any) -> Any:  # noqa: ARG001
    """Write ``pairs`` to where ``load_pairs`` with the same arguments reads."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        lanes = kinds[1].dtype.bitwidth
        place = (builder, kinds[2], arguments[2], arguments[3], kinds[3], arguments[4], kinds[4], lanes)
        address = _pairs_address(context, *place)
        stored = builder.store(arguments[0], builder.bitcast(address, arguments[0].type.as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return types.none(pairs, state, target, row, half), emit


@intrinsic
def load_words32(context: Any, state: Any, source: Any, offset: Any) -> Any:  # noqa: ARG001
    """As many 32-bit words as ``state`` has lanes, from ``offset`` of a one-dimensional array of int32."""
    result = VectorType(32, state.dtype.bitwidth)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[1], arguments[1], arguments[2], signature.args[2])
        return _unaligned(builder, address, ir.VectorType(_I32, result.lanes))

    return result(state, source, offset), emit


@intrinsic
def store_words32(context: Any, words: Any, target: Any, offset: Any) -> Any:  # noqa: ARG001
    """Write 32-bit words to ``offset`` of a one-dimensional array of int32."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[1], arguments[1], arguments[2], signature.args[2])
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
        pointers = builder.gep(data, [wide], source_etype=_I32)
        # llvmlite types the result as one pointer; with a vector of indices it is a vector of them.
        pointers.type = ir.VectorType(data.type, lanes)
        vector, mask = ir.VectorType(_I32, lanes), ir.VectorType(_I1, lanes)
        name = f"llvm.masked.gather.v{lanes}i32.v{lanes}p0"
        kind = ir.FunctionType(vector, [pointers.type, _I32, mask, vector])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        everywhere = ir.Constant(mask, [1] * lanes)
        return builder.call(function, [pointers, _I32(4), everywhere, ir.Constant(vector, ir.Undefined)])

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
        return builder.trunc(arguments[0], ir.VectorType(_I16, result.lanes))

    return result(words), emit


@intrinsic
def masks_where(context: Any, bits: Any, valid: Any, others: Any) -> Any:  # noqa: ARG001
    """32-bit words of all ones or none, by ``bits``, in the lanes set in ``valid``; those of ``others`` elsewhere."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = signature.args[2].lanes

        def lane_bits(value: Any, kind: Any) -> Any:
            whole = context.cast(builder, value, kind, types.uint64)
            return builder.bitcast(builder.trunc(whole, ir.IntType(lanes)), ir.VectorType(_I1, lanes))

        chosen, kept = (lane_bits(arguments[n], signature.args[n]) for n in (0, 1))
        return builder.select(kept, builder.sext(chosen, arguments[2].type), arguments[2])

    return others(bits, valid, others), emit


@intrinsic
def splat(context: Any, state: Any, value: Any) -> Any:  # noqa: ARG001
    """A vector of words with the low 16 bits of an integer in every lane."""
    result = _words(state)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = context.cast(builder, arguments[1], signature.args[1], types.uint64)
        return _splat(builder, builder.trunc(wide, _I16), result.lanes)

    return result(state, value), emit


@intrinsic
def trailing_zeros(context: Any, bits: Any) -> Any:  # noqa: ARG001
    """Index of the lowest set bit of an integer that is not 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count = builder.cttz(arguments[0], _I1(1))
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
        wide = ir.VectorType(_I32, kind.lanes)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, _constant(VectorType(32, kind.lanes), 16)), arguments[0].type)

    return first(first, second), emit


@intrinsic
def absolute(context: Any, words: Any) -> Any:  # noqa: ARG001
    """Absolute value of signed words."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        zero = _constant(signature.args[0], 0)
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
            return getattr(builder, operation)(arguments[0], _constant(signature.args[0], amount))

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
            kept = ir.Constant(ir.VectorType(_I32, half), list(range(start, start + half)))
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
        mask = builder.icmp_signed("<", arguments[1], _constant(signature.args[1], 0))
        return builder.bitcast(mask, ir.IntType(signature.args[1].lanes))

    return state.dtype(state, words), emit


def _halves(emit_pairs: Any, what: str) -> Any:
    def typing(context: Any, even: Any, odd: Any) -> Any:  # noqa: ARG001
        result = VectorType(16, 2 * even.lanes)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            kind = signature.args[0]
            mixed = emit_pairs(builder, arguments[0], arguments[1], lambda value: _constant(kind, value))
            return builder.bitcast(mixed, ir.VectorType(_I16, result.lanes))

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
