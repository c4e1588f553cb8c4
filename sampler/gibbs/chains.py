"""Gibbs chains on the CPU: rows split over threads, each row a function of its own stream alone.

The rows of a call are cut into pieces that worker threads of one shared pool take in turn (the kernels release the
GIL). Integer arithmetic makes the cut invisible in the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from time import monotonic
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError, SamplerTimeoutError
from qshower.sampler.gibbs.kernels.run_block import BLOCK_TYPES, run_block_many, run_block_reference, run_one
from qshower.sampler.gibbs.program import Program, program_of
from qshower.sampler.gibbs.schedule import checked_sweeps, ramp_and_hold
from qshower.sampler.gibbs.streams import DRAW, REFINE, start_word, stream_keys
from qshower.sampler.jit.kernel import kernel
from qshower.sampler.machine import BoltzmannMachine

Device = Literal["cpu", "cuda"]

FEW = 2
"""Rows a thread runs one by one: up to here that is faster than a block of eight."""


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=available_threads(), thread_name_prefix="gibbs")


def draw(
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    streams: NDArray[np.uint64],
    sweeps: int,
    *,
    beta: float = 1.0,
    threads: int | None = None,
    deadline: float | None = None,
    device: Device = "cpu",
) -> NDArray[np.int8]:
    """States (rows, nodes) drawn from scratch: random start, ramp and hold, the condition held.

    Args:
        machine: the law.
        conditions: (rows, condition nodes) int8, ±1.
        streams: (rows, 2) uint64, one stream for each row.
        sweeps: length of the schedule.
        beta: the law is P(s) ∝ exp(−beta·E(s)).
        threads: worker threads, None for one on each processor.
        deadline: ``time.monotonic`` instant past which SamplerTimeoutError is raised.
        device: ``"cpu"`` or ``"cuda"``.
    """
    betas = ramp_and_hold(sweeps, checked_beta(beta))
    program = program_of(machine, beta=beta)
    # Copies are writable and contiguous: kernels are compiled once, not once more for read-only arrays.
    keys = stream_keys(np.array(streams), DRAW)
    spins = np.empty((conditions.shape[0], machine.node_count), dtype=np.int8)
    spins[:, program.graph.held] = conditions
    scatter_start(spins, program.graph.order, keys)
    run(program, spins, betas, keys, threads=threads, deadline=deadline, device=device)
    return spins


def refine(
    machine: BoltzmannMachine,
    spins: NDArray[np.int8],
    sweeps: int,
    streams: NDArray[np.uint64],
    *,
    beta: float = 1.0,
    free_condition: bool = False,
    threads: int | None = None,
    deadline: float | None = None,
    device: Device = "cpu",
) -> NDArray[np.int8]:
    """States (rows, nodes) after ``sweeps`` Gibbs sweeps at ``beta`` from given states; ``spins`` is left as it is.

    Partition 0 is held as each row has it, or swept with the others if ``free_condition``. The law kept invariant is
    P(s) ∝ exp(−beta·E(s)), given partition 0 or not. A stream gives the same random numbers in every call: continue a
    chain with other streams (another index or seed), never with the same ones.

    Args:
        machine: the law.
        spins: (rows, nodes) int8, ±1.
        sweeps: updates of every node that is not held; 0 gives a copy.
        streams: (rows, 2) uint64, one stream for each row.
        beta: inverse temperature, above 0.
        free_condition: sweep partition 0 too.
        threads: worker threads, None for one on each processor.
        deadline: ``time.monotonic`` instant past which SamplerTimeoutError is raised.
        device: ``"cpu"`` or ``"cuda"``.
    """
    rows = spins.shape[0]
    if spins.shape != (rows, machine.node_count) or spins.dtype != np.int8:
        raise InvalidInputError("spins", f"{spins.dtype} {spins.shape}", f"int8 (rows, {machine.node_count})")
    if not (np.abs(spins) == 1).all():
        raise InvalidInputError("spins", "a value that is no spin", "-1 and +1")
    if streams.shape != (rows, 2) or streams.dtype != np.uint64:
        raise InvalidInputError("streams", f"{streams.dtype} {streams.shape}", f"uint64 ({rows}, 2)")
    betas = np.full(checked_sweeps(sweeps, least=0), checked_beta(beta))
    program = program_of(machine, free_condition=free_condition, beta=beta)
    result = np.array(spins, dtype=np.int8, order="C")
    run(
        program,
        result,
        betas,
        stream_keys(np.array(streams), REFINE),
        threads=threads,
        deadline=deadline,
        device=device,
    )
    return result


def checked_beta(beta: float) -> float:
    """``beta``, once it is known to be an inverse temperature."""
    if not (np.isfinite(beta) and beta > 0):
        raise InvalidInputError("beta", beta, "a finite number above 0")
    return float(beta)


def run(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    *,
    threads: int | None = None,
    deadline: float | None = None,
    device: Device = "cpu",
) -> None:
    """Sweep ``spins`` (rows, nodes) in place, one sweep for each entry of ``betas``, rows seeded by ``keys``."""
    if spins.shape[0] == 0 or betas.shape[0] == 0 or program.graph.updates == 0:
        return

    def on_time() -> None:
        if deadline is not None and monotonic() > deadline:
            raise SamplerTimeoutError("gibbs: the deadline passed before all chains had run")

    if device == "cuda":
        from qshower.sampler.gibbs.kernels.cuda import run_on_device

        run_on_device(program, spins, betas, keys, on_time=on_time)
        return

    workers = threads if threads is not None else available_threads()
    share = -(-spins.shape[0] // workers)
    state_type = next((kind for kind in BLOCK_TYPES if 8 * np.dtype(kind).itemsize >= share), BLOCK_TYPES[-1])
    alone = share <= FEW and not program.wide

    def piece(rows: slice) -> None:
        if program.wide:
            run_block_reference(program, spins[rows], betas, keys[rows], on_time)
        elif alone:
            run_one(program, spins[rows], betas, keys[rows], on_time)
        else:
            run_block_many(program, spins[rows], betas, keys[rows], state_type, on_time)

    each_piece(piece, spins.shape[0], 1 if alone else 8 * np.dtype(state_type).itemsize, workers)


def each_piece(work: Callable[[slice], None], rows: int, size: int, threads: int | None) -> None:
    """Call ``work`` on slices of at most ``size`` rows, on up to ``threads`` threads of the shared pool."""
    pieces = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    workers = min(threads if threads is not None else available_threads(), len(pieces))
    if workers <= 1:
        for part in pieces:
            work(part)
        return

    def lane(number: int) -> None:
        for part in pieces[number::workers]:
            work(part)

    futures = [_pool().submit(lane, number) for number in range(workers)]
    for future in futures:
        future.result()


@kernel()
def scatter_start(spins: NDArray[np.int8], order: NDArray[np.int32], keys: NDArray[np.uint64]) -> None:
    """Random spins for the updated nodes of each row of ``spins``, from the row's key."""
    for row in range(spins.shape[0]):
        word = np.uint64(0)
        for position in range(order.shape[0]):
            if position % 64 == 0:
                word = start_word(keys[row], position // 64)
            spins[row, order[position]] = np.int8(2 * np.int64(word & np.uint64(1)) - 1)
            word = word >> np.uint64(1)
