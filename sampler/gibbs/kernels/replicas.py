"""Replicas of chains at a ladder of betas, swept side by side, that exchange their states (parallel tempering).

A round is one sweep of every replica at its own β, then exchanges between neighbours on the ladder, even pairs in one
round, odd pairs in the next: no replica is in two exchanges at once. Replicas k and k+1 of a chain exchange their
states with probability min(1, exp((β_{k+1} − β_k)(E_{k+1} − E_k))), which leaves the product of their laws as it is.

Energies are those of the machine in fixed point, the one that is drawn from: sums of integers, the same to the bit in
any order. With every free spin down first, turning up those that are up, one after the other, changes E by twice the
field that each has at that moment, so E is known from half of the couplings.
"""

# ruff: noqa: ARG005 - lambdas name all arguments of the function whose type they give

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.cores import usable_cores
from qshower.sampler.gibbs.kernels import simd
from qshower.sampler.gibbs.kernels.many_chains import exponent_factors, run_many_chains
from qshower.sampler.gibbs.kernels.reference import run_reference
from qshower.sampler.gibbs.kernels.run_block import block_fields, block_states, block_type, fold_plain, pack, unpack
from qshower.sampler.gibbs.kernels.workers import each_slice
from qshower.sampler.gibbs.program import Program
from qshower.sampler.gibbs.streams import generator_states, scatter_start, start_word, stream_keys
from qshower.sampler.jit.kernel import kernel
from qshower.sampler.jit.vectors import Call, VectorType, constant, emitted

SWEEPS_BETWEEN_LOOKS = 4096
"""Sweeps of all replicas together between two checks of the deadline."""

MOST_UPDATES = 65_535
"""Free spins whose energies, in units of the fields, surely fit in 32 bits."""

_EXCHANGE = np.uint64(0x65786368)


def run_tempering(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    rounds: int,
    keys: NDArray[np.uint64],
    *,
    threads: int | None = None,
    on_time: Callable[[], None] = lambda: None,
    plain: bool = False,
) -> NDArray[np.int64]:
    """Draw ``spins`` (rows, nodes) in place from random starts; how many exchanges came about, (replicas − 1,).

    Args:
        program: the machine; partition 0 is held as each row has it.
        spins: what they hold of free spins does not matter.
        betas: (replicas,) ascending; the last one's states are the result.
        rounds: sweeps of each replica.
        keys: (rows,) keys of the streams.
        threads: worker threads, None for one on each processor.
        on_time: called now and then; raises to stop.
        plain: take the kernel for machines whose fields need 32 bits; the spins are the same.
    """
    rows = spins.shape[0]
    plain = plain or program.wide or program.graph.updates > MOST_UPDATES
    workers = threads if threads is not None else usable_cores()
    share = -(-rows // workers)
    state_type = block_type(share)
    width = 8 * np.dtype(state_type).itemsize
    counts = np.zeros((-(-rows // width), betas.shape[0] - 1), dtype=np.int64)

    def run(part: slice) -> None:
        replicas = _ReferenceReplicas(program, betas) if plain else _ManyChainReplicas(program, betas, state_type)
        counts[part.start // width] = replicas.run(spins[part], rounds, keys[part], on_time)

    each_slice(run, rows, width, workers)
    total: NDArray[np.int64] = counts.sum(axis=0)
    return total


def _replica_keys(keys: NDArray[np.uint64], replicas: int) -> NDArray[np.uint64]:
    """(replicas, rows) keys of each replica's chains."""
    numbers = range(replicas)
    pairs = [np.stack([keys, np.full(keys.shape[0], number, np.uint64)], axis=1) for number in numbers]
    return np.stack([stream_keys(pair, _EXCHANGE) for pair in pairs])


def _lower_part(program: Program, step: NDArray[np.int32]) -> tuple[NDArray[np.int32], ...]:
    """Rows, columns and steps of the entries whose neighbour comes first in the order of updates."""
    graph = program.graph
    owners = np.repeat(np.arange(graph.updates), np.diff(graph.indptr))
    lower = graph.neighbours < owners
    indptr = np.searchsorted(owners[lower], np.arange(graph.updates + 1)).astype(np.int32)
    return indptr, graph.neighbours[lower], step[lower]


class _ManyChainReplicas:
    """Blocks of as many chains as the state's integers have bits."""

    def __init__(self, program: Program, betas: NDArray[np.float64], state_type: type[np.unsignedinteger[Any]]) -> None:
        self._program, self._betas, self._state_type = program, betas, state_type

    def run(
        self, spins: NDArray[np.int8], rounds: int, keys: NDArray[np.uint64], on_time: Callable[[], None]
    ) -> NDArray[np.int64]:
        """As ``run_tempering``, for one block."""
        program, graph = self._program, self._program.graph
        rows, replicas = spins.shape[0], self._betas.shape[0]
        width = 8 * np.dtype(self._state_type).itemsize
        of_replica = np.zeros((replicas, width), dtype=np.uint64)
        of_replica[:, :rows] = _replica_keys(keys, replicas)
        states = np.stack([block_states(padded) for padded in of_replica])
        up = np.empty((replicas, graph.updates), dtype=self._state_type)
        for replica in range(replicas):
            scatter_start(spins, graph.order, of_replica[replica])
            pack(spins, graph.order, up[replica])
        twice_betas = 2.0 * self._betas / program.scale
        fields = block_fields(program, spins, self._state_type)
        indptr, columns, steps = _lower_part(program, program.packed_step)
        accepted = np.zeros(replicas - 1, dtype=np.int64)
        at_once = max(1, SWEEPS_BETWEEN_LOOKS // replicas)
        for start in range(0, rounds, at_once):
            on_time()
            _run_many_chain_replicas(
                up,
                fields,
                graph.indptr,
                graph.neighbours,
                program.packed_step,
                indptr,
                columns,
                steps,
                twice_betas,
                exponent_factors(twice_betas),
                of_replica,
                states,
                np.empty((5, width), dtype=np.int16),
                np.empty((replicas, width), dtype=np.int32),
                keys,
                accepted,
                start,
                min(at_once, rounds - start),
            )
        unpack(up[-1], graph.order, spins)
        return accepted


class _ReferenceReplicas:
    """Spin by spin: the yardstick of the fast kernel, and the one for fields of 32 bits."""

    def __init__(self, program: Program, betas: NDArray[np.float64]) -> None:
        self._program, self._betas = program, betas

    def run(
        self, spins: NDArray[np.int8], rounds: int, keys: NDArray[np.uint64], on_time: Callable[[], None]
    ) -> NDArray[np.int64]:
        """As ``run_tempering``, for any number of rows."""
        program, graph = self._program, self._program.graph
        rows, replicas = spins.shape[0], self._betas.shape[0]
        of_replica = _replica_keys(keys, replicas)
        states = np.stack([generator_states(each) for each in of_replica])
        up = np.empty((replicas, rows, graph.updates), dtype=np.uint8)
        for replica in range(replicas):
            scatter_start(spins, graph.order, of_replica[replica])
            up[replica] = spins[:, graph.order] > 0
        fields = np.empty((rows, graph.updates), dtype=np.int32)
        held = np.ascontiguousarray(spins[:, graph.held] > 0).astype(np.uint8)
        fold_plain(held, program.base, graph.held_indptr, graph.held_columns, program.held_step, fields)
        twice_betas = 2.0 * self._betas / program.scale
        indptr, columns, steps = _lower_part(program, program.step)
        accepted = np.zeros(replicas - 1, dtype=np.int64)
        at_once = max(1, SWEEPS_BETWEEN_LOOKS // replicas)
        for start in range(0, rounds, at_once):
            on_time()
            _run_reference_replicas(
                up,
                fields,
                graph.indptr,
                graph.neighbours,
                program.step,
                indptr,
                columns,
                steps,
                twice_betas,
                of_replica,
                states,
                np.empty((replicas, rows), dtype=np.int64),
                keys,
                accepted,
                start,
                min(at_once, rounds - start),
            )
        spins[:, graph.order] = 2 * up[-1].astype(np.int8) - 1
        return accepted


@emitted(lambda state: VectorType(32, state.dtype.bitwidth))
def _no_energy(call: Call) -> Any:
    """A 32-bit 0 for each bit of the state's integers."""
    return constant(call.result, 0)


@emitted(lambda totals, words, bits: totals)
def _add_wide_where(call: Call) -> Any:
    """``totals`` of 32 bits plus the signed 16-bit ``words`` in the lanes whose bit of ``bits`` is set."""
    builder, (totals, words, bits) = call.builder, call.values
    more = builder.add(totals, builder.sext(words, totals.type))
    return builder.select(call.bits(bits, call.kinds[0].lanes), more, totals)


@kernel()
def _exchanges(gain: np.float64, key: np.uint64, number: int) -> Any:
    """Whether an exchange that gains so much comes about; ``number`` is its own among those of the key."""
    if gain >= 0.0:
        return True
    return np.float64(start_word(key, number) >> np.uint64(11)) * 2.0**-53 < np.exp(gain)


@kernel()
def _run_many_chain_replicas(
    up: NDArray[Any],
    fields: NDArray[np.int16],
    indptr: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    step: NDArray[np.int32],
    lower_indptr: NDArray[np.int32],
    lower_columns: NDArray[np.int32],
    lower_step: NDArray[np.int32],
    twice_betas: NDArray[np.float64],
    factors: NDArray[np.int32],
    replica_keys: NDArray[np.uint64],
    states: NDArray[np.uint32],
    scratch: NDArray[np.int16],
    energies: NDArray[np.int32],
    keys: NDArray[np.uint64],
    accepted: NDArray[np.int64],
    start: int,
    rounds: int,
) -> None:
    """Rounds ``start`` to ``start + rounds`` of a block; arguments as of ``run_many_chains``, per replica."""
    replicas, updates = up.shape
    for number in range(start, start + rounds):
        for replica in range(replicas):
            own = up[replica]
            run_many_chains(
                own,
                fields,
                indptr,
                neighbours,
                step,
                twice_betas[replica : replica + 1],
                factors[replica : replica + 1],
                replica_keys[replica],
                states[replica],
                scratch,
                number,
            )
            total = _no_energy(own)
            for position in range(updates):
                field = simd.field_words(own, fields, position)
                for entry in range(simd.at(lower_indptr, position), simd.at(lower_indptr, position + 1)):
                    field = simd.add_where(field, own, lower_columns, lower_step, entry)
                total = _add_wide_where(total, field, own[position])
            simd.store_words(total, energies, replica)
        for lower in range(number % 2, replicas - 1, 2):
            between = twice_betas[lower + 1] - twice_betas[lower]
            chosen = np.uint64(0)
            for row in range(keys.shape[0]):
                gain = between * (np.float64(energies[lower + 1, row]) - np.float64(energies[lower, row]))
                if _exchanges(gain, keys[row], number * replicas + lower):
                    chosen |= np.uint64(1) << np.uint64(row)
                    accepted[lower] += 1
            for position in range(updates):
                other = (up[lower, position] ^ up[lower + 1, position]) & up.dtype.type(chosen)
                up[lower, position] ^= other
                up[lower + 1, position] ^= other


@kernel()
def _run_reference_replicas(
    up: NDArray[np.uint8],
    fields: NDArray[np.int32],
    indptr: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    step: NDArray[np.int32],
    lower_indptr: NDArray[np.int32],
    lower_columns: NDArray[np.int32],
    lower_step: NDArray[np.int32],
    twice_betas: NDArray[np.float64],
    replica_keys: NDArray[np.uint64],
    states: NDArray[np.uint32],
    energies: NDArray[np.int64],
    keys: NDArray[np.uint64],
    accepted: NDArray[np.int64],
    start: int,
    rounds: int,
) -> None:
    """As ``_run_many_chain_replicas``, with arguments as of ``run_reference``."""
    replicas, rows, updates = up.shape
    for number in range(start, start + rounds):
        for replica in range(replicas):
            betas = twice_betas[replica : replica + 1]
            run_reference(
                up[replica], fields, indptr, neighbours, step, betas, replica_keys[replica], states[replica], number
            )
            for row in range(rows):
                total = np.int64(0)
                for position in range(updates):
                    if up[replica, row, position]:
                        total += np.int64(fields[row, position])
                        for entry in range(lower_indptr[position], lower_indptr[position + 1]):
                            total += np.int64(lower_step[entry]) * np.int64(up[replica, row, lower_columns[entry]])
                energies[replica, row] = total
        for lower in range(number % 2, replicas - 1, 2):
            between = twice_betas[lower + 1] - twice_betas[lower]
            for row in range(rows):
                gain = between * (np.float64(energies[lower + 1, row]) - np.float64(energies[lower, row]))
                if _exchanges(gain, keys[row], number * replicas + lower):
                    accepted[lower] += 1
                    for position in range(updates):
                        kept = up[lower, row, position]
                        up[lower, row, position] = up[lower + 1, row, position]
                        up[lower + 1, row, position] = kept
