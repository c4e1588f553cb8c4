"""Vector values for numba: the type, its LLVM form, and the pieces that vector operations are emitted from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model


def emitted(result: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: a function for kernels, of the code that the decorated (context, builder, signature, arguments) emits.

    ``result`` gives the type of the function's value from those of its arguments.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        def typing(context: Any, *kinds: Any) -> Any:  # noqa: ARG001 - numba's signature
            return result(*kinds)(*kinds), emit

        typing.__name__, typing.__doc__ = emit.__name__, emit.__doc__
        # numba goes by the names of the arguments, of which a * has none.
        context, *_ = inspect.signature(typing).parameters.values()
        typing.__signature__ = inspect.Signature([context, *inspect.signature(result).parameters.values()])  # type: ignore[attr-defined]
        return intrinsic(typing)

    return decorate


I1, I16, I32 = ir.IntType(1), ir.IntType(16), ir.IntType(32)


class VectorType(types.Type):
    """A vector of ``lanes`` unsigned integers of ``width`` bits."""

    def __init__(self, width: int, lanes: int) -> None:
        self.width, self.lanes = width, lanes
        super().__init__(name=f"vector_{lanes}_of_u{width}")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: VectorType) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(kind.width), kind.lanes))  # type: ignore[no-untyped-call]


def splatted(builder: ir.IRBuilder, value: Any, lanes: int) -> Any:
    """A vector with one scalar in every lane."""
    vector = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, I32(0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def constant(kind: VectorType, value: int) -> Any:
    """A constant vector with one value in every lane."""
    return ir.Constant(ir.VectorType(ir.IntType(kind.width), kind.lanes), [value] * kind.lanes)


def address_of(context: Any, builder: ir.IRBuilder, kind: Any, value: Any, index: Any, index_kind: Any) -> Any:
    """Address of an element of a numba array, for an index that is known to be in range."""
    data = context.make_array(kind)(context, builder, value).data
    return builder.gep(data, [context.cast(builder, index, index_kind, types.intp)])


def pairs_address(
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
    """Address of half of a row of an array (rows, lanes) of 32-bit words."""
    first = builder.mul(context.cast(builder, row, row_kind, types.intp), context.get_constant(types.intp, lanes))
    rest = builder.mul(context.cast(builder, half, half_kind, types.intp), context.get_constant(types.intp, lanes // 2))
    return address_of(context, builder, kind, value, builder.add(first, rest), types.intp)


def unaligned(builder: ir.IRBuilder, address: Any, vector: ir.VectorType) -> Any:
    """A vector loaded from an address of any alignment."""
    loaded = builder.load(builder.bitcast(address, vector.as_pointer()))
    loaded.align = 1
    return loaded


def store(context: Any, builder: ir.IRBuilder, vector: Any, address: Any) -> Any:
    """Store a vector at an address of any alignment; the value of a function that returns nothing."""
    builder.store(vector, builder.bitcast(address, vector.type.as_pointer())).align = 1
    return context.get_dummy_value()
