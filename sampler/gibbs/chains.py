"""Gibbs chains on the CPU: rows split over threads, each row a function of its own stream alone.

The rows of a call are cut into slices that worker threads of one shared pool take in turn (the kernels release the
GIL). Integer arithmetic makes the cut invisible in the result.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.cores import usable_cores
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.gibbs.kernels.run_block import block_type, run_block_many, run_block_reference, run_one
from qshower.sampler.gibbs.kernels.workers import each_slice
from qshower.sampler.gibbs.program import Program, program_of
from qshower.sampler.gibbs.schedule import ramp_and_hold
from qshower.sampler.gibbs.streams import DRAW, REFINE, scatter_start, stream_keys
from qshower.sampler.machine import BoltzmannMachine, check_spins
from qshower.sampler.request import check_streams, checked_sweeps
from qshower.sampler.time_limit import UNLIMITED, TimeLimit

Device = Literal["cpu", "cuda"]

FEW = 2
"""Rows a thread runs one by one: up to here that is faster than a block of eight."""


def draw(
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    streams: NDArray[np.uint64],
    sweeps: int,
    *,
    beta: float = 1.0,
    threads: int | None = None,
    limit: TimeLimit = UNLIMITED,
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
        limit: until when chains may run, looked at now and then.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        (rows, nodes) int8, ±1, with the conditions on partition 0.
    """
    betas = ramp_and_hold(sweeps, checked_beta(beta))
    program = program_of(machine, beta=beta)
    # Copies are writable and contiguous: kernels are compiled once, not once more for read-only arrays.
    keys = stream_keys(np.array(streams), DRAW)
    spins = np.empty((conditions.shape[0], machine.node_count), dtype=np.int8)
    spins[:, program.graph.held] = conditions
    scatter_start(spins, program.graph.order, keys)
    run(program, spins, betas, keys, threads=threads, limit=limit, device=device)
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
    limit: TimeLimit = UNLIMITED,
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
        limit: until when chains may run, looked at now and then.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        (rows, nodes) int8, ±1.
    """
    check_spins("spins", spins, machine.node_count)
    check_streams(streams, spins.shape[0])
    betas = np.full(checked_sweeps(sweeps, least=0), checked_beta(beta))
    program = program_of(machine, free_condition=free_condition, beta=beta)
    result = np.array(spins, dtype=np.int8, order="C")
    run(
        program,
        result,
        betas,
        stream_keys(np.array(streams), REFINE),
        threads=threads,
        limit=limit,
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
    limit: TimeLimit = UNLIMITED,
    device: Device = "cpu",
) -> None:
    """Sweep ``spins`` (rows, nodes) in place, one sweep for each entry of ``betas``, rows seeded by ``keys``."""
    if spins.shape[0] == 0 or betas.shape[0] == 0 or program.graph.updates == 0:
        return

    def on_time() -> None:
        limit.check("gibbs")

    if device == "cuda":
        from qshower.sampler.gibbs.kernels.cuda import run_on_device

        run_on_device(program, spins, betas, keys, on_time=on_time)
        return

    workers = threads if threads is not None else usable_cores()
    share = -(-spins.shape[0] // workers)
    state_type = block_type(share)
    alone = share <= FEW and not program.wide

    def run_rows(rows: slice) -> None:
        if program.wide:
            run_block_reference(program, spins[rows], betas, keys[rows], on_time=on_time)
        elif alone:
            run_one(program, spins[rows], betas, keys[rows], on_time=on_time)
        else:
            run_block_many(program, spins[rows], betas, keys[rows], state_type, on_time=on_time)

    each_slice(run_rows, spins.shape[0], 1 if alone else 8 * np.dtype(state_type).itemsize, workers)
