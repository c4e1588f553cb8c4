"""Vector values for numba: the type, its LLVM form, and what the code of vector operations is emitted with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

I1, I16, I32 = ir.IntType(1), ir.IntType(16), ir.IntType(32)


class VectorType(types.Type):
    """A vector of ``lanes`` unsigned integers of ``width`` bits."""

    def __init__(self, width: int, lanes: int) -> None:
        self.width, self.lanes = width, lanes
        super().__init__(name=f"vector_{lanes}_of_u{width}")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: VectorType) -> None:
        super().__init__(manager, kind, _llvm(kind))  # type: ignore[no-untyped-call]


class Call:
    """One call of a function that emits its own code. Arguments are named by their places.

    Attributes:
        context: numba's.
        builder: where code is emitted.
        kinds, values: types and values of the arguments.
        result: type of the function's value.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any) -> None:
        self.context, self.builder = context, builder
        self.kinds, self.values, self.result = signature.args, values, signature.return_type

    def integer(self, place: int, kind: Any = types.intp) -> Any:
        """An argument as an integer of another type."""
        return self.context.cast(self.builder, self.values[place], self.kinds[place], kind)

    def times(self, place: int, count: int) -> Any:
        """An argument times a number, as an index."""
        return self.builder.mul(self.integer(place), self.context.get_constant(types.intp, count))

    def address(self, array: int, index: Any) -> Any:
        """Address of an element of an array, for an index that is known to be in range."""
        data = self.context.make_array(self.kinds[array])(self.context, self.builder, self.values[array]).data
        return self.builder.gep(data, [index])

    def element(self, array: int, index: int) -> Any:
        """An element of an array, whose index is another argument."""
        return self.builder.load(self.address(array, self.integer(index)))

    def splatted(self, value: Any, lanes: int) -> Any:
        """A vector with one scalar in every lane."""
        empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
        vector = self.builder.insert_element(empty, value, I32(0))
        return self.builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))

    def bits(self, value: Any, lanes: int) -> Any:
        """The bits of an integer, one a lane."""
        return self.builder.bitcast(value, ir.VectorType(I1, lanes))

    def load(self, address: Any) -> Any:
        """A vector of the result's type, from an address of any alignment."""
        loaded = self.builder.load(self.builder.bitcast(address, _llvm(self.result).as_pointer()))
        loaded.align = 1
        return loaded

    def store(self, vector: Any, address: Any) -> Any:
        """Store a vector at an address of any alignment; the value of a function that returns nothing."""
        self.builder.store(vector, self.builder.bitcast(address, vector.type.as_pointer())).align = 1
        return self.context.get_dummy_value()


def emitted(result: Callable[..., Any]) -> Callable[[Callable[[Call], Any]], Any]:
    """Decorator: a function for kernels, of the code that the decorated one emits for a call of it.

    ``result`` gives the type of the function's value from those of its arguments, and their names.
    """

    def decorate(emit: Callable[[Call], Any]) -> Any:
        def typing(context: Any, *kinds: Any) -> Any:  # noqa: ARG001 - numba's signature
            return result(*kinds)(*kinds), lambda *call: emit(Call(*call))

        typing.__name__, typing.__doc__ = emit.__name__, emit.__doc__
        # numba goes by the names of the arguments, of which a * has none.
        context, *_ = inspect.signature(typing).parameters.values()
        typing.__signature__ = inspect.Signature([context, *inspect.signature(result).parameters.values()])  # type: ignore[attr-defined]
        return intrinsic(typing)

    return decorate


def constant(kind: VectorType, value: int) -> Any:
    """A constant vector with one value in every lane."""
    return ir.Constant(_llvm(kind), [value] * kind.lanes)


def _llvm(kind: VectorType) -> ir.VectorType:
    return ir.VectorType(ir.IntType(kind.width), kind.lanes)
