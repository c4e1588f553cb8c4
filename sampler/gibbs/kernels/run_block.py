"""Blocks of chains: from spins in rows to the kernels' states, through a kernel, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.gibbs.kernels import simd
from qshower.sampler.gibbs.kernels.many_chains import exponent_factors, run_many_chains
from qshower.sampler.gibbs.kernels.one_chain import LANES, Slices, run_one_chain
from qshower.sampler.gibbs.kernels.reference import run_reference
from qshower.sampler.gibbs.program import GibbsGraph, LastUsed, Program
from qshower.sampler.gibbs.streams import generator_states
from qshower.sampler.jit.kernel import kernel

BLOCK_TYPES = (np.uint8, np.uint32, np.uint64)
"""State integers of the fast kernel: 8, 32 or 64 chains at a time."""


CHUNK = 1024
"""Sweeps between two checks of the deadline."""


def block_type(rows: int) -> type[np.unsignedinteger[Any]]:
    """The narrowest of ``BLOCK_TYPES`` that holds ``rows`` chains, else the widest."""
    return next((kind for kind in BLOCK_TYPES if 8 * np.dtype(kind).itemsize >= rows), BLOCK_TYPES[-1])


_slices: LastUsed[Slices] = LastUsed()


def slices_of(graph: GibbsGraph) -> Slices:
    """The slices of a graph, built once for it."""
    slices = _slices.get((id(graph),))
    if slices is None:
        slices = Slices.build(graph)
        _slices.put((id(graph),), (graph,), slices)
    return slices


def run_block_many(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    state_type: type[np.unsignedinteger[Any]],
    *,
    on_time: Callable[[], None] = lambda: None,
) -> None:
    """Sweep up to as many rows of ``spins`` as ``state_type`` has bits, in place, with the fast kernel.

    ``on_time`` is called before every ``CHUNK`` sweeps; it raises to stop.
    """
    graph = program.graph
    width = 8 * np.dtype(state_type).itemsize
    rows = spins.shape[0]
    padded_keys = np.zeros(width, dtype=np.uint64)
    padded_keys[:rows] = keys
    states = block_states(padded_keys)
    up = np.empty(graph.updates, dtype=state_type)
    pack(spins, graph.order, up)
    scratch = np.empty((5, width), dtype=np.int16)
    twice_betas = 2.0 * betas / program.scale
    fields = block_fields(program, spins, state_type)
    for start in range(0, betas.shape[0], CHUNK):
        part = twice_betas[start : start + CHUNK]
        on_time()
        run_many_chains(
            up,
            fields,
            graph.indptr,
            graph.neighbours,
            program.packed_step,
            part,
            exponent_factors(part),
            padded_keys,
            states,
            scratch,
            start,
        )
    unpack(up, graph.order, spins)


def block_states(padded_keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """(4, lanes) generators of a block, those of the even lanes first."""
    states = generator_states(padded_keys)
    return np.ascontiguousarray(np.concatenate([states[:, 0::2], states[:, 1::2]], axis=1))


def block_fields(
    program: Program, spins: NDArray[np.int8], state_type: type[np.unsignedinteger[Any]]
) -> NDArray[np.int16]:
    """(updates, lanes) fields of a block with each row's condition folded in and every free spin down."""
    graph = program.graph
    held = np.empty(graph.held.shape[0], dtype=state_type)
    pack(spins, graph.held, held)
    fields = np.empty((graph.updates, 8 * np.dtype(state_type).itemsize), dtype=np.int16)
    _fold(held, program.base16, graph.held_indptr, graph.held_columns, program.packed_held_step, fields)
    return fields


def run_one(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    *,
    on_time: Callable[[], None] = lambda: None,
) -> None:
    """Sweep one row of ``spins`` (1, nodes) in place, with the kernel for one chain."""
    graph = program.graph
    slices = slices_of(graph)
    steps = slices.steps(program)
    up = np.zeros(graph.updates + LANES, dtype=np.int32)
    up[: graph.updates] = -(spins[0, graph.order] > 0).astype(np.int32)
    fields = np.zeros((1, graph.updates + LANES), dtype=np.int32)
    held = np.ascontiguousarray(spins[:, graph.held] > 0).astype(np.uint8)
    fold_plain(held, program.base, graph.held_indptr, graph.held_columns, program.held_step, fields)
    states = generator_states(keys)
    twice_betas = 2.0 * betas / program.scale
    scratch, bits = np.zeros((5, LANES), dtype=np.int16), np.zeros(graph.updates + LANES, dtype=np.int32)
    for start in range(0, betas.shape[0], CHUNK):
        on_time()
        part = twice_betas[start : start + CHUNK]
        run_one_chain(
            up,
            fields[0],
            slices.positions,
            slices.valid,
            slices.starts,
            slices.neighbours,
            steps,
            part,
            exponent_factors(part),
            np.repeat(keys, LANES),
            states,
            scratch,
            bits,
            np.zeros(0, dtype=np.uint16),
            start,
        )
    spins[0, graph.order] = -2 * up[: graph.updates] - 1


def run_block_reference(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    *,
    on_time: Callable[[], None] = lambda: None,
) -> None:
    """Sweep rows of ``spins`` in place with the plain kernel; ``on_time`` as above."""
    graph = program.graph
    up = np.ascontiguousarray(spins[:, graph.order] > 0).astype(np.uint8)
    fields = np.empty(up.shape, dtype=np.int32)
    held = np.ascontiguousarray(spins[:, graph.held] > 0).astype(np.uint8)
    fold_plain(held, program.base, graph.held_indptr, graph.held_columns, program.held_step, fields)
    states = generator_states(keys)
    twice_betas = 2.0 * betas / program.scale
    for start in range(0, betas.shape[0], CHUNK):
        on_time()
        run_reference(
            up,
            fields,
            graph.indptr,
            graph.neighbours,
            program.step,
            twice_betas[start : start + CHUNK],
            keys,
            states,
            start,
        )
    spins[:, graph.order] = 2 * up.astype(np.int8) - 1


@kernel()
def pack(spins: NDArray[np.int8], nodes: NDArray[np.int32], bits: Any) -> None:
    """Bit l of ``bits[p]``: whether node ``nodes[p]`` of row l is up."""
    for position in range(nodes.shape[0]):
        word = np.uint64(0)
        for row in range(spins.shape[0]):
            word |= np.uint64(spins[row, nodes[position]] > 0) << np.uint64(row)
        bits[position] = word


@kernel()
def unpack(bits: Any, nodes: NDArray[np.int32], spins: NDArray[np.int8]) -> None:
    """Write what ``pack`` reads."""
    for position in range(nodes.shape[0]):
        word = np.uint64(bits[position])
        for row in range(spins.shape[0]):
            spins[row, nodes[position]] = np.int8(2 * np.int64((word >> np.uint64(row)) & np.uint64(1)) - 1)


@kernel()
def _fold(
    held: Any,
    base: NDArray[np.int16],
    indptr: NDArray[np.int32],
    columns: NDArray[np.int32],
    step: NDArray[np.int32],
    fields: NDArray[np.int16],
) -> None:
    for position in range(base.shape[0]):
        field = simd.field_words(held, base, position)
        for entry in range(indptr[position], indptr[position + 1]):
            field = simd.add_where(field, held, columns, step, entry)
        simd.store_words(field, fields, position)


@kernel()
def fold_plain(
    held: NDArray[np.uint8],
    base: NDArray[np.int32],
    indptr: NDArray[np.int32],
    columns: NDArray[np.int32],
    step: NDArray[np.int32],
    fields: NDArray[np.int32],
) -> None:
    """Fill ``fields`` (rows, updates) with conditions ``held`` (rows, held nodes) folded in."""
    for row in range(fields.shape[0]):
        for position in range(base.shape[0]):
            field = np.int64(base[position])
            for entry in range(indptr[position], indptr[position + 1]):
                field += np.int64(step[entry]) * np.int64(held[row, columns[entry]])
            fields[row, position] = field
