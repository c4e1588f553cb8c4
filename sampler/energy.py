"""E(s) = Σ_i h_i s_i + Σ_(ij) J_ij s_i s_j for many rows, at a microsecond or two a row.

With the spin of node i in a row as the bit b_i, s_i s_j = 1 − 2 (b_i xor b_j). So E is the energy of all spins up, less
twice the biases of the spins that are down and twice the couplings of the pairs that differ: one masked addition for
all rows of a block at each node and edge.
"""

# ruff: noqa: ARG005 - lambdas name all arguments of the function whose type they give

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from qshower.sampler.jit.kernel import kernel
from qshower.sampler.jit.vectors import Call, VectorType, constant, emitted

_FEW = 8
"""Rows up to which a narrow block is the faster one."""


def ising_energies(
    spins: NDArray[np.int8], h: NDArray[np.float32], j: NDArray[np.float32], edges: NDArray[np.int32]
) -> NDArray[np.float64]:
    """(rows,) energies of ``spins`` (rows, nodes), C-contiguous and ±1, summed in float64.

    A row's sum is taken in the order of nodes and edges, so that it is the same to the bit in any batch.

    >>> spins = np.array([[1, 1], [1, -1]], dtype=np.int8)
    >>> h, j = np.array([0.0, 0.5], dtype=np.float32), np.array([-1.0], dtype=np.float32)
    >>> ising_energies(spins, h, j, np.array([[0, 1]], dtype=np.int32)).tolist()
    [-0.5, 0.5]
    """
    rows = spins.shape[0]
    down = np.empty(h.shape[0], dtype=np.uint8 if rows <= _FEW else np.uint64)
    lanes = 8 * down.itemsize
    values = np.empty(-(-rows // lanes) * lanes, dtype=np.float64)
    _energies(spins, h, j, edges, down, values)
    return values[:rows]


@emitted(lambda bits: VectorType(64, bits.bitwidth))
def _nothing(call: Call) -> Any:
    """A float64 of 0 for each bit of an unsigned integer."""
    return constant(call.result, 0)


@emitted(lambda totals, bits, value: totals)
def _add_where(call: Call) -> Any:
    """``totals``, float64 stored as their bits, plus ``value`` in the lanes whose bit of ``bits`` is set."""
    builder, (totals, bits, _), lanes = call.builder, call.values, call.kinds[0].lanes
    before = builder.bitcast(totals, ir.VectorType(ir.DoubleType(), lanes))
    after = builder.fadd(before, call.splatted(call.integer(2, types.float64), lanes))
    own = bits if bits.type.width == lanes else builder.trunc(bits, ir.IntType(lanes))
    return builder.bitcast(builder.select(call.bits(own, lanes), after, before), totals.type)


@emitted(lambda totals, target, start: types.none)
def _store(call: Call) -> Any:
    """Write ``totals`` to a float64 array from index ``start``."""
    return call.store(call.values[0], call.address(1, call.integer(2)))


@kernel()
def _energies(
    spins: NDArray[np.int8],
    h: NDArray[np.float32],
    j: NDArray[np.float32],
    edges: NDArray[np.int32],
    down: NDArray[Any],
    values: NDArray[np.float64],
) -> None:
    """Fill ``values`` (a multiple of the bits of ``down``,); what is past the last row is of no meaning."""
    all_up = 0.0
    for node in range(h.shape[0]):
        all_up += np.float64(h[node])
    for edge in range(j.shape[0]):
        all_up += np.float64(j[edge])
    lanes = 8 * down.itemsize
    for start in range(0, values.shape[0], lanes):
        inside = min(lanes, spins.shape[0] - start)
        down[:] = 0
        for row in range(inside):
            for node in range(h.shape[0]):
                down[node] |= down.dtype.type(np.uint64(spins[start + row, node] < 0) << np.uint64(row))
        totals = _nothing(down[0])
        for node in range(h.shape[0]):
            totals = _add_where(totals, down[node], h[node])
        for edge in range(j.shape[0]):
            totals = _add_where(totals, down[edges[edge, 0]] ^ down[edges[edge, 1]], j[edge])
        _store(totals, values, start)
        for row in range(start, start + inside):
            values[row] = all_up - 2.0 * values[row]
