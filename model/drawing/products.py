"""Matrix products in one fixed order, so that a row has the same bits in any batch and on any kind of processor.

Each output is

    out[r, o] = fma(x[r, n-1], w[n-1, o], … fma(x[r, 1], w[1, o], fma(x[r, 0], w[0, o], b[o])) …)

with the fused multiply-add of IEEE 754, rounded once, input after input. A processor that has no such instruction
calculates it; nothing is left to the compiler or to a BLAS. What is chosen for speed, how many rows and outputs are
worked on at a time, changes nothing in this.

Weights are stored in panels of ``LANES`` outputs, (panels, inputs, LANES), the last panel filled with 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils as cgutils_untyped
from numba.core import types
from numpy.typing import NDArray

from qshower.sampler.jit.kernel import kernel
from qshower.sampler.jit.vectors import Call, emitted

cgutils: Any = cgutils_untyped

LANES = 16
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FUSED_NAME = f"llvm.fma.v{LANES}f32"
_FUSED = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
ROWS_AT_A_TIME, PANELS_OF_ONE_ROW, FEW_ROWS = 8, 4, 3

Floats = NDArray[np.float32]


def packed(weight: Floats) -> Floats:
    """A weight (..., inputs, outputs) in panels, (..., panels, inputs, LANES)."""
    *outer, inputs, outputs = weight.shape
    panels = -(-outputs // LANES)
    whole = np.zeros((*outer, inputs, panels * LANES), dtype=np.float32)
    whole[..., :outputs] = weight
    return np.ascontiguousarray(np.moveaxis(whole.reshape(*outer, inputs, panels, LANES), -2, -3))


def padded(values: Floats) -> Floats:
    """The last axis filled with 0 to whole panels."""
    short = -values.shape[-1] % LANES
    return np.ascontiguousarray(np.pad(values.astype(np.float32), [(0, 0)] * (values.ndim - 1) + [(0, short)]))


def _tile(rows: int, panels: int) -> Any:
    """The product of ``rows`` rows with ``panels`` panels, all sums of which are kept in registers."""

    @emitted(
        lambda _values, _at, _stride, _inputs, _weight, _panel, _start, _first, _step, _outputs, _to, _width: types.void
    )
    def tile(call: Call) -> Any:
        builder = call.builder
        fused = cgutils.get_or_insert_function(builder.module, _FUSED, _FUSED_NAME)
        at, stride, inputs, panel = (call.integer(place) for place in (1, 2, 3, 5))
        first, step, to, width = (call.integer(place) for place in (7, 8, 10, 11))

        def number(value: int) -> Any:
            return call.context.get_constant(types.intp, value)

        def vector(array: int, place: Any) -> Any:
            return builder.bitcast(call.address(array, place), _VECTOR.as_pointer())

        def load(array: int, place: Any) -> Any:
            loaded = builder.load(vector(array, place))
            loaded.align = 4
            return loaded

        begin = [builder.add(first, builder.mul(step, number(r))) for r in range(rows)]
        sums = [
            [cgutils.alloca_once_value(builder, load(6, builder.add(place, number(p * LANES)))) for p in range(panels)]
            for place in begin
        ]
        row_at = [builder.add(at, builder.mul(stride, number(r))) for r in range(rows)]
        size = builder.mul(inputs, number(LANES))
        panel_at = [builder.mul(size, builder.add(panel, number(p))) for p in range(panels)]
        with cgutils.for_range(builder, inputs) as loop:
            weights = [load(4, builder.add(place, builder.mul(loop.index, number(LANES)))) for place in panel_at]
            for r in range(rows):
                x = call.splatted(builder.load(call.address(0, builder.add(row_at[r], loop.index))), LANES)
                for p in range(panels):
                    builder.store(builder.call(fused, [x, weights[p], builder.load(sums[r][p])]), sums[r][p])
        for r in range(rows):
            for p in range(panels):
                place = builder.add(builder.add(to, builder.mul(width, number(r))), number(p * LANES))
                builder.store(builder.load(sums[r][p]), vector(9, place)).align = 4
        return call.context.get_dummy_value()

    return tile


_rows_by_panel = _tile(ROWS_AT_A_TIME, 1)
_row_by_panels = _tile(1, PANELS_OF_ONE_ROW)
_row_by_panel = _tile(1, 1)


@kernel(error_model="numpy")
def in_tiles(rows: int) -> int:
    """A number of rows that takes less time than ``rows``, though it is larger; for buffers that have room."""
    return rows if rows < FEW_ROWS else (rows + ROWS_AT_A_TIME - 1) // ROWS_AT_A_TIME * ROWS_AT_A_TIME


@kernel(error_model="numpy")
def add_products(
    values: Floats,
    at: int,
    stride: int,
    rows: int,
    weight: Floats,
    start: Floats,
    first: int,
    step: int,
    outputs: Floats,
    to: int,
) -> None:
    """outputs = start + values · weight, of ``rows`` rows.

    Rows that do not fill a tile are worked out with some before them once more, if all have the same start; others one
    by one, which takes longer (``in_tiles``).

    Args:
        values: (·,) the inputs of row r stand from at + r · stride on.
        at: see ``values``.
        stride: see ``values``.
        rows: number of rows.
        weight: (panels, inputs, LANES).
        start: (·,) what is added to the products of row r stands from first + r · step on; it may be ``outputs``.
        first: see ``start``.
        step: 0 where all rows have the same.
        outputs: (·,) rows of panels · LANES, from ``to`` on.
        to: see ``outputs``.
    """
    panels, inputs = weight.shape[0], weight.shape[1]
    width = panels * LANES
    flat = weight.reshape(-1)
    whole = rows - rows % ROWS_AT_A_TIME
    tiles = whole // ROWS_AT_A_TIME
    if whole < rows and whole > 0 and step == 0:
        whole, tiles = rows, tiles + 1
    for panel in range(panels):
        own, place = first + panel * LANES, to + panel * LANES
        for tile in range(tiles):
            row = min(tile * ROWS_AT_A_TIME, rows - ROWS_AT_A_TIME)
            begin, end = own + row * step, place + row * width
            _rows_by_panel(
                values, at + row * stride, stride, inputs, flat, panel, start, begin, step, outputs, end, width
            )
    for row in range(whole, rows):
        panel = 0
        while panel < panels:
            begin, end = first + row * step + panel * LANES, to + row * width + panel * LANES
            if panel + PANELS_OF_ONE_ROW <= panels:
                _row_by_panels(
                    values, at + row * stride, stride, inputs, flat, panel, start, begin, step, outputs, end, width
                )
                panel += PANELS_OF_ONE_ROW
            else:
                _row_by_panel(
                    values, at + row * stride, stride, inputs, flat, panel, start, begin, step, outputs, end, width
                )
                panel += 1


@emitted(lambda _factor, _values, _at, _panels, _outputs, _to: types.void)
def add_scaled(call: Call) -> Any:
    """outputs (from ``to`` on) += factor · values (from ``at`` on), of as many numbers as ``panels`` panels have."""
    builder = call.builder
    at, panels, to = (call.integer(place) for place in (2, 3, 5))
    factor = call.splatted(call.context.cast(builder, call.values[0], call.kinds[0], types.float32), LANES)
    fused = cgutils.get_or_insert_function(builder.module, _FUSED, _FUSED_NAME)

    def vector(array: int, place: Any) -> Any:
        return builder.bitcast(call.address(array, place), _VECTOR.as_pointer())

    with cgutils.for_range(builder, panels) as loop:
        offset = builder.mul(loop.index, call.context.get_constant(types.intp, LANES))
        source = builder.load(vector(1, builder.add(at, offset)))
        target = vector(4, builder.add(to, offset))
        before = builder.load(target)
        source.align = before.align = 4
        builder.store(builder.call(fused, [factor, source, before]), target).align = 4
    return call.context.get_dummy_value()
